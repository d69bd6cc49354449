"""HandOccNet (Park et al., CVPR 2022): a crop of a hand in, MANO's pose and shape and 21 joints in 2D out.

B batch, C channels, H and W cells, J = 21 joints (wrist; thumb, index, middle, ring, little; tip last),
16 rotations in MANO's order (wrist; index, middle, little, ring, thumb), Q query cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.errors import ModelError
from model.handoccnet.backbone import FeaturePyramid
from model.handoccnet.error_head import ErrorHead
from model.handoccnet.heatmaps import HeatmapHead
from model.handoccnet.initialisation import initialise, initialise_trunk
from model.handoccnet.necessity import build_necessity
from model.handoccnet.regressor import Regressor
from model.handoccnet.transformers import (
    AttentionBlock,
    Correlation,
    FeatureInjection,
    build_enhancement,
    build_injection,
)


class HandOutput(NamedTuple):
    """What the network says of each crop, as of a right hand."""

    rotations: (
        Tensor  # (B, 16, 3, 3); joint 0 = global_orient in camera axes, 1..15 = offsets from the mean pose
    )
    axis_angle: Tensor  # (B, 16, 3) the same in radians
    betas: Tensor  # (B, 10)
    heatmaps: Tensor  # (B, 21, H, W), each sums to 1
    joints_2d: Tensor  # (B, 21, 2) x, y in [0, 1] of the crop
    necessity_map: Tensor  # (B, 1, H, W) in [0, 1]
    predicted_log_errors: Tensor  # (B, 22) logarithms of mm, see ErrorHead; (B, 0) of a network without one


class FeatureMaps(NamedTuple):
    """The maps (B, C, H, W) between backbone and regressor, the paper's Figure 7 among them."""

    backbone: Tensor  # F
    necessity_map: Tensor  # M (B, 1, H, W)
    primary: Tensor  # F_P = F·M, before FIT
    secondary: Tensor  # F_S = F·(1 − M)
    injected: Tensor  # after FIT, and after the norm where there is one
    enhanced: Tensor  # after SET, and after the norm where there is one


class HandOccNet(nn.Module):
    """The network, of parts that `build_network` chooses; it knows no hand model."""

    def __init__(
        self,
        *,
        backbone: FeaturePyramid,
        necessity: nn.Module,
        injection: nn.Module,
        injection_norm: nn.Module,
        enhancement: nn.Module,
        enhancement_norm: nn.Module,
        heatmap_head: HeatmapHead,
        regressor: Regressor,
        error_head: ErrorHead | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.necessity = necessity
        self.injection = injection
        self.injection_norm = injection_norm
        self.enhancement = enhancement
        self.enhancement_norm = enhancement_norm
        self.heatmap_head = heatmap_head
        self.regressor = regressor
        self.error_head = error_head

    def forward(self, images_B3HW: Tensor) -> HandOutput:
        """Read square RGB crops of right hands, values in [0, 1] without any further normalisation."""
        maps = self.feature_maps(images_B3HW)
        heat = self.heatmap_head(maps.enhanced)
        parameters = self.regressor(maps.enhanced, heat.encoding, heat.heatmaps)
        if self.error_head is None:
            predicted_log_errors = parameters.betas.new_empty(len(images_B3HW), 0)
        else:
            predicted_log_errors = self.error_head(heat, maps.necessity_map, parameters)
        return HandOutput(
            rotations=parameters.rotations,
            axis_angle=parameters.axis_angle,
            betas=parameters.betas,
            heatmaps=heat.heatmaps,
            joints_2d=heat.joints_2d,
            necessity_map=maps.necessity_map,
            predicted_log_errors=predicted_log_errors,
        )

    def feature_maps(self, images_B3HW: Tensor) -> FeatureMaps:
        """Return the maps that `forward` goes through on its way to the heatmaps."""
        features = self.backbone(images_B3HW)
        necessity_map = self.necessity(features)
        primary = features * necessity_map
        secondary = features * (1 - necessity_map)
        injected = self.injection_norm(self.injection(primary, secondary))
        enhanced = self.enhancement_norm(self.enhancement(injected))
        return FeatureMaps(features, necessity_map, primary, secondary, injected, enhanced)

    def correlation(self, images_B3HW: Tensor, *, query_cells: Sequence[tuple[int, int]]) -> Correlation:
        """Return how FIT's first block correlates the (row, column) cells with all others (paper, Figure 4).

        A network without FIT, or a cell outside its maps, raises ModelError.
        """
        if not isinstance(self.injection, FeatureInjection):
            raise ModelError(
                "this network has no FIT, so there are no correlation maps; choose a neck with fit"
            )
        maps = self.feature_maps(images_B3HW)
        height, width = maps.primary.shape[-2:]
        for row, column in query_cells:
            if not (0 <= row < height and 0 <= column < width):
                raise ModelError(f"query cell ({row}, {column}) is outside the {height}×{width} feature map")
        cells = torch.tensor([row * width + column for row, column in query_cells], device=images_B3HW.device)
        first = self.injection.blocks[0]
        assert isinstance(first, AttentionBlock)
        return first.correlation(maps.secondary, maps.primary, cells)


def build_network(config: ModelConfig) -> HandOccNet:
    """Return an untrained network, initialised as the config says from PyTorch's current random state."""
    backbone = FeaturePyramid(config)
    initialise_trunk(backbone.trunk)
    injection, enhancement = build_injection(config), build_enhancement(config)
    heatmap_head, regressor = HeatmapHead(config), Regressor(config)
    initialise([injection, enhancement, heatmap_head, regressor], config)

    def norm(*, there: bool = True) -> nn.Module:
        return nn.BatchNorm2d(config.channels) if config.feature_norm and there else nn.Identity()

    return HandOccNet(
        backbone=backbone,
        necessity=build_necessity(config),
        injection=injection,
        injection_norm=norm(),
        enhancement=enhancement,
        enhancement_norm=norm(there=config.has_set and config.set_block != "identity"),
        heatmap_head=heatmap_head,
        regressor=regressor,
        error_head=ErrorHead(config) if config.error_head else None,
    )
