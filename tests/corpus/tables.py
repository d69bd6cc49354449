"""Parquet inputs that are cut, damaged or of the wrong types."""

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import GOOD, HAND, BadInput, Row, damaged, good, into, picture, rejected

NOISE = picture(size=(96, 96))


def parquet(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), stream, **options)
    return stream.getvalue()


def not_utf8(values: Sequence[bytes]) -> pa.Array:
    """Returns strings that are none, as some writers leave them."""
    buffers = pa.array(values, pa.binary()).buffers()
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def twice(name: str) -> pa.Table:
    """Returns a table in which a column's name stands twice."""
    columns = {"key": pa.array(["a"]), "image": pa.array([GOOD])}
    return pa.table([*columns.values(), columns[name]], names=[*columns, name])


def with_damaged_page(**options: Any) -> bytes:
    """Returns a table of three row groups, the picture of the second of which is damaged where it is stored."""
    data = bytearray(
        parquet({"key": ["a", "b", "c"], "image": [GOOD, NOISE, GOOD]}, row_group_size=1, **options)
    )
    chunk = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(1)
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    for position in range(middle, middle + 64):
        data[position] ^= 0xA5
    return bytes(data)


def with_damaged_page_header() -> bytes:
    data = bytearray(
        parquet(
            {"key": ["a", "b", "c"], "image": [GOOD, NOISE, GOOD]}, row_group_size=1, use_dictionary=False
        )
    )
    start = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(1).data_page_offset
    data[start : start + 12] = b"\xff" * 12
    return bytes(data)


def _table(name: str, data: bytes, *rows: Row, boxes: str = "whole") -> BadInput:
    return BadInput(f"parquet: {name}", into("t.parquet", data), rows, boxes=boxes)


def _rows(name: str, columns: dict[str, Any], *rows: Row, boxes: str = "whole") -> BadInput:
    return _table(name, parquet(columns), *rows, boxes=boxes)


WHOLE = parquet({"key": ["a", "b"], "image": [GOOD, GOOD]})
HANDS = json.dumps([HAND])

TABLES = (
    _table("of no bytes", b"", *damaged()),
    _table("of text", b"key,image\na,b\n" * 20, *damaged()),
    _table("magic number alone", b"PAR1", *damaged()),
    _table("wrong magic number", b"PAR2" + WHOLE[4:-4] + b"PAR2", *damaged()),
    _table("cut in the middle", WHOLE[: len(WHOLE) // 2], *damaged()),
    _table("cut by a byte", WHOLE[:-1], *damaged()),
    _table("footer of 2 GiB", WHOLE[:-8] + b"\xff\xff\xff\x7fPAR1", *damaged()),
    _table("footer overwritten", WHOLE[:-60] + b"\xff" * 52 + WHOLE[-8:], *damaged()),
    _table(
        "damaged page, found by its packing",
        with_damaged_page(compression="gzip", use_dictionary=False),
        *good("a", "c"),
        *rejected("b", "unreadable table"),
    ),
    _table(
        "damaged page, found by its checksum",
        with_damaged_page(compression="none", use_dictionary=False, write_page_checksum=True),
        *good("a", "c"),
        *rejected("b", "unreadable table"),
    ),
    _table(
        "damaged header of a page",
        with_damaged_page_header(),
        *good("a", "c"),
        *rejected("b", "unreadable table"),
    ),
    _rows("no rows", {"key": pa.array([], pa.string()), "image": pa.array([], pa.binary())}),
    _rows("no keys", {"image": [GOOD, GOOD]}, *good("0", "1")),
    _table("two columns of images", parquet(twice("image")), *damaged()),
    _table("two columns of keys", parquet(twice("key")), *damaged()),
    _rows("keys are numbers and null", {"key": [7, None, 7], "image": [GOOD] * 3}, *good("7", "1", "7~2")),
    _rows("keys repeat", {"key": ["a", "a", "a~2"], "image": [GOOD] * 3}, *good("a", "a~3", "a~2")),
    _rows("keys are not UTF-8", {"key": not_utf8([b"a", b"\xff"]), "image": [GOOD] * 2}, *good("a", "\\xff")),
    _rows("keys are bytes", {"key": [b"a", b"\xff"], "image": [GOOD] * 2}, *good("a", "\\xff")),
    _rows(
        "keys with odd signs",
        {"key": ["../x", "a\0b\n", ""], "image": [GOOD] * 3},
        *good("../x", "a\0b\n", ""),
    ),
    _rows(
        "image is null", {"key": ["a", "x"], "image": [GOOD, None]}, *good("a"), *rejected("x", "no image")
    ),
    _rows("image is text", {"key": ["x"], "image": ["a.jpg"]}, *rejected("x", "no image")),
    _rows("image is a number", {"key": ["x"], "image": [5]}, *rejected("x", "no image")),
    _rows("image is a list", {"key": ["x"], "image": [list(GOOD)]}, *rejected("x", "no image")),
    _rows(
        "image is a structure, once without bytes",
        {"key": ["a", "x"], "image": [{"bytes": GOOD, "path": "p"}, {"bytes": None, "path": "p"}]},
        *good("a"),
        *rejected("x", "no image"),
    ),
    _rows(
        "image is text that is not UTF-8",
        {"key": ["x"], "image": not_utf8([GOOD])},
        *rejected("x", "no image"),
    ),
    _rows(
        "hands as JSON, once garbage",
        {"key": ["a", "x", "z"], "image": [GOOD] * 3, "hands": [HANDS, "[{", HANDS]},
        *good("a", "z"),
        *rejected("x", "unreadable label", hand_index=None),
        boxes="given",
    ),
    _rows(
        "hands as JSON, once not UTF-8",
        {
            "key": ["a", "x", "z"],
            "image": [GOOD] * 3,
            "hands": not_utf8([HANDS.encode(), b'["\xff"]', HANDS.encode()]),
        },
        *good("a", "z"),
        *rejected("x", "unreadable label", hand_index=None),
        boxes="given",
    ),
    _rows(
        "hands are null",
        {"key": ["a", "x"], "image": [GOOD] * 2, "hands": [[HAND], None]},
        *good("a"),
        *rejected("x", "no boxes", "boxes", hand_index=None),
        boxes="given",
    ),
    _rows(
        "hands are numbers",
        {"key": ["x"], "image": [GOOD], "hands": [5]},
        *rejected("x", "bad box", "boxes", hand_index=None),
        boxes="given",
    ),
    _rows(
        "a box is not a number",
        {
            "key": ["a", "x"],
            "image": [GOOD] * 2,
            "hands": [[HAND], [{"bbox": [float("nan"), 1.0, 2.0, 3.0], "side": "left"}]],
        },
        *good("a"),
        *rejected("x", "bad box", "boxes"),
        boxes="given",
    ),
    BadInput(
        "parquet: removed after planning",
        into("t.parquet", WHOLE),
        (*rejected("a", "missing file"), *rejected("b", "missing file")),
        spoil=lambda folder: (folder / "t.parquet").unlink(),
    ),
    BadInput(
        "parquet: replaced after planning",
        into("t.parquet", WHOLE),
        (*rejected("a", "changed input"), *rejected("b", "changed input")),
        spoil=lambda folder: (folder / "t.parquet").write_bytes(parquet({"image": [GOOD] * 9})),
    ),
)
