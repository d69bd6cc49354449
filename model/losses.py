"""What training minimises: the authors' five terms, ours on heatmaps, distances and predicted errors, each masked where
a label lacks.

B batch, V = 778 vertices, 21 = joints in the simple order, 16 = MANO's rotations, H and W cells of a heatmap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.config import PoseForm
from model.handoccnet.network import HandOutput
from model.mano.layer import ManoLayer, ManoOutput, wrist_relative
from model.procrustes import aligned_distances
from model.rotations import axis_angle_to_rotation


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The factor of each term; a term of weight 0 is not computed.

    pose_form: whether the pose is compared by rotation matrices (six_d) or by axis-angle vectors.
    """

    vertices: float = 1e4
    joints: float = 1e4
    pose: float = 10.0
    betas: float = 0.1
    joints_2d: float = 100.0
    heatmaps: float = 0.0
    heatmaps_kl: float = 0.0
    distances: float = 0.0
    articulation: float = 0.0
    pose_form: PoseForm = "six_d"


FLOOR_MM = 0.2  # of the error head's targets, whose logarithms would run away below
SQUARES_BELOW = 0.3  # of the logarithms, that is a factor of 1.35: an error is partly chance

# `release`: the published code's weights (reference: RELEASE_NETWORK section 2). `paper`: "the sum of L2 distances on
# H, θ, β, V, J3D"; it gives no weights, so what both have in common has the published ones, and the heatmaps get
# what their mean positions had: untrained, both terms are of the order of 10. `small`, ours: a trunk that starts from
# nothing first has to find the joints in the picture, which the published weights leave to a pretrained one. The
# squares of pose and mesh weigh little: their gradients are rough, and Adam gives the layers that they alone reach full
# steps anyway. They come mostly from hands that are turned wrongly; distances, and distances of the hand turned back,
# let the others count.
LOSSES = {
    "release": LossWeights(),
    "small": LossWeights(
        vertices=200.0,
        joints=200.0,
        pose=5.0,
        betas=0.02,
        joints_2d=100.0,
        heatmaps_kl=10.0,
        distances=50.0,
        articulation=100.0,
    ),
    "paper": LossWeights(joints_2d=0.0, heatmaps=100.0, pose_form="axis_angle"),
}


class Targets(NamedTuple):
    """Labels of B crops, as of right hands (left ones mirrored); where a label lacks, any finite number stands."""

    joints_2d_B21x2: Tensor  # in [0, 1] of the crop; they may lie outside of it
    joints_2d_valid_B21: Tensor  # bool
    pose_B16x3: Tensor  # axis-angle, absolute (mean pose included); joint 0 = global_orient in camera axes
    betas_B10: Tensor
    has_mano_B: (
        Tensor  # bool: pose and betas are labelled, and with them the hand model's vertices and joints
    )
    joints_3d_B21x3: Tensor  # metres, wrist at the origin, camera axes
    has_joints_3d_B: Tensor  # bool; asked only where has_mano is False
    weight_B: Tensor  # how much the sample counts, 1 as a rule


def losses(output: HandOutput, targets: Targets, mano: ManoLayer, weights: LossWeights) -> dict[str, Tensor]:
    """Return every weighted term as a scalar, and their sum as `total`; computed in the hand model's dtype.

    Each term is a mean over the labelled elements of this batch, of squared errors where nothing else is said, a
    sample's errors being multiplied by its weight. (Under data parallelism and gradient accumulation every
    micro-batch divides by its own number of labelled elements.) A term that nothing in the batch labels is 0 and
    still reaches the parameters, with gradients of 0, as DistributedDataParallel wants it.

    vertices, joints: the predicted hand against the hand model's own for the labelled pose and betas, in metres
    in the MANO frame, not centred. A hand with labelled joints but no pose is compared with those, wrist at the
    origin on both sides. pose: 16 rotations, those of the fingers as offsets from the mean pose. joints_2d: in
    sides of the crop. heatmaps: see `heatmap_targets`; squared errors summed over the cells of a map. heatmaps_kl: the
    divergence of the maps from the same targets, in nats; unlike the others it pulls hard on maps that are still flat.
    distances: how far the vertices, and how far the joints, of a posed hand are from the labelled one's, on average, in
    metres with the wrist at the origin; both averages are added. articulation: the same of both hands turned back to no
    global rotation, so that only the fingers and the shape count. Both need a labelled pose.
    predicted_errors: of a network with an error head, always with weight 1: the logarithms of the errors that it
    predicts against those of the joints that it gives, as they are after Procrustes alignment, at least `FLOOR_MM`. It
    reaches the head alone, which learns the middle of the errors rather than their mean.
    """
    dtype = mano.v_template.dtype
    with torch.autocast(output.betas.device.type, enabled=False):
        output = HandOutput(*(value.to(dtype) for value in output))
        terms = _terms(output, _typed(targets, dtype), mano, weights)
    assert terms, "every loss has weight 0"
    return {**terms, "total": torch.stack(list(terms.values())).sum()}


