import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.stages import decode
from pipeline.stages.decode import decode_image

RAMP = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_colours_come_as_rgb() -> None:
    assert np.array_equal(decode_image(encoded(Image.fromarray(RAMP))), RAMP)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_image(encoded(Image.fromarray(RAMP), exif=exif))
    assert np.array_equal(turned, np.rot90(RAMP, -1))


def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encoded(Image.fromarray(RAMP), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_image(data).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("L", (4, 3), 200), (200, 200, 200)),
        (Image.new("1", (4, 3), 1), (255, 255, 255)),
        (Image.new("LA", (4, 3), (10, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 3), (200, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 3), (200, 100, 0, 255)), (200, 100, 0)),
        (Image.fromarray(np.full((3, 4), 0xABCD, np.uint16)), (0xAB, 0xAB, 0xAB)),
        (Image.new("P", (4, 3), 0), (0, 0, 0)),
    ],
    ids=["grey", "bits", "transparent grey", "transparent", "opaque", "16 bit", "palette"],
)
def test_every_kind_of_pixel_looks_as_a_person_sees_it(
    image: Image.Image, pixel: tuple[int, int, int]
) -> None:
    decoded = decode_image(encoded(image))
    assert decoded.shape == (3, 4, 3)
    assert decoded.dtype == np.uint8
    assert tuple(decoded[1, 2]) == pixel


def test_cmyk_becomes_rgb() -> None:
    decoded = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(decoded[4, 4].astype(int) - (255, 0, 0)).max() < 12


def test_one_pixel_is_an_image() -> None:
    assert decode_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


def test_an_image_past_the_bound_is_refused_before_its_pixels_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="image too large: 60x40 pixels"):
        decode_image(encoded(Image.fromarray(RAMP)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_image_is_an_error_and_never_half_a_picture(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(DataError, match="unreadable image"):
        decode_image(data[: int(len(data) * kept)])


def test_random_damage_gives_pixels_or_a_data_error() -> None:
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "PPM", "BMP"):
        whole = np.frombuffer(encoded(Image.fromarray(RAMP), kind), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 8)] = rng.integers(0, 256, 8)
            try:
                assert decode_image(damaged.tobytes()).dtype == np.uint8
            except DataError as error:
                assert error.kind in ("unreadable image", "image too large")


def test_real_photographs(shared: Path) -> None:
    shapes = {
        "cmyk_no_hand.jpg": (100, 100, 3),
        "exif_orientation6_no_hand.jpg": (1800, 1200, 3),
        "gray_gloved_hands_camera.png": (512, 512, 3),
        "rgba_alpha_thumb_up.png": (1280, 1920, 3),
    }
    images = shared / "real" / "images"
    assert {name: decode_image((images / name).read_bytes()).shape for name in shapes} == shapes
    for name in ("truncated.png", "broken_stream.png"):
        with pytest.raises(DataError):
            decode_image((images / name).read_bytes())
