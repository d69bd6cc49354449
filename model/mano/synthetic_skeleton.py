"""The bones of the procedural hand: where its joints are, which way each finger points, bends and spreads.

Right hand, metres, MANO's rest frame: fingers along -x, back of the hand +y, thumb side +z. Sizes are those of a
large adult hand, 19 cm from the wrist to the tip of the middle finger: bone lengths in the proportions of Buryanov
and Kotiuk (Proportions of Hand Segments, Int. J. Morphol. 2010), the rest set by eye.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.mano.joints import MANO_PARENTS

Array = NDArray[np.float64]

FINGERS: Final = ("thumb", "index", "middle", "ring", "little")
# MANO's first joint of each finger, in the order of FINGERS.
FIRST_JOINT: Final = {"thumb": 13, "index": 1, "middle": 4, "ring": 10, "little": 7}

WRIST: Final = np.array([0.095, 0.006, 0.006])

MM: Final = 1e-3


@dataclass(frozen=True)
class Finger:
    """One finger at rest: a slightly arched axis from its first joint to its tip."""

    name: str
    first_joint: int
    root: Array  # (3,) its first joint
    along: Array  # (3,) unit, towards the tip
    dorsal: Array  # (3,) unit, where the nail looks
    radial: Array  # (3,) unit, dorsal x along: a positive turn about it bends the finger to the palm
    lengths: Array  # (3,) of its bones, the last up to the skin of the tip
    arch: float  # 1/m; the axis sinks by arch * s**2

    @property
    def stations(self) -> Array:
        """Distances along the axis of its three joints and its tip, (4,) metres."""
        return np.concatenate([[0.0], np.cumsum(self.lengths)])

    def point(self, s: Array) -> Array:
        """The axis at distances s (...), as points (..., 3)."""
        s = np.asarray(s)[..., None]
        return self.root + s * self.along - self.arch * s**2 * self.dorsal

    def coordinates(self, points: Array) -> tuple[Array, Array, Array]:
        """Along, radial and dorsal coordinates of points (..., 3), from the arched axis."""
        offset = points - self.root
        s = offset @ self.along
        return s, offset @ self.radial, offset @ self.dorsal + self.arch * np.clip(s, 0, None) ** 2


# First joint as distal, dorsal, radial of the wrist; yaw to the thumb side and pitch to the palm in degrees; roll of
# the nail to the thumb side in degrees; bone lengths. Millimetres.
_FINGERS: Final = {
    "thumb": ((21.0, -9.0, 21.0), 43.0, 19.0, 52.0, (47.0, 34.0, 27.5)),
    "index": ((90.5, -1.0, 25.0), 6.0, 1.0, 3.0, (43.0, 24.5, 21.5)),
    "middle": ((93.0, 1.5, 4.0), 0.5, 1.0, 0.0, (47.5, 28.0, 22.5)),
    "ring": ((87.0, 0.0, -15.5), -6.0, 1.0, -3.0, (44.0, 26.5, 22.5)),
    "little": ((78.5, -3.5, -33.0), -14.5, 1.0, -6.0, (35.0, 19.5, 20.0)),
}
_ARCH: Final = {"thumb": -0.25, "index": 0.35, "middle": 0.35, "ring": 0.4, "little": 0.4}


def from_wrist(distal_dorsal_radial: Array) -> Array:
    """Points (..., 3) given as distal, dorsal, radial offsets from the wrist, in MANO's rest frame."""
    return WRIST + np.asarray(distal_dorsal_radial) * (-1.0, 1.0, 1.0)


def _finger(name: str) -> Finger:
    root, yaw, pitch, roll, lengths = _FINGERS[name]
    yaw, pitch, roll = np.radians([yaw, pitch, roll])
    along = np.array([-np.cos(yaw) * np.cos(pitch), -np.sin(pitch), np.sin(yaw) * np.cos(pitch)])
    level = np.array([np.sin(yaw), 0.0, np.cos(yaw)])  # to the thumb side, square to the finger
    upright = np.cross(along, level)
    dorsal = np.cos(roll) * upright + np.sin(roll) * level
    return Finger(
        name=name,
        first_joint=FIRST_JOINT[name],
        root=from_wrist(np.array(root) * MM),
        along=along,
        dorsal=dorsal,
        radial=np.cross(dorsal, along),
        lengths=np.array(lengths) * MM,
        arch=_ARCH[name],
    )


@cache
def fingers() -> dict[str, Finger]:
    """The five fingers at rest, by name, thumb to little."""
    return {name: _finger(name) for name in FINGERS}


@cache
def rest_joints() -> Array:
    """The 16 joints at rest, (16, 3), in MANO's order."""
    joints = np.zeros((16, 3))
    joints[0] = WRIST
    for finger in fingers().values():
        joints[finger.first_joint : finger.first_joint + 3] = finger.point(finger.stations[:3])
    return joints


@cache
def joint_axes() -> Array:
    """Unit axes of joints 1 to 15, (15, 3, 3), in the rest frame: row 0 flexion, row 1 spread, row 2 twist.

    Positive flexion bends to the palm, of the thumb across it; positive spread turns to the thumb's side, of the thumb
    away from the palm; positive twist turns about the direction of the finger (negative: the thumb opposes).
    """
    axes = np.zeros((15, 3, 3))
    for finger in fingers().values():
        for joint in range(finger.first_joint, finger.first_joint + 3):
            axes[joint - 1] = finger.radial, finger.dorsal, finger.along
    return axes


def rigid_transforms(rotations: Array, joints: Array) -> tuple[Array, Array]:
    """Global rotations (..., 16, 3, 3) and positions (..., 16, 3) of all joints.

    `rotations` (..., 16, 3, 3) are each joint's own, in the common rest frame; `joints` (16, 3) are the rest joints.
    """
    turned = [rotations[..., 0, :, :]]
    placed = [np.broadcast_to(joints[0], (*rotations.shape[:-3], 3))]
    for joint in range(1, 16):
        parent = MANO_PARENTS[joint]
        turned.append(turned[parent] @ rotations[..., joint, :, :])
        placed.append(placed[parent] + turned[parent] @ (joints[joint] - joints[parent]))
    return np.stack(turned, axis=-3), np.stack(placed, axis=-2)
