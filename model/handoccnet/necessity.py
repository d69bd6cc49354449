"""The necessity map M: how much each cell of F matters for the hand; it is learned without labels."""

import torch
from torch import Tensor, nn

from model.config import ModelConfig


class ConvolutionalNecessity(nn.Module):
    """Three convolutions and a sigmoid, as in the paper.

    Their form is ours, since the paper does not give it: 3×3, a quarter of the channels inside, ReLU between.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4, 1)
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, inner, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, 1, 3, padding=1),
        )

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return M (B, 1, H, W) in [0, 1]."""
        return torch.sigmoid(self.convolutions(features_BCHW))


class SpatialGate(nn.Module):
    """The published map: a 7×7 convolution over the channels' maximum and mean (CBAM, Woo et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return M (B, 1, H, W) in [0, 1]."""
        extremes = torch.cat(
            (features_BCHW.amax(1, keepdim=True), features_BCHW.mean(1, keepdim=True)), dim=1
        )
        return torch.sigmoid(self.bn(self.conv(extremes)))


def build_necessity(config: ModelConfig) -> nn.Module:
    return SpatialGate() if config.necessity == "spatial_gate" else ConvolutionalNecessity(config.channels)
