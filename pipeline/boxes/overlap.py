"""How much boxes have in common."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def overlap(box_4: Floats, boxes_M4: Floats) -> Floats:
    """Returns the intersection over union of a box (x, y, w, h) with each of M others, (M,)."""
    low = np.maximum(box_4[:2], boxes_M4[:, :2])
    high = np.minimum(box_4[:2] + box_4[2:], boxes_M4[:, :2] + boxes_M4[:, 2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    union = box_4[2:].prod() + boxes_M4[:, 2:].prod(axis=1) - common
    return np.asarray(common / np.maximum(union, 1e-9), np.float64)
