"""Boxes from a table beside the input (Parquet, CSV or COCO JSON), joined by key and frame."""

import functools
import io
import json
from collections.abc import Collection, Sequence
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

# What a document of another shape, or none at all, makes of reading it.
_UNREADABLE = (
    *(OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError),
    *(OverflowError, RecursionError, MemoryError),
)
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
        columns, rows = _rows(uri, storage.read(uri))
        if "key" not in columns or ("bbox" not in columns and not {"x", "y", "w", "h"} <= set(columns)):
            raise ConfigError(
                f"--boxes {uri}: needs `key` and `bbox` or `x, y, w, h`; it has {', '.join(columns)}"
            )
        index: Index = {}
        for number, row in enumerate(rows):
            if row["key"] is None:
                raise ConfigError(f"--boxes {uri}: row {number} has no key")
            row.setdefault("bbox", [row.get(name) for name in "xywh"])
            frame = row.get("frame_index")
            if isinstance(frame, float) and not frame.is_integer():
                raise ValueError(f"row {number}: frame_index {frame} is no whole number")
            place = str(row["key"]), None if frame is None else int(frame)
            index.setdefault(place, []).append(row)
    except _UNREADABLE as error:
        raise ConfigError(
            f"--boxes {uri}: not a readable Parquet, CSV or COCO JSON table ({error})"
        ) from error
    return index


def _rows(uri: str, data: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns a table's columns and rows."""
    if uri.lower().endswith(".json"):
        return ["key", "bbox"], _coco(json.loads(data))
    if uri.lower().endswith(".csv"):
        text = pa.csv.ConvertOptions(column_types={"key": pa.string()})
        table = pa.csv.read_csv(io.BytesIO(data), convert_options=text)
    else:
        table = pq.read_table(io.BytesIO(data))
    return table.column_names, table.to_pylist()


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

    def require_any(self, keys: Collection[str]) -> None:
        """Holds the table's keys against some of the job's.

        Raises:
            ConfigError: the table has rows, and none of them names one of these samples.
        """
        named = {key for key, _ in load(self.uri)}
        if named and keys and named.isdisjoint(keys):
            raise ConfigError(
                f"--boxes {self.uri}: none of its keys (such as {min(named)!r}) is one of the input's "
                f"(such as {min(keys)!r})"
            )

    def require_frames(self, films: Collection[str]) -> None:
        """Holds the table's rows for films against what a film needs; `films` are their keys.

        Raises:
            ConfigError: a row names a film and none of its frames, so that no frame would have its box.
        """
        lacking = sorted({key for key, frame in load(self.uri) if frame is None}.intersection(films))
        if lacking:
            raise ConfigError(
                f"--boxes {self.uri}: names the film {lacking[0]!r} without saying which frame; a film's rows need "
                "frame_index (0-based, in the order in which frames are shown), in Parquet or CSV"
            )

    def _rows(self, sample: Sample) -> list[dict[str, Any]]:
        return load(self.uri).get((sample.key, sample.frame_index), [])

    def asked(self, sample: Sample) -> int:
        return len(self._rows(sample))

    def find(self, sample: Sample, image: NDArray[np.uint8]) -> Sequence[HandBox | DataError]:  # noqa: ARG002
        return [
            parse_hand(row, side=self.side, source="table", sample_camera=sample.camera, index=index)
            for index, row in enumerate(self._rows(sample))
        ]
