"""Pictures of what happens inside the network: the paper's Figure 4 (correlation) and Figure 7 (features)."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.handoccnet.network import FeatureMaps, HandOccNet
from model.handoccnet.transformers import FeatureInjection, SelfEnhancement
from model.mano.joints import JOINT_NAMES
from pipeline.render import Picture, Tile

SIDE = 256
QUERIES = ((230, 60, 50), (255, 255, 255))  # colours of the surest and the least sure joint


@torch.inference_mode()
def inside(network: HandOccNet, crop: NDArray[np.uint8]) -> tuple[tuple[Tile, ...], ...]:
    """Returns rows of pictures of one crop (size, size, 3) as the network sees it, left hands mirrored.

    The first row: the crop, the necessity map M, and how strong (mean of |channels|) the features are as primary and
    secondary, after FIT and after SET, or after what stands there instead. The second row, where there is a FIT: for
    the joints whose heatmaps have the highest and the lowest peak, how the secondary feature there (the query)
    correlates with all primary ones, by q.k, C_soft and C of its first block, means over the heads. Each map is
    coloured over its own range, which its caption gives; M over 0..1.
    """
    images_B3HW = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    maps = network.feature_maps(images_B3HW)
    joints, cells = _queries(network, maps)
    picture = np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)
    size = maps.primary.shape[-1]
    marked = picture
    for cell, colour in zip(cells, QUERIES, strict=True):
        marked = _marked(marked, cell, size, colour)
    has_fit = isinstance(network.injection, FeatureInjection)
    has_set = isinstance(network.enhancement, SelfEnhancement)
    features = (
        Tile(marked, "crop" + (", two queries" if has_fit else "")),
        _coloured(picture, maps.necessity_map[0, 0], "M", (0.0, 1.0)),
        _coloured(picture, _strength(maps.primary), "primary"),
        _coloured(picture, _strength(maps.secondary), "secondary"),
        _coloured(picture, _strength(maps.injected), "after FIT" if has_fit else "without FIT"),
        _coloured(picture, _strength(maps.enhanced), "after SET" if has_set else "without SET"),
    )
    if not has_fit:
        return (features,)
    found = network.correlation(images_B3HW, query_cells=cells)
    correlations = []
    for number, (joint, cell, colour) in enumerate(zip(joints, cells, QUERIES, strict=True)):
        for name, heads in (("q.k", found.raw), ("C_soft", found.softmax), ("C", found.combined)):
            tile = _coloured(picture, heads[0, :, number].mean(0), f"{JOINT_NAMES[joint]} {name}")
            correlations.append(Tile(_marked(tile.image, cell, size, colour), tile.caption))
    return features, tuple(correlations)


def _queries(network: HandOccNet, maps: FeatureMaps) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
    """Returns the surest and the least sure joint, and the (row, column) cells that they lie in."""
    heat = network.heatmap_head(maps.enhanced)
    peaks = heat.heatmaps[0].flatten(1).amax(1)
    joints = (int(peaks.argmax()), int(peaks.argmin()))
    size = maps.primary.shape[-1]
    places = (heat.joints_2d[0, list(joints)] * size).long().clamp(0, size - 1).tolist()
    return joints, [(row, column) for column, row in places]


def _strength(features_BCHW: Tensor) -> Tensor:
    return features_BCHW[0].abs().mean(0)


def _coloured(picture: Picture, map_HW: Tensor, name: str, over: tuple[float, float] | None = None) -> Tile:
    """Lays a map over the greyed crop."""
    values = map_HW.float().numpy()
    low, high = over or (float(values.min()), float(values.max()))
    levels = (255 * np.clip((values - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
    large = cv2.resize(levels, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    colours = cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    mixed = (0.7 * colours + 0.3 * grey).astype(np.uint8)
    return Tile(mixed, f"{name}, {low:.3g} to {high:.3g}")


def _marked(picture: Picture, cell: tuple[int, int], size: int, colour: tuple[int, int, int]) -> Picture:
    """Outlines a (row, column) cell of a map of size x size."""
    drawn, step = picture.copy(), SIDE / size
    first = (round(cell[1] * step), round(cell[0] * step))
    last = (round((cell[1] + 1) * step) - 1, round((cell[0] + 1) * step) - 1)
    cv2.rectangle(drawn, first, last, colour, 2)
    return drawn
