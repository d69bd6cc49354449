"""Which camera a picture is taken to have: what the option, the input and EXIF say of it."""

import io
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError, DataError
from pipeline.intrinsics import CameraRule, KnownCamera, camera_of_view, camera_rule
from pipeline.stages.decode import decode_photo

ORIENTATION, FOCAL_LENGTH, PIXEL_X, PIXEL_Y = 0x0112, 0x920A, 0xA002, 0xA003
PLANE_X, PLANE_Y, PLANE_UNIT, FILM = 0xA20E, 0xA20F, 0xA210, 0xA405
WIDTH, HEIGHT = 60, 40
CAMERA = (500.0, 510.0, 320.0, 240.0)


def photo(
    tags: dict[int, Any],
    *,
    orientation: int | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    kind: str = "PNG",
) -> bytes:
    """A black picture with one white pixel, 5 columns and 9 rows from its upper left corner."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[9, 5] = 255
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    exif.get_ifd(0x8769).update(tags)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, exif=exif.tobytes())
    return stream.getvalue()


def camera(tags: dict[int, Any], **how: Any) -> tuple[float, ...] | None:
    return decode_photo(photo(tags, **how)).camera


# 3 mm behind the lens, 40 columns and 50 rows to the mm: focal lengths of 120 and 150 pixels.
PLANE = {FOCAL_LENGTH: 3.0, PLANE_X: 400.0, PLANE_Y: 500.0, PLANE_UNIT: 3}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_whichever_way_the_camera_was_held_a_pixel_keeps_its_ray(orientation: int) -> None:
    decoded = decode_photo(photo(PLANE, orientation=orientation))
    assert decoded.camera is not None
    fx, fy, cx, cy = decoded.camera
    row, column = np.argwhere(decoded.pixels[..., 0] == 255)[0]
    rays = [abs(column - cx) / fx, abs(row - cy) / fy]
    stored = [abs(5 - (WIDTH - 1) / 2) / 120, abs(9 - (HEIGHT - 1) / 2) / 150]
    turned = orientation in (5, 6, 7, 8)
    assert rays == pytest.approx(stored[::-1] if turned else stored)
    assert (cx, cy) == ((19.5, 29.5) if turned else (29.5, 19.5))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_focal_length_on_35_mm_film_goes_by_the_diagonal(kind: str, orientation: int) -> None:
    found = camera({FILM: 28}, orientation=orientation, kind=kind)
    focal = 28 / math.hypot(36, 24) * math.hypot(WIDTH, HEIGHT)
    centre = (29.5, 19.5) if orientation == 1 else (19.5, 29.5)
    assert found == pytest.approx((focal, focal, *centre))


def test_a_picture_that_was_shrunk_keeps_its_field_of_view() -> None:
    full = {PIXEL_X: 600, PIXEL_Y: 400}
    assert camera({**PLANE, **full}) == pytest.approx((12.0, 15.0, 29.5, 19.5))
    assert camera({FILM: 28, **full}) == camera({FILM: 28})


@pytest.mark.parametrize("length", [{FILM: 28}, PLANE])
def test_a_picture_that_was_cut_has_no_camera(length: dict[int, Any]) -> None:
    assert camera({**length, PIXEL_X: 600, PIXEL_Y: 600}) is None
    assert camera({**length, PIXEL_X: 600, PIXEL_Y: 401}) is not None


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {FILM: 0},
        {FILM: 65535},
        {FOCAL_LENGTH: 3.0},
        {PLANE_X: 400.0, PLANE_UNIT: 3},
        {**PLANE, FOCAL_LENGTH: 0.0},
        {**PLANE, PLANE_X: -400.0},
        {**PLANE, PLANE_UNIT: 1},
        {**PLANE, FOCAL_LENGTH: 1e6},
    ],
)
def test_exif_that_says_nothing_or_nonsense_gives_no_camera(tags: dict[int, Any]) -> None:
    assert camera(tags) is None


def test_damaged_exif_gives_no_camera_and_costs_no_pixel() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(stream, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_photo(stream.getvalue()).camera is None
    whole = np.frombuffer(photo(PLANE, kind="JPEG"), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = whole.copy()
        damaged[rng.integers(20, 180, 4)] = rng.integers(0, 256, 4)
        try:
            found = decode_photo(damaged.tobytes())
        except DataError:
            continue
        assert found.camera is None or all(map(math.isfinite, found.camera))


def test_a_field_of_view_is_that_of_the_longer_side() -> None:
    wide, tall = camera_of_view(90, 640, 480), camera_of_view(90, 480, 640)
    assert wide == pytest.approx((320, 320, 319.5, 239.5))
    assert tall == pytest.approx((320, 320, 239.5, 319.5))


@pytest.mark.parametrize(
    ("text", "given", "exif", "expected"),
    [
        (None, True, True, "given"),
        (None, False, True, "exif"),
        (None, False, False, None),
        ("given", True, True, "given"),
        ("given", False, True, None),
        ("fov:60", True, True, "given"),
        ("fov:60", False, True, "exif"),
        ("fov:60", False, False, "fov"),
        ("500,500,319.5,239.5", True, True, "given"),
        ("500,500,319.5,239.5", False, False, "given"),
    ],
)
def test_what_is_known_goes_before_what_is_assumed(
    text: str | None, given: bool, exif: bool, expected: str | None
) -> None:
    of_input, of_exif = (1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 2.0, 2.0)
    found = camera_rule(text).choose(of_input if given else None, of_exif if exif else None, 640, 480)
    assert (None if found is None else found.source) == expected
    if text == "500,500,319.5,239.5":
        assert found == KnownCamera((500.0, 500.0, 319.5, 239.5), "given")


def test_rules_that_choose_differently_are_named_differently_and_only_assumptions_are_remarked_on() -> None:
    texts = (None, "given", "fov:60", "fov:61", "500,500,1,1", "500,500,1,2")
    rules = [camera_rule(text) for text in texts]
    assert len({rule.identity for rule in rules}) == len(texts)
    assert [bool(rule.remarks) for rule in rules] == [False, False, True, True, False, False]
    assert rules[0] == CameraRule()


@pytest.mark.parametrize(
    "text",
    "|exif|fov|fov:|fov:0|fov:180|fov:nan|1,2,3|1,2,3,4,5|a,b,c,d|0,1,2,3|500,-500,1,1|inf,1,1,1|5,5,nan,1".split(
        "|"
    ),
)
def test_any_other_value_is_refused_in_one_line_that_names_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        camera_rule(text)
    assert str(caught.value).startswith(f"--camera {text}: ")
    assert "\n" not in str(caught.value)
