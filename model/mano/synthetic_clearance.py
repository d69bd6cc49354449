"""How far the parts of a posed procedural hand sink into each other, measured on spheres along its bones."""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.mano.synthetic_body import profile
from model.mano.synthetic_skeleton import (
    FINGERS,
    MM,
    Array,
    fingers,
    from_wrist,
    rest_joints,
    rigid_transforms,
)

_PER_FINGER: Final = 10
_YIELD: Final = 0.88  # of the flesh's radius; the rest gives way on touch

# Spheres of the palm as (distal, dorsal, radial) of the wrist and radius, in millimetres: three rows over the rays.
_PALM: Final = tuple(
    (share * knuckle, height - 4.0, share * aside, 11.0)
    for share in (0.4, 0.6, 0.8, 0.97)
    for knuckle, height, aside in ((88, -1, 25), (90, 0, 4), (84, -1, -15), (76, -4, -33))
)


@cache
def _spheres() -> tuple[Array, Array, NDArray[np.int64], NDArray[np.int64]]:
    """Centres at rest (M, 3), radii (M,), the joint that carries each (M,), and its part (M,): a finger, or 5."""
    centres, radii, joints, parts = [], [], [], []
    for part, name in enumerate(FINGERS):
        finger = fingers()[name]
        tip = finger.stations[3]
        # A finger's root, and the thumb's first bone, lie in the palm.
        start = finger.lengths[0] * (0.85 if name == "thumb" else 0.5)
        for s in np.linspace(start, tip - 8 * MM, _PER_FINGER):
            width, above, below = profile(finger, np.array(s))
            centres.append(finger.point(np.array(s)) + (above - below) / 2 * finger.dorsal)
            radii.append(min(width, (above + below) / 2) * _YIELD)
            joints.append(finger.first_joint + int(np.searchsorted(finger.stations[1:3], s)))
            parts.append(part)
    for distal, dorsal, radial, radius in _PALM:
        centres.append(from_wrist(np.array([distal, dorsal, radial]) * MM))
        radii.append(radius * MM * _YIELD)
        joints.append(0)
        parts.append(len(FINGERS))
    return np.array(centres), np.array(radii), np.array(joints), np.array(parts)


def overlap(poses: Array) -> Array:
    """Metres (N,) by which the worst two parts of each hand overlap, for axis-angle poses (N, 45); below 0 is free."""
    rotations = np.tile(np.eye(3), (len(poses), 16, 1, 1))
    rotations[:, 1:] = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(-1, 15, 3, 3)
    turned, placed = rigid_transforms(rotations, rest_joints())
    centres, radii, joints, parts = _spheres()
    moved = placed[:, joints] + np.einsum("nmab,mb->nma", turned[:, joints], centres - rest_joints()[joints])
    first, second = np.triu_indices(len(radii), 1)
    apart = parts[first] != parts[second]
    first, second = first[apart], second[apart]
    distance = np.linalg.norm(moved[:, first] - moved[:, second], axis=-1)
    return np.asarray((radii[first] + radii[second] - distance).max(axis=1))
