"""What the weights expect of an image: the square around a hand, cut out and scaled; and joints back again.

Pixels have their centres at integers (OpenCV), x right, y down, RGB. Every step repeats the arithmetic of the
published code (github.com/namepllet/HandOccNet) in its order and precision, since the weights were trained on
exactly these crops.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.errors import ModelError

_MAX_WARPED = 32766


@dataclass(frozen=True)
class CropRule:
    """How a hand's box becomes the square that is cut out.

    `factor` enlarges it: after it was cut at the image's border (`clip_first`), or before. Override it with
    `dataclasses.replace(rule, factor=...)`.
    """

    name: str
    factor: float
    clip_first: bool

    def describe(self) -> str:
        """Return the rule in words, which tell it from any other."""
        return f"{self.name}: x{self.factor:g}{', clipped first' if self.clip_first else ''}"


# The authors used three rules; `whole` is for boxes that already are the crop, such as a whole picture.
CROP_RULES = {
    rule.name: rule
    for rule in (
        CropRule("demo", factor=1.25, clip_first=True),
        CropRule("ho3d_evaluation", factor=1.5, clip_first=True),
        CropRule("training", factor=1.5, clip_first=False),
        CropRule("whole", factor=1.0, clip_first=True),
    )
}


@dataclass(frozen=True)
class CropAffine:
    """Where a crop of size x size pixels lies in its image.

    For a left hand the image is mirrored (x to W - 1 - x) before it is cut: `mirrored_width` is W then.
    """

    size: int
    image_to_crop: NDArray[np.float32]  # (2, 3) on pixels, of the mirrored image where it is mirrored
    crop_to_image: NDArray[np.float64]  # (2, 3) on pixels, always of the image as it was
    mirrored_width: int | None


def require_opencv4() -> None:
    """Raise ModelError unless cv2 is OpenCV 4, whose warpAffine the weights were trained with."""
    version = str(cv2.__version__)
    if version.split(".")[0] != "4":
        raise ModelError(
            f"OpenCV {version} cuts other crops than the weights were trained on (up to 4 grey levels); "
            "pip install 'opencv-python-headless>=4.10,<5', and no other opencv package beside it"
        )


def bbox_of_joints(joints_2d: ArrayLike, valid: ArrayLike | None = None) -> NDArray[np.float32]:
    """The tight box (x, y, w, h) around the valid joints (J, 2), in pixels."""
    points = np.asarray(joints_2d, np.float32)
    if valid is not None:
        points = points[np.asarray(valid).astype(bool)]
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate([low, high - low])


def crop_box(
    bbox: Sequence[float] | NDArray[np.floating], image_width: int, image_height: int, rule: CropRule
) -> NDArray[np.float64] | None:
    """The square (x, y, w, h) to cut out for a hand's box (x, y, w, h); it may reach over the image's border.

    None for a box without area in the image, or with less than a pixel of it. Two habits of the published
    code are kept, since the weights know them: a box that begins left of or above the image is moved inside
    rather than cut, and every box loses one pixel of width and height. A third is not: there, a box of
    Python integers is truncated to integers.
    """
    x, y, w, h = (float(value) for value in bbox)
    if not np.isfinite([x, y, w, h]).all():
        return None
    if not rule.clip_first:
        x, y, w, h = _enlarged(x, y, w, h, rule.factor)
    left, top = max(0.0, x), max(0.0, y)
    right = min(image_width - 1.0, left + max(0.0, w - 1))
    bottom = min(image_height - 1.0, top + max(0.0, h - 1))
    if w <= 0 or h <= 0 or right < left or bottom < top:
        return None
    side = max(right - left, bottom - top) * (rule.factor if rule.clip_first else 1.0)
    if side < 1:
        return None
    center_x, center_y = left + (right - left) / 2, top + (bottom - top) / 2
    return np.array([center_x - side / 2, center_y - side / 2, side, side])


def crop_affine(
    box: ArrayLike,
    size: int,
    *,
    image_width: int,
    scale: float = 1.0,
    rotation_deg: float = 0.0,
    flip: bool = False,
) -> CropAffine:
    """The mapping that cuts a box (x, y, w, h) out as a crop of size x size pixels.

    Training scales the box about its centre and turns it; `flip` mirrors the image first, for left hands.
    The box is that of the image as it was; its centre is mirrored here, the turn is not.
    """
    x, y, w, h = np.asarray(box, np.float64)
    center_x, center_y = x + 0.5 * w, y + 0.5 * h
    if flip:
        center_x = image_width - center_x - 1
    # float32 at each of these steps, as in the published code: the matrices are then equal to the last bit.
    half = np.array([w * scale * 0.5, h * scale * 0.5], np.float32)
    sine, cosine = np.sin(np.pi * rotation_deg / 180), np.cos(np.pi * rotation_deg / 180)
    center = np.array([center_x, center_y], np.float32)
    down = np.array([-half[1] * sine, half[1] * cosine], np.float32)
    right = np.array([half[0] * cosine, half[0] * sine], np.float32)
    in_image = np.stack([center, center + down, center + right])
    in_crop = np.array([[0.5, 0.5], [0.5, 1.0], [1.0, 0.5]], np.float32) * np.float32(size)
    crop_to_image = cv2.getAffineTransform(in_crop, in_image).astype(np.float32).astype(np.float64)
    if flip:
        crop_to_image[0] = [0, 0, image_width - 1] - crop_to_image[0]
    return CropAffine(
        size=size,
        image_to_crop=cv2.getAffineTransform(in_image, in_crop).astype(np.float32),
        crop_to_image=crop_to_image,
        mirrored_width=image_width if flip else None,
    )


def crop_image(image: NDArray[np.uint8] | NDArray[np.float32], affine: CropAffine) -> NDArray[np.float32]:
    """Cut a crop (size, size, 3), float32 0..255, out of an RGB image (H, W, 3) of 0..255; black outside it.

    Only the part that the crop touches is converted to float32, so a small hand in a huge frame costs
    little. The values are those of warping the whole image: OpenCV 4 rounds positions to 1/32 pixel, and
    shifting the image by whole pixels leaves that rounding as it is. Raises ModelError where the crop
    covers more than 32766 pixels in a row or column, the most that warpAffine takes.
    """
    height, width = image.shape[:2]
    crop_to_image = _inverse(affine.image_to_crop)
    corners = np.array([[x, y, 1] for x in (0, affine.size - 1) for y in (0, affine.size - 1)])
    touched = corners @ crop_to_image.T
    # Two pixels around it: one for the bilinear neighbour, one for the rounding.
    left, top = np.clip(np.floor(touched.min(axis=0)).astype(np.int64) - 2, 0, (width, height))
    right, bottom = np.clip(np.ceil(touched.max(axis=0)).astype(np.int64) + 3, 0, (width, height))
    if right <= left or bottom <= top:
        return np.zeros((affine.size, affine.size, 3), np.float32)
    if max(right - left, bottom - top) > _MAX_WARPED:
        raise ModelError(
            f"the crop covers {right - left}x{bottom - top} pixels, and OpenCV warps at most {_MAX_WARPED}; "
            "give smaller boxes, or smaller images"
        )
    if affine.mirrored_width is None:
        part = image[top:bottom, left:right]
    else:
        part = image[top:bottom, width - right : width - left][:, ::-1]
    crop_to_image[:, 2] -= (left, top)
    crop: NDArray[np.float32] = cv2.warpAffine(
        np.ascontiguousarray(part, np.float32),
        crop_to_image,
        (affine.size, affine.size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return crop


def to_uint8(crop: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round a crop to whole grey levels: a quarter of the bytes, and at most half a level (1/510) off."""
    return np.rint(crop).clip(0, 255).astype(np.uint8)


