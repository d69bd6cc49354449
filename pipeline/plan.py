"""The plan as it is stored: files of units, and files of the keys of their samples."""

import functools
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.cut import PlannedUnit
from pipeline.errors import ConfigError
from pipeline.records import KEYS, PLAN, Unit
from pipeline.sources import SOURCES

KEYS_ROWS = 64
READS_AT_ONCE = 16

ByInput = dict[str, dict[str, Unit]]


def store_keys(output: str, name: str, planned: Iterable[PlannedUnit]) -> list[Unit]:
    """Writes the keys of units, and returns the units with the places of their keys.

    This comes before the plan that names them: what the plan lists is there whole.
    """
    left, rows, number = iter(planned), list[Unit](), 0
    while some := list(islice(left, KEYS_ROWS)):
        part = f"{name}-{number:06d}.parquet"
        lists = [{"keys": list(item.keys), "versions": list(item.versions)} for item in some]
        table = pa.Table.from_pylist(lists, schema=KEYS)
        storage.put(storage.join(output, "plan", "keys", part), _parquet(table, row_group_size=1))
        rows += [replace(item.unit, keys_part=part, keys_row=row) for row, item in enumerate(some)]
        number += 1
    return rows


def store_units(output: str, number: int, units: Sequence[Unit]) -> None:
    """Writes a file of the plan, atomically; what it lists overrides files of smaller numbers."""
    table = pa.Table.from_pylist([asdict(unit) for unit in units], schema=PLAN)
    storage.put(storage.join(output, "plan", f"{number:06d}.parquet"), _parquet(table))


def _parquet(table: pa.Table, row_group_size: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size)
    return sink.getvalue()


def _plan_files(output: str) -> list[str]:
    folder = storage.canonical(storage.join(output, "plan"))
    files = [file.uri for file in storage.list_files(folder)]
    return [uri for uri in files if re.fullmatch(r"\d{6}\.parquet", storage.key_below(folder, uri))]


def drop_plan(output: str) -> None:
    """Removes the stored plan, and nothing else that may lie beside it."""
    folder = storage.canonical(storage.join(output, "plan", "keys"))
    keys = [
        file.uri
        for file in storage.list_files(folder)
        if re.fullmatch(r"\d{6}(-\d{6}){1,2}\.parquet", storage.key_below(folder, file.uri))
    ]
    storage.delete_all([*_plan_files(output), *keys])


def next_number(output: str) -> int:
    """Returns the number of the next file of the plan."""
    return max((int(storage.name_of(uri)[:6]) + 1 for uri in _plan_files(output)), default=0)


def load_plan(output: str) -> list[Unit]:
    """Returns the units of the stored plan; a later plan file overrides an earlier one.

    Raises:
        ConfigError: a file of the plan is damaged.
    """
    by_input: ByInput = {}
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for units in pool.map(_load_plan_file, _plan_files(output)):
            merge(by_input, units)
    return [unit for of_input in by_input.values() for unit in of_input.values()]


def _load_plan_file(uri: str) -> list[Unit]:
    try:
        return [Unit(**row) for row in pq.read_table(io.BytesIO(storage.read(uri))).to_pylist()]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise ConfigError(f"{uri}: the stored plan is damaged ({error}); use another --output") from error


def merge(by_input: ByInput, newer: Sequence[Unit]) -> None:
    """Puts newer units into a plan: an input of one object is replaced whole, a folder unit by unit."""
    for uri in {unit.input for unit in newer if SOURCES[unit.source].one_object}:
        if uri in by_input:
            by_input[uri] = {}
    for unit in newer:
        by_input.setdefault(unit.input, {})[unit.unit_id] = unit


def load_keys(output: str, unit: Unit) -> list[str]:
    """Returns the keys of a unit's samples, in order.

    Raises:
        ConfigError: the plan's list of them is damaged.
    """
    if unit.keys_part is None:
        return []
    uri = _keys_uri(output, unit.keys_part)
    try:
        with storage.open_input(uri) as stream:
            row = pq.ParquetFile(stream).read_row_group(unit.keys_row, columns=["keys"])
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{uri}: the stored plan is damaged ({error}); use another --output") from error
    return [str(key) for key in row["keys"][0].as_py()]


def planned_versions(output: str, unit: Unit) -> dict[str, str]:
    """Returns the versions that a unit's loose images had when they were planned, by key."""
    return dict(next(versions(output, [unit]))[1]) if unit.keys_part is not None else {}


def any_keys(output: str, units: Sequence[Unit]) -> set[str]:
    """Returns the keys of all samples of some units; every file of keys is read once."""
    return {key for _, row in _rows(output, units) for key in row["keys"]}


def versions(output: str, units: Sequence[Unit]) -> Iterator[tuple[Unit, Mapping[str, str]]]:
    """Yields each unit with the versions that its loose images had when they were planned, by key."""
    for unit, row in _rows(output, units):
        yield unit, dict(zip(row["keys"], row["versions"], strict=True))


def _rows(output: str, units: Sequence[Unit]) -> Iterator[tuple[Unit, Mapping[str, list[str]]]]:
    """Yields each unit with its row of keys: a few files of them at a time, each read once."""
    by_part: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.keys_part is not None:
            by_part.setdefault(unit.keys_part, []).append(unit)
    parts = iter(by_part)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        while some := list(islice(parts, READS_AT_ONCE)):
            tables = pool.map(functools.partial(_load_keys_file, output), some)
            for part, table in zip(some, tables, strict=True):
                for unit in by_part[part]:
                    yield unit, table.slice(unit.keys_row, 1).to_pylist()[0]


def _load_keys_file(output: str, part: str) -> pa.Table:
    uri = _keys_uri(output, part)
    try:
        return pq.read_table(io.BytesIO(storage.read(uri)))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{uri}: the stored plan is damaged ({error}); use another --output") from error


def _keys_uri(output: str, part: str) -> str:
    return storage.join(output, "plan", "keys", part)
