"""Poses that a hand can take: limits of its joints, named poses, and random natural ones.

A pose is first written as angles (..., 15, 3) in radians, for MANO's joints 1 to 15: flexion (to the palm), spread
(to the thumb's side; of the thumb, away from the palm) and twist (about the finger's direction), about the axes that
the procedural hand's skeleton has at rest. `pose_from_angles` makes it MANO's axis-angle vectors (..., 45), absolute:
0 is the flat hand at rest (`flat_hand_mean=True`).
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.mano.synthetic_clearance import overlap
from model.mano.synthetic_skeleton import FINGERS, FIRST_JOINT, joint_axes

Array = NDArray[np.float64]

_LONG: Final = FINGERS[1:]

_FIST: Final = {
    "index": (86, 107, 73, -4),
    "middle": (88, 108, 73),
    "ring": (90, 107, 71, 4),
    "little": (90, 105, 69, 8),
}
_RELAXED: Final = {
    "thumb": (5, 12, 15, 0, -5),
    "index": (22, 32, 18),
    "middle": (28, 36, 20),
    "ring": (33, 38, 22),
    "little": (36, 38, 22),
}

# Degrees by finger: the bends of its three joints, then spread and twist of the first. Fingers left out are straight.
NAMED_POSES: Final[Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    "flat": {},
    "relaxed": _RELAXED,
    "closed": {
        "thumb": (12, 0, 0, -18),
        "index": (2, 3, 2, -6),
        "ring": (2, 3, 2, 6),
        "little": (2, 3, 2, 14),
    },
    "spread": {
        "thumb": (-8, 0, 0, 12),
        "index": (-5, 0, 0, 12),
        "ring": (-3, 0, 0, -8),
        "little": (-5, 0, 0, -16),
    },
    "fist": {"thumb": (25, 38, 46, 13, -38), **_FIST},
    "thumbs_up": {"thumb": (-5, 5, -8, -12), **_FIST},
    "point": {
        "thumb": (28, 36, 28, 1, -25),
        "index": (5, 5, 3),
        "middle": (84, 102, 64),
        "ring": (86, 102, 64, 4),
        "little": (87, 98, 62, 8),
    },
    "victory": {
        "thumb": (40, 49, 35, 16, -32),
        "index": (2, 4, 2, 10),
        "middle": (2, 4, 2, -7),
        "ring": (90, 105, 68, 4),
        "little": (90, 102, 66, 8),
    },
    "pinch": _RELAXED | {"thumb": (26, 18, -8, -7, -18), "index": (38, 55, 37)},
    "tripod": _RELAXED
    | {"thumb": (28, 28, 18, 7, -21), "index": (47, 48, 25, -3), "middle": (65, 56, 28, 3)},
    "hook": {
        "thumb": (0, 10, 10, -10),
        "index": (10, 90, 55),
        "middle": (10, 95, 58),
        "ring": (12, 95, 58),
        "little": (12, 90, 55),
    },
    "cylinder": {  # around a bottle
        "thumb": (15, 12, 15, 22, -25),
        "index": (40, 45, 25, 3),
        "middle": (42, 46, 26),
        "ring": (45, 46, 26, -2),
        "little": (48, 43, 25, -4),
    },
    "sphere": {  # around a ball
        "thumb": (5, 10, 12, 25, -25),
        "index": (30, 38, 22, 10),
        "middle": (32, 40, 24, 2),
        "ring": (32, 40, 24, -6),
        "little": (32, 36, 22, -14),
    },
    "table_top": {  # bent in the knuckles alone
        "thumb": (10, 5, 5, 5),
        "index": (70, 6, 4),
        "middle": (72, 6, 4),
        "ring": (74, 6, 4),
        "little": (75, 6, 4),
    },
}

_OVERLAP_M: Final = 0.0035  # that flesh takes where parts of a hand touch
_ROUNDS: Final = 12  # of drawing again, before a pose falls back on a named one


def pose_from_angles(angles: Array) -> Array:
    """Axis-angle hand poses (..., 45) from angles (..., 15, 3): twisted first, then bent, then spread."""
    flexion, spread, twist = (
        Rotation.from_rotvec((angles[..., k, None] * joint_axes()[:, k]).reshape(-1, 3)) for k in range(3)
    )
    return np.asarray((spread * flexion * twist).as_rotvec().reshape(*angles.shape[:-2], 45))


def finger_angles(degrees: Mapping[str, tuple[float, ...]]) -> Array:
    """Angles (15, 3) of a pose written by finger as in `NAMED_POSES`; what is left out is 0."""
    angles = np.zeros((15, 3))
    for name, values in degrees.items():
        first = FIRST_JOINT[name] - 1
        padded = np.radians(np.pad(np.array(values, float), (0, 5 - len(values))))
        angles[first : first + 3, 0] = padded[:3]
        angles[first, 1:] = padded[3:]
    return angles


def _limits() -> Array:
    degrees = np.zeros((15, 3, 2))
    for name in _LONG:
        first = FIRST_JOINT[name] - 1
        sideways = 22 if name in ("index", "little") else 16
        degrees[first] = (-25, 95), (-sideways, sideways), (-8, 8)
        degrees[first + 1, 0] = -5, 110
        degrees[first + 2, 0] = -8, 80
    thumb = FIRST_JOINT["thumb"] - 1
    degrees[thumb] = (-20, 42), (-25, 30), (-40, 12)
    degrees[thumb + 1, 0] = -15, 60
    degrees[thumb + 2, 0] = -20, 85
    return np.radians(degrees)


# Lowest and highest flexion, spread and twist of joints 1 to 15, (15, 3, 2) radians: the usual range of adults, with
# the rest pose, which is slightly spread, as zero.
POSE_LIMITS: Final = _limits()


def named_pose(name: str) -> Array:
    """One of `NAMED_POSES` as axis-angle (45,)."""
    return pose_from_angles(finger_angles(NAMED_POSES[name]))


def mean_pose() -> Array:
    """The procedural hand's `hands_mean` (45,): a relaxed hand."""
    return named_pose("relaxed")


