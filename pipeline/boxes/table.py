"""Boxes from a table beside the input (Parquet, CSV or COCO JSON), joined by key and frame."""

import functools
import io
import json
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.boxes.box_source import parse_hand
from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.records import HandBox, Sample

# What a document of another shape, or none at all, makes of reading it.
_UNREADABLE = (
    *(OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError),
    *(OverflowError, RecursionError, MemoryError),
)
NO_FRAME = np.iinfo(np.int64).min
COLUMNS = ("key", "frame_index", "bbox", *"xywh", "side", "score", "camera")
# The one column of a COCO table's hands: JSON takes any type that an entry may have.
JSON = "json"


@dataclass(frozen=True)
class Boxes:
    """A boxes table in memory, sorted by key and frame; a row of it takes some tens of bytes.

    keys, frames (NO_FRAME where there is none) and hands, which hold what a row says of its hand, are parallel. Rows
    of one place keep their order.
    """

    keys: pa.LargeStringArray
    frames: NDArray[np.int64]
    hands: pa.Table

    def at(self, key: str, frame: int | None) -> list[dict[str, Any]]:
        """Returns the hands of an image or a frame.

        An image that was once a frame is known by its key alone, whatever frame its rows name; where they name several,
        it is the first of them.
        """
        first, last = self._rows((key, NO_FRAME if frame is None else frame))
        if frame is None and first == last < len(self.keys) and self.keys[first].as_py() == key:
            first, last = self._rows(self._place(first))
        hands: list[dict[str, Any]] = self.hands.slice(first, last - first).to_pylist()
        if self.hands.column_names == [JSON]:
            return [json.loads(hand[JSON]) for hand in hands]
        for hand in hands:
            hand.setdefault("bbox", [hand.get(name) for name in "xywh"])
        return hands

    def _rows(self, place: tuple[str, int]) -> tuple[int, int]:
        rows = range(len(self.keys))
        first = bisect_left(rows, place, key=self._place)
        return first, bisect_right(rows, place, lo=first, key=self._place)

    def _place(self, row: int) -> tuple[str, int]:
        return self.keys[row].as_py(), int(self.frames[row])


@functools.lru_cache(maxsize=2)
def load(uri: str, version: str) -> Boxes:
    """Reads a boxes table; kept for the life of the process.

    Parquet and CSV have `key`, `bbox` (Parquet) or `x, y, w, h`, and optionally `frame_index`, `side`, `score`
    and `camera`.
    In COCO JSON the key is an image's `file_name`, and an annotation may have `side` or `hand_type`.

    Raises:
        ConfigError: the table cannot be read, or lacks a column.
        StorageError: it is not of this version: what was made with the former one must not be mixed with it.
    """
    try:
        data = storage.read(uri)
    except OSError as error:
        _require_version(uri, version)
        raise _unreadable(uri, error) from error
    _require_version(uri, version)
    try:
        table = _coco(json.loads(data)) if uri.lower().endswith(".json") else _table(uri, data)
        table.validate(full=True)
        keys, frames = _keys(table["key"]), _frames(table)
        if keys.null_count:
            row = pc.index(keys.is_null(), value=True).as_py()
            raise ConfigError(f"--boxes {uri}: row {row} has no key")
        order = pc.sort_indices(
            pa.table({"key": keys, "frame": frames}), [("key", "ascending"), ("frame", "ascending")]
        )
        hands = table.drop_columns([name for name in ("key", "frame_index") if name in table.column_names])
        return Boxes(
            keys.take(order).combine_chunks(),
            frames.take(order).to_numpy(),
            hands.take(order).combine_chunks(),
        )
    except _UNREADABLE as error:
        raise _unreadable(uri, error) from error


def version_of(uri: str) -> str | None:
    """Returns what changes when a table does, None where there is none."""
    found = storage.stat(uri)
    return None if found is None else f"{found.size}-{found.version}"


def _require_version(uri: str, version: str) -> None:
    if version_of(uri) != version:
        raise StorageError(
            f"--boxes {uri}: it changed since the job began; put the former table back, or do all anew with --overwrite"
        )


def _unreadable(uri: str, error: BaseException) -> ConfigError:
    return ConfigError(f"--boxes {uri}: not a readable Parquet, CSV or COCO JSON table ({error})")


def _table(uri: str, data: bytes) -> pa.Table:
    """Returns what is needed of a table's columns."""
    if uri.lower().endswith(".csv"):
        text = pa.csv.ConvertOptions(column_types={"key": pa.string()})
        table = pa.csv.read_csv(io.BytesIO(data), convert_options=text)
    else:
        table = pq.read_table(io.BytesIO(data))
    columns = table.column_names
    if "key" not in columns or ("bbox" not in columns and not {"x", "y", "w", "h"} <= set(columns)):
        raise ConfigError(
            f"--boxes {uri}: needs `key` and `bbox` or `x, y, w, h`; it has {', '.join(columns)}"
        )
    return table.select([name for name in columns if name in COLUMNS])


