"""Finds hands that hardly differ from one a moment before: consecutive frames of a film, or of a folder."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

REMEMBERED = 8  # kept hands of a side; several people's hands take turns

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
    """Goes through the hands of one source in order and remembers the last ones that it kept."""

    motion: Motion
    kept: dict[str, deque[tuple[Floats, Floats]]] = field(default_factory=dict)

    def keeps(self, side: str, joints: Floats, bbox: Floats) -> bool:
        """Says whether a hand differs from those kept before; joints (21, 3) metres, bbox (4,) pixels."""
        before = self.kept.setdefault(side, deque(maxlen=REMEMBERED))
        if before and self.motion.joints_mm > 0:
            boxes, poses = np.stack([box for box, _ in before]), np.stack([pose for _, pose in before])
            centre_and_size = np.concatenate([bbox[:2] + bbox[2:] / 2, bbox[2:]])
            of_kept = np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
            moved = np.abs(of_kept - centre_and_size).max(axis=1) / max(float(bbox[2:].max()), 1e-6)
            turned = np.linalg.norm(poses - joints, axis=-1).mean(axis=1) * 1000
            if ((moved < self.motion.box) & (turned < self.motion.joints_mm)).any():
                return False
        before.append((bbox, joints))
        return True
