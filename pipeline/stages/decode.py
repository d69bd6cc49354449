"""From encoded bytes to upright RGB pixels, as a person who opens the file sees them."""

import io
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import DataError
from pipeline.intrinsics import Camera, camera_of_exif

MAX_PIXELS = 178_956_970  # Pillow refuses more, whatever we say
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF")

# What Pillow's decoders raise for bytes that are not what they claim to be.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class Photo(NamedTuple):
    """Upright RGB pixels, uint8 [H, W, 3], and the camera that EXIF says took them."""

    pixels: NDArray[np.uint8]
    camera: Camera | None = None


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decodes an image as `decode_photo` does, and returns its pixels, uint8 [H, W, 3], RGB."""
    return decode_photo(data).pixels


def decode_photo(data: bytes) -> Photo:
    """Decodes an image and reads what EXIF says of its camera.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit images become 8-bit RGB (16-bit values by their
    high byte); transparency is laid over white; of an animation the first frame counts.

    Raises:
        DataError: the bytes are no image, a damaged one, or one of more than `MAX_PIXELS` pixels.
    """
    if not data:
        raise DataError("unreadable image", "the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise DataError("image too large", f"{width}x{height} pixels; at most {MAX_PIXELS}")
                image.load()
                upright = _upright(image)
                return Photo(np.ascontiguousarray(_rgb(upright)), _camera(image))
    except Image.DecompressionBombError as error:
        raise DataError("image too large", f"{error}") from error
    except UnidentifiedImageError as error:
        raise DataError("unreadable image", f"no image format that is known ({data[:8]!r})") from error
    except _BROKEN as error:
        raise DataError("unreadable image", str(error) or type(error).__name__) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (*_BROKEN, AttributeError, ZeroDivisionError):
        # A damaged EXIF block says nothing of the pixels, which are whole.
        return image


def _camera(image: Image.Image) -> Camera | None:
    try:
        return camera_of_exif(image.getexif(), *image.size)
    except (*_BROKEN, AttributeError, ZeroDivisionError):
        return None


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
            raise DataError("unreadable image", f"values of mode {image.mode} have no meaning as grey levels")
        grey = (values.astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
