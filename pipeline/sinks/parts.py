"""A unit's Parquet parts: the ledger, and the annotations, whose existence is the commit.

A part holds one unit and is named after it, or holds many and is named `compacted_<hash>`: such a file lists its
units, their counts and how many rows each has, in its metadata (`pipeline.compact`).
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.records import Counts, Unit, from_ipc, to_ipc

# No unit's id can begin like this: a slug has no underscore.
COMPACTED = "compacted_"
READS_AT_ONCE = 16


class PartGone(StorageError):  # noqa: N818
    """A part that was there when it was listed is gone: another command compacts the output, or does it anew."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a file."""

    first: int
    count: int


@dataclass(frozen=True)
class Part:
    """What a committed annotation part says of a unit.

    file: the name of the file that holds it, without ending. annotations, ledger: where the unit's rows lie in the
    two files of that name; None for all of them.
    """

    unit_id: str
    unit_version: str
    fingerprint: str
    counts: Counts
    file: str
    annotations: Rows | None = None
    ledger: Rows | None = None


def part_uri(output: str, folder: str, name: str) -> str:
    """Returns where a part lies, by its unit's id or its file's name; `folder` is annotations, ledger, tracks …"""
    return storage.join(output, folder, f"{name}.parquet")


def write_part(
    uri: str, table: pa.Table, metadata: Mapping[str, str], row_group_size: int | None = None
) -> None:
    """Writes a table with file metadata, atomically; equal tables give equal bytes."""
    sink = io.BytesIO()
    table = table.replace_schema_metadata(dict(metadata))
    pq.write_table(table, sink, compression="zstd", store_schema=True, row_group_size=row_group_size)
    storage.put(uri, sink.getvalue())


def read_metadata(output: str, folder: str, name: str) -> dict[str, str]:
    """Returns what the footer of a part says of it."""
    with storage.open_input(part_uri(output, folder, name)) as stream:
        metadata = pq.read_metadata(stream).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"}


def read_parts(output: str, name: str, folder: str = "annotations") -> list[Part]:
    """Reads the footer of a part and returns what it says of its units; nothing where it is missing or not ours."""
    try:
        said = read_metadata(output, folder, name)
        if "compacted" in said:
            return _listed(name, said["fingerprint"], json.loads(said["compacted"]))
        counts = Counts.from_json(said["counts"])
        return [Part(name, said["unit_version"], said["fingerprint"], counts, name)]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        # A footer that cannot be read is no commit: the unit is done again.
        return []


def _listed(name: str, fingerprint: str, units: Sequence[Mapping[str, Any]]) -> list[Part]:
    parts, annotations, ledger = [], 0, 0
    for unit in units:
        parts.append(
            Part(
                unit["unit_id"],
                unit["unit_version"],
                fingerprint,
                Counts(**unit["counts"]),
                name,
                Rows(annotations, unit["annotations"]),
                Rows(ledger, unit["ledger"]),
            )
        )
        annotations += unit["annotations"]
        ledger += unit["ledger"]
    return parts


