"""A hash by which copies of a picture are known, however they were scaled or compressed."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 32  # pixels, of which the lowest frequencies are taken
_FACTOR = 1.25  # by which a hand's box is enlarged about its centre


def perceptual_hash(picture: NDArray[np.uint8]) -> int:
    """64 bits of an RGB picture (H, W, 3): whether each of 64 low cosine frequencies is above their median.

    After the hash known as pHash (phash.org); these are the first 64 behind the constant term of the 9 x 9 lowest, row
    by row.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:9, :9].ravel()[1:65]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def hand_hash(picture: NDArray[np.uint8], bbox: Sequence[float]) -> int:
    """The hash of what lies in a box (x, y, w, h) in pixels, enlarged by `_FACTOR` and cut at the border."""
    height, width = picture.shape[:2]
    x, y, w, h = bbox
    grow_x, grow_y = w * (_FACTOR - 1) / 2, h * (_FACTOR - 1) / 2
    left, right = np.clip([round(x - grow_x), round(x + w + grow_x)], 0, width)
    top, bottom = np.clip([round(y - grow_y), round(y + h + grow_y)], 0, height)
    if right - left < 1 or bottom - top < 1:
        return 0
    return perceptual_hash(np.ascontiguousarray(picture[top:bottom, left:right]))


def first_of_equal(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.bool_]:
    """Says which of n hashes (n, 2), in order, are the first of their kind; others differ from one in few bits.

    Two hashes of 128 bits that differ in at most three agree in one of four parts of 32; only those are compared.

    bits: how many may differ, 0 to 3.
    """
    assert 0 <= bits <= 3, "four parts find no more differences than three"
    first = np.zeros(len(hashes), bool)
    # Of copies to the last bit the first one decides: either it stays, or what it equals.
    numbers = np.sort(np.unique(hashes, axis=0, return_index=True)[1])
    different = hashes[numbers]
    stays = np.ones(len(different), bool)
    groups = np.stack([_groups(different, part) for part in range(4)], axis=1)
    kept: list[dict[int, list[int]]] = [{} for _ in range(4)]
    for row in np.flatnonzero((groups >= 0).any(axis=1)).tolist():
        own = [
            kept[part].setdefault(group, []) for part, group in enumerate(groups[row].tolist()) if group >= 0
        ]
        near = [other for members in own for other in members]
        apart = np.bitwise_count(different[near] ^ different[row]).sum(axis=1)
        stays[row] = not (apart <= bits).any()
        if stays[row]:
            for members in own:
                members.append(row)
    first[numbers[stays]] = True
    return first


def _groups(hashes: NDArray[np.uint64], part: int) -> NDArray[np.int64]:
    """Numbers the hashes (n, 2) by 32 of their bits; -1 where no other has the same."""
    bits = (hashes >> np.uint64(16 * part)) & np.uint64(0xFFFF)
    _, group, counts = np.unique(
        bits[:, 0] << np.uint64(16) | bits[:, 1], return_inverse=True, return_counts=True
    )
    return np.where(counts[group] > 1, group, -1)
