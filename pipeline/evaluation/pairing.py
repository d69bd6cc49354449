"""Which annotated hand is which labelled one, where nobody said."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes.overlap import Floats, overlap

# A found box is no tight one: 1.2 times as large, it has 0.69 in common with that of the joints at best.
LEAST_OVERLAP: Final = 0.3
# Hands that clasp share a box, and are told apart by their sides.
SAME_SIDE: Final = 0.05


def pair_by_place(
    boxes_N4: Floats, left_N: NDArray[np.bool_], others_M4: Floats, others_left_M: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    """Returns pairs of N and M hands of one picture whose boxes (x, y, w, h, pixels) lie together, each hand once.

    Those that overlap the most go first, as in COCO's evaluation; of about equal overlaps, those of one side.
    """
    if not len(boxes_N4) or not len(others_M4):
        return []
    common = np.stack([overlap(box, others_M4) for box in boxes_N4])
    order = np.argsort(-(common + SAME_SIDE * (left_N[:, None] == others_left_M)), axis=None, kind="stable")
    pairs: dict[int, int] = {}
    for one, other in zip(*np.unravel_index(order, common.shape), strict=True):
        if common[one, other] >= LEAST_OVERLAP and one not in pairs and other not in pairs.values():
            pairs[int(one)] = int(other)
    return sorted(pairs.items())
