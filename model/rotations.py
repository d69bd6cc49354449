"""Rotations in the three forms the networks and MANO use: six numbers, a matrix, an axis times its angle."""

import roma
import torch
from torch import Tensor
from torch.nn import functional


def six_d_to_rotation(six_d: Tensor) -> Tensor:
    """Return the rotation (..., 3, 3) whose first two columns are the orthonormalised halves of (..., 6).

    Zhou et al. 2019, section B; a zero half stays zero instead of becoming NaN (norms are held above 1e-12).
    """
    columns = torch.stack((six_d[..., :3], six_d[..., 3:]), dim=-1)
    rotation: Tensor = roma.special_gramschmidt(columns, epsilon=1e-12)
    return rotation


def rotation_to_axis_angle(rotation: Tensor) -> Tensor:
    """Return axis × angle (..., 3) in radians, the angle within [0, π], of rotations (..., 3, 3)."""
    axis_angle: Tensor = roma.unitquat_to_rotvec(_unit_quaternion(rotation))
    return axis_angle


def _unit_quaternion(rotation: Tensor) -> Tensor:
    """Return the unit quaternions (..., 4), w last, of rotations (..., 3, 3), the sign of their largest number plus.

    Shepperd 1978: four times the quaternion's outer product with itself is linear in the rotation, and its row with the
    largest diagonal is the sure one. roma picks rows by `nonzero`, for which a GPU is waited for.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in rotation.unbind(-2))
    trace = xx + yy + zz
    product = torch.stack(
        [
            *(1 - trace + 2 * xx, yx + xy, zx + xz, zy - yz),
            *(yx + xy, 1 - trace + 2 * yy, zy + yz, xz - zx),
            *(zx + xz, zy + yz, 1 - trace + 2 * zz, yx - xy),
            *(zy - yz, xz - zx, yx - xy, 1 + trace),
        ],
        dim=-1,
    ).reshape(*trace.shape, 4, 4)
    surest = product.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*trace.shape, 1, 4)
    return functional.normalize(product.gather(-2, surest).squeeze(-2), dim=-1)


def axis_angle_to_rotation(axis_angle: Tensor) -> Tensor:
    """Return the rotations (..., 3, 3) of axis × angle (..., 3) in radians, of any angle."""
    rotation: Tensor = roma.rotvec_to_rotmat(axis_angle)
    return rotation
