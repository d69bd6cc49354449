"""How procedural hands differ: ten directions of shape, each by one standard deviation of adult hands.

A direction stretches or thickens the palm and the fingers; the same rules move the skin and the joints. The sizes of
the deviations are rounded from adult hand anthropometry (hand length 182 mm, deviation 6 %, across both sexes).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from model.mano.synthetic_skeleton import FINGERS, WRIST, Array, Finger, fingers, rest_joints
from model.mano.synthetic_skinning import skinning_weights
from model.mano.synthetic_surface import skin


@dataclass(frozen=True)
class Direction:
    """One way in which hands differ, as relative growth."""

    name: str
    palm: tuple[float, float, float] = (0.0, 0.0, 0.0)  # length, thickness, width
    wrist_width: float = 0.0  # at the wrist, fading out to the knuckles
    length: Mapping[str, float] = field(default_factory=dict)  # of each finger
    girth: Mapping[str, tuple[float, float]] = field(
        default_factory=dict
    )  # at each finger's root, and at its tip


_LONG: Final = FINGERS[1:]


def _each(names: tuple[str, ...], value: float) -> dict[str, float]:
    return dict.fromkeys(names, value)


def _girth(names: tuple[str, ...], root: float, tip: float) -> dict[str, tuple[float, float]]:
    return dict.fromkeys(names, (root, tip))


DIRECTIONS: Final = (
    Direction("size", (0.055, 0.05, 0.055), 0.0, _each(FINGERS, 0.055), _girth(FINGERS, 0.05, 0.05)),
    Direction("slenderness", (0.0, -0.03, -0.045), 0.0, _each(FINGERS, 0.006), _girth(FINGERS, -0.02, -0.02)),
    Direction("finger length", (-0.03, 0.0, 0.0), 0.0, _each(_LONG, 0.04)),
    Direction("finger girth", (0.0, 0.0, 0.0), 0.0, {}, _girth(_LONG, 0.05, 0.05)),
    Direction("thumb", (0.0, 0.0, 0.0), 0.0, {"thumb": 0.06}, _girth(("thumb",), 0.04, 0.06)),
    Direction("palm thickness", (0.0, 0.08, 0.0), -0.01, {}, _girth(FINGERS, 0.03, 0.0)),
    Direction("taper", (0.0, 0.01, 0.0), 0.0, {}, _girth(FINGERS, 0.04, -0.07)),
    Direction("ring over index", (0.0, 0.0, 0.0), 0.0, {"index": -0.025, "ring": 0.025}),
    Direction(
        "little finger",
        (0.0, 0.0, 0.0),
        0.0,
        {"little": 0.05, "middle": -0.01},
        _girth(("little",), 0.03, 0.03),
    ),
    Direction("wrist", (0.0, -0.01, 0.0), 0.07),
)


def _palm_shift(direction: Direction, points: Array) -> Array:
    offset = points - WRIST
    toward_knuckles = np.clip(-offset[..., :1] / 0.09, 0, 1)
    width = np.array([0.0, 0.0, 1.0]) * direction.wrist_width * (1 - toward_knuckles) ** 2
    return np.asarray(offset * (np.array(direction.palm) + width))


def _finger_shift(direction: Direction, finger: Finger, points: Array) -> Array:
    s, radial, dorsal = finger.coordinates(points)
    root, tip = direction.girth.get(finger.name, (0.0, 0.0))
    girth = root + (tip - root) * np.clip(s / finger.stations[3], 0, 1)
    growth = direction.length.get(finger.name, 0.0) * np.maximum(s, 0)
    moved = growth[..., None] * finger.along
    moved = moved + (girth * radial)[..., None] * finger.radial + (girth * dorsal)[..., None] * finger.dorsal
    return np.asarray(_palm_shift(direction, finger.root) + moved)


def shape_directions() -> Array:
    """MANO's shapedirs (778, 3, 10), metres for one standard deviation."""
    points, weights = skin().vertices, skinning_weights()
    shifts = []
    for direction in DIRECTIONS:
        shift = weights[:, :1] * _palm_shift(direction, points)
        for finger in fingers().values():
            share = weights[:, finger.first_joint : finger.first_joint + 3].sum(axis=1, keepdims=True)
            shift = shift + share * _finger_shift(direction, finger, points)
        shifts.append(shift)
    return np.stack(shifts, axis=-1)


def joint_shifts() -> Array:
    """How the joints move with the shape directions, (16, 3, 10)."""
    shifts = np.zeros((16, 3, len(DIRECTIONS)))
    for number, direction in enumerate(DIRECTIONS):
        for finger in fingers().values():
            joints = slice(finger.first_joint, finger.first_joint + 3)
            shifts[joints, :, number] = _finger_shift(direction, finger, rest_joints()[joints])
    return shifts
