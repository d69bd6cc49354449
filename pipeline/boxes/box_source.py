"""What can say where the hands of an image are."""

import reprlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.records import HandBox, Sample

LARGEST = float(np.finfo(np.float32).max)


class BoxSource(Protocol):
    """Finds the hands of a sample; one instance serves one worker."""

    def asked(self, sample: Sample) -> int:
        """Returns how many hands are asked for before the pixels are seen; 0 where only they tell."""

    def find(self, sample: Sample, image: NDArray[np.uint8]) -> Sequence[HandBox | DataError]:
        """Returns the hands of an image (RGB, upright), each one a box or the reason why it is none.

        Raises:
            DataError: what the sample says of its hands cannot be used at all.
        """


def parse_hand(
    entry: Any, *, side: str | None, source: str, sample_camera: Any = None, index: int = 0
) -> HandBox | DataError:
    """Reads one `{bbox: [x, y, w, h], side}` of an input, or returns what is wrong with it; `side` serves where the
    entry has none."""
    if not isinstance(entry, dict):
        return DataError("bad box", f"hand {index} is a {type(entry).__name__}, not an object")
    bbox = numbers(entry.get("bbox"), 4)
    if bbox is None:
        found = reprlib.repr(entry.get("bbox"))
        return DataError("bad box", f"hand {index}: bbox must be [x, y, w, h], it is {found}")
    if not _finite(bbox):
        return DataError("bad box", f"hand {index}: bbox {bbox} is not finite")
    if bbox[2] <= 0 or bbox[3] <= 0:
        return DataError("bad box", f"hand {index}: bbox {bbox} has no area")
    given = entry.get("side")
    if given == "":  # as a CSV says that it does not say
        given = None
    if given is None and side is None:
        return DataError("no side", f"hand {index} has no side; --side says which it is")
    if given is not None and given not in ("left", "right"):
        return DataError("bad box", f"hand {index}: side must be left or right, it is {reprlib.repr(given)}")
    score = numbers([entry.get("score")], 1)
    return HandBox(
        bbox=(bbox[0], bbox[1], bbox[2], bbox[3]),
        side=given or side or "",
        side_source="given" if given else "option",
        bbox_source=source,
        score=score[0] if score is not None and _finite(score) else None,
        camera=camera_of(entry["camera"] if entry.get("camera") is not None else sample_camera),
    )


def camera_of(value: Any) -> tuple[float, float, float, float] | DataError | None:
    """Returns an input's camera (fx, fy, cx, cy), None where it gives none, or what is wrong with it."""
    if value is None or (isinstance(value, str) and not value):  # as a CSV says that there is none
        return None
    camera = numbers(value, 4)
    if camera is None or not _finite(camera) or min(camera[:2]) <= 0:
        found = reprlib.repr(value)
        return DataError("bad camera", f"must be [fx, fy, cx, cy], pixels, it is {found}")
    return camera[0], camera[1], camera[2], camera[3]


def _finite(values: Sequence[float]) -> bool:
    """Says whether numbers are finite as they are stored, in 32 bits."""
    return all(abs(value) <= LARGEST for value in values)


def numbers(value: Any, count: int) -> list[float] | None:
    """Returns a list of so many numbers as floats, or None if it is anything else."""
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or len(value) != count:
        return None
    if any(isinstance(item, bool) or not isinstance(item, int | float | np.number) for item in value):
        return None
    try:
        return [float(item) for item in value]
    except OverflowError:
        return None
