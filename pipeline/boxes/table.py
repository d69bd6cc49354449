"""Boxes from a table beside the input (Parquet, CSV or COCO JSON), joined by key and frame."""

import functools
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.boxes.box_source import parse_hand
from pipeline.errors import ConfigError, DataError
from pipeline.records import HandBox, Sample

Index = dict[tuple[str, int | None], list[dict[str, Any]]]


@functools.lru_cache(maxsize=2)
def load(uri: str) -> Index:
    """Reads a boxes table and indexes it by key and frame; kept for the life of the process.

    Parquet and CSV have `key`, `bbox` (Parquet) or `x, y, w, h`, and optionally `frame_index`, `side`, `score`.
    In COCO JSON the key is an image's `file_name`, and an annotation may have `side` or `hand_type`.

    Raises:
        ConfigError: the table cannot be read, or lacks a column.
    """
    try:
        data = storage.read(uri)
        if uri.lower().endswith(".json"):
            rows = _coco(json.loads(data))
        elif uri.lower().endswith(".csv"):
            text = pa.csv.ConvertOptions(column_types={"key": pa.string()})
            rows = pa.csv.read_csv(io.BytesIO(data), convert_options=text).to_pylist()
        else:
            rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise ConfigError(
            f"--boxes {uri}: not a readable Parquet, CSV or COCO JSON table ({error})"
        ) from error
    index: Index = {}
    for row in rows:
        if row.get("key") is None or ("bbox" not in row and not {"x", "y", "w", "h"} <= row.keys()):
            columns = ", ".join(row)
            raise ConfigError(f"--boxes {uri}: needs `key` and `bbox` or `x, y, w, h`; a row has {columns}")
        row.setdefault("bbox", [row.get(name) for name in "xywh"])
        frame = row.get("frame_index")
        index.setdefault((str(row["key"]), None if frame is None else int(frame)), []).append(row)
    return index


def _coco(document: dict[str, Any]) -> list[dict[str, Any]]:
    names = {image["id"]: image["file_name"] for image in document["images"]}
    return [
        {
            "key": names[annotation["image_id"]],
            "bbox": annotation["bbox"],
            "side": annotation.get("side", annotation.get("hand_type")),
            "score": annotation.get("score"),
        }
        for annotation in document["annotations"]
    ]


@dataclass(frozen=True)
class Table:
    """Takes the hands that a table lists for a sample; a sample that it does not name has none."""

    uri: str
    side: str | None = None

    def _rows(self, sample: Sample) -> list[dict[str, Any]]:
        return load(self.uri).get((sample.key, sample.frame_index), [])

    def asked(self, sample: Sample) -> int:
        return len(self._rows(sample))

    def find(self, sample: Sample, image: NDArray[np.uint8]) -> Sequence[HandBox | DataError]:  # noqa: ARG002
        return [
            parse_hand(row, side=self.side, source="table", sample_camera=sample.camera, index=index)
            for index, row in enumerate(self._rows(sample))
        ]
