"""Batched inference: crops in, everything that an annotation says of the hand itself out."""

from dataclasses import dataclass, fields
from typing import Literal, Protocol

import numpy as np
import roma
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.handoccnet.network import HandOutput
from model.mano.layer import ManoLayer, wrist_relative

Precision = Literal["fp32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Network(Protocol):
    """What the predictor needs of a network: crops in [0, 1], B x 3 x H x W, to a HandOutput."""

    def __call__(self, images_B3HW: Tensor) -> HandOutput: ...


@dataclass(frozen=True)
class Predictions:
    """N hands, float32; the mirrored ones are mirrored back.

    Metres with the wrist at the origin and camera axes (x right, y down, z away); axis-angle in radians,
    absolute (mean pose included); joints_2d in [0, 1] of the crop as it was given (not mirrored back).
    confidence: mean of joint_confidence, the mass of a joint's heatmap in the 3x3 cells round its peak.
    """

    global_orient: NDArray[np.float32]  # (N, 3)
    hand_pose: NDArray[np.float32]  # (N, 45)
    betas: NDArray[np.float32]  # (N, 10)
    joints: NDArray[np.float32]  # (N, 21, 3)
    vertices: NDArray[np.float32]  # (N, 778, 3)
    joints_2d: NDArray[np.float32]  # (N, 21, 2)
    joint_confidence: NDArray[np.float32]  # (N, 21)
    confidence: NDArray[np.float32]  # (N,)

    def finite(self) -> NDArray[np.bool_]:
        """Says of each hand whether all its numbers are finite."""
        flat = [getattr(self, item.name).reshape(len(self.betas), -1) for item in fields(self)]
        result: NDArray[np.bool_] = np.isfinite(np.concatenate(flat, axis=1)).all(axis=1)
        return result


class Predictor:
    """Holds a network and a hand model on one device.

    network: a network in eval mode; mano: its hand model's layer. Both are moved to the device.
    """

    def __init__(
        self,
        network: nn.Module,
        mano: ManoLayer,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        batch_size: int = 16,
    ) -> None:
        self.device = torch.device(device)
        # channels_last is how both cuDNN's and oneDNN's fast convolutions want their tensors.
        network.eval().to(self.device)
        self.network: Network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mano = mano.to(self.device)
        self.precision = precision
        self.batch_size = batch_size

    def __call__(self, crops_NHW3: NDArray[np.uint8], mirrored: NDArray[np.bool_]) -> Predictions:
        """Predicts N hands from their crops (RGB); `mirrored` marks left hands, whose crops are mirrored."""
        parts = [
            self._predict(
                crops_NHW3[start : start + self.batch_size], mirrored[start : start + self.batch_size]
            )
            for start in range(0, len(crops_NHW3), self.batch_size)
        ]
        names = [item.name for item in fields(Predictions)]
        return Predictions(**{name: np.concatenate([part[name] for part in parts]) for name in names})

    @torch.inference_mode()
    def _predict(
        self, crops_BHW3: NDArray[np.uint8], mirrored: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        # The crops may be read-only shared memory, which torch does not take.
        crops = torch.from_numpy(np.array(crops_BHW3)).to(self.device)
        images_B3HW = crops.permute(0, 3, 1, 2).float().div_(255.0)
        dtype = _AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            output = self.network(images_B3HW)
        pose_B16x3 = output.axis_angle.float()
        pose_B16x3 = torch.cat([pose_B16x3[:, :1], self.mano.absolute_pose(pose_B16x3[:, 1:])], dim=1)
        betas_B10 = output.betas.float()
        posed = self.mano(roma.rotvec_to_rotmat(pose_B16x3), betas_B10)
        vertices_BV3, joints_B21x3 = wrist_relative(posed)

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
        }
        return {name: value.float().cpu().numpy() for name, value in result.items()}


def peak_mass(heatmaps_BJHW: Tensor) -> Tensor:
    """Returns the share of each heatmap (sum 1) that lies in the 3x3 cells round its peak, in 0 to 1."""
    around = F.avg_pool2d(heatmaps_BJHW, 3, stride=1, padding=1, count_include_pad=True) * 9.0
    peak_BJ1 = heatmaps_BJHW.flatten(2).argmax(dim=2, keepdim=True)
    return around.flatten(2).gather(2, peak_BJ1).squeeze(2).clamp(0.0, 1.0)
