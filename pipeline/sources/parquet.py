"""Parquet tables with an `image` column of encoded bytes, and `key`, `hands` and `camera` where they are there."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.records import Sample, Unit
from pipeline.sources.source import Extent, Input, Source, unrepeated

ROWS_AT_ONCE = 64


def probe(table: Input) -> Extent:
    """Reads the footer, and the keys if there are any.

    Raises:
        ConfigError: there is no `image` column, so that no row of it could be used.
    """
    try:
        with storage.open_input(table.uri) as stream:
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            if "image" not in names:
                raise ConfigError(f"{table.uri}: no column `image`; it has {', '.join(names)}")
            if "key" in names:
                column = file.read(["key"]).column("key").to_pylist()
                keys = [str(number if key is None else key) for number, key in enumerate(column)]
            else:
                keys = [str(number) for number in range(file.metadata.num_rows)]
    except (pa.ArrowException, OSError) as error:
        return Extent([], damage=f"not a readable Parquet file: {error}")
    return Extent(unrepeated(keys), has_boxes="hands" in names)


def read(unit: Unit, keys: Sequence[str]) -> Iterator[Sample]:
    """Yields a run of the table's rows; only the row groups that hold them are read."""
    remaining = iter(keys)
    try:
        with storage.open_input(unit.input) as stream:
            for row in _rows(pq.ParquetFile(stream), unit.first, unit.last):
                yield _sample(next(remaining), row)
    except (pa.ArrowException, OSError) as error:
        problem = str(error)
    else:
        problem = "the table ends before it"
    for key in remaining:
        yield Sample(key=key, error=DataError("unreadable table", problem))


def _rows(file: pq.ParquetFile, first: int, last: int) -> Iterator[dict[str, Any]]:
    columns = [name for name in file.schema_arrow.names if name in ("image", "hands", "camera")]
    start = 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        if stop > first and start < last:
            position = start
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
                low, high = max(first - position, 0), min(last - position, batch.num_rows)
                if low < high:
                    yield from batch.slice(low, high - low).to_pylist()
                position += batch.num_rows
        start = stop


def _sample(key: str, row: dict[str, Any]) -> Sample:
    image = row["image"]
    if isinstance(image, dict):
        image = image.get("bytes")
    if not isinstance(image, bytes):
        return Sample(key=key, error=DataError("no image", "the column `image` holds no bytes here"))
    hands = row.get("hands")
    if isinstance(hands, str):
        try:
            hands = json.loads(hands)
        except (ValueError, RecursionError) as error:
            problem = DataError("unreadable label", f"`hands` is not JSON ({error})")
            return Sample(key=key, image=image, error=problem)
    return Sample(key=key, image=image, hands=hands, camera=row.get("camera"))


SOURCE = Source("parquet", frozenset({".parquet"}), probe, read)