def joints_to_image(joints_2d: ArrayLike, crop_to_image: ArrayLike) -> NDArray[np.float64]:
    """Joints (..., 2) in pixels of the crop to pixels of the image; out of a mirrored crop, mirrored back."""
    return _moved(np.asarray(joints_2d, np.float64), np.asarray(crop_to_image, np.float64))


def joints_to_crop(joints_2d: ArrayLike, affine: CropAffine) -> NDArray[np.float64]:
    """Joints (..., 2) in pixels of the image to pixels of the crop; they may lie outside of it."""
    points = np.array(joints_2d, np.float64)
    if affine.mirrored_width is not None:
        points[..., 0] = affine.mirrored_width - 1 - points[..., 0]
    return _moved(points, affine.image_to_crop.astype(np.float64))


def _enlarged(x: float, y: float, w: float, h: float, factor: float) -> tuple[float, float, float, float]:
    return x - w * (factor - 1) / 2, y - h * (factor - 1) / 2, w * factor, h * factor


def _moved(points: NDArray[np.float64], affine_23: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ affine_23[:, :2].T + affine_23[:, 2]


def _inverse(affine_23: NDArray[np.float32]) -> NDArray[np.float64]:
    """The inverse mapping, computed as warpAffine does when it is given the forward one."""
    (a, b, p), (c, d, q) = affine_23.astype(np.float64)
    by_determinant = 1 / (a * d - b * c)
    a, b, c, d = d * by_determinant, -b * by_determinant, -c * by_determinant, a * by_determinant
    return np.array([[a, b, -a * p - b * q], [c, d, -c * p - d * q]])
