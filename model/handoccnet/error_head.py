"""What the network predicts of its own errors, joint by joint; neither the paper nor the published network has it.

B batch, C channels, H and W cells, J = 21 joints, D width of a token.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import BETAS, JOINTS, ROTATIONS, ModelConfig
from model.handoccnet.heatmaps import Heatmaps, entropy_share, peak_mass
from model.handoccnet.regressor import Parameters

WIDTH = 96
LAYERS = 2
HEADS = 4
START_MM = 10.0  # what an untrained head predicts

_SHAPE = 9  # numbers that say how a joint's heatmap looks, and where it lies


class ErrorHead(nn.Module):
    """Reads the evidence of every joint, and gives the error that the hand and each joint will have.

    One token per joint (the features at its place, the shape of its heatmap) and one for the hand (the regressor's
    pooled maps, pose and shape) go through a transformer. No gradient goes from here to what it reads; its own counts
    in a clipped norm. It has no dropout, so that a run that goes on from a checkpoint takes the steps that it would
    have taken, and under autocast it stays in float32: it is small.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        of_joint = config.channels + _SHAPE
        of_hand = 4 * config.regressor_channels + 6 * ROTATIONS + BETAS
        self.joint_norm = nn.BatchNorm1d(of_joint, affine=False)
        self.hand_norm = nn.BatchNorm1d(of_hand, affine=False)
        self.joint = nn.Linear(of_joint, WIDTH)
        self.hand = nn.Linear(of_hand, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(1 + JOINTS, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.error = nn.Linear(WIDTH, 1)
        nn.init.constant_(self.error.bias, math.log(START_MM))

    def forward(self, heat: Heatmaps, necessity_map_B1HW: Tensor, parameters: Parameters) -> Tensor:
        """Return the logarithms (B, 1 + J) of PA errors in mm: of the mean over the joints, then of each joint's."""
        with torch.autocast(heat.heatmaps.device.type, enabled=False):
            with torch.no_grad():
                joints_BJF = joint_evidence(heat, necessity_map_B1HW)
                hand_BG = hand_evidence(parameters)
            return self.judge(joints_BJF, hand_BG)

    def judge(self, joints_BJF: Tensor, hand_BG: Tensor) -> Tensor:
        """Return what `forward` does, from the evidence."""
        joints_BJF = self.joint_norm(joints_BJF.flatten(0, 1)).view(joints_BJF.shape)
        tokens = torch.cat([self.hand(self.hand_norm(hand_BG))[:, None], self.joint(joints_BJF)], dim=1)
        logarithms: Tensor = self.error(self.norm(self.layers(tokens + self.place)))
        return logarithms.squeeze(2)


def joint_evidence(heat: Heatmaps, necessity_map_B1HW: Tensor) -> Tensor:
    """Return what the maps say of each joint, (B, J, C + 9)."""
    heatmaps, joints_BJ2 = heat.heatmaps, heat.joints_2d
    grid = 2 * joints_BJ2[:, :, None] - 1
    features_BJC = _at(heat.encoding.to(grid.dtype), grid)
    necessity_BJ1 = _at(necessity_map_B1HW.to(grid.dtype), grid)
    own = functional.grid_sample(
        heatmaps.flatten(0, 1)[:, None], grid.flatten(0, 1)[:, None], align_corners=False
    )
    x, y = (
        (torch.arange(size, device=heatmaps.device, dtype=heatmaps.dtype) + 0.5) / size
        for size in (heatmaps.shape[3], heatmaps.shape[2])
    )
    spread_x = ((heatmaps.sum(2) * x.square()).sum(2) - joints_BJ2[..., 0].square()).clamp_min(0).sqrt()
    spread_y = ((heatmaps.sum(3) * y.square()).sum(2) - joints_BJ2[..., 1].square()).clamp_min(0).sqrt()
    from_centre_BJ2 = joints_BJ2 - joints_BJ2.mean(1, keepdim=True)
    size_BJ = from_centre_BJ2.square().sum(2).mean(1, keepdim=True).sqrt().expand_as(spread_x)
    numbers = [peak_mass(heatmaps), entropy_share(heatmaps), (own.view(spread_x.shape) + 1e-4).log()]
    numbers += [spread_x, spread_y, size_BJ, *from_centre_BJ2.unbind(2)]
    shape = torch.stack(numbers, dim=2)
    return torch.cat([features_BJC, necessity_BJ1, shape], dim=2)


def hand_evidence(parameters: Parameters) -> Tensor:
    """Return what the regressor says of the hand, (B, G)."""
    six_d = parameters.rotations[..., :2].flatten(1)
    return torch.cat([part.to(six_d.dtype) for part in (parameters.pooled, six_d, parameters.betas)], dim=1)


def _at(map_BCHW: Tensor, grid_BJ12: Tensor) -> Tensor:
    return functional.grid_sample(map_BCHW, grid_BJ12, align_corners=False).squeeze(3).transpose(1, 2)