def read_file(output: str, folder: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns all the rows of a part."""
    data = storage.read(part_uri(output, folder, name))
    return pq.read_table(io.BytesIO(data), columns=None if columns is None else list(columns))


def read_files(
    output: str, folder: str, units: Iterable[Unit], columns: Sequence[str] | None = None
) -> Iterator[tuple[Unit, pa.Table]]:
    """Yields each unit with all the rows of its part, in order, a few read ahead."""
    left = iter(units)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        while some := list(islice(left, READS_AT_ONCE)):
            tables = pool.map(lambda unit: read_file(output, folder, unit.unit_id, columns), some)
            yield from zip(some, tables, strict=True)


def footers(output: str, folder: str, units: Sequence[Unit]) -> Iterator[tuple[Unit, dict[str, str]]]:
    """Yields those units whose parts are there, and what the footers say; one that cannot be read is no commit."""
    present = {
        storage.name_of(file.uri).removesuffix(".parquet")
        for file in storage.list_files(storage.join(output, folder))
    }

    def footer(unit: Unit) -> dict[str, str] | None:
        try:
            return read_metadata(output, folder, unit.unit_id)
        except (OSError, pa.ArrowException):
            return None

    there = [unit for unit in units if unit.unit_id in present]
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for unit, said in zip(there, pool.map(footer, there), strict=True):
            if said is not None:
                yield unit, said


def read_table(output: str, folder: str, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns a unit's rows as a table, all columns or some; `folder` is annotations or ledger.

    Raises:
        PartGone: the part, which was there, is not there any more.
    """
    try:
        return _read_table(output, folder, part, columns)
    except FileNotFoundError as error:
        raise PartGone(
            f"{part_uri(output, folder, part.file)}: is gone; another command compacts what is there or does it anew, "
            "wait for its end"
        ) from error


def _read_table(output: str, folder: str, part: Part, columns: Sequence[str] | None) -> pa.Table:
    rows = part.annotations if folder == "annotations" else part.ledger
    if rows is None:
        return read_file(output, folder, part.file, columns)
    with storage.open_input(part_uri(output, folder, part.file)) as stream:
        file = pq.ParquetFile(stream)
        groups, seen, before = list[int](), 0, 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if seen < rows.first + rows.count and rows.first < seen + count:
                before = before if groups else seen
                groups.append(group)
            seen += count
        chosen = None if columns is None else list(columns)
        own = file.read_row_groups(groups, columns=chosen).slice(rows.first - before, rows.count)
    # A copy: of lists of lists in a slice, pyarrow's `take` and `filter` (26.0) give other rows' numbers.
    return from_ipc(to_ipc(own))


def committed(output: str, units: Sequence[Unit], fingerprint: str) -> dict[str, Part]:
    """Returns the parts of those units that are done: there, of this fingerprint, of the unit's version."""
    versions = {unit.unit_id: unit.version for unit in units}
    names = [
        name
        for file in storage.list_files(storage.join(output, "annotations"))
        if (name := storage.name_of(file.uri).removesuffix(".parquet")) in versions
        or name.startswith(COMPACTED)
    ]
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        found = {
            part.unit_id: part
            for parts in pool.map(lambda name: read_parts(output, name), names)
            for part in parts
            if part.fingerprint == fingerprint and part.unit_version == versions.get(part.unit_id)
        }
    return {unit.unit_id: found[unit.unit_id] for unit in units if unit.unit_id in found}


_OF_A_UNIT = re.compile(r"([A-Za-z0-9-]+-[0-9a-f]{16}-\d{8,}-\d{8,})(\.parquet|\.tar|/.*\.ply)")


def drop_orphans(output: str, units: Sequence[Unit]) -> int:
    """Removes what was written for units that are no longer in the plan; returns how many parts.

    Files that are not named after a unit are somebody else's and stay. What a compacted part holds of such units
    is left to `compact.release`.
    """
    planned = {unit.unit_id for unit in units}
    return _drop(output, lambda unit_id: unit_id not in planned)


def withdraw(output: str, units: Sequence[Unit]) -> None:
    """Takes back what there is of units that are to be done anew: the commit first, then what it vouched for."""
    _drop(output, {unit.unit_id for unit in units}.__contains__)


def _drop(output: str, condemned: Callable[[str], bool]) -> int:
    """Removes what was written for some units, by their ids; returns of how many there was an annotation part."""
    dropped = 0
    # The annotation parts go first: without them the rest counts for nothing.
    for folder in ("annotations", "ledger", "meshes"):
        root = storage.join(output, folder)
        files = [
            file.uri
            for file in storage.list_files(root)
            if (named := _OF_A_UNIT.fullmatch(storage.key_below(root, file.uri)))
            and condemned(named.group(1))
        ]
        storage.delete_all(files)
        dropped += len(files) * (folder == "annotations")
    return dropped
