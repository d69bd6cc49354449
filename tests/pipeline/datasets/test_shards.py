"""What a benchmark's picture must be to enter a shard as it is."""

import io

import pytest
from PIL import Image

from pipeline.datasets.shards import image_format
from pipeline.errors import DataError


def encoded(kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(sink, kind, **options)
    return sink.getvalue()


def test_a_jpeg_with_more_pictures_behind_the_first_is_a_jpeg() -> None:
    more = encoded("MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    assert Image.open(io.BytesIO(more)).format == "MPO"
    assert image_format(more) == image_format(encoded("JPEG")) == "JPEG"
    assert image_format(encoded("PNG")) == "PNG"


@pytest.mark.parametrize("data", [encoded("JPEG")[:-20], encoded("PNG")[:-20], encoded("GIF"), b""])
def test_what_is_cut_or_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="unreadable image"):
        image_format(data)
