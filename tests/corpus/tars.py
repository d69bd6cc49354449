"""Archives that are cut, damaged, packed twice, or hold names and members that no honest shard has."""

import gzip
import os
import tarfile
from pathlib import Path

from tests.corpus.case import GOOD, BadInput, Row, damaged, good, into, rejected, tar

BLOCK = 512
NAMES = ("a.jpg", "b.jpg", "c.jpg")
WHOLE = tar([(name, GOOD) for name in NAMES])
PADDED = -(-len(GOOD) // BLOCK) * BLOCK
MEMBER = BLOCK + PADDED
END = 3 * MEMBER


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member


def raw_header(name: str, kind: bytes, size: bytes) -> bytes:
    """Returns a header block with a size field of our choice and a right checksum."""
    block = bytearray(header(name, kind).tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")[:BLOCK])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def binary(size: int) -> bytes:
    return (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=True)


def long_name(name: bytes) -> bytes:
    """Returns the GNU header that gives the next member its name."""
    return raw_header("././@LongLink", tarfile.GNUTYPE_LONGNAME, octal(len(name))) + name.ljust(
        -(-len(name) // BLOCK) * BLOCK, b"\0"
    )


def around(block: bytes) -> bytes:
    """Returns a good shard of a and z with something between them."""
    first, last = tar([("a.jpg", GOOD)])[:MEMBER], tar([("z.jpg", GOOD)])
    return first + block + last


def gnu_sparse(size: int) -> bytes:
    """Returns a member of which nothing is stored and which unpacks to so many zeros."""
    block = bytearray(raw_header("hole.jpg", tarfile.GNUTYPE_SPARSE, octal(0)))
    block[257:265] = b"ustar  \0"
    block[345:] = bytes(BLOCK - 345)
    block[386:410] = octal(size) + octal(0)
    block[483:495] = binary(size)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _shard(name: str, data: bytes, *rows: Row, file: str = "s.tar") -> BadInput:
    return BadInput(f"tar: {name}", into(file, data), rows)


def _between(name: str, block: bytes, *rows: Row) -> BadInput:
    return _shard(name, around(block), *good("a", "z"), *rows)


def _behind(name: str, block: bytes, *rows: Row) -> BadInput:
    """What stands before the damage is annotated, and the rest is one row."""
    return _shard(name, around(block), *good("a"), *damaged(), *rows)


def _named(name: str, member: str, key: str, **options: object) -> BadInput:
    """A member whose name is odd is a picture like any other, and its name chooses no path."""
    data = tar([("a.jpg", GOOD), (member, GOOD), ("z.jpg", GOOD)], **options)
    return _shard(f"member named {name}", data, *good("a", "z", key))


def _special(name: str, member: tarfile.TarInfo) -> BadInput:
    return _shard(name, tar([("a.jpg", GOOD), (member, b"")]), *good("a"), *rejected("x", "no image"))


def _write_many(*files: tuple[bytes, bytes]) -> object:
    def write(folder: Path) -> None:
        for name, data in files:
            (folder / os.fsdecode(name)).write_bytes(data)

    return write


NOT_UTF8 = os.fsdecode(b"h\xe4nd-\xff")

CUT = (
    _shard("cut in the first header", WHOLE[:100], *damaged()),
    _shard("cut between two members", WHOLE[:MEMBER], *good("a"), *damaged()),
    _shard("cut in a later header", WHOLE[: MEMBER + 100], *good("a"), *damaged()),
    _shard(
        "cut in a picture",
        WHOLE[: MEMBER + BLOCK + 700],
        *good("a"),
        *rejected("b", "truncated shard"),
        *damaged(),
    ),
    _shard("cut in the padding", WHOLE[: MEMBER + BLOCK + len(GOOD) + 1], *good("a", "b"), *damaged()),
    _shard("without its end marker", WHOLE[:END], *good("a", "b", "c"), *damaged()),
    _shard("with half of its end marker", WHOLE[: END + BLOCK], *good("a", "b", "c")),
)

DAMAGED = (
    _shard("of no bytes", b"", *damaged()),
    _shard("of no members", tar([])),
    _shard("of text", b"this is no archive\n" * 99, *damaged()),
    _shard("of gzip", gzip.compress(WHOLE), *damaged()),
    _shard("an error page", b"<!DOCTYPE html>".ljust(2000), *damaged()),
    _behind("garbage where a header should be", b"\xa5" * BLOCK),
    _behind("wrong checksum", raw_header("x.jpg", b"0", octal(0))[:-1] + b"\1"),
    _behind("negative size", raw_header("x.jpg", b"0", binary(-2 * MEMBER))),
    *(
        _behind(f"size of 2^{power} bytes", raw_header("x.jpg", b"0", binary(1 << power)), *too_large)
        for too_large in (rejected("x", "member too large"),)
        for power in (35, 62, 80)
    ),
    _behind("name of 2^62 bytes", raw_header("x.jpg", tarfile.GNUTYPE_LONGNAME, binary(1 << 62))),
    _behind("name of 2^40 bytes", raw_header("x.jpg", tarfile.GNUTYPE_LONGNAME, binary(1 << 40))),
    _behind("a thousand names for one member", long_name(b"x.jpg\0") * 1000),
    _between("global header", tar([], format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"})[: 2 * BLOCK]),
    _between("sparse member of 256 MiB", gnu_sparse(256 << 20), *rejected("hole", "no image")),
    _shard("two archives in a row", WHOLE + tar([("d.jpg", GOOD)]), *good("a", "b", "c"), *damaged()),
    _shard("zeros where the rest was", WHOLE[:MEMBER] + bytes(5 << 20), *good("a"), *damaged()),
)

ODD = (
    _shard(
        "with archives inside",
        tar([("a.jpg", GOOD), ("inner.tar", WHOLE), ("inner.tar.gz", gzip.compress(WHOLE)), ("z.jpg", GOOD)]),
        *good("a", "z"),
        *rejected("inner", "no image"),
    ),
    _shard(
        "with a file that is no picture",
        tar([("a.jpg", GOOD), ("x.txt", b"?")]),
        *good("a"),
        *rejected("x", "no image"),
    ),
    _special("with a symbolic link", header("x.jpg", tarfile.SYMTYPE, link="/etc/passwd")),
    _special("with a hard link", header("x.jpg", tarfile.LNKTYPE, link="a.jpg")),
    _special("with a device", header("x.jpg", tarfile.CHRTYPE)),
    _special("with a pipe", header("x.jpg", tarfile.FIFOTYPE)),
    _shard(
        "with a folder named as a picture",
        tar([("a.jpg", GOOD), (header("x.jpg", tarfile.DIRTYPE), b"")]),
        *good("a"),
    ),
    _shard(
        "with a name three times",
        tar([("a.jpg", GOOD)] * 3 + [("b.jpg", GOOD), ("a.jpg", GOOD)]),
        *good("a", "a~2", "a~3", "b", "a~4"),
    ),
    _shard(
        "with a mask before the picture",
        tar([("a.seg.png", b"-"), ("a.jpg", GOOD)]),
        *good("a"),
    ),
    _named("with a way out", "../../../../x.jpg", "../../../../x"),
    _named("with an absolute path", "/etc/x.jpg", "/etc/x"),
    _named("with a drive", "C:\\x.jpg", "C:\\x"),
    _named("of 5000 characters, GNU", "n" * 5000 + ".jpg", "n" * 5000, format=tarfile.GNU_FORMAT),
    _named("of 5000 characters, PAX", "n" * 5000 + ".jpg", "n" * 5000, format=tarfile.PAX_FORMAT),
    _named("with a line break", "x\ny\r.jpg", "x\ny\r"),
    _named("with control characters", "\x01\x1b[31m\x7f.jpg", "\x01\x1b[31m\x7f"),
    _named("with quotes and signs", "'\"`$(x);#%?&*.jpg", "'\"`$(x);#%?&*"),
    _named("in four scripts", "手/рука/يد/✋.jpg", "手/рука/يد/✋"),
    _named("not in UTF-8, GNU", NOT_UTF8 + ".jpg", "h\\xe4nd-\\xff", format=tarfile.GNU_FORMAT),
    _named("not in UTF-8, PAX", NOT_UTF8 + ".jpg", "h\\xe4nd-\\xff", format=tarfile.PAX_FORMAT),
    _named("as an escape would be", "h\\xe4.jpg", "h\\x5cxe4"),
    _named("by its ending alone", ".jpg", ""),
    _shard(
        "with an ending not in UTF-8",
        tar([("a.jpg", GOOD), (os.fsdecode(b"x.\xff"), b"")]),
        *good("a"),
        *rejected("x", "no image"),
    ),
    BadInput(
        "tar: files with odd names",
        _write_many(
            (b"\xff\xfe.tar", tar([("a.jpg", GOOD)])),
            (b"x\ny #%?.tar", tar([("b.jpg", GOOD)])),
            (b"n" * 251 + b".tar", tar([("c.jpg", GOOD)])),
        ),
        good("a", "b", "c"),
    ),
)


def _replace(data: bytes) -> object:
    return lambda folder: (folder / "s.tar").write_bytes(data)


SPOILED = (
    BadInput(
        "tar: removed after planning",
        into("s.tar", WHOLE),
        (*rejected("a", "missing file"), *rejected("b", "missing file"), *rejected("c", "missing file")),
        spoil=lambda folder: (folder / "s.tar").unlink(),
    ),
    BadInput(
        "tar: replaced after planning",
        into("s.tar", WHOLE),
        (*rejected("a", "changed input"), *rejected("b", "changed input"), *rejected("c", "changed input")),
        spoil=_replace(tar([(name, GOOD) for name in ("x.jpg", "y.jpg", "z.jpg")])),
    ),
    BadInput(
        "tar: cut after planning",
        into("s.tar", WHOLE),
        (*rejected("a", "changed input"), *rejected("b", "changed input"), *rejected("c", "changed input")),
        spoil=_replace(WHOLE[: MEMBER + 9]),
    ),
)

TARS = (*CUT, *DAMAGED, *ODD, *SPOILED)
