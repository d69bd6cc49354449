"""Which annotated hand is which labelled one, where hands were looked for and nobody said."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pipeline.boxes.overlap import Floats, overlap

# A found box is no tight one: 1.2 times as large, it has 0.69 in common with the label's at best.
LEAST_OVERLAP: Final = 0.3
# Hands that clasp share a box, and are told apart by their sides; a wrong side alone makes no other hand of one.
SAME_SIDE: Final = 0.1


def pair_by_place(
    boxes_N4: Floats, left_N: NDArray[np.bool_], others_M4: Floats, others_left_M: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    """Returns pairs of N and M hands of one picture whose boxes (x, y, w, h, pixels) lie together, each hand once.

    All are paired at once, by the overlap of their boxes and, where that leaves it open, by their sides.
    """
    if not len(boxes_N4) or not len(others_M4):
        return []
    common = np.stack([overlap(box, others_M4) for box in boxes_N4])
    gains = np.where(common >= LEAST_OVERLAP, common + SAME_SIDE * (left_N[:, None] == others_left_M), 0.0)
    pairs = zip(*linear_sum_assignment(-gains), strict=True)
    return [(int(one), int(other)) for one, other in pairs if gains[one, other] > 0]
