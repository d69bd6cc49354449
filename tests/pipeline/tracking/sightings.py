"""Annotations of films as tables, made by hand: what tracking is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.columns import fixed_lists
from pipeline.records import ANNOTATIONS
from pipeline.tracking.tracks import COLUMNS, Frames

Floats = NDArray[np.float64]
RATE = 25.0
SIZE = 60.0  # pixels of a hand

# Where a hand's joints lie in its box, as shares of its size.
LAYOUT = np.random.default_rng(7).uniform(-0.5, 0.5, (21, 2))


@dataclass
class Seen:
    """A hand in a frame; `who` goes into its first shape number, so that its track can be recognised."""

    frame: int
    centre: tuple[float, float]
    side: str = "right"
    who: float = 0.0
    rotations: Floats = field(default_factory=lambda: np.zeros((16, 3)))
    translation: Sequence[float] | None = None
    confidence: float = 0.9
    joints_2d: Floats | None = None


def hands(seen: Sequence[Seen], times: Sequence[float] | None = None) -> pa.Table:
    """Returns the annotations; a frame's hands are numbered in the order in which they stand there."""
    count: dict[int, int] = {}
    rows: list[dict[str, Any]] = []
    for one in seen:
        index = count[one.frame] = count.get(one.frame, -1) + 1
        centre = np.array(one.centre)
        points = centre + SIZE * LAYOUT if one.joints_2d is None else one.joints_2d
        rows.append(
            {
                "instance_id": f"film#{one.frame}#{index}",
                "source": "film",
                "key": "film.mp4",
                "frame_index": one.frame,
                "timestamp": one.frame / RATE if times is None else times[one.frame],
                "hand_index": index,
                "side": one.side,
                "bbox": [*(centre - SIZE / 2), SIZE, SIZE],
                "global_orient": one.rotations[0],
                "hand_pose": one.rotations[1:],
                "betas": np.r_[one.who, np.zeros(9)],
                "joints": np.zeros((21, 3)),
                "joints_2d": points,
                "translation": one.translation,
                "confidence": one.confidence,
                "joint_confidence": np.full(21, one.confidence),
            }
        )
    arrays = []
    for name in COLUMNS:
        kind = ANNOTATIONS.field(name).type
        values = [row.get(name) for row in rows]
        if pa.types.is_fixed_size_list(kind):
            flat = np.concatenate([np.ravel(value) for value in values]) if rows else np.zeros(0)
            arrays.append(fixed_lists(flat, kind))
        else:
            arrays.append(pa.array(values, kind))
    return pa.Table.from_arrays(arrays, names=list(COLUMNS))


def frames(count: int, times: Sequence[float] | None = None) -> Frames:
    """Returns frames 0 … count - 1 of a film of an even rate, or of the times given."""
    when = np.arange(count) / RATE if times is None else np.array(times)
    return Frames(np.arange(count), when)
