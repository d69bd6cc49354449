"""What a training shard's label says of a hand, checked, with a mask for everything that it may leave out."""

import reprlib
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.records import MAX_HANDS

_LARGEST = 1e6  # of any number in a label: metres, radians or pixels


@dataclass(frozen=True)
class HandLabel:
    """One entry of `hands` as it stands in the shard: not mirrored, in the image and in camera space.

    What is not labelled holds zeros. A left hand's pose is that of the mirrored right hand model: its mirror image
    (y and z of all axis-angle vectors negated) with the same betas is a right hand.
    """

    bbox: NDArray[np.float32]  # (4,) x, y, w, h in pixels
    left: bool
    joints_2d: NDArray[np.float32]  # (21, 2) pixels
    has_joints_2d: bool
    joints_3d: NDArray[np.float32]  # (21, 3) metres, wrist at the origin
    has_joints_3d: bool
    pose: NDArray[np.float32]  # (16, 3) axis-angle, absolute; 0 is global_orient
    betas: NDArray[np.float32]  # (10,)
    has_mano: bool
    visible: NDArray[np.int8]  # (21,) 1 seen, 0 hidden, -1 unknown
    weight: float


def hand_count(key: str, label: Any) -> int:
    """Return how many hands a sample's label has.

    Raises:
        DataError: the label is no object with a list of hands, or the list is too long.
    """
    hands = label.get("hands") if isinstance(label, dict) else None
    if not isinstance(hands, list):
        raise DataError("bad label", f"{key}: `hands` must be a list, it is {reprlib.repr(hands)}")
    if len(hands) > MAX_HANDS:
        raise DataError("too many hands", f"{key}: {len(hands)} in one image; at most {MAX_HANDS}")
    return len(hands)


def has_mano(label: Any) -> bool:
    """Say whether a label whose hands are a list has pose and shape of one of them."""
    return any(isinstance(hand, dict) and hand.get("mano") is not None for hand in label["hands"])


def hand_model_of(key: str, label: Any) -> str | None:
    """Return the name of the hand model that the label's pose, shape and mesh belong to, if it names one.

    Raises:
        DataError: it is no name.
    """
    name = label.get("hand_model") if isinstance(label, dict) else None
    if name is not None and not is_text(name):
        raise DataError("bad label", f"{key}: hand_model must be a name, it is {reprlib.repr(name)}")
    return name


def is_text(value: Any) -> TypeGuard[str]:
    """Say whether this is text that can be written down; JSON can also hold halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def fingertip_vertices_of(key: str, label: Any) -> tuple[int, ...] | None:
    """Return the five vertices that the label's finger tips are, if it says so.

    Raises:
        DataError: they are not five vertices of 778.
    """
    tips = label.get("fingertip_vertices") if isinstance(label, dict) else None
    if tips is None:
        return None
    whole = isinstance(tips, list) and len(tips) == 5
    if not whole or not all(type(tip) is int and 0 <= tip < 778 for tip in tips):
        found = reprlib.repr(tips)
        raise DataError("bad label", f"{key}: fingertip_vertices must be five vertices, it is {found}")
    return tuple(tips)


def hand_label(key: str, label: Any, hand_index: int) -> HandLabel:
    """Read one hand of a sample's label.

    Raises:
        DataError: a field of a wrong shape, with a number that is none, or of another meaning; it names the
            sample's key, the hand and the field.
    """
    hands = hand_count(key, label)
    assert 0 <= hand_index < hands, f"{key} has {hands} hands"
    entry, where = label["hands"][hand_index], f"{key}, hand {hand_index}"
    if not isinstance(entry, dict):
        raise DataError("bad label", f"{where}: it is a {type(entry).__name__}, not an object")
    side = entry.get("side")
    if side not in ("left", "right"):
        raise DataError("bad label", f"{where}: side must be left or right, it is {reprlib.repr(side)}")
    joints_3d = numbers_of(where, entry, "joints_3d", 21, 3)
    has_mano, pose, betas = _mano(where, entry)
    return HandLabel(
        bbox=_or_zeros(numbers_of(where, entry, "bbox", 4, required=True), 4),
        left=side == "left",
        joints_2d=_or_zeros(joints_2d := numbers_of(where, entry, "joints_2d", 21, 2), 21, 2),
        has_joints_2d=joints_2d is not None,
        joints_3d=_or_zeros(None if joints_3d is None else joints_3d - joints_3d[0], 21, 3),
        has_joints_3d=joints_3d is not None,
        pose=pose,
        betas=betas,
        has_mano=has_mano,
        visible=_visible(where, entry),
        weight=_weight(where, entry),
    )


def _mano(where: str, entry: dict[str, Any]) -> tuple[bool, NDArray[np.float32], NDArray[np.float32]]:
    mano = entry.get("mano")
    if mano is None:
        return False, np.zeros((16, 3), np.float32), np.zeros(10, np.float32)
    if not isinstance(mano, dict):
        raise DataError("bad label", f"{where}: mano is a {type(mano).__name__}, not an object")
    global_orient, hand_pose, betas = (
        _or_zeros(numbers_of(where, mano, name, count, required=True, path="mano."), count)
        for name, count in (("global_orient", 3), ("hand_pose", 45), ("betas", 10))
    )
    return True, np.concatenate([global_orient, hand_pose]).reshape(16, 3), betas


def _visible(where: str, entry: dict[str, Any]) -> NDArray[np.int8]:
    values = numbers_of(where, entry, "visible", 21, kinds="iub")
    if values is None:
        return np.full(21, -1, np.int8)
    if not np.isin(values, (0, 1)).all():
        raise DataError("bad label", f"{where}: visible must be 21 times 0 or 1")
    return values.astype(np.int8)


def _weight(where: str, entry: dict[str, Any]) -> float:
    value = numbers_of(where, entry, "weight")
    if value is not None and value < 0:
        raise DataError("bad label", f"{where}: weight {float(value)} is negative")
    return 1.0 if value is None else float(value)


def numbers_of(
    where: str,
    entry: dict[str, Any],
    name: str,
    *shape: int,
    required: bool = False,
    kinds: str = "iuf",
    path: str = "",
) -> NDArray[np.float64] | None:
    """Read a field of numbers, None where it is absent; `path` is what stands before its name in messages.

    Raises:
        DataError: it holds something else, another number of them, or numbers beyond 1e6.
    """
    value = entry.get(name)
    if value is None:
        if required:
            raise DataError("bad label", f"{where}: {path}{name} is missing")
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.empty(0, object)
    if array.shape != shape or array.dtype.kind not in kinds:
        wanted = f"{'x'.join(map(str, shape))} numbers" if shape else "a number"
        found = reprlib.repr(value)
        raise DataError("bad label", f"{where}: {path}{name} must be {wanted}, it is {found}")
    # Also false for NaN.
    if not (np.abs(array.astype(np.float64)) <= _LARGEST).all():
        raise DataError(
            "bad label", f"{where}: {path}{name} holds a number that is not finite, or beyond 1e6"
        )
    return array.astype(np.float64)


def _or_zeros(array: NDArray[np.float64] | None, *shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32) if array is None else array.astype(np.float32)
