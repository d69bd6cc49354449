"""From features and heatmaps to MANO's pose and shape.

B batch, C channels, H and W cells, J = 21 joints.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import BETAS, JOINTS, ROTATIONS, ModelConfig
from model.handoccnet.blocks import ResidualBlock, activation_layer
from model.rotations import axis_angle_to_rotation, rotation_to_axis_angle, six_d_to_rotation


class Parameters(NamedTuple):
    rotations: Tensor  # (B, 16, 3, 3)
    axis_angle: Tensor  # (B, 16, 3)
    betas: Tensor  # (B, 10)
    pooled: Tensor  # (B, 4 × regressor channels) what the fully connected layers read


class ConcatEntry(nn.Module):
    """The paper's entry: features and heatmaps, one behind the other; the 1×1 convolution is our choice."""

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + JOINTS, channels_out, 1)

    def forward(self, features_BCHW: Tensor, encoding_BCHW: Tensor, heatmaps_BJHW: Tensor) -> Tensor:  # noqa: ARG002
        both = torch.cat((features_BCHW, heatmaps_BJHW.to(features_BCHW.dtype)), dim=1)
        return self.conv(both)  # type: ignore[no-any-return]


class SumEntry(nn.Module):
    """The published entry: projections of the heatmaps and of the heatmap head's encoding, added."""

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        self.heatmap_conv = nn.Conv2d(JOINTS, channels_out, 1)
        self.encoding_conv = nn.Conv2d(channels, channels_out, 1)

    def forward(self, features_BCHW: Tensor, encoding_BCHW: Tensor, heatmaps_BJHW: Tensor) -> Tensor:  # noqa: ARG002
        heatmaps = heatmaps_BJHW.to(encoding_BCHW.dtype)
        return self.heatmap_conv(heatmaps) + self.encoding_conv(encoding_BCHW)  # type: ignore[no-any-return]


class Regressor(nn.Module):
    """Residual blocks and 2×2 max-pools down to 2×2, one vector, fully connected layers, pose and betas.

    The vector has 2048 numbers in the paper's preset (512 channels, one block before each of four poolings)
    and 1024 in the published network (256 channels, two blocks). The paper gives 2048 and "four residual
    blocks"; the pools between them, and the widths of the layers after, are our choice.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.regressor_channels
        entry = ConcatEntry if config.regressor_input == "concat_features" else SumEntry
        self.entry = entry(config.channels, channels)
        self.blocks_per_pool = config.regressor_blocks
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, config.activation)
            for _ in range(config.pool_steps * config.regressor_blocks)
        )
        self.pool = nn.MaxPool2d(2)
        first, second = config.head_widths
        self.hidden = nn.Sequential(
            nn.Linear(4 * channels, first),
            activation_layer(config.activation),
            nn.Linear(first, second),
            activation_layer(config.activation),
        )
        self.pose_form = config.pose
        self.pose = nn.Linear(second, ROTATIONS * (6 if config.pose == "six_d" else 3))
        self.betas = nn.Linear(second, BETAS)

    def forward(self, features_BCHW: Tensor, encoding_BCHW: Tensor, heatmaps_BJHW: Tensor) -> Parameters:
        x_BCHW = self.entry(features_BCHW, encoding_BCHW, heatmaps_BJHW)
        for count, block in enumerate(self.blocks, start=1):
            x_BCHW = block(x_BCHW)
            if count % self.blocks_per_pool == 0:
                x_BCHW = self.pool(x_BCHW)
        pooled = x_BCHW.flatten(1)
        vector = self.hidden(pooled)
        # Under autocast the last layers keep the weights' precision: a pose's lost digits are millimetres.
        with torch.autocast(vector.device.type, enabled=False):
            vector = vector.to(self.pose.weight.dtype)
            return self._read(self.pose(vector), self.betas(vector), pooled)

    def _read(self, pose: Tensor, betas: Tensor, pooled: Tensor) -> Parameters:
        pose = pose.view(len(pose), ROTATIONS, -1).to(torch.promote_types(pose.dtype, torch.float32))
        if self.pose_form == "six_d":
            rotations = six_d_to_rotation(pose)
            return Parameters(rotations, rotation_to_axis_angle(rotations), betas, pooled)
        return Parameters(axis_angle_to_rotation(pose), pose, betas, pooled)
