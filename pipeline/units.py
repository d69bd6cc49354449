"""Units of work: how inputs are cut into them, how the plan is stored, and what of it is left to do."""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.records import KEYS, PLAN, Unit
from pipeline.sources import SOURCES
from pipeline.sources.source import Extent, Input

KEYS_ROWS = 64
SMALLEST_UNIT = 16
UNITS_PER_JOB = 64
UNIT_BYTES = 256 << 20


def unit_id(uri: str, first: int, last: int) -> str:
    """Returns `<slug>-<hash>-<first>-<last>` for samples [first, last) of an input."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", storage.name_of(uri)).strip("-")[:80].strip("-") or "input"
    digest = hashlib.sha256(storage.canonical(uri).encode()).hexdigest()[:16]
    return f"{slug}-{digest}-{first:08d}-{last:08d}"


def rows_per_unit(samples: int, crop_size: int) -> int:
    """Returns how many samples a unit holds unless an option says so.

    A unit's crops take at most 256 MiB; a small job is cut finer, so that little is lost with a unit and
    progress shows.
    """
    most = UNIT_BYTES // (crop_size * crop_size * 3)
    return max(1, min(most, max(SMALLEST_UNIT, -(-samples // UNITS_PER_JOB))))


@dataclass(frozen=True)
class PlannedUnit:
    """A unit and its samples' keys, before the plan is stored."""

    unit: Unit
    keys: tuple[str, ...]


def cut(source: Input, extent: Extent, rows: int, *, first: int = 0) -> list[PlannedUnit]:
    """Cuts an input's samples into units of at most `rows`; the first sample has number `first`."""
    versions = {storage.key_below(source.uri, file.uri): file for file in source.files}
    units = []
    starts = range(0, len(extent.keys), rows) if extent.keys else [0]
    for start in starts:
        keys = tuple(extent.keys[start : start + rows])
        stop = start + len(keys)
        if SOURCES[source.source].one_object:
            size, version = source.files[0].size, source.version
        else:
            files = [versions[key] for key in keys]
            size, version = sum(file.size for file in files), _version(keys, source)
        unit = Unit(
            unit_id=unit_id(source.uri, first + start, first + stop),
            source=source.source,
            input=source.uri,
            first=first + start,
            last=first + stop,
            size=size,
            version=version,
            offset=extent.offsets[start] if extent.offsets else 0,
            length=extent.offsets[stop] - extent.offsets[start] if extent.offsets else 0,
            damage=extent.damage if stop == len(extent.keys) else None,
        )
        units.append(PlannedUnit(unit, keys))
    return units


def _version(keys: Iterable[str], folder: Input) -> str:
    """Digests names, sizes and versions of some files of a folder; a file that is gone counts as such."""
    files = {storage.key_below(folder.uri, file.uri): file for file in folder.files}
    digest = hashlib.sha256()
    for key in keys:
        file = files.get(key)
        digest.update(f"{key}\0{file.size if file else ''}\0{file.version if file else ''}\n".encode())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Settled:
    """A plan held against the inputs of a request.

    units: every unit of the plan, in order. requested: the ids of those whose input the request names.
    known: there was a plan before. added, changed, removed: URIs (or paths of loose images), for the log.
    """

    units: tuple[Unit, ...]
    requested: frozenset[str]
    known: bool = False
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Identifies the plan's content."""
        text = "\n".join(unit.to_json() for unit in self.units)
        return hashlib.sha256(text.encode()).hexdigest()


