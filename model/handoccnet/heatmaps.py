"""One hourglass that says where each joint is in the crop, and with what features it says so.

B batch, C channels, H and W cells, J = 21 joints.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import JOINTS, Activation, ModelConfig
from model.handoccnet.blocks import ResidualBlock, activation_layer


class Heatmaps(NamedTuple):
    encoding: Tensor  # (B, C, H, W) the features the heatmaps were read from
    heatmaps: Tensor  # (B, J, H, W), each sums to 1; float32 at least
    joints_2d: Tensor  # (B, J, 2) their means: x, y in [0, 1] of the crop


class Hourglass(nn.Module):
    """Halves a map down to 2×2 and adds the levels back, 0 being the coarsest (Newell et al. 2016)."""

    def __init__(self, channels: int, depth: int, activation: Activation) -> None:
        super().__init__()

        def level_blocks() -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(channels, activation) for _ in range(depth))

        self.skips, self.downs, self.ups = level_blocks(), level_blocks(), level_blocks()
        self.bottom = ResidualBlock(channels, activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kept = []
        for skip, down in zip(reversed(self.skips), reversed(self.downs), strict=True):
            kept.append(skip(x_BCHW))
            x_BCHW = down(functional.max_pool2d(x_BCHW, 2))
        x_BCHW = self.bottom(x_BCHW)
        for up in self.ups:
            x_BCHW = kept.pop() + functional.interpolate(up(x_BCHW), scale_factor=2.0, mode="nearest")
        return x_BCHW


class HeatmapHead(nn.Module):
    """Hourglass, 1×1 scores, a softmax over the cells with a learned sharpness per joint, the maps' means.

    All of it is the published network's. The paper does not give the form of its heatmaps; that its preset
    has the same softmax and sharpness is our choice. Cell centres are at (i + 0.5) / size.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.channels
        self.hourglass = Hourglass(channels, config.pool_steps, config.activation)
        self.refine = ResidualBlock(channels, config.activation)
        self.encode = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), activation_layer(config.activation)
        )
        self.score = nn.Conv2d(channels, JOINTS, 1)
        self.sharpness = nn.Parameter(torch.ones(JOINTS, 1))
        size = config.feature_size
        self.centres: Tensor
        self.register_buffer("centres", (torch.arange(size) + 0.5) / size, persistent=False)

    def forward(self, features_BCHW: Tensor) -> Heatmaps:
        encoding = self.encode(self.refine(self.hourglass(features_BCHW)))
        scores = self.score(encoding)
        exact = torch.promote_types(scores.dtype, torch.float32)
        heatmaps = torch.softmax(scores.flatten(2).to(exact) * self.sharpness, dim=2).view(scores.shape)
        x = (heatmaps.sum(2) * self.centres).sum(2)
        y = (heatmaps.sum(3) * self.centres).sum(2)
        return Heatmaps(encoding, heatmaps, torch.stack((x, y), dim=2))


def entropy_share(heatmaps_BJHW: Tensor) -> Tensor:
    """Returns each heatmap's (sum 1) entropy as a share of a flat one's, (B, J), 0 to 1."""
    cells = heatmaps_BJHW.flatten(2)
    share_BJ: Tensor = torch.special.entr(cells).sum(dim=2) / math.log(cells.shape[2])
    return share_BJ


def peak_mass(heatmaps_BJHW: Tensor) -> Tensor:
    """Returns the share of each heatmap (sum 1) that lies in the 3x3 cells round its peak, in 0 to 1."""
    around = functional.avg_pool2d(heatmaps_BJHW, 3, stride=1, padding=1, count_include_pad=True) * 9.0
    peak_BJ1 = heatmaps_BJHW.flatten(2).argmax(dim=2, keepdim=True)
    return around.flatten(2).gather(2, peak_BJ1).squeeze(2).clamp(0.0, 1.0)
