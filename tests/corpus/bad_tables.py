"""Tables of boxes that cannot serve; each stops the job with one line that names the table."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tests.corpus.tables import not_utf8, parquet

BOX = [8.0, 8.0, 32.0, 32.0]


@dataclass(frozen=True)
class BadTable:
    name: str
    file: str
    data: bytes
    says: str = "not a readable Parquet, CSV or COCO JSON table"


def _coco(name: str, document: Any, **more: str) -> BadTable:
    return BadTable(f"COCO: {name}", "t.json", json.dumps(document).encode(), **more)


WHOLE = parquet({"key": ["a"], "bbox": [BOX]})
IMAGE = {"id": 1, "file_name": "a"}

BAD_TABLES = (
    BadTable("CSV: of no bytes", "t.csv", b""),
    BadTable("CSV: no key", "t.csv", b"name,x,y,w,h\na,1,2,3,4\n", "needs `key`"),
    BadTable("CSV: no width", "t.csv", b"key,x,y,h\na,1,2,4\n", "needs `key`"),
    BadTable("CSV: no rows and no width", "t.csv", b"key,x,y,h\n", "needs `key`"),
    BadTable("CSV: rows of other lengths", "t.csv", b"key,x,y,w,h\na,1,2\n"),
    BadTable("CSV: not UTF-8", "t.csv", b"key,x,y,w,h\nh\xe4nd,1,2,3,4\n"),
    BadTable("CSV: semicolons", "t.csv", b"key;x;y;w;h\na;1;2;3;4\n", "needs `key`"),
    BadTable("CSV: frame is a word", "t.csv", b"key,frame_index,x,y,w,h\na,first,1,2,3,4\n"),
    BadTable(
        "CSV: frame is not a number", "t.csv", b"key,frame_index,x,y,w,h\na,nan,1,2,3,4\nb,1.5,1,2,3,4\n"
    ),
    BadTable("Parquet: of no bytes", "t.parquet", b""),
    BadTable("Parquet: cut", "t.parquet", WHOLE[:-9]),
    BadTable("Parquet: no box", "t.parquet", parquet({"key": ["a"]}), "needs `key`"),
    BadTable("Parquet: no key", "t.parquet", parquet({"bbox": [BOX]}), "needs `key`"),
    BadTable(
        "Parquet: key is null",
        "t.parquet",
        parquet({"key": ["a", None], "bbox": [BOX] * 2}),
        "row 1 has no key",
    ),
    BadTable("Parquet: key is not UTF-8", "t.parquet", parquet({"key": not_utf8([b"\xff"]), "bbox": [BOX]})),
    BadTable(
        "Parquet: frame is infinite",
        "t.parquet",
        parquet({"key": ["a"], "bbox": [BOX], "frame_index": pa.array([float("inf")])}),
    ),
    BadTable("COCO: of no bytes", "t.json", b""),
    BadTable("COCO: not JSON", "t.json", b"images:\n"),
    BadTable("COCO: not UTF-8", "t.json", b'{"images": "\xff"}'),
    BadTable("COCO: nested a million deep", "t.json", b"[" * 1_000_000),
    _coco("a list", []),
    _coco("no images", {"annotations": []}),
    _coco("no annotations", {"images": []}),
    _coco("images without names", {"images": [{"id": 1}], "annotations": []}),
    _coco("images of lists for ids", {"images": [{"id": [], "file_name": "a"}], "annotations": []}),
    _coco("an annotation of no image", {"images": [IMAGE], "annotations": [{"image_id": 2, "bbox": BOX}]}),
    _coco("an annotation without a box", {"images": [IMAGE], "annotations": [{"image_id": 1}]}),
    _coco("an annotation that is a number", {"images": [IMAGE], "annotations": [7]}),
    _coco(
        "a name that is null",
        {"images": [{"id": 1, "file_name": None}], "annotations": [{"image_id": 1, "bbox": BOX}]},
        says="row 0 has no key",
    ),
)
