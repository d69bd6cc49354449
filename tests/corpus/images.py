"""Images that are damaged, empty, too large, or something else than their name says; each between two good ones."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.corpus.case import GOOD, BadInput, Row, encoded, good, picture, rejected

HTML = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, colour: int = 0) -> bytes:
    """Returns a PNG with a header of our choice."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """Returns a zlib stream of so many zeros, a thousandth of its size."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    packed = [packer.compress(block) for _ in range(size >> 20)]
    return b"".join([*packed, packer.compress(bytes(size & 0xFFFFF)), packer.flush()])


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def patched(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def looping_tiff() -> bytes:
    """Returns a TIFF whose list of directories runs in a circle."""
    data = picture("TIFF")
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    return patched(data, start + 2 + 12 * entries, struct.pack("<I", start))


def without_height(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xc0")
    return patched(jpeg, start + 5, b"\0\0")


def _case(name: str, file: str, data: bytes, rows: tuple[Row, ...]) -> BadInput:
    def write(folder: Path) -> None:
        for neighbour in ("a.jpg", "z.jpg"):
            (folder / neighbour).write_bytes(GOOD)
        (folder / file).write_bytes(data)

    return BadInput(name, write, (*good("a.jpg", "z.jpg"), *rows))


def _unreadable(name: str, file: str, data: bytes) -> BadInput:
    return _case(name, file, data, rejected(file, "unreadable image", "decode"))


def _too_large(name: str, file: str, data: bytes) -> BadInput:
    return _case(name, file, data, rejected(file, "image too large", "decode"))


def _harmless(name: str, file: str, data: bytes) -> BadInput:
    return _case(name, file, data, good(file))


JPEG, PNG, TIFF, AVIF = GOOD, picture("PNG"), picture("TIFF"), picture("AVIF")
PIXELS = zlib.compress(bytes(17 * 16))

ENDINGS = {"JPEG2000": "jp2"}
CUT = tuple(
    _unreadable(f"{kind.lower()} cut {place}", f"bad.{ENDINGS.get(kind, kind.lower())}", whole[:kept])
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000")
    for whole in (picture(kind),)
    for place, kept in (("in its header", 11), ("in the middle", len(whole) // 2), ("near its end", -60))
)

IMAGES = (
    *CUT,
    _unreadable("jpeg without its end marker", "bad.jpg", JPEG[:-2]),
    _harmless("jpeg with bytes behind it", "bad.jpg", JPEG + b"\0" * 999),
    _unreadable("jpeg with bytes before it", "bad.jpg", b"\0" * 9 + JPEG),
    _unreadable("jpeg of height zero", "bad.jpg", without_height(JPEG)),
    _unreadable("png with a wrong checksum", "bad.png", flipped(PNG, len(PNG) // 2)),
    _unreadable("png without pixels", "bad.png", png(16, 16)),
    _unreadable("png of width zero", "bad.png", png(0, 0, chunk(b"IDAT", PIXELS))),
    _unreadable("png without its palette", "bad.png", png(16, 16, chunk(b"IDAT", PIXELS), colour=3)[:-30]),
    _too_large("png that says 60000 x 60000", "bad.png", png(60000, 60000, chunk(b"IDAT", PIXELS))),
    _too_large("png that says 20000 x 15000", "bad.png", png(20000, 15000, chunk(b"IDAT", PIXELS))),
    _too_large(
        "webp canvas of 16383 x 16383", "bad.webp", picture("WEBP", lossless=True)[:21] + b"\xff" * 99
    ),
    _too_large("bmp of two billion rows", "bad.bmp", patched(picture("BMP"), 22, b"\xff\xff\xff\x7f")),
    _harmless("png whose pixels unpack to 64 MiB", "bad.png", png(16, 16, chunk(b"IDAT", zeros(64 << 20)))),
    _unreadable(
        "png whose comment unpacks to 64 MiB",
        "bad.png",
        png(16, 16, chunk(b"zTXt", b"Comment\0\0" + zeros(64 << 20)), chunk(b"IDAT", PIXELS)),
    ),
    _unreadable("gif of no size", "bad.gif", b"GIF89a" + bytes(7) + b"\x2c" + bytes(9) + b"\x02\x00;"),
    _unreadable("bmp of no size", "bad.bmp", patched(picture("BMP"), 18, bytes(8))),
    _unreadable("tiff of floats", "bad.tif", encoded(Image.new("F", (48, 48), 0.5), "TIFF")),
    _unreadable("tiff of negative numbers", "bad.tif", encoded(Image.new("I", (48, 48), -5), "TIFF")),
    _unreadable("tiff that starts behind its end", "bad.tif", patched(TIFF, 4, b"\xff\xff\xff\x7f")),
    _harmless("tiff of 16 bits", "bad.tif", encoded(Image.fromarray(np.full((48, 48), 999, "<u2")), "TIFF")),
    _harmless("tiff whose directories run in a circle", "bad.tif", looping_tiff()),
    _unreadable("empty image", "bad.jpg", b""),
    _unreadable("one byte", "bad.jpg", b"\xff"),
    _unreadable("error page saved as an image", "bad.jpg", HTML),
    _unreadable("text named as an image", "bad.jpg", b"a hand\n" * 20),
    _unreadable("program for a printer", "bad.jpg", EPS),
    _unreadable("drawing named as an image", "bad.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    _unreadable("archive named as an image", "bad.jpg", b"PK\x03\x04" + bytes(200)),
    _unreadable("heic header without a picture", "bad.heic", b"\0\0\0\x18ftypheic" + bytes(90)),
    _unreadable("avif whose pixels are zeros", "bad.avif", AVIF[: -len(AVIF) // 2] + bytes(len(AVIF) // 2)),
    _unreadable("avif without its picture", "bad.avif", AVIF.replace(b"av01", b"none")),
    _harmless("png named jpg", "bad.jpg", PNG),
    _harmless("jpeg named png, in capitals", "bad.PNG", JPEG),
    _case(
        "image of one pixel",
        "bad.png",
        picture("PNG", (1, 1)),
        rejected("bad.png", "box outside", "boxes"),
    ),
    _case(
        "strip of 40000 x 2",
        "bad.png",
        encoded(Image.new("L", (40000, 2)), "PNG"),
        rejected("bad.png", "box too large", "boxes"),
    ),
)
