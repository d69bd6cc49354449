"""Batched inference: crops in, everything that an annotation says of the hand itself out."""

from dataclasses import dataclass, fields
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import roma
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.handoccnet.heatmaps import entropy_share, peak_mass
from model.handoccnet.network import HandOutput
from model.mano.layer import ManoLayer, wrist_relative

Precision = Literal["fp32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

# What the crop is moved by, right and down, as a share of its side, and how far the hand is enlarged in it: little
# enough that the answer should stay the same, and not by whole cells of the feature map.
SHIFTS: Final = ((0.05, 0.04, 0.95), (-0.04, -0.05, 1.05))
FARTHEST_MM: Final = 1000.0


class Network(Protocol):
    """What the predictor needs of a network: crops in [0, 1], B x 3 x H x W, to a HandOutput."""

    def __call__(self, images_B3HW: Tensor) -> HandOutput: ...


@dataclass(frozen=True)
class Predictions:
    """N hands, float32; the mirrored ones are mirrored back.

    Metres with the wrist at the origin and camera axes (x right, y down, z away); axis-angle in radians,
    absolute (mean pose included); joints_2d in [0, 1] of the crop as it was given (not mirrored back).
    confidence: mean of joint_confidence, the mass of a joint's heatmap in the 3x3 cells round its peak.
    predicted_error_mm, predicted_joint_errors_mm: PA-MPJPE, and every joint's error after Procrustes alignment, as the
    network predicts them, about as often too low as too high; None of a network without an error head.
    heatmap_entropy: of the joints' heatmaps, their mean, as a share of a flat heatmap's (0 to 1).
    flip_error_mm, shift_error_mm: how far the joints move, on average over the 21, wrist on wrist, when the network
    sees the crop mirrored, and moved and scaled a little (`SHIFTS`); None unless the predictor was asked for them.
    """

    global_orient: NDArray[np.float32]  # (N, 3)
    hand_pose: NDArray[np.float32]  # (N, 45)
    betas: NDArray[np.float32]  # (N, 10)
    joints: NDArray[np.float32]  # (N, 21, 3)
    vertices: NDArray[np.float32]  # (N, 778, 3)
    joints_2d: NDArray[np.float32]  # (N, 21, 2)
    joint_confidence: NDArray[np.float32]  # (N, 21)
    confidence: NDArray[np.float32]  # (N,)
    heatmap_entropy: NDArray[np.float32]  # (N,)
    predicted_error_mm: NDArray[np.float32] | None = None  # (N,)
    predicted_joint_errors_mm: NDArray[np.float32] | None = None  # (N, 21)
    flip_error_mm: NDArray[np.float32] | None = None  # (N,)
    shift_error_mm: NDArray[np.float32] | None = None  # (N,)

    def finite(self) -> NDArray[np.bool_]:
        """Says of each hand whether all its numbers are finite; `flip_error_mm` and `shift_error_mm` always are."""
        known = [value for item in fields(self) if (value := getattr(self, item.name)) is not None]
        flat = [value.reshape(len(self.betas), -1) for value in known]
        result: NDArray[np.bool_] = np.isfinite(np.concatenate(flat, axis=1)).all(axis=1)
        return result


class Predictor:
    """Holds a network and a hand model on one device.

    network: a network in eval mode; mano: its hand model's layer. Both are moved to the device. tta: looks at every
    crop three times more, for `flip_error_mm` and `shift_error_mm`; the prediction itself stays what it is without.
    """

    def __init__(
        self,
        network: nn.Module,
        mano: ManoLayer,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        batch_size: int = 16,
        tta: bool = False,
    ) -> None:
        self.device = torch.device(device)
        # channels_last is how both cuDNN's and oneDNN's fast convolutions want their tensors.
        network.eval().to(self.device)
        self.network: Network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mano = mano.to(self.device)
        self.precision = precision
        self.batch_size = batch_size
        self.tta = tta

    def __call__(self, crops_NHW3: NDArray[np.uint8], mirrored: NDArray[np.bool_]) -> Predictions:
        """Predicts N hands from their crops (RGB); `mirrored` marks left hands, whose crops are mirrored."""
        parts = [
            self._predict(
                crops_NHW3[start : start + self.batch_size], mirrored[start : start + self.batch_size]
            )
            for start in range(0, len(crops_NHW3), self.batch_size)
        ]
        return Predictions(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    @torch.inference_mode()
    def _predict(
        self, crops_BHW3: NDArray[np.uint8], mirrored: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        # The crops may be read-only shared memory, which torch does not take.
        crops = torch.from_numpy(np.array(crops_BHW3)).to(self.device)
        images_B3HW = crops.permute(0, 3, 1, 2).float().div_(255.0)
        output = self._look(images_B3HW)
        pose_B16x3, betas_B10, vertices_BV3, joints_B21x3 = self._pose(output)

        # +1 or -1 per hand: a mirrored hand has its x mirrored back, and y and z of its rotations.
        sign_B11 = torch.from_numpy(np.where(mirrored, -1.0, 1.0)).float().to(self.device)[:, None, None]
        one_B11 = torch.ones_like(sign_B11)
        of_points = torch.cat([sign_B11, one_B11, one_B11], dim=2)
        of_rotations = torch.cat([one_B11, sign_B11, sign_B11], dim=2)
        pose_B16x3 = pose_B16x3 * of_rotations
        joint_confidence_BJ = peak_mass(output.heatmaps.float())
        result = {
            "global_orient": pose_B16x3[:, 0],
            "hand_pose": pose_B16x3[:, 1:].flatten(1),
            "betas": betas_B10,
            "joints": joints_B21x3 * of_points,
            "vertices": vertices_BV3 * of_points,
            "joints_2d": output.joints_2d.float(),
            "joint_confidence": joint_confidence_BJ,
            "confidence": joint_confidence_BJ.mean(dim=1),
            "heatmap_entropy": entropy_share(output.heatmaps.float()).mean(dim=1),
        }
        if output.predicted_log_errors.shape[1]:
            errors_mm_B22 = output.predicted_log_errors.float().exp().clamp(max=FARTHEST_MM)
            result["predicted_error_mm"] = errors_mm_B22[:, 0]
            result["predicted_joint_errors_mm"] = errors_mm_B22[:, 1:]
        if self.tta:
            # Compared as the right hands that the network saw.
            flipped = self._pose(self._look(images_B3HW.flip(3))).joints_B21x3
            back_3 = flipped.new_tensor([-1.0, 1.0, 1.0])
            result["flip_error_mm"] = _apart_mm(flipped * back_3, joints_B21x3)
            shifted = [self._pose(self._look(moved(images_B3HW, *by))).joints_B21x3 for by in SHIFTS]
            apart = [_apart_mm(joints, joints_B21x3) for joints in shifted]
            result["shift_error_mm"] = torch.stack(apart).mean(dim=0)
        return {name: value.float().cpu().numpy() for name, value in result.items()}

    def _look(self, images_B3HW: Tensor) -> HandOutput:
        dtype = _AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            return self.network(images_B3HW)

    def _pose(self, output: HandOutput) -> "_PosedHands":
        pose_B16x3 = output.axis_angle.float()
        pose_B16x3 = torch.cat([pose_B16x3[:, :1], self.mano.absolute_pose(pose_B16x3[:, 1:])], dim=1)
        betas_B10 = output.betas.float()
        posed = self.mano(roma.rotvec_to_rotmat(pose_B16x3), betas_B10)
        return _PosedHands(pose_B16x3, betas_B10, *wrist_relative(posed))


class _PosedHands(NamedTuple):
    """Right hands: absolute axis-angle, betas, and metres with the wrist at the origin."""

    pose_B16x3: Tensor
    betas_B10: Tensor
    vertices_BV3: Tensor
    joints_B21x3: Tensor


def moved(images_B3HW: Tensor, right: float, down: float, scale: float) -> Tensor:
    """Returns crops whose content is enlarged about the centre, then moved by shares of their side; black outside."""
    # From a place in the new crop to the one in the old, in -1 to 1 from border to border.
    theta_23 = images_B3HW.new_tensor([[1, 0, -2 * right], [0, 1, -2 * down]]) / scale
    grid = F.affine_grid(
        theta_23.expand(len(images_B3HW), 2, 3), list(images_B3HW.shape), align_corners=False
    )
    crops_B3HW: Tensor = F.grid_sample(images_B3HW, grid, align_corners=False)
    return crops_B3HW


def _apart_mm(joints_BJ3: Tensor, others_BJ3: Tensor) -> Tensor:
    """Returns the mean distance, at most `FARTHEST_MM`; so much too where one of the two is not finite."""
    apart_B: Tensor = 1000 * (joints_BJ3 - others_BJ3).norm(dim=2).mean(dim=1)
    return torch.nan_to_num(apart_B, nan=FARTHEST_MM).clamp(max=FARTHEST_MM)