def random_pose(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Natural hand poses (n, 45), axis-angle, absolute.

    Each lies between two named poses, with the fingers curled and spread a little more or less, now and then one
    finger on its own, the third joint bending with the second. All keep to `POSE_LIMITS`, and no part sinks into
    another by more than flesh gives way.
    """
    poses = np.zeros((n, 45))
    left = np.arange(n)
    for _ in range(_ROUNDS):
        poses[left] = pose_from_angles(_draw_angles(rng, len(left)))
        left = left[overlap(poses[left]) > _OVERLAP_M]
        if not len(left):
            break
    poses[left] = mean_pose()
    return poses.astype(np.float32)


def _draw_angles(rng: np.random.Generator, n: int) -> Array:
    named = np.array([finger_angles(pose) for pose in NAMED_POSES.values()])
    first, second = rng.integers(len(named), size=(2, n))
    share = rng.beta(0.7, 0.7, size=(n, 1, 1))
    angles = named[first] + share * (named[second] - named[first])
    together = rng.normal(0, np.radians(8), size=n)
    alone = rng.random((n, len(_LONG))) < 0.06
    for place, name in enumerate(_LONG):
        joint = FIRST_JOINT[name] - 1
        curl = together + rng.normal(0, np.radians(6), size=n)
        curl = curl + alone[:, place] * rng.uniform(-0.5, 1.0, size=n)
        angles[:, joint : joint + 3, 0] += curl[:, None] * (0.8, 1.0, 0.66)
        # Bent fingers cannot spread.
        angles[:, joint, 1] += rng.normal(0, np.radians(4), size=n) * np.cos(
            angles[:, joint, 0].clip(0, np.pi / 2)
        )
        angles[:, joint, 0] += rng.normal(0, np.radians(4), size=n)
        angles[:, joint, 2] += rng.normal(0, np.radians(1.5), size=n)
    thumb = FIRST_JOINT["thumb"] - 1
    angles[:, thumb] += rng.normal(0, np.radians(5), size=(n, 3))
    angles[:, thumb : thumb + 3, 0] += rng.normal(0, np.radians(5), size=(n, 3))
    return np.asarray(np.clip(angles, POSE_LIMITS[..., 0], POSE_LIMITS[..., 1]))


@cache
def synergies() -> Array:
    """The procedural hand's `hands_components` (45, 45): orthonormal rows, the most common movements first.

    All fingers curl; knuckles against the other joints; the thumb opposes; fingers spread; the thumb bends; each
    finger curls; then what is left, joint by joint: bends before spreads before twists.
    """
    curl = dict.fromkeys(_LONG, (0.8, 1.0, 0.66))
    movements: list[Mapping[str, tuple[float, ...]]] = [
        curl,
        dict.fromkeys(_LONG, (1.0, -0.8, -0.5)),
        {"thumb": (0.8, 0.5, 0.2, 0.5, -0.6)},
        {"index": (0, 0, 0, 1.0), "ring": (0, 0, 0, -0.7), "little": (0, 0, 0, -1.2)},
        {"thumb": (0.3, 0.8, 1.0)},
        *({name: curl[name]} for name in _LONG),
    ]
    single = np.eye(45).reshape(3, 15, 45).transpose(2, 1, 0)
    rows: list[Array] = []
    for movement in [*(finger_angles(movement) for movement in movements), *single]:
        row = np.einsum("jk,jkx->jx", movement, joint_axes()).ravel()
        row = row / np.linalg.norm(row)
        for _ in range(2):  # once more, against rounding
            row = row - sum((row @ other) * other for other in rows)
        if np.linalg.norm(row) > 0.05:
            rows.append(row / np.linalg.norm(row))
    return np.array(rows)