def _coco(document: dict[str, Any]) -> pa.Table:
    names = {image["id"]: image["file_name"] for image in document["images"]}
    keys, hands = list[str | None](), list[str]()
    for annotation in document["annotations"]:
        name = names[annotation["image_id"]]
        # What is no Unicode names no sample.
        keys.append(None if name is None else str(name).encode("utf-8", "backslashreplace").decode())
        hand = {
            "bbox": annotation["bbox"],
            "side": annotation.get("side", annotation.get("hand_type")),
            "score": annotation.get("score"),
        }
        hands.append(json.dumps(hand))
    return pa.table({"key": pa.array(keys, pa.large_string()), JSON: pa.array(hands, pa.large_string())})


def _keys(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns keys as text, of any length together."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.large_string())
    chunks = [
        [None if value is None else str(value) for value in chunk.to_pylist()] for chunk in column.chunks
    ]
    return pa.chunked_array(chunks, pa.large_string())


def _frames(table: pa.Table) -> pa.ChunkedArray:
    """Returns which frame each row names.

    Raises:
        ValueError: one is no whole number.
    """
    if "frame_index" not in table.column_names:
        return pa.chunked_array([pa.repeat(pa.scalar(NO_FRAME, pa.int64()), table.num_rows)])
    column = table["frame_index"]
    if pa.types.is_floating(column.type):
        row = pc.index(pc.equal(pc.floor(column), column), value=False).as_py()
        if row >= 0:
            raise ValueError(f"row {row}: frame_index {column[row].as_py()} is no whole number")
    return column.cast(pa.int64()).fill_null(NO_FRAME)


@dataclass(frozen=True)
class Table:
    """Takes the hands that a table lists for a sample; a sample that it does not name has none.

    version: that of the table when the job was planned; every worker holds it against the one that it reads.
    """

    uri: str
    version: str
    side: str | None = None

    @property
    def identity(self) -> str:
        """What tells this table from another one."""
        return f"{self.uri} {self.version}"

    @property
    def _boxes(self) -> Boxes:
        return load(self.uri, self.version)

    def require_any(self, keys: Iterable[Collection[str]]) -> None:
        """Holds the table's keys against the job's, which come a part at a time, until one is found.

        Raises:
            ConfigError: the table has rows, and none of them names one of these samples.
        """
        named, other = self._boxes.keys, None
        for some in keys if len(named) else ():
            if pc.any(pc.is_in(named, value_set=pa.array(some, pa.large_string()))).as_py():
                return
            other = min(some) if other is None and some else other
        if other is not None:
            raise ConfigError(
                f"--boxes {self.uri}: none of its keys (such as {named[0].as_py()!r}) is one of the input's "
                f"(such as {other!r})"
            )

    def require_apart(self, keys: Iterable[tuple[str, Collection[str]]]) -> None:
        """Holds the table against keys of each of several inputs.

        Raises:
            ConfigError: it names a sample of two inputs, which it cannot tell apart.
        """
        owner: dict[str, str] = {}
        twice: dict[str, tuple[str, str]] = {}
        for uri, some in keys:
            for key in some:
                if owner.setdefault(key, uri) != uri:
                    twice[key] = owner[key], uri
        named = pc.is_in(pa.array(twice, pa.large_string()), value_set=self._boxes.keys) if twice else ()
        for (key, (one, other)), is_named in zip(twice.items(), named, strict=True):
            if is_named.as_py():
                raise ConfigError(
                    f"--boxes {self.uri}: its key {key!r} names a sample of {one} and one of {other}; annotate each "
                    "with a table of its own, or, of pictures and films, name the folder above them"
                )

    def require_frames(self, films: Collection[str]) -> None:
        """Holds the table's rows for films against what a film needs; `films` are their keys.

        Raises:
            ConfigError: a row names a film and none of its frames, so that no frame would have its box.
        """
        boxes = self._boxes
        whole = boxes.keys.filter(pa.array(boxes.frames == NO_FRAME))
        lacking = whole.filter(pc.is_in(whole, value_set=pa.array(films, pa.large_string())))
        if len(lacking):
            raise ConfigError(
                f"--boxes {self.uri}: names the film {lacking[0].as_py()!r} without saying which frame; a film's rows "
                "need frame_index (0-based, in the order in which frames are shown), in Parquet or CSV"
            )

    def asked(self, sample: Sample) -> int:
        return len(self._boxes.at(sample.key, sample.frame_index))

    def find(self, sample: Sample, image: NDArray[np.uint8]) -> Sequence[HandBox | DataError]:  # noqa: ARG002
        return [
            parse_hand(hand, side=self.side, source="table", sample_camera=sample.camera, index=index)
            for index, hand in enumerate(self._boxes.at(sample.key, sample.frame_index))
        ]
