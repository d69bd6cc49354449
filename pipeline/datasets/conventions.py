"""Where the benchmarks' conventions become ours: axes, units, poses, joint orders, each in one place.

Ours: OpenCV camera axes (x right, y down, z away), metres, radians, absolute poses, the simple joint order, and
`translation` for the wrist.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from model.mano.asset import HandModel
from model.mano.joints import SIMPLE_FROM_HO3D

Floats = NDArray[np.float64]

# OpenGL looks along -z with y up; the change is its own inverse, and a rotation (half a turn about x).
_OPENGL: Final = np.array([1.0, -1.0, -1.0])

# FPHA names wrist, five knuckles (thumb to little), then the three further joints of each finger
# (github.com/guiggh/hand_pose_action).
_SIMPLE_FROM_FPHA: Final = (0, 1, 6, 7, 8, 2, 9, 10, 11, 3, 12, 13, 14, 4, 15, 16, 17, 5, 18, 19, 20)


def opencv_from_opengl(points: ArrayLike) -> Floats:
    """Returns points (..., 3) with y and z turned round."""
    turned: Floats = np.asarray(points, np.float64) * _OPENGL
    return turned


def orient_from_opengl(global_orient: ArrayLike) -> Floats:
    """Returns a global orientation (3,) of OpenGL axes as one of OpenCV axes, both axis-angle."""
    turned = np.diag(_OPENGL) @ Rotation.from_rotvec(np.array(global_orient, np.float64)).as_matrix()
    orient: Floats = Rotation.from_matrix(turned).as_rotvec()
    return orient


def metres(millimetres: ArrayLike) -> Floats:
    """Returns millimetres as metres."""
    return np.asarray(millimetres, np.float64) / 1000


def simple_from_ho3d(joints: Floats) -> Floats:
    """Returns joints (..., 21, 3) of HO-3D's order, MANO's 16 and then the tips, in the simple order."""
    return joints[..., SIMPLE_FROM_HO3D, :]


def simple_from_fpha(joints: Floats) -> Floats:
    """Returns joints (..., 21, 3) of FPHA's order in the simple order."""
    return joints[..., _SIMPLE_FROM_FPHA, :]


def pose_from_offsets(offsets: ArrayLike, hand_model: HandModel) -> Floats:
    """Returns the absolute hand pose (45,) of one that counts from the mean pose (`flat_hand_mean=False`)."""
    return np.asarray(offsets, np.float64) + hand_model.hands_mean.astype(np.float64)


def pose_from_pca(coefficients: ArrayLike, hand_model: HandModel) -> Floats:
    """Returns the absolute hand pose (45,) of coefficients of the hand's own side's principal components."""
    weights = np.asarray(coefficients, np.float64)
    return pose_from_offsets(
        weights @ hand_model.hands_components[: len(weights)].astype(np.float64), hand_model
    )


def camera_of(intrinsics: ArrayLike) -> Floats:
    """Returns (fx, fy, cx, cy) of a 3x3 matrix."""
    matrix = np.asarray(intrinsics, np.float64).reshape(3, 3)
    return np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])
