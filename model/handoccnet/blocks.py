"""The two pieces that several parts of the network are made of: its activation and its residual block."""

from torch import Tensor, nn

from model.config import Activation


def activation_layer(activation: Activation) -> nn.Module:
    """Return the layer; it works in place, so what feeds it must not be needed again."""
    return nn.ReLU(inplace=True) if activation == "relu" else nn.LeakyReLU(0.01, inplace=True)


class ResidualBlock(nn.Module):
    """Adds to a map what a pre-activation bottleneck of half its channels makes of it (He et al. 2016)."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        half = channels // 2
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, channels, 1)
        self.activation = activation_layer(activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.conv1(self.activation(self.bn1(x_BCHW)))
        y = self.conv2(self.activation(self.bn2(y)))
        y = self.conv3(self.activation(self.bn3(y)))
        return x_BCHW + y  # type: ignore[no-any-return]
