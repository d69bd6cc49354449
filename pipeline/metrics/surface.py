"""F-scores: how much of each of two point sets lies near the other."""

from collections.abc import Sequence

import torch
from torch import Tensor

# How many 778×778 matrices of distances are held at once: one (4.6 MiB) stays in a CPU's cache, a GPU wants many.
CPU_CHUNK = 1
GPU_CHUNK = 256


def f_scores(points_NP3: Tensor, target_NQ3: Tensor, limits: Sequence[float]) -> list[Tensor]:
    """Returns for each limit, in the unit of the points, the F-score (N,) of every sample, float64.

    The harmonic mean of two shares: of the points nearer than the limit to some target point, and of the
    target points nearer than it to some point; 0 if both are 0. Knapitsch et al. 2017, equation 3. The input
    must be finite. Memory stays bounded for any N.
    """
    chunk = CPU_CHUNK if points_NP3.device.type == "cpu" else GPU_CHUNK
    P, Q = points_NP3.shape[1], target_NQ3.shape[1]
    # Written over by every chunk: memory of this size taken anew costs more than what is computed in it.
    squared_NPQ = points_NP3.new_empty((min(chunk, len(points_NP3)), P, Q), dtype=torch.float64)
    to_target, to_points = [], []
    for points, target in zip(
        torch.split(points_NP3.double(), chunk), torch.split(target_NQ3.double(), chunk), strict=True
    ):
        _squared_distances(points, target, out_NPQ=squared_NPQ[: len(points)])
        to_target.append(squared_NPQ[: len(points)].amin(dim=2))
        to_points.append(squared_NPQ[: len(points)].amin(dim=1))
    to_target_NP, to_points_NQ = torch.cat(to_target), torch.cat(to_points)
    scores = []
    for limit in limits:
        precision_N = (to_target_NP < limit**2).double().mean(dim=1)
        recall_N = (to_points_NQ < limit**2).double().mean(dim=1)
        both_N = precision_N + recall_N
        scores.append(2 * precision_N * recall_N / torch.where(both_N > 0, both_N, 1))
    return scores


def _squared_distances(points_NP3: Tensor, target_NQ3: Tensor, *, out_NPQ: Tensor) -> None:
    """Writes |p|² − 2 p·t + |t|², all by one matrix product.

    About the target's centroid, and in float64, it is exact to 1e-15 m² for hands; float32 would carry
    vertices across a limit.
    """
    centroid_N13 = target_NQ3.mean(dim=1, keepdim=True)
    points_NP3, target_NQ3 = points_NP3 - centroid_N13, target_NQ3 - centroid_N13
    one_NP1, one_NQ1 = torch.ones_like(points_NP3[..., :1]), torch.ones_like(target_NQ3[..., :1])
    left_NP5 = torch.cat((points_NP3, points_NP3.square().sum(-1, keepdim=True), one_NP1), dim=-1)
    right_NQ5 = torch.cat((-2 * target_NQ3, one_NQ1, target_NQ3.square().sum(-1, keepdim=True)), dim=-1)
    torch.bmm(left_NP5, right_NQ5.mT, out=out_NPQ)
