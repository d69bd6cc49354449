"""What a bad input is: files in a folder of their own, and the ledger rows that must come of them."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HAND = {"bbox": [8.0, 8.0, 32.0, 32.0], "side": "right"}


@dataclass(frozen=True)
class Row:
    """What of a ledger row is promised; `kind` is the reason's first words, `frame` a film's frame_index."""

    key: str | None
    hand_index: int | None
    status: str
    stage: str | None = None
    kind: str | None = None
    frame: int | None = None


@dataclass(frozen=True)
class BadInput:
    """A kind of bad input.

    write: puts the input into an empty folder. rows: all that the ledger says of it, good neighbours included.
    boxes: the choice under which these rows hold. spoil: what happens to it between planning and reading.
    """

    name: str
    write: Callable[[Path], object]
    rows: tuple[Row, ...]
    boxes: str = "whole"
    spoil: Callable[[Path], object] | None = None


def good(*keys: str) -> tuple[Row, ...]:
    return tuple(Row(key, 0, "annotated") for key in keys)


def rejected(key: str | None, kind: str, stage: str = "read", hand_index: int | None = 0) -> tuple[Row, ...]:
    return (Row(key, hand_index, "rejected", stage, kind),)


def damaged() -> tuple[Row, ...]:
    """The row for the rest of an input that could not be read to its end."""
    return rejected(None, "damaged input", hand_index=None)


def picture(kind: str = "JPEG", size: tuple[int, int] = (48, 48), **options: Any) -> bytes:
    """Returns an encoded picture of noise, which no codec makes small."""
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return encoded(Image.fromarray(pixels), kind, **options)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


GOOD = picture()


def label(*hands: object) -> bytes:
    return json.dumps({"hands": hands}).encode()


def tar(members: Iterable[tuple[str | tarfile.TarInfo, bytes]], **options: Any) -> bytes:
    """Returns a tar of members, given by name or by a header of their own."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            if isinstance(name, str):
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def into(name: str, data: bytes) -> Callable[[Path], object]:
    """Returns a `write` that puts one file there."""
    return lambda folder: (folder / name).write_bytes(data)
