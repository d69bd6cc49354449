"""Films that are cut, damaged, or none at all; a good one has a row for each of its frames."""

import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.corpus.case import GOOD, BadInput, Row, damaged, into, tar
from tests.films import H264, PLAIN, Recipe, cut_at, encode, overwritten, sound

FRAMES = 24
MOV = Recipe("film.mov", "libx264", H264)
MKV = Recipe("film.mkv", "libx264", H264)
WEBM = Recipe("film.webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"})
AVI = Recipe("film.avi", "mpeg4")
MP4 = Recipe("film.mp4", PLAIN.codec, PLAIN.options, PLAIN.muxing)


def _frames(name: str, numbers: Iterable[int]) -> tuple[Row, ...]:
    return tuple(Row(name, 0, "annotated", frame=number) for number in numbers)


def _lost(name: str, kind: str, numbers: Iterable[int]) -> tuple[Row, ...]:
    return tuple(Row(name, 0, "rejected", "read", kind, number) for number in numbers)


def _film(name: str, recipe: Recipe, change: Callable[[bytes], bytes], *rows: Row) -> BadInput:
    """A film of 24 frames, of which something is made."""

    def write(folder: Path) -> None:
        path = encode(folder, recipe, FRAMES)
        path.write_bytes(change(path.read_bytes()))

    return BadInput(f"film: {name}", write, rows)


def _half(kind: str, recipe: Recipe, frames: int) -> BadInput:
    """A film of which one half is there, with so many frames: headers and indices take their share."""
    rows = (*_frames(recipe.name, range(frames)), *damaged())
    return _film(f"without its last half, {kind}", recipe, lambda data: cut_at(data, 0.5), *rows)


def _none(name: str, data: bytes, file: str = "film.mp4") -> BadInput:
    """What is no film has one row, for all of it."""
    return BadInput(f"film: {name}", into(file, data), damaged())


def _atom(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(data), kind) + data


def _patched(mark: bytes, offset: int, new: bytes) -> Callable[[bytes], bytes]:
    """Returns a change of the bytes that lie so far behind a mark's start."""

    def change(data: bytes) -> bytes:
        at = data.index(mark) + offset
        return data[:at] + new + data[at + len(new) :]

    return change


def _of_no_frames(data: bytes) -> bytes:
    """Says in all of an MP4's tables that they have no entries."""
    for table in (b"stts", b"ctts", b"stsc", b"stss", b"stco"):
        at = data.index(table) + 8
        data = data[:at] + bytes(4) + data[at + 4 :]
    at = data.index(b"stsz") + 12
    return data[:at] + bytes(4) + data[at + 4 :]


def _spoiled(name: str, rows: tuple[Row, ...], spoil: Callable[[Path], object]) -> BadInput:
    return BadInput(f"film: {name}", lambda folder: encode(folder, MP4, FRAMES), rows, spoil=spoil)


FILMS = (
    _none("empty", b""),
    _none("one byte", b"\0"),
    _none("text renamed", b"no film at all\n" * 99),
    _none("photograph renamed", GOOD, "film.mov"),
    _none("archive renamed", tar([("a.jpg", GOOD)]), "film.mkv"),
    _none("zeros", bytes(100_000)),
    _none("mp4 with a header and no more", _atom(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")),
    _none("mkv with a header and no more", b"\x1a\x45\xdf\xa3\x84\x42\x86\x81\1", "film.mkv"),
    _none("avi with a header and no more", b"RIFF\xff\xff\0\0AVI LIST", "film.avi"),
    _none("list of other files", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
    _none("script that names other files", b"ffconcat version 1.0\nfile /etc/passwd\n", "film.mkv"),
    _none("nothing but sound", sound()),
    _film("whose tables would follow its cut", MOV, lambda data: cut_at(data, 0.7), *damaged()),
    _film("cut in the middle of its tables", MOV, lambda data: data[:-500], *damaged()),
    _film("cut in the middle of its tables, which come first", MP4, lambda data: data[:700], *damaged()),
    _film("of no frames", MP4, _of_no_frames, *damaged()),
    _film(
        "whose pictures are zeros",
        MP4,
        lambda data: data[: data.index(b"mdat") + 4] + bytes(len(data) - data.index(b"mdat") - 4),
        *_lost("film.mp4", "missing frame", range(FRAMES)),
    ),
    _film("of an unknown codec", MP4, lambda data: data.replace(b"avc1", b"xxxx"), *damaged()),
    _film(
        "that says it has 65535 x 65535 pixels",
        MP4,
        _patched(b"avc1", 28, b"\xff\xff\xff\xff"),
        *_frames("film.mp4", range(FRAMES)),
    ),
    _film(
        "cut in its last picture, mp4",
        MP4,
        lambda data: data[:-9],
        *_frames("film.mp4", range(23)),
        *damaged(),
    ),
    _half("mp4", MP4, 9),
    _half("mkv", MKV, 10),
    _half("webm", WEBM, 11),
    _half("avi", AVI, 2),
    _film(
        "overwritten in a picture",
        MP4,
        lambda data: overwritten(data, 0.75, 20),
        *_frames("film.mp4", (*range(15), 16)),
        *_lost("film.mp4", "damaged frame", (15, *range(17, FRAMES))),
    ),
    _film(
        "overwritten over several pictures",
        MKV,
        lambda data: overwritten(data, 0.75, 3000),
        *_frames("film.mkv", range(18)),
        *damaged(),
    ),
    _spoiled(
        "removed after planning",
        _lost("film.mp4", "missing file", range(FRAMES)),
        lambda folder: (folder / "film.mp4").unlink(),
    ),
    _spoiled(
        "replaced after planning",
        _lost("film.mp4", "changed input", range(FRAMES)),
        lambda folder: encode(folder, Recipe("film.mp4", "libx264", PLAIN.options), 30),
    ),
)
