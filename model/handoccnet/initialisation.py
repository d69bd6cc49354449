"""What untrained weights are: the published rule, and ours for what trains from nothing."""

import torch
from torch import nn

from model.config import ROTATIONS, ModelConfig
from model.handoccnet.backbone import Bottleneck, ResNet
from model.handoccnet.blocks import ResidualBlock
from model.handoccnet.regressor import Regressor
from model.handoccnet.transformers import AttentionBlock, ConvolutionFusion


def initialise_trunk(trunk: ResNet) -> None:
    """Give the trunk what torchvision gives it, for training without ImageNet.

    The last norm of each block starts at 0.2 (ours): sixteen blocks then add up to a map of ordinary size,
    even before any statistics were gathered.
    """
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in trunk.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.2)


def initialise_published(part: nn.Module) -> None:
    """Apply the published rule to FIT, SET, heatmap head or regressor: nearly silent weights, no biases."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.001 if isinstance(module, nn.Conv2d) else 0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, AttentionBlock) and module.position_embedding:
            nn.init.normal_(module.query_embedding)
            nn.init.normal_(module.key_embedding)


def initialise_scaled(part: nn.Module) -> None:
    """Apply our rule, for the paper's preset (its own is not given) and for tiny.

    Layers keep the size of what they are given, residual branches start small, and the pose starts at rest. FIT
    starts as little more than the primary map, SET as little more than its input.
    """
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in part.modules():
        if isinstance(module, AttentionBlock) and module.position_embedding:
            nn.init.normal_(module.query_embedding, std=0.2)
            nn.init.normal_(module.key_embedding, std=0.2)
        if isinstance(module, AttentionBlock):
            last = module.mlp[-1]
            assert isinstance(last, nn.Linear)
            last.weight.data.mul_(0.2)
            if module.residual != "none":
                module.value.weight.data.mul_(0.2)
        elif isinstance(module, ConvolutionFusion):
            module.start_as_primary()
        elif isinstance(module, ResidualBlock):
            module.conv3.weight.data.mul_(0.2)
        elif isinstance(module, Regressor):
            nn.init.normal_(module.pose.weight, std=0.01)
            nn.init.normal_(module.betas.weight, std=0.01)
            start_at_rest(module)


def start_at_rest(regressor: Regressor) -> None:
    """Make the regressor start at no rotation: six zeros have no direction, and noise crumples a hand."""
    one = torch.tensor([1.0, 0, 0, 0, 1, 0] if regressor.pose_form == "six_d" else [0.0, 0, 0])
    with torch.no_grad():
        regressor.pose.bias.copy_(one.repeat(ROTATIONS))


def initialise(parts: list[nn.Module], config: ModelConfig) -> None:
    """Initialise everything after the backbone as the config says."""
    for part in parts:
        if config.initialisation == "published":
            initialise_published(part)
        else:
            initialise_scaled(part)
