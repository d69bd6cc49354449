"""What can be said of an annotation's quality without a label: numpy functions over N hands, or over one crop."""

import math
from typing import Final

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.crop import CropAffine
from model.mano.anatomy import Anatomy, bone_deviation, joint_limit_excess
from pipeline.columns import numbers

Floats = NDArray[np.float64]

# Sharpness is measured at this size, whatever the network's crops are: what counts is detail of the hand.
SHARPNESS_SIZE: Final = 96
# Nearer to the image's border than this, what lies outside has a part in the Laplacian.
_RIM: Final = 2
_GREY: Final = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def shown_part(affine: CropAffine, image_width: int, image_height: int) -> tuple[float, float, float, float]:
    """Returns which part of a crop the image covers: left, top, right, bottom in shares of its side, within 0 to 1."""
    corners = np.array([[-0.5, -0.5, 1], [image_width - 0.5, image_height - 0.5, 1]])
    inside = np.clip((corners @ affine.image_to_crop.T.astype(np.float64) + 0.5) / affine.size, 0, 1)
    (left, top), (right, bottom) = inside.tolist()
    return left, top, right, bottom


def crop_outside(part: tuple[float, float, float, float]) -> float:
    """Returns the share of a crop that lies outside the image, from its `shown_part`."""
    left, top, right, bottom = part
    return 1 - (right - left) * (bottom - top)


def sharpness(crop: NDArray[np.uint8], part: tuple[float, float, float, float]) -> float:
    """Returns how sharp a crop (S, S, 3) is, RGB: the variance of its Laplacian over that of its grey levels.

    Measured at `SHARPNESS_SIZE` pixels a side and on the part that the image covers, so that neither the picture's
    resolution nor its brightness, contrast or border count; 0 for a part of one colour. The variance of the
    Laplacian is the measure of Pech-Pacheco et al., ICPR 2000.
    """
    size = SHARPNESS_SIZE
    how = cv2.INTER_AREA if len(crop) > size else cv2.INTER_LINEAR
    # In whole grey levels the rounding alone would have a Laplacian.
    grey = cv2.resize(crop.astype(np.float32) @ _GREY, (size, size), interpolation=how)
    left, top = (math.ceil(size * share) + _RIM for share in part[:2])
    right, bottom = (math.floor(size * share) - _RIM for share in part[2:])
    inside = slice(top, bottom), slice(left, right)
    if bottom - top < 2 or right - left < 2:
        return 0.0
    contrast = float(grey[inside].var())
    return float(cv2.Laplacian(grey, cv2.CV_32F)[inside].var()) / contrast if contrast > 1.0 else 0.0


def reprojection_error(joints_NJ3: NDArray[np.floating], joints_2d_NJ2: NDArray[np.floating]) -> Floats:
    """Returns how far the 3D joints, laid over the 2D joints, miss them, (N,), as a share of the hand's size.

    The root mean square distance after the best scale and shift (weak perspective, least squares, in closed form),
    over that of the 2D joints from their centre: 0 where they agree, 1 where the 3D joints explain nothing.
    """
    flat, target = np.asarray(joints_NJ3, np.float64)[..., :2], np.asarray(joints_2d_NJ2, np.float64)
    flat, target = flat - flat.mean(axis=1, keepdims=True), target - target.mean(axis=1, keepdims=True)
    both = np.einsum("njc,njc->n", flat, target)
    own, others = np.square(flat).sum(axis=(1, 2)), np.square(target).sum(axis=(1, 2))
    explained = np.square(np.maximum(both, 0)) / np.maximum(own * others, 1e-300)
    return np.asarray(np.sqrt(np.clip(1 - explained, 0, 1)))


def measure(annotations: pa.Table, anatomy: Anatomy) -> dict[str, Floats]:
    """Returns the columns (N,) that follow from what an annotation says of its hand, by name."""
    joints = numbers(annotations, "joints", 21, 3)
    pose = numbers(annotations, "hand_pose", 15, 3)
    left = np.array([side == "left" for side in annotations["side"].to_pylist()], bool)
    # The limits are a right hand's, whose mirror image has y and z of its rotations turned round.
    pose = np.where(left[:, None, None], pose * (1, -1, -1), pose)
    return {
        "reprojection_error": reprojection_error(joints, numbers(annotations, "joints_2d", 21, 2)),
        "bone_deviation": bone_deviation(joints, anatomy),
        "joint_limit_excess": joint_limit_excess(pose, anatomy),
    }