def settle(
    output: str,
    inputs: Sequence[Input],
    *,
    unit_rows: int | None,
    crop_size: int,
    probe: Callable[[Sequence[Input]], Sequence[Extent]],
    store: bool = True,
) -> Settled:
    """Holds the stored plan against the inputs, and stores what has to be added to it, in one atomic write.

    What is planned and unchanged stays as it is, however inputs grow; new inputs and new images of a known
    folder become new units; a changed input is planned anew.
    """
    stored = load_plan(output)
    by_input: dict[str, list[Unit]] = {}
    for unit in stored:
        by_input.setdefault(unit.input, []).append(unit)
    fresh: list[tuple[Input, int]] = []
    replaced: list[PlannedUnit] = []
    added, changed, removed = [], [], []
    for source in inputs:
        known = by_input.get(source.uri)
        if not known:
            fresh.append((source, 0))
            added.append(source.uri)
        elif SOURCES[source.source].one_object:
            if known[0].version != source.version:
                fresh.append((source, 0))
                changed.append(source.uri)
        else:
            present = {storage.key_below(source.uri, file.uri): file for file in source.files}
            planned: set[str] = set()
            for unit in known:
                keys = load_keys(output, unit)
                planned.update(keys)
                gone = [key for key in keys if key not in present]
                removed += [storage.below(source.uri, key) for key in gone]
                version = _version(keys, source)
                if version != unit.version and not gone:
                    replaced.append(PlannedUnit(replace(unit, version=version), tuple(keys)))
                    changed.append(unit.unit_id)
            new = tuple(file for key, file in present.items() if key not in planned)
            if new:
                fresh.append((Input(source.uri, source.source, new), max(unit.last for unit in known)))
                added.append(f"{source.uri} ({len(new)} new images)")
    named = {source.uri for source in inputs}
    removed += [uri for uri in by_input if uri not in named]
    extents = probe([source for source, _ in fresh])
    rows = unit_rows or rows_per_unit(sum(len(extent.keys) for extent in extents), crop_size)
    for (source, first), extent in zip(fresh, extents, strict=True):
        replaced += cut(source, extent, rows, first=first)
    units = merge(
        stored, _store(output, replaced) if store and replaced else [item.unit for item in replaced]
    )
    return Settled(
        units=tuple(units),
        requested=frozenset(unit.unit_id for unit in units if unit.input in named),
        known=bool(stored),
        added=tuple(added),
        changed=tuple(changed),
        removed=tuple(removed),
    )


def within(units: Sequence[Unit], limit: int | None) -> list[Unit]:
    """Returns the first units that together hold `limit` samples; all of them without a limit."""
    chosen: list[Unit] = []
    samples = 0
    for unit in units:
        if limit is not None and samples >= limit:
            break
        chosen.append(unit)
        samples += unit.last - unit.first
    return chosen


def _store(output: str, planned: Sequence[PlannedUnit]) -> list[Unit]:
    """Writes the keys first and the plan, which names them, last: the plan is there whole or not at all."""
    folder = storage.join(output, "plan")
    number = len([file for file in storage.list_files(folder) if "/keys/" not in file.uri])
    rows = []
    for start in range(0, len(planned), KEYS_ROWS):
        part = f"{number:06d}-{start // KEYS_ROWS:06d}.parquet"
        some = planned[start : start + KEYS_ROWS]
        table = pa.table({"keys": [list(item.keys) for item in some]}, schema=KEYS)
        storage.put(storage.join(folder, "keys", part), _parquet(table, row_group_size=1))
        rows += [replace(item.unit, keys_part=part, keys_row=row) for row, item in enumerate(some)]
    table = pa.Table.from_pylist([asdict(unit) for unit in rows], schema=PLAN)
    storage.put(storage.join(folder, f"{number:06d}.parquet"), _parquet(table))
    return rows


def _parquet(table: pa.Table, row_group_size: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size)
    return sink.getvalue()


def load_plan(output: str) -> list[Unit]:
    """Returns the units of the stored plan; a later plan file overrides an earlier one."""
    units: list[Unit] = []
    for file in storage.list_files(storage.join(output, "plan")):
        if "/keys/" not in file.uri:
            rows = pq.read_table(io.BytesIO(storage.read(file.uri))).to_pylist()
            units = merge(units, [Unit(**row) for row in rows])
    return units


def merge(units: Sequence[Unit], newer: Sequence[Unit]) -> list[Unit]:
    """Returns a plan with newer units in it: an input of one object is replaced whole, a folder unit by unit."""
    by_input: dict[str, dict[str, Unit]] = {}
    for unit in units:
        by_input.setdefault(unit.input, {})[unit.unit_id] = unit
    for uri in {unit.input for unit in newer if SOURCES[unit.source].one_object}:
        by_input[uri] = {}
    for unit in newer:
        by_input.setdefault(unit.input, {})[unit.unit_id] = unit
    return [unit for of_input in by_input.values() for unit in of_input.values()]


def load_keys(output: str, unit: Unit) -> list[str]:
    """Returns the keys of a unit's samples, in order."""
    if unit.keys_part is None:
        return []
    with storage.open_input(storage.join(output, "plan", "keys", unit.keys_part)) as stream:
        group = pq.ParquetFile(stream).read_row_group(unit.keys_row)
    return [str(key) for key in group.column("keys")[0].as_py()]
