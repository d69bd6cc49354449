"""Units of work: how inputs are cut into them, how the plan is stored, and what of it is left to do."""

import hashlib
import io
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.records import KEYS, PLAN, Unit
from pipeline.sources import SOURCES
from pipeline.sources.source import Extent, Input
from pipeline.storage import FileInfo

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
    """A unit, its samples' keys and, for loose images, their files' versions, before the plan is stored."""

    unit: Unit
    keys: tuple[str, ...]
    versions: tuple[str, ...] = ()


def cut(source: Input, extent: Extent, rows: int, *, first: int = 0) -> list[PlannedUnit]:
    """Cuts an input's samples into units of at most `rows`; the first sample has number `first`.

    A unit ends at the input's last seam within its reach, unless that would leave it less than half full.
    """
    one_object = SOURCES[source.source].one_object
    files = {} if one_object else _files(source)
    units = []
    bounds = _bounds(len(extent.keys), rows, extent.seams)
    for start, stop in pairwise(bounds):
        keys = tuple(extent.keys[start:stop])
        if one_object:
            versions: tuple[str, ...] = ()
            size, version = source.files[0].size, source.version
        else:
            versions = tuple(_version(files[key]) for key in keys)
            size, version = sum(files[key].size for key in keys), _digest(keys, versions)
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
            name=source.name,
        )
        units.append(PlannedUnit(unit, keys, versions))
    return units


def _bounds(samples: int, rows: int, seams: Sequence[int]) -> list[int]:
    """Returns where units begin and the last one ends; without samples there is one empty unit."""
    bounds = [0]
    while samples - bounds[-1] > rows:
        most = bounds[-1] + rows
        seam = seams[bisect_right(seams, most) - 1] if seams and seams[0] <= most else 0
        bounds.append(seam if 2 * seam > most + bounds[-1] else most)
    return [*bounds, samples]


def _files(folder: Input) -> dict[str, FileInfo]:
    return {storage.key_below(folder.uri, file.uri): file for file in folder.files}


def _version(file: FileInfo) -> str:
    return f"{file.size}-{file.version}"


def _digest(keys: Iterable[str], versions: Iterable[str]) -> str:
    """Returns the version of a unit of loose images."""
    digest = hashlib.sha256()
    for key, version in zip(keys, versions, strict=True):
        digest.update(f"{key}\0{version}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Settled:
    """A plan held against the inputs of a request.

    units: every unit of the plan, in order. requested: the ids of those whose input the request names.
    known: there was a plan before. added, changed, removed: URIs (or paths of loose images), for the log.
    incomplete: the ids of units some of whose images are gone: to do them anew would lose what is known of those.
    """

    units: tuple[Unit, ...]
    requested: frozenset[str]
    known: bool = False
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    incomplete: frozenset[str] = frozenset()

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
    incomplete: set[str] = set()
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
            present = _files(source)
            planned: set[str] = set()
            for unit in known:
                before = load_versions(output, unit)
                planned.update(before)
                gone = [key for key in before if key not in present]
                removed += [storage.below(source.uri, key) for key in gone]
                if gone:
                    incomplete.add(unit.unit_id)
                now = {key: _version(present[key]) if key in present else before[key] for key in before}
                if now != before:
                    unit = replace(unit, version=_digest(now, now.values()))
                    replaced.append(PlannedUnit(unit, tuple(now), tuple(now.values())))
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
        incomplete=frozenset(incomplete),
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
    number = max((int(storage.name_of(uri)[:6]) + 1 for uri in _plan_files(output)), default=0)
    rows = []
    for start in range(0, len(planned), KEYS_ROWS):
        part = f"{number:06d}-{start // KEYS_ROWS:06d}.parquet"
        some = planned[start : start + KEYS_ROWS]
        lists = [{"keys": list(item.keys), "versions": list(item.versions)} for item in some]
        table = pa.Table.from_pylist(lists, schema=KEYS)
        storage.put(storage.join(folder, "keys", part), _parquet(table, row_group_size=1))
        rows += [replace(item.unit, keys_part=part, keys_row=row) for row, item in enumerate(some)]
    table = pa.Table.from_pylist([asdict(unit) for unit in rows], schema=PLAN)
    storage.put(storage.join(folder, f"{number:06d}.parquet"), _parquet(table))
    return rows


def _parquet(table: pa.Table, row_group_size: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size)
    return sink.getvalue()


def _plan_files(output: str) -> list[str]:
    folder = storage.canonical(storage.join(output, "plan"))
    files = [file.uri for file in storage.list_files(folder)]
    return [uri for uri in files if re.fullmatch(r"\d{6}\.parquet", storage.key_below(folder, uri))]


def load_plan(output: str) -> list[Unit]:
    """Returns the units of the stored plan; a later plan file overrides an earlier one.

    Raises:
        ConfigError: a file of the plan is damaged.
    """
    units: list[Unit] = []
    for uri in _plan_files(output):
        try:
            rows = pq.read_table(io.BytesIO(storage.read(uri))).to_pylist()
            newer = [Unit(**row) for row in rows]
        except (pa.ArrowException, OSError, TypeError) as error:
            raise ConfigError(f"{uri}: the stored plan is damaged ({error}); use another --output") from error
        units = merge(units, newer)
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
    return [str(key) for key in _keys(output, unit)["keys"]]


def load_versions(output: str, unit: Unit) -> dict[str, str]:
    """Returns the versions that a unit's loose images had when they were planned, by key."""
    row = _keys(output, unit)
    return dict(zip(row["keys"], row["versions"], strict=True))


def _keys(output: str, unit: Unit) -> dict[str, list[str]]:
    if unit.keys_part is None:
        return {"keys": [], "versions": []}
    uri = storage.join(output, "plan", "keys", unit.keys_part)
    try:
        with storage.open_input(uri) as stream:
            row: dict[str, list[str]] = pq.ParquetFile(stream).read_row_group(unit.keys_row).to_pylist()[0]
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{uri}: the stored plan is damaged ({error}); use another --output") from error
    return row
