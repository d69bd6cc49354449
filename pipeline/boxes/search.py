"""Looks for hands in an image and, for small ones, in its parts; every hand is reported once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes.overlap import overlap

# Below this side a part shows MediaPipe's palm detector, which sees 192 pixels, no more than the image did.
SMALLEST_PART = 192


@dataclass(frozen=True)
class FoundHand:
    """A hand that was seen.

    landmarks: (21, 2) pixels of the image, in the joint order used everywhere here; some may lie outside of it.
    score: how certain the side is, 0.5 to 1; MediaPipe tells of no other certainty.
    """

    landmarks: NDArray[np.float64]
    side: str
    score: float


@dataclass(frozen=True)
class View:
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


Find = Callable[[NDArray[np.uint8]], Sequence[FoundHand]]


def search(image: NDArray[np.uint8], find: Find, *, tiles: int) -> list[FoundHand]:
    """Returns the hands of an image, looked for in the whole, and then in tiles x tiles parts of it.

    What the whole image showed goes first: a part adds only hands that lie elsewhere.
    """
    height, width = image.shape[:2]
    found: list[FoundHand] = []
    for hand in find(image):
        if not any(same_hand(hand, other) for other in found):
            found.append(hand)
    for view in views(width, height, tiles):
        part = image[view.top : view.top + view.height, view.left : view.left + view.width]
        for hand in find(part):
            moved = FoundHand(np.add(hand.landmarks, (view.left, view.top)), hand.side, hand.score)
            known = any(same_hand(moved, other) or covered(moved, other) > 0.5 for other in found)
            if fits(moved, view, width, height) and not known:
                found.append(moved)
    return found


def views(width: int, height: int, tiles: int) -> Iterator[View]:
    """Yields tiles x tiles parts of an image, neighbours overlapping by half; none where they would be small."""
    part_width, part_height = 2 * width // (tiles + 1), 2 * height // (tiles + 1)
    if tiles == 1 or min(part_width, part_height) < SMALLEST_PART:
        return
    for row in range(tiles):
        for column in range(tiles):
            left = column * (width - part_width) // (tiles - 1)
            top = row * (height - part_height) // (tiles - 1)
            yield View(left, top, part_width, part_height)


def fits(hand: FoundHand, view: View, width: int, height: int) -> bool:
    """Says whether a hand found in a part of an image is whole there, and small enough to be looked for there.

    Parts overlap by half, so that a hand of up to half a part is whole in one of them; of a larger one a part
    shows fragments, which are taken for hands of their own. At the image's own border a hand may be cut.
    """
    (x, y), (right, bottom) = hand.landmarks.min(axis=0), hand.landmarks.max(axis=0)
    end_x, end_y = view.left + view.width, view.top + view.height
    small = right - x <= view.width / 2 and bottom - y <= view.height / 2
    within_x = (view.left == 0 or x > view.left) and (end_x >= width or right < end_x - 1)
    within_y = (view.top == 0 or y > view.top) and (end_y >= height or bottom < end_y - 1)
    return bool(small and within_x and within_y)


def same_hand(hand: FoundHand, other: FoundHand) -> bool:
    """Says whether two finds are one hand: their landmarks lie together, or their boxes do and the sides agree.

    Clasped hands share a box too, and are of two sides.
    """
    extent = max(np.ptp(hand.landmarks, axis=0).max(), np.ptp(other.landmarks, axis=0).max(), 1e-9)
    apart = np.linalg.norm(hand.landmarks - other.landmarks, axis=1).mean() / extent
    return bool(apart < 0.2 or (hand.side == other.side and iou(hand, other) > 0.5))


def iou(hand: FoundHand, other: FoundHand) -> float:
    """Returns the area that two hands' tight boxes share, over the area that they cover together."""
    return float(overlap(_box(hand), _box(other)[None])[0])


def covered(hand: FoundHand, other: FoundHand) -> float:
    """Returns which share of a hand's tight box lies in the other's."""
    return _shared(hand, other) / max(_area(hand), 1e-9)


def _box(hand: FoundHand) -> NDArray[np.float64]:
    low = hand.landmarks.min(axis=0)
    return np.concatenate([low, hand.landmarks.max(axis=0) - low])


def _area(hand: FoundHand) -> float:
    return float(np.ptp(hand.landmarks, axis=0).prod())


def _shared(hand: FoundHand, other: FoundHand) -> float:
    low = np.maximum(hand.landmarks.min(axis=0), other.landmarks.min(axis=0))
    high = np.minimum(hand.landmarks.max(axis=0), other.landmarks.max(axis=0))
    return float((high - low).clip(0).prod())
