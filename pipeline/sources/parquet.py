"""Parquet tables with an `image` column of encoded bytes, and `key`, `hands` and `camera` where they are there."""

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.names import to_text
from pipeline.records import Sample, Unit
from pipeline.sources.source import Extent, Input, Source, require_unchanged, unrepeated

ROWS_AT_ONCE = 16
# Arrow would else fetch a row group's columns whole, before the first row of it is there.
BUFFER_BYTES = 1 << 20
COLUMNS = ("key", "image", "hands", "camera")

# What Arrow raises for a file that is damaged.
_UNREADABLE = (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError)


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
            if twice := [name for name in COLUMNS if names.count(name) > 1]:
                return Extent([], damage=f"two columns are named `{twice[0]}`")
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            ends = list(accumulate((group.num_rows for group in groups), initial=0))
            if file.metadata.num_rows != ends[-1]:
                return Extent([], damage="its footer contradicts itself in how many rows there are")
            keys = _keys(file) if "key" in names else [str(row) for row in range(file.metadata.num_rows)]
    except _UNREADABLE as error:
        return Extent([], damage=f"not a readable Parquet file: {error or type(error).__name__}")
    seams = sorted({end for end in ends if 0 < end < len(keys)})
    return Extent(unrepeated(keys), has_boxes="hands" in names, seams=seams)


def _keys(file: pq.ParquetFile) -> list[str]:
    column = file.read(["key"]).column("key")
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(pa.binary()).to_pylist()
    return [_text(number if value is None else value) for number, value in enumerate(values)]


def _text(key: object) -> str:
    return to_text(key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else str(key))


def read(unit: Unit, keys: Sequence[str]) -> Iterator[Sample]:
    """Yields a run of the table's rows; of the row groups that hold them, what lies before its end is read."""
    remaining = iter(keys)
    problem = DataError("unreadable table", "the table ends before it")
    try:
        with storage.open_input(unit.input) as stream:
            require_unchanged(unit)
            file = pq.ParquetFile(
                stream, page_checksum_verification=True, pre_buffer=False, buffer_size=BUFFER_BYTES
            )
            for row in _rows(file, unit.first, unit.last):
                key = next(remaining)
                yield Sample(key=key, error=row) if isinstance(row, DataError) else _sample(key, row)
    except DataError as error:
        problem = error
    except FileNotFoundError:
        problem = DataError("missing file", "it was there when the job was planned")
    except _UNREADABLE as error:
        problem = DataError("unreadable table", str(error) or type(error).__name__)
    for key in remaining:
        yield Sample(key=key, error=problem)


def _rows(file: pq.ParquetFile, first: int, last: int) -> Iterator[dict[str, pa.Scalar] | DataError]:
    """Yields each row of [first, last), or why it cannot be had; a damaged row group costs its own rows."""
    start = 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        low, high = max(first, start), min(last, stop)
        if low < high:
            problem = DataError("unreadable table", "the row group ends before it")
            try:
                for row in _of_group(file, group, low - start, high - start):
                    yield row
                    low += 1
            except _UNREADABLE as error:
                problem = DataError("unreadable table", str(error) or type(error).__name__)
            yield from [problem] * (high - low)
        start = stop


def _of_group(file: pq.ParquetFile, group: int, first: int, last: int) -> Iterator[dict[str, pa.Scalar]]:
    columns = [name for name in file.schema_arrow.names if name in COLUMNS and name != "key"]
    position = 0
    for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
        for row in range(max(first - position, 0), min(last - position, batch.num_rows)):
            yield {name: batch.column(name)[row] for name in columns}
        position += batch.num_rows
        if position >= last:
            return


def _sample(key: str, row: dict[str, pa.Scalar]) -> Sample:
    try:
        image = row["image"].as_py()
    except ValueError:
        image = None
    if isinstance(image, dict):
        image = image.get("bytes")
    if not isinstance(image, bytes):
        return Sample(key=key, error=DataError("no image", "the column `image` holds no bytes here"))
    try:
        hands = row["hands"].as_py() if "hands" in row else None
        camera = row["camera"].as_py() if "camera" in row else None
        if isinstance(hands, str):
            hands = json.loads(hands)
    except (ValueError, RecursionError) as error:
        problem = DataError("unreadable label", f"`hands` or `camera` cannot be read ({error})")
        return Sample(key=key, image=image, error=problem)
    return Sample(key=key, image=image, hands=hands, camera=camera)


SOURCE = Source("parquet", frozenset({".parquet"}), probe, read)
