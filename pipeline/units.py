"""The units of a job: its inputs held against the stored plan, which is added to."""

import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline import storage
from pipeline.cut import (
    PlannedUnit,
    cut,
    files_by_key,
    most_rows,
    rows_per_unit,
    unit_id,
    version_of,
    version_of_all,
)
from pipeline.plan import ByInput, load_keys, load_plan, merge, next_number, store_keys, store_units, versions
from pipeline.records import Unit
from pipeline.sources import SOURCES
from pipeline.sources.source import Extent, Input

__all__ = ["Settled", "cut", "load_keys", "load_plan", "rows_per_unit", "settle", "unit_id", "within"]

# With more inputs than these nobody need know how many samples they hold together: there are enough units.
FEW_INPUTS = 64
INPUTS_PER_PIECE = 64
PIECES_PER_FILE = 16
STORE_EVERY_S = 60.0

Probe = Callable[..., Sequence[Extent]]


@dataclass(frozen=True)
class Settled:
    """A plan held against the inputs of a request.

    units: every unit of the plan, in order. requested: the ids of those whose input the request names.
    known: there was a plan before. added, changed, doubted, removed: URIs (or paths of loose images), for the log.
    incomplete: the ids of units some of whose images are gone: to do them anew would lose what is known of those.
    """

    units: tuple[Unit, ...]
    requested: frozenset[str]
    known: bool = False
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    doubted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    incomplete: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """Identifies the plan's content."""
        digest = hashlib.sha256()
        for number, unit in enumerate(self.units):
            digest.update(("\n" * bool(number) + unit.to_json()).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Piece:
    """Inputs of one object each that are probed and cut together; `name` begins the names of their keys' files."""

    name: str
    inputs: tuple[Input, ...]


Run = Callable[[Callable[..., list[Unit]], Sequence[Piece]], Iterable[list[Unit]]]


@dataclass
class _Changes:
    """What inputs have that the plan lacks; the fields of the log are those of `Settled`.

    fresh: inputs to be probed and cut, and the number of the first sample. replaced: units of which images changed.
    """

    fresh: list[tuple[Input, int]]
    replaced: list[PlannedUnit]
    added: list[str]
    changed: list[str]
    doubted: list[str]
    removed: list[str]
    incomplete: set[str]


def settle(
    output: str,
    inputs: Sequence[Input],
    *,
    unit_rows: int | None,
    crop_size: int,
    probe: Probe,
    run: Run = map,
    stored: Sequence[Unit] | None = None,
    store: bool = True,
    doubt_damage: bool = False,
) -> Settled:
    """Holds the stored plan against the inputs, and stores what has to be added to it.

    What is planned and unchanged stays as it is, however inputs grow; new inputs and new images of a known
    folder become new units; a changed input is planned anew.

    A request of few inputs is probed here and stored in one atomic write. The films, shards and tables of a longer
    one are probed and cut in pieces by `run`, which may do so on other machines and yields what it is given by
    piece, in order; they are stored some pieces at a time, so that a planning that is interrupted goes on from
    there. How large a unit is must then not depend on what other inputs hold: it is `unit_rows` or `most_rows`.

    stored: the plan to hold the inputs against, None for what the output holds. store: False writes nothing.
    doubt_damage: plans anew what was found damaged, though it did not change: it may be readable by now.
    """
    stored = load_plan(output) if stored is None else stored
    changes = _compare(output, inputs, stored, doubt_damage)
    is_few = len(inputs) <= FEW_INPUTS
    here = [item for item in changes.fresh if is_few or not SOURCES[item[0].source].one_object]
    extents = probe([source for source, _ in here])
    most = rows_per_unit(sum(len(extent.keys) for extent in extents), crop_size)
    rows = unit_rows or (most if is_few else most_rows(crop_size))
    planned = list(changes.replaced)
    for (source, first), extent in zip(here, extents, strict=True):
        planned += cut(source, extent, rows, first=first)
    by_input: ByInput = {}
    merge(by_input, stored)
    number = next_number(output)
    if planned:
        units = [item.unit for item in planned]
        if store:
            units = store_keys(output, f"{number:06d}", planned)
            store_units(output, number, units)
        merge(by_input, units)
    if not is_few:
        elsewhere = [source for source, _ in changes.fresh if SOURCES[source.source].one_object]
        plan = functools.partial(_plan_piece, output=output, rows=rows, probe=probe, store=store)
        for units in _in_pieces(
            output, number + bool(planned), elsewhere, functools.partial(run, plan), store
        ):
            merge(by_input, units)
    named = {source.uri for source in inputs}
    whole = [unit for of_input in by_input.values() for unit in of_input.values()]
    return Settled(
        units=tuple(whole),
        requested=frozenset(unit.unit_id for unit in whole if unit.input in named),
        known=bool(stored),
        added=tuple(changes.added),
        changed=tuple(changes.changed),
        doubted=tuple(changes.doubted),
        removed=tuple(changes.removed),
        incomplete=frozenset(changes.incomplete),
    )


def _compare(output: str, inputs: Sequence[Input], stored: Sequence[Unit], doubt_damage: bool) -> _Changes:
    """Holds inputs against the units of a plan."""
    by_input: dict[str, list[Unit]] = {}
    for unit in stored:
        by_input.setdefault(unit.input, []).append(unit)
    changes = _Changes([], [], [], [], [], [], set())
    for source in inputs:
        known = by_input.get(source.uri)
        if not known:
            changes.fresh.append((source, 0))
            changes.added.append(source.uri)
        elif not SOURCES[source.source].one_object:
            _compare_folder(output, source, known, changes)
        elif known[0].version != source.version:
            changes.fresh.append((source, 0))
            changes.changed.append(source.uri)
        elif doubt_damage and any(unit.damage is not None for unit in known):
            changes.fresh.append((source, 0))
            changes.doubted.append(source.uri)
    named = {source.uri for source in inputs}
    changes.removed += [uri for uri in by_input if uri not in named]
    return changes


def _compare_folder(output: str, folder: Input, known: Sequence[Unit], changes: _Changes) -> None:
    """Holds a folder of images against its units, whose images' versions are read some units at a time."""
    present = files_by_key(folder)
    new = dict(present)
    for unit, before in versions(output, known):
        gone = [key for key in before if key not in present]
        changes.removed += [storage.below(folder.uri, key) for key in gone]
        if gone:
            changes.incomplete.add(unit.unit_id)
        now = {key: version_of(present[key]) if key in present else before[key] for key in before}
        if now != before:
            unit = replace(unit, version=version_of_all(now, now.values()))
            changes.replaced.append(PlannedUnit(unit, tuple(now), tuple(now.values())))
            changes.changed.append(unit.unit_id)
        for key in before:
            new.pop(key, None)
    if new:
        files = Input(folder.uri, folder.source, tuple(new.values()))
        changes.fresh.append((files, max(unit.last for unit in known)))
        changes.added.append(f"{folder.uri} ({len(new)} new images)")


def _in_pieces(
    output: str,
    number: int,
    inputs: Sequence[Input],
    run: Callable[[Sequence[Piece]], Iterable[list[Unit]]],
    store: bool,
) -> Iterator[list[Unit]]:
    """Plans inputs of one object each piece by piece, and yields the units when their plan file is there."""
    starts = range(0, len(inputs), INPUTS_PER_PIECE)
    pieces = [
        # Numbers of plan files only grow, so that a killed planning leaves no keys under a name that comes again.
        Piece(f"{number:06d}-{index:06d}", tuple(inputs[start : start + INPUTS_PER_PIECE]))
        for index, start in enumerate(starts)
    ]
    units: list[Unit] = []
    stored_at = time.monotonic()
    for done, some in enumerate(run(pieces), start=1):
        units += some
        is_due = not done % PIECES_PER_FILE or time.monotonic() - stored_at > STORE_EVERY_S
        if is_due or done == len(pieces):
            if store:
                store_units(output, number, units)
            yield units
            number, units, stored_at = number + 1, [], time.monotonic()


def _plan_piece(
    piece: Piece, *, output: str, rows: int, probe: Probe, store: bool, apart: bool = False
) -> list[Unit]:
    """Probes and cuts a piece's inputs and stores its keys; the units that name them are the caller's to store.

    apart: as in `pipeline.probe`, for a piece over which workers died.
    """
    extents = probe(piece.inputs, apart=True) if apart else probe(piece.inputs)
    planned = [
        unit
        for source, extent in zip(piece.inputs, extents, strict=True)
        for unit in cut(source, extent, rows)
    ]
    return store_keys(output, piece.name, planned) if store else [item.unit for item in planned]


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
