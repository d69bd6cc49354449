"""ResNet and feature pyramid: from a crop to the one feature map F that everything after it reads.

B batch, C channels, H and W cells; C2..C5 are the trunk's maps at 1/4..1/32 of the crop.
"""

from torch import Tensor, nn
from torch.nn import functional

from model.config import Activation, ModelConfig
from model.handoccnet.blocks import activation_layer


class Bottleneck(nn.Module):
    """ResNet's 1×1, 3×3, 1×1 block with the stride on the 3×3; the names are torchvision's."""

    def __init__(self, channels_in: int, width: int, stride: int, activation: Activation) -> None:
        super().__init__()
        channels_out = 4 * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.activation = activation_layer(activation)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.bn1(self.conv1(x)))
        y = self.activation(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.activation(y + self.downsample(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A bottleneck ResNet without its classifier (He et al. 2015); module names are torchvision's."""

    def __init__(self, width: int, blocks: tuple[int, int, int, int], activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.activation = activation_layer(activation)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        def stage(channels_in: int, width: int, count: int, stride: int) -> nn.Sequential:
            first = Bottleneck(channels_in, width, stride, activation)
            return nn.Sequential(
                first, *(Bottleneck(4 * width, width, 1, activation) for _ in range(count - 1))
            )

        self.layer1 = stage(width, width, blocks[0], 1)
        self.layer2 = stage(4 * width, 2 * width, blocks[1], 2)
        self.layer3 = stage(8 * width, 4 * width, blocks[2], 2)
        self.layer4 = stage(16 * width, 8 * width, blocks[3], 2)

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c1 = self.maxpool(self.activation(self.bn1(self.conv1(images_B3HW))))
        c2 = self.layer1(c1)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


class TopDownStep(nn.Module):
    """Adds a coarse map, enlarged bilinearly, to the 1×1 projection of the trunk's next finer map."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(channels_in, channels, 1)

    def forward(self, coarse: Tensor, trunk_map: Tensor) -> Tensor:
        lateral = self.lateral(trunk_map)
        enlarged = functional.interpolate(
            coarse, size=lateral.shape[-2:], mode="bilinear", align_corners=False
        )
        return enlarged + lateral  # type: ignore[no-any-return]


class FeaturePyramid(nn.Module):
    """Turns crops (B, 3, input, input) into F (B, channels, feature, feature); Lin et al. 2017.

    F is the finest pyramid map P2, smoothed by a 3×3 convolution and average-pooled: the published network's
    reading of the paper's "resized". At the paper's 512 pixels the pool is 4×4, which is our choice. The
    published network also smooths P3 and throws the result away; nothing here does. Whether F is normalised is the
    config's choice.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, channels = config.trunk_width, config.channels
        self.trunk = ResNet(width, config.trunk_blocks, config.activation)
        self.top = nn.Conv2d(32 * width, channels, 1)
        self.merge4 = TopDownStep(16 * width, channels)
        self.merge3 = TopDownStep(8 * width, channels)
        self.merge2 = TopDownStep(4 * width, channels)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)
        self.pool = nn.AvgPool2d(config.input_size // (4 * config.feature_size))
        self.norm = nn.BatchNorm2d(channels) if config.feature_norm else nn.Identity()

    def forward(self, images_B3HW: Tensor) -> Tensor:
        c2, c3, c4, c5 = self.trunk(images_B3HW)
        p4 = self.merge4(self.top(c5), c4)
        p3 = self.merge3(p4, c3)
        p2 = self.merge2(p3, c2)
        return self.norm(self.pool(self.smooth(p2)))  # type: ignore[no-any-return]
