"""The alignments after which benchmarks measure: root joint, scale and translation, similarity (Procrustes).

N = samples, P = points of a sample, J = joints; any unit, the dtype of the points.
"""

import torch
from torch import Tensor


def procrustes(
    points_NP3: Tensor,
    target_NP3: Tensor,
    *,
    valid_NP: Tensor | None = None,
    scale: bool = True,
    reflections: bool = False,
    epsilon: float = 0.0,
) -> Tensor:
    """Returns the points (N, P, 3) moved, turned and scaled onto the target by least squares.

    Only the points of `valid_NP` count; the others are moved along. All input must be finite. Points in a
    plane or on a line leave the best turn open, and any is taken: they lie equally far from the target. Points
    that are all equal end, with `scale`, in the target's centroid.
    Umeyama 1991; with `reflections` SciPy's orthogonal_procrustes of both sets divided by norm + `epsilon`.
    """
    if valid_NP is None:
        valid_NP = torch.ones_like(points_NP3[..., 0])
    weight_NP1 = valid_NP.to(points_NP3)[..., None]
    count_N11 = weight_NP1.sum(dim=1, keepdim=True).clamp(min=1)
    points_NP3 = points_NP3 - (points_NP3 * weight_NP1).sum(dim=1, keepdim=True) / count_N11
    centroid_N13 = (target_NP3 * weight_NP1).sum(dim=1, keepdim=True) / count_N11
    target_NP3 = (target_NP3 - centroid_N13) * weight_NP1

    # At norm 1 the turn of a tiny hand is as exact as that of a large one.
    norm_N11 = _norm(points_NP3 * weight_NP1) + epsilon
    target_norm_N11 = _norm(target_NP3) + epsilon
    points_NP3 = points_NP3 / torch.where(norm_N11 > 0, norm_N11, 1)
    target_NP3 = target_NP3 / torch.where(target_norm_N11 > 0, target_norm_N11, 1)
    U_N33, spread_N3, Vh_N33 = torch.linalg.svd(points_NP3.mT @ target_NP3)
    if not reflections:
        # The direction in which the two agree least is turned back.
        upright_N3 = torch.ones_like(spread_N3)
        upright_N3[:, 2] = torch.linalg.det(U_N33 @ Vh_N33).sign()
        spread_N3 = spread_N3 * upright_N3
        Vh_N33 = Vh_N33 * upright_N3[..., None]
    size_N11 = spread_N3.sum(dim=1)[:, None, None] * target_norm_N11 if scale else norm_N11
    aligned_NP3: Tensor = points_NP3 @ (U_N33 @ Vh_N33) * size_N11 + centroid_N13
    return aligned_NP3


def root_relative(points_NP3: Tensor, joints_NJ3: Tensor, *, root: int) -> Tensor:
    """Returns the points as seen from joint `root`.

    Both sides are brought there, instead of one onto the other: equal hands stay exactly equal.
    """
    return points_NP3 - joints_NJ3[:, root, None]


def scaled_by_bone(joints_NJ3: Tensor, true_joints_NJ3: Tensor, *, bone: tuple[int, int]) -> Tensor:
    """Returns the joints with `bone` as long as the true one, relative to its first joint.

    A bone of length 0 counts as one of length 1: HO-3D's eval.py.
    """
    first, last = bone
    length_N = (joints_NJ3[:, last] - joints_NJ3[:, first]).norm(dim=-1)
    true_length_N = (true_joints_NJ3[:, last] - true_joints_NJ3[:, first]).norm(dim=-1)
    scale_N = true_length_N / torch.where(length_N > 0, length_N, 1)
    scaled_NJ3: Tensor = root_relative(joints_NJ3, joints_NJ3, root=first) * scale_N[:, None, None]
    return scaled_NJ3


def _norm(points_NP3: Tensor) -> Tensor:
    return points_NP3.square().sum(dim=(1, 2), keepdim=True).sqrt()
