"""Finds hands that hardly differ from one a moment before: consecutive frames of a film, or of a folder."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

REMEMBERED = 8  # kept hands of a side, or twice as many as a picture has: several people's hands take turns

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Motion:
    """How little a hand must have moved to be dropped: both at once.

    joints_mm: mean distance of the 21 joints, wrist on wrist; 0 keeps everything. box: how far the box's centre has
    moved, and its sides have grown, in parts of its longer side.
    """

    joints_mm: float
    box: float


@dataclass
class Walk:
    """Goes through the hands of one source in order and remembers those of the kept ones that it last saw again."""

    motion: Motion
    kept: dict[str, list[tuple[list[float], Floats]]] = field(default_factory=dict)
    here: Counter[str] = field(default_factory=Counter)  # hands of the picture, by side
    before: Counter[str] = field(default_factory=Counter)  # of the one before it

    def next_picture(self) -> None:
        """Says that the hands to come are of another picture."""
        self.here, self.before = Counter(), self.here

    def keeps(self, side: str, joints: Floats, bbox: Floats) -> bool:
        """Says whether a hand differs from those kept before; joints (21, 3) metres, bbox (4,) pixels."""
        self.here[side] += 1
        x, y, w, h = bbox.tolist()
        place, most = [x + w / 2, y + h / 2, w, h], self.motion.box * max(w, h)
        kept = self.kept.setdefault(side, [])
        for number, (there, pose) in enumerate(kept):
            # The boxes tell most hands apart, at a tenth of the cost.
            if max(abs(one - other) for one, other in zip(place, there, strict=True)) < most:
                distance_mm = 1000 * np.linalg.norm(pose - joints, axis=-1).mean()
                if distance_mm < self.motion.joints_mm:
                    kept.append(kept.pop(number))
                    return False
        kept.append((place, joints))
        del kept[: -max(REMEMBERED, 2 * self.here[side], 2 * self.before[side])]
        return True
