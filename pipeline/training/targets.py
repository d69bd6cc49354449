"""Training samples as the tensors that the losses take."""

import torch
from torch import Tensor

from model.losses import Targets
from pipeline.training.samples import TrainingSamples
from pipeline.training.windows import Supervision


def to_targets(samples: TrainingSamples, device: torch.device, supervise: Supervision = "all") -> Targets:
    """Returns the labels of B samples; with the supervision `joints`, without pose, shape and mesh."""

    def on_device(name: str) -> Tensor:
        # What comes from Ray's object store is read-only, which torch does not take.
        return torch.from_numpy(getattr(samples, name).copy()).to(device, non_blocking=True)

    has_mano_B = on_device("has_mano")
    if supervise == "joints":
        has_mano_B = torch.zeros_like(has_mano_B)
    return Targets(
        joints_2d_B21x2=on_device("joints_2d"),
        joints_2d_valid_B21=on_device("joints_2d_valid"),
        pose_B16x3=on_device("pose"),
        betas_B10=on_device("betas"),
        has_mano_B=has_mano_B,
        joints_3d_B21x3=on_device("joints_3d"),
        has_joints_3d_B=on_device("has_joints_3d"),
        weight_B=on_device("weight"),
    )


def to_crops(samples: TrainingSamples, device: torch.device) -> Tensor:
    """Returns the crops of B samples, uint8 (B, S, S, 3)."""
    return torch.from_numpy(samples.crops.copy()).to(device, non_blocking=True)


def to_images(crops_BSS3: Tensor) -> Tensor:
    """Returns B crops as the network takes them: (B, 3, S, S), values in [0, 1]."""
    return crops_BSS3.permute(0, 3, 1, 2).float().div_(255.0)
