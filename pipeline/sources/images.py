"""Loose images below a folder; the key is the path below the folder."""

from collections.abc import Iterator, Sequence

from pipeline import storage
from pipeline.errors import DataError
from pipeline.records import Sample, Unit
from pipeline.sources.source import Extent, Input, Source

ENDINGS = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
        *(".gif", ".jp2", ".avif", ".heic", ".heif"),
    ]
)
MAX_IMAGE_BYTES = 1 << 30


def probe(folder: Input) -> Extent:
    """Returns the images as they were listed."""
    return Extent(keys=[storage.key_below(folder.uri, file.uri) for file in folder.files])


def read(unit: Unit, keys: Sequence[str]) -> Iterator[Sample]:
    """Yields one sample per file, still encoded."""
    for key in keys:
        uri = storage.below(unit.input, key)
        try:
            # One file can only be too large where all of them together are.
            info = storage.stat(uri) if unit.size > MAX_IMAGE_BYTES else None
            if info is not None and info.size > MAX_IMAGE_BYTES:
                detail = f"{info.size} bytes; at most {MAX_IMAGE_BYTES}"
                yield Sample(key=key, error=DataError("file too large", detail))
            else:
                yield Sample(key=key, image=storage.read(uri))
        except FileNotFoundError:
            yield Sample(key=key, error=DataError("missing file", "it was there when the job was planned"))
        except OSError as error:
            yield Sample(key=key, error=DataError("unreadable file", str(error)))


SOURCE = Source("images", ENDINGS, probe, read, one_object=False)
