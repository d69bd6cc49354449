"""Folders of loose images with names, links and special files that a listing must live with."""

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.corpus.case import GOOD, BadInput, Row, good, picture, rejected


def _write(files: Mapping[str, bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    return write


def _beside(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Writes a good image, and something odd named x.jpg beside it."""

    def write(folder: Path) -> None:
        (folder / "a.jpg").write_bytes(GOOD)
        make(folder / "x.jpg")

    return write


def _named(name: str, files: Mapping[bytes, str]) -> BadInput:
    """Files by their names in bytes, and the keys that they get."""
    write = _write({os.fsdecode(file): GOOD for file in files})
    return BadInput(f"folder: names {name}", write, good(*files.values()))


def _special(name: str, make: Callable[[Path], object], kind: str, stage: str = "read") -> BadInput:
    rows = (*good("a.jpg"), *rejected("x.jpg", kind, stage))
    return BadInput(f"folder: {name}", _beside(make), rows)


def _socket(path: Path) -> None:
    """Leaves a socket's file behind; its path may be too long to bind to."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def _terabyte(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def _circle(path: Path) -> None:
    (path.parent / "below").mkdir()
    (path.parent / "below" / "b.jpg").write_bytes(GOOD)
    (path.parent / "below" / "up").symlink_to("..")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "y.jpg").write_bytes(GOOD)


def _spoiled(name: str, rows: tuple[Row, ...], spoil: Callable[[Path], object]) -> BadInput:
    write = _beside(lambda path: path.write_bytes(GOOD))
    return BadInput(f"folder: {name}", write, (*good("a.jpg"), *rows), spoil=spoil)


FOLDERS = (
    _named("are not UTF-8", {b"\xff.jpg": "\\xff.jpg", b"\xfe/h\xe4nd.jpg": "\\xfe/h\\xe4nd.jpg"}),
    _named(
        "look like escapes",
        {
            b"\\xff.jpg": "\\x5cxff.jpg",
            b"%FF.jpg": "%FF.jpg",
            b"a\\b.jpg": "a\\b.jpg",
            b"\xff\\.jpg": "\\xff\\x5c.jpg",
        },
    ),
    _named(
        "are as long as they can be",
        {b"n" * 251 + b".jpg": "n" * 251 + ".jpg", b"d" * 255 + b"/a.jpg": "d" * 255 + "/a.jpg"},
    ),
    _named(
        "have odd signs",
        {
            name.encode(): name
            for name in (
                "#1.jpg",
                "50%.jpg",
                "what?.jpg",
                "a*[b]{0..9}.jpg",
                "'\"`$(x);&.jpg",
                " .jpg",
                "@l.jpg",
                "~.jpg",
            )
        },
    ),
    _named(
        "have control characters",
        {b"x\ny\r.jpg": "x\ny\r.jpg", b"\x01\x1b[31m\x7f.jpg": "\x01\x1b[31m\x7f.jpg"},
    ),
    _named(
        "are in four scripts",
        {name.encode(): name for name in ("手.jpg", "рука.jpg", "يد.jpg", "✋.jpg", "e\u0301.jpg")},
    ),
    _named("look like URIs", {b"s3:/b/x.jpg": "s3:/b/x.jpg", b"file:.jpg": "file:.jpg"}),
    _special("link to nothing", lambda path: path.symlink_to("gone.jpg"), "missing file"),
    _special("link to itself", lambda path: path.symlink_to(path.name), "unreadable file"),
    _special("link to a device without end", lambda path: path.symlink_to("/dev/zero"), "unreadable file"),
    _special("terabyte of nothing", _terabyte, "file too large"),
    _special("pipe", os.mkfifo, "unreadable file"),
    _special("socket", _socket, "unreadable file"),
    _special("broken image", lambda path: path.write_bytes(picture()[:99]), "unreadable image", "decode"),
    BadInput("folder: link in a circle", _beside(_circle), good("a.jpg", "below/b.jpg")),
    BadInput("folder: folder named as an image", _beside(_folder), good("a.jpg", "x.jpg/y.jpg")),
    BadInput(
        "folder: pipe named as an archive",
        lambda folder: (os.mkfifo(folder / "s.tar"), os.mkfifo(folder / "t.parquet")),
        rejected(None, "damaged input", hand_index=None) * 2,
    ),
    _spoiled(
        "image removed after planning",
        rejected("x.jpg", "missing file"),
        lambda folder: (folder / "x.jpg").unlink(),
    ),
    _spoiled(
        "image replaced after planning",
        good("x.jpg"),
        lambda folder: (folder / "x.jpg").write_bytes(picture("PNG")),
    ),
    _spoiled(
        "image replaced by a pipe after planning",
        rejected("x.jpg", "unreadable file"),
        lambda folder: ((folder / "x.jpg").unlink(), os.mkfifo(folder / "x.jpg")),
    ),
    _spoiled(
        "image replaced by a folder after planning",
        rejected("x.jpg", "unreadable file"),
        lambda folder: ((folder / "x.jpg").unlink(), (folder / "x.jpg").mkdir()),
    ),
)