def heatmap_targets(joints_2d_B21x2: Tensor, height: int, width: int) -> Tensor:
    """Return a Gaussian (B, 21, H, W) round each joint, that sums to 1 over the cells as a softmax does.

    The paper does not give its heatmaps' form. Our choice: a standard deviation of one cell, and cell centres at
    (i + 0.5) / size, where the network's own maps have them. A joint far outside gives an empty map.
    """

    def along(position_B21: Tensor, size: int) -> Tensor:
        cells = torch.arange(size, device=position_B21.device, dtype=position_B21.dtype) + 0.5
        share = torch.exp(-0.5 * (cells - position_B21.unsqueeze(-1) * size).square())
        return share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)

    x_B21W, y_B21H = along(joints_2d_B21x2[..., 0], width), along(joints_2d_B21x2[..., 1], height)
    return y_B21H.unsqueeze(-1) * x_B21W.unsqueeze(-2)


def _typed(targets: Targets, dtype: torch.dtype) -> Targets:
    return Targets(*(value if value.dtype == torch.bool else value.to(dtype) for value in targets))


def _terms(output: HandOutput, targets: Targets, mano: ManoLayer, weights: LossWeights) -> dict[str, Tensor]:
    mano_weight_B = targets.weight_B * targets.has_mano_B
    terms = {}
    predicts_errors = output.predicted_log_errors.shape[1] > 0
    if weights.vertices or weights.joints or weights.distances or weights.articulation or predicts_errors:
        predicted = _predicted_hand(output, mano)
        with torch.no_grad():
            labelled = mano(axis_angle_to_rotation(targets.pose_B16x3), targets.betas_B10)
        if weights.vertices:
            errors = (predicted.vertices_BV3 - labelled.vertices_BV3).square().mean((1, 2))
            terms["vertices"] = weights.vertices * _mean(errors, mano_weight_B, targets.has_mano_B)
        if weights.joints:
            errors, has_joints_B = _joint_errors(predicted, labelled, targets)
            terms["joints"] = weights.joints * _mean(errors, targets.weight_B * has_joints_B, has_joints_B)
        if weights.distances or weights.articulation:
            pairs = list(zip(wrist_relative(predicted), wrist_relative(labelled), strict=True))
        if weights.distances:
            errors = _distances(pairs)
            terms["distances"] = weights.distances * _mean(errors, mano_weight_B, targets.has_mano_B)
        if weights.articulation:
            turn, true_turn = output.rotations[:, 0], axis_angle_to_rotation(targets.pose_B16x3[:, 0])
            errors = _distances([(found @ turn, wanted @ true_turn) for found, wanted in pairs])
            terms["articulation"] = weights.articulation * _mean(errors, mano_weight_B, targets.has_mano_B)
        if predicts_errors:
            errors, has_joints_B = _prediction_errors(output, predicted, labelled, targets)
            terms["predicted_errors"] = _mean(errors, targets.weight_B * has_joints_B, has_joints_B)
    if weights.pose:
        errors = _pose_errors(output, targets, mano, weights.pose_form)
        terms["pose"] = weights.pose * _mean(errors, mano_weight_B, targets.has_mano_B)
    if weights.betas:
        errors = (output.betas - targets.betas_B10).square().mean(1)
        terms["betas"] = weights.betas * _mean(errors, mano_weight_B, targets.has_mano_B)

    valid_B21 = targets.joints_2d_valid_B21
    if weights.joints_2d:
        errors = (output.joints_2d - targets.joints_2d_B21x2).square().mean(2)
        terms["joints_2d"] = weights.joints_2d * _mean(
            errors, targets.weight_B[:, None] * valid_B21, valid_B21
        )
    if weights.heatmaps or weights.heatmaps_kl:
        # Nothing in the maps can stand for a joint outside of the crop.
        inside = (targets.joints_2d_B21x2 >= 0) & (targets.joints_2d_B21x2 <= 1)
        valid_B21 = valid_B21 & inside.all(2)
        weight_B21 = targets.weight_B[:, None] * valid_B21
        wanted = heatmap_targets(targets.joints_2d_B21x2, *output.heatmaps.shape[-2:])
        if weights.heatmaps:
            errors = (output.heatmaps - wanted).square().sum((2, 3))
            terms["heatmaps"] = weights.heatmaps * _mean(errors, weight_B21, valid_B21)
        if weights.heatmaps_kl:
            smallest = torch.finfo(torch.float32).tiny
            found = output.heatmaps.clamp_min(smallest).log()
            errors = (torch.special.xlogy(wanted, wanted) - wanted * found).sum((2, 3))
            terms["heatmaps_kl"] = weights.heatmaps_kl * _mean(errors, weight_B21, valid_B21)
    return terms


