"""Which camera took a picture: stated by the input or the option, read from EXIF, or assumed from a field of view.

A camera is fx, fy, cx, cy in pixels of the upright image, whose centres are at integers: the middle of an image is
((width - 1) / 2, (height - 1) / 2). Lens distortion is not modelled.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from PIL import Image

from pipeline.errors import ConfigError, DataError

Camera = tuple[float, float, float, float]

# The diagonal of a frame of 35 mm film, 36 x 24 mm: by it CIPA DCG-001 defines the equivalent focal length.
FILM_DIAGONAL_MM: Final = math.hypot(36.0, 24.0)
# Tags of EXIF 2.32, section 4.6, and their units of length in mm.
_ORIENTATION: Final = 0x0112
_EXIF_IFD: Final = 0x8769
_FOCAL_LENGTH: Final = 0x920A
_PIXEL_X: Final = 0xA002
_PIXEL_Y: Final = 0xA003
_PLANE_X: Final = 0xA20E
_PLANE_Y: Final = 0xA20F
_PLANE_UNIT: Final = 0xA210
_FOCAL_LENGTH_35MM: Final = 0xA405
_UNIT_MM: Final = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}
# A picture whose sides stand in another proportion than EXIF says has been cut since.
_SAME_PROPORTION: Final = 0.01
# Beyond these, in diagonals of the image, a focal length is a mistake (5 mm and 4 m on 35 mm film).
_SHORTEST: Final = 0.1
_LONGEST: Final = 100.0
_CHOICES: Final = (
    "FX,FY,CX,CY (pixels), fov:DEG (assumed, of the longer side) or given (only what the input states)"
)


class KnownCamera(NamedTuple):
    """A camera and how it is known: given, exif or fov."""

    camera: Camera
    source: str


@dataclass(frozen=True)
class CameraRule:
    """Which camera a hand is taken to be seen by: the first of these that there is.

    stated: one for all images, whatever they say. Then what the input gives. exif: then what EXIF says. fov_deg: then
    an assumption, square pixels and this field of view along the image's longer side, in degrees. Else none.
    """

    stated: Camera | None = None
    exif: bool = True
    fov_deg: float | None = None

    @property
    def identity(self) -> str:
        """What tells this rule from another one, for people as well."""
        if self.stated is not None:
            return ",".join(f"{value:.9g}" for value in self.stated)
        names = ["given", *(["exif"] if self.exif else [])]
        return ", ".join(names + ([] if self.fov_deg is None else [f"fov:{self.fov_deg:.9g}"]))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What must be said of a rule that assumes something."""
        if self.fov_deg is None:
            return ()
        return (
            f"where neither the input nor EXIF knows the camera, a field of view of {self.fov_deg:g} degrees along "
            "the longer side is assumed: camera_source is fov, and depths are as good as that guess",
        )

    def choose(
        self, given: Camera | DataError | None, exif: Camera | None, width: int, height: int
    ) -> KnownCamera | DataError | None:
        """Returns the camera of a hand in an image of this size, or None where none is known or assumed.

        What is wrong with the input's own is returned as it is: no guess may stand in for it.
        """
        if self.stated is not None:
            return KnownCamera(self.stated, "given")
        if isinstance(given, DataError):
            return given
        if given is not None:
            return KnownCamera(given, "given")
        if self.exif and exif is not None:
            return KnownCamera(exif, "exif")
        if self.fov_deg is not None:
            return KnownCamera(camera_of_view(self.fov_deg, width, height), "fov")
        return None


def camera_rule(text: str | None) -> CameraRule:
    """Reads --camera; None is what the input gives, or else what EXIF says.

    Raises:
        ConfigError: anything but four numbers, `fov:DEG` or `given`; focal lengths that are not positive.
    """
    if text is None:
        return CameraRule()
    if text == "given":
        return CameraRule(exif=False)
    if text.startswith("fov:"):
        degrees = _number(text.removeprefix("fov:"))
        if degrees is None or not 1 <= degrees <= 170:
            raise ConfigError(f"--camera {text}: the field of view must be 1 to 170 degrees, such as fov:60")
        return CameraRule(fov_deg=degrees)
    values = [_number(part) for part in text.split(",")]
    if len(values) != 4 or None in values:
        raise ConfigError(f"--camera {text}: must be {_CHOICES}")
    fx, fy, cx, cy = (value for value in values if value is not None)
    if fx <= 0 or fy <= 0:
        raise ConfigError(f"--camera {text}: the focal lengths FX and FY must be positive")
    return CameraRule(stated=(fx, fy, cx, cy))


def camera_of_view(fov_deg: float, width: int, height: int) -> Camera:
    """Returns the camera with square pixels that sees so many degrees along the longer side of an image."""
    focal = max(width, height) / 2 / math.tan(math.radians(fov_deg) / 2)
    return focal, focal, (width - 1) / 2, (height - 1) / 2


def camera_of_exif(exif: Image.Exif, width: int, height: int) -> Camera | None:
    """Returns the camera of a picture, upright, by its EXIF; width and height are those of the stored pixels.

    From FocalLengthIn35mmFilm, or else from FocalLength and the resolution on the focal plane; the principal point is
    the middle. None where it says neither, says what cannot be, or is of another cut of the picture.

    Raises:
        What Pillow raises for a damaged block.
    """
    said: dict[int, Any] = dict(exif.get_ifd(_EXIF_IFD))
    full = _positive(said.get(_PIXEL_X)), _positive(said.get(_PIXEL_Y))
    shrink = 1.0
    if full[0] is not None and full[1] is not None:
        proportion = max(full[0], full[1]) / min(full[0], full[1]) / (max(width, height) / min(width, height))
        if abs(proportion - 1) > _SAME_PROPORTION:
            return None
        shrink = max(width, height) / max(full[0], full[1])
    diagonal = math.hypot(width, height)
    film_mm = _positive(said.get(_FOCAL_LENGTH_35MM))
    if film_mm is not None:
        focal_x = focal_y = film_mm / FILM_DIAGONAL_MM * diagonal
    else:
        focal_mm, along_x = _positive(said.get(_FOCAL_LENGTH)), _positive(said.get(_PLANE_X))
        unit_mm = _UNIT_MM.get(said.get(_PLANE_UNIT, 2))
        if focal_mm is None or along_x is None or unit_mm is None:
            return None
        along_y = _positive(said.get(_PLANE_Y)) or along_x
        focal_x, focal_y = (focal_mm / unit_mm * along * shrink for along in (along_x, along_y))
    if not all(_SHORTEST <= focal / diagonal <= _LONGEST for focal in (focal_x, focal_y)):
        return None
    if exif.get(_ORIENTATION) in (5, 6, 7, 8):
        focal_x, focal_y, width, height = focal_y, focal_x, height, width
    return focal_x, focal_y, (width - 1) / 2, (height - 1) / 2


def _positive(value: Any) -> float | None:
    """Returns a positive, finite number of EXIF; 0 and 0/0 mean unknown there."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
