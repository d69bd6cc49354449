"""The errors of every sample, all of a batch at once.

N = samples, J = joints, V = vertices, P = points of either. Computed in float64, on the device of the input.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.metrics.alignment import procrustes, root_relative, scaled_by_bone
from pipeline.metrics.protocols import Protocol
from pipeline.metrics.surface import f_scores

F_LIMITS_M = {"f5": 0.005, "f15": 0.015}
# Two points can always be laid onto two others: their error would say nothing.
FEWEST_JOINTS_TO_ALIGN = 3


@torch.no_grad()
def sample_errors(
    protocol: Protocol,
    *,
    joints: Tensor,
    true_joints: Tensor,
    vertices: Tensor | None = None,
    true_vertices: Tensor | None = None,
    joint_valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """Returns what the protocol measures of each sample: float64 tensors (N,) by name.

    Joints (N, 21, 3), in the simple order, and vertices (N, V, 3) are in metres and camera axes; those of one
    side share their origin, which need not be the other side's.
    The names are `mpjpe_mm` and `auc` of the joints, `mpvpe_mm`, `mesh_auc`, `f5` and `f15` of the vertices
    where both sides have them: after alignment of the root joint, and with `pa_` in front after alignment by
    similarity, joints and vertices each for themselves. `st_mpjpe_mm` and `st_auc` follow the alignment by
    scale and translation of HO-3D.

    A joint counts if it is finite in the truth and not 0 in `joint_valid` (N, 21), a mesh if it is finite in
    the truth; what a sample's truth does not allow is NaN. `failed` is 1 where the prediction is not finite:
    its distances are NaN and its scores 0.
    """
    failed_N = ~_finite(joints)
    if vertices is not None and true_vertices is not None:
        failed_N = failed_N | ~_finite(vertices)
    joints, true_joints, valid_NJ = _measurable(joints, true_joints, joint_valid, failed_N)
    rooted_N1 = valid_NJ[:, protocol.root, None]
    errors = {"failed": failed_N.double()}

    def root_aligned(points: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return (
            root_relative(points, joints, root=protocol.root),
            root_relative(truth, true_joints, root=protocol.root),
        )

    alignable_N1 = valid_NJ.sum(dim=1, keepdim=True) >= FEWEST_JOINTS_TO_ALIGN
    aligned = _by_similarity(protocol, joints, true_joints, valid_NJ)
    hands = [
        ("", *root_aligned(joints, true_joints), valid_NJ & rooted_N1),
        ("pa_", aligned, true_joints, valid_NJ & alignable_N1),
    ]
    if protocol.scale_bone is not None:
        first, last = protocol.scale_bone
        scaled = scaled_by_bone(joints, true_joints, bone=protocol.scale_bone)
        truth = root_relative(true_joints, true_joints, root=first)
        hands.append(("st_", scaled, truth, valid_NJ & valid_NJ[:, [first, last]].all(dim=1, keepdim=True)))
    for prefix, points, truth, valid in hands:
        errors[f"{prefix}mpjpe_mm"], errors[f"{prefix}auc"] = _distance_and_auc(
            protocol, points, truth, valid, failed_N
        )
    if vertices is None or true_vertices is None:
        return errors

    vertices, true_vertices, valid_NV = _measurable(vertices, true_vertices, None, failed_N)
    valid_NV = valid_NV.all(dim=1, keepdim=True).expand_as(valid_NV)
    aligned = _by_similarity(protocol, vertices, true_vertices, valid_NV)
    meshes = [
        ("", *root_aligned(vertices, true_vertices), valid_NV & rooted_N1),
        ("pa_", aligned, true_vertices, valid_NV),
    ]
    for prefix, points, truth, valid in meshes:
        errors[f"{prefix}mpvpe_mm"], errors[f"{prefix}mesh_auc"] = _distance_and_auc(
            protocol, points, truth, valid, failed_N
        )
        scores = f_scores(points, truth, list(F_LIMITS_M.values()))
        for name, score_N in zip(F_LIMITS_M, scores, strict=True):
            score_N = torch.where(failed_N, 0.0, score_N)
            errors[f"{prefix}{name}"] = torch.where(valid.all(dim=1), score_N, torch.nan)
    return errors


@torch.no_grad()
def absolute_errors(
    protocol: Protocol, *, joints: Tensor, true_joints: Tensor, joint_valid: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns `absolute_mpjpe_mm` and `absolute_auc`, (N,) each: joints in camera space, nothing aligned.

    Otherwise as `sample_errors`.
    """
    failed_N = ~_finite(joints)
    joints, true_joints, valid_NJ = _measurable(joints, true_joints, joint_valid, failed_N)
    distance_N, auc_N = _distance_and_auc(protocol, joints, true_joints, valid_NJ, failed_N)
    return {"absolute_mpjpe_mm": distance_N, "absolute_auc": auc_N}


def _finite(points_NP3: Tensor) -> Tensor:
    return points_NP3.isfinite().flatten(1).all(dim=1)


def _measurable(
    points_NP3: Tensor, truth_NP3: Tensor, given_NP: Tensor | None, failed_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns points and truth in float64, 0 wherever they must not be looked at, and which points count."""
    valid_NP = truth_NP3.isfinite().all(dim=-1)
    if given_NP is not None:
        valid_NP = valid_NP & (given_NP != 0)
    points_NP3 = torch.where(failed_N[:, None, None], 0.0, points_NP3.double())
    return points_NP3, torch.where(valid_NP[..., None], truth_NP3.double(), 0.0), valid_NP


def _by_similarity(protocol: Protocol, points_NP3: Tensor, truth_NP3: Tensor, valid_NP: Tensor) -> Tensor:
    return procrustes(
        points_NP3,
        truth_NP3,
        valid_NP=valid_NP,
        reflections=protocol.reflections,
        epsilon=protocol.epsilon,
    )


def _distance_and_auc(
    protocol: Protocol, points_NP3: Tensor, truth_NP3: Tensor, valid_NP: Tensor, failed_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the mean distance in mm and the area under the PCK curve, (N,) each, over the points that count.

    The area is linear in the curve and the curve is a mean over points: the area of a set is the mean of its
    points' own, which is what makes it a value of the sample, and exact without a histogram.
    """
    distance_NP = 1000 * (points_NP3 - truth_NP3).norm(dim=-1)
    limits = np.linspace(0, protocol.auc_limit_mm, protocol.auc_steps)
    step = np.full(protocol.auc_steps, 1 / (protocol.auc_steps - 1))
    step[[0, -1]] /= 2
    # The area of a point that is first within limit k, for k = 0 … auc_steps (never).
    area = torch.from_numpy(np.append(step[::-1].cumsum()[::-1], 0)).to(distance_NP)
    area_NP = area[torch.bucketize(distance_NP, torch.from_numpy(limits).to(distance_NP))]

    count_N = valid_NP.sum(dim=1)
    distance_N = torch.where(valid_NP, distance_NP, 0.0).sum(dim=1) / count_N
    area_N = torch.where(valid_NP, area_NP, 0.0).sum(dim=1) / count_N
    failed_area_N = torch.where(count_N > 0, 0.0, torch.nan).to(area_N)
    return distance_N.masked_fill(failed_N, torch.nan), torch.where(failed_N, failed_area_N, area_N)
