"""How far apart two sets of points are once one is laid over the other, in torch and without waiting for the device.

`pipeline.metrics.alignment` is what the reported figures are computed by.
"""

import roma
import torch
from torch import Tensor

_SQUARINGS = 12  # the largest of four eigenvalues stands out by its 4096th power


def aligned_distances(found_BP3: Tensor, wanted_BP3: Tensor) -> Tensor:
    """Return the distances (B, P) that remain after the best rotation, scale and shift of `found`.

    The rotation is Horn's (J. Opt. Soc. Am. A 4, 1987): the eigenvector, of the largest eigenvalue, of a symmetric
    4×4 matrix, found here by squaring it. Points that are all in one place have no rotation; they are left there.
    """
    found_BP3 = found_BP3 - found_BP3.mean(1, keepdim=True)
    wanted_BP3 = wanted_BP3 - wanted_BP3.mean(1, keepdim=True)
    turned_BP3 = found_BP3 @ _best_rotation(found_BP3.mT @ wanted_BP3).mT
    tiny = torch.finfo(found_BP3.dtype).tiny
    scale_B11 = (turned_BP3 * wanted_BP3).sum((1, 2), keepdim=True) / (
        found_BP3.square().sum((1, 2), keepdim=True).clamp_min(tiny)
    )
    distances_BP: Tensor = (scale_B11 * turned_BP3 - wanted_BP3).norm(dim=2)
    return distances_BP


def _best_rotation(products_B33: Tensor) -> Tensor:
    """Return the rotations (B, 3, 3) of a onto b, from the sums of a bᵀ."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(1) for row in products_B33.unbind(1))
    rows = [
        [xx + yy + zz, yz - zy, zx - xz, xy - yx],
        [yz - zy, xx - yy - zz, xy + yx, zx + xz],
        [zx - xz, xy + yx, yy - xx - zz, yz + zy],
        [xy - yx, zx + xz, yz + zy, zz - xx - yy],
    ]
    matrix_B44 = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    tiny = torch.finfo(matrix_B44.dtype).tiny
    # Between 0 and 2, so that the largest eigenvalue is the one that squaring leaves.
    matrix_B44 = matrix_B44 / matrix_B44.norm(dim=(1, 2), keepdim=True).clamp_min(tiny)
    matrix_B44 = matrix_B44 + torch.eye(4, dtype=matrix_B44.dtype, device=matrix_B44.device)
    for _ in range(_SQUARINGS):
        matrix_B44 = matrix_B44 @ matrix_B44
        matrix_B44 = matrix_B44 / matrix_B44.norm(dim=(1, 2), keepdim=True)
    # All columns are the eigenvector, each by its own factor: the longest is exact.
    longest_B = matrix_B44.diagonal(dim1=1, dim2=2).argmax(1)
    quaternion_B4 = matrix_B44.gather(2, longest_B[:, None, None].expand(-1, 4, 1)).squeeze(2)
    quaternion_B4 = torch.nn.functional.normalize(quaternion_B4, dim=1)
    rotation_B33: Tensor = roma.unitquat_to_rotmat(quaternion_B4.roll(-1, 1))  # roma has w last
    return rotation_B33
