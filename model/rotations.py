"""Rotations in the three forms the networks and MANO use: six numbers, a matrix, an axis times its angle."""

import roma
import torch
from torch import Tensor


def six_d_to_rotation(six_d: Tensor) -> Tensor:
    """Return the rotation (..., 3, 3) whose first two columns are the orthonormalised halves of (..., 6).

    Zhou et al. 2019, section B; a zero half stays zero instead of becoming NaN (norms are held above 1e-12).
    """
    columns = torch.stack((six_d[..., :3], six_d[..., 3:]), dim=-1)
    rotation: Tensor = roma.special_gramschmidt(columns, epsilon=1e-12)
    return rotation


def rotation_to_axis_angle(rotation: Tensor) -> Tensor:
    """Return axis × angle (..., 3) in radians, the angle within [0, π], of rotations (..., 3, 3)."""
    axis_angle: Tensor = roma.rotmat_to_rotvec(rotation)
    return axis_angle


def axis_angle_to_rotation(axis_angle: Tensor) -> Tensor:
    """Return the rotations (..., 3, 3) of axis × angle (..., 3) in radians, of any angle."""
    rotation: Tensor = roma.rotvec_to_rotmat(axis_angle)
    return rotation