def _predicted_hand(output: HandOutput, mano: ManoLayer) -> ManoOutput:
    """Pose the hand as the published network does: by axis-angle vectors with the mean pose added."""
    fingers = axis_angle_to_rotation(mano.absolute_pose(output.axis_angle[:, 1:]))
    # The global rotation itself, not its axis-angle form, whose gradient is rough near half a turn.
    hand: ManoOutput = mano(torch.cat((output.rotations[:, :1], fingers), dim=1), output.betas)
    return hand


def _distances(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean distance (B,) between two sets of points (B, P, 3), summed over the pairs of sets."""
    return torch.stack([(found - wanted).norm(dim=2).mean(1) for found, wanted in pairs]).sum(0)


def _joint_errors(predicted: ManoOutput, labelled: ManoOutput, targets: Targets) -> tuple[Tensor, Tensor]:
    """The squared errors (B,) of the joints, and for whom there are any."""
    as_posed = predicted.joints_B21x3 - labelled.joints_B21x3
    as_measured = wrist_relative(predicted)[1] - targets.joints_3d_B21x3
    difference = torch.where(targets.has_mano_B[:, None, None], as_posed, as_measured)
    return difference.square().mean((1, 2)), targets.has_mano_B | targets.has_joints_3d_B


def _prediction_errors(
    output: HandOutput, predicted: ManoOutput, labelled: ManoOutput, targets: Targets
) -> tuple[Tensor, Tensor]:
    """How wrong the logarithms of the predicted errors are (B,), and for whom that is known."""
    with torch.no_grad():
        wanted = torch.where(
            targets.has_mano_B[:, None, None], labelled.joints_B21x3, targets.joints_3d_B21x3
        )
        joints_mm_B21 = 1000 * aligned_distances(predicted.joints_B21x3, wanted)
        both = torch.cat([joints_mm_B21.mean(1, keepdim=True), joints_mm_B21], dim=1)
        true_B22 = both.clamp_min(FLOOR_MM).log()
    errors_B22 = functional.smooth_l1_loss(
        output.predicted_log_errors, true_B22, reduction="none", beta=SQUARES_BELOW
    )
    has_joints_B = targets.has_mano_B | targets.has_joints_3d_B
    return errors_B22[:, 0] + errors_B22[:, 1:].mean(1), has_joints_B


def _pose_errors(output: HandOutput, targets: Targets, mano: ManoLayer, form: PoseForm) -> Tensor:
    fingers = targets.pose_B16x3[:, 1:] - mano.hands_mean.view(15, 3)
    offsets_B16x3 = torch.cat((targets.pose_B16x3[:, :1], fingers), dim=1)
    if form == "axis_angle":
        return (output.axis_angle - offsets_B16x3).square().mean((1, 2))
    return (output.rotations - axis_angle_to_rotation(offsets_B16x3)).square().mean((1, 2, 3))


def _mean(errors: Tensor, weight: Tensor, labelled: Tensor) -> Tensor:
    return (errors * weight).sum() / labelled.sum().clamp_min(1)
