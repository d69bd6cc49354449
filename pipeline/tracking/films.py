"""The films of an output of annotate: which there are, whether all of each is annotated, and their rows together."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.cut import input_id
from pipeline.records import Unit
from pipeline.sinks.parts import Part, read_file, read_table
from pipeline.tracking.tracks import COLUMNS, Frames

READS_AT_ONCE = 8


@dataclass(frozen=True)
class Film:
    """One film as a unit of tracking, and the parts of its annotation, in the order of its frames."""

    unit: Unit
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Films:
    """The films of an output; `incomplete` are the URIs of those of which units are not annotated."""

    whole: tuple[Film, ...]
    incomplete: tuple[str, ...]


def find_films(units: Sequence[Unit], done: Mapping[str, Part]) -> Films:
    """Returns the films among the units of a plan, of which `done` are annotated.

    A film's version says which annotations of it there are: it is tracked anew when they change.
    """
    by_film: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.source == "video":
            by_film.setdefault(unit.input, []).append(unit)
    whole, incomplete = [], []
    for uri, of_film in by_film.items():
        of_film.sort(key=lambda unit: unit.first)
        if any(unit.unit_id not in done for unit in of_film):
            incomplete.append(uri)
            continue
        parts = tuple(done[unit.unit_id] for unit in of_film)
        digest = hashlib.sha256()
        for part in parts:
            text = f"{part.unit_id} {part.unit_version} {part.fingerprint} {part.counts.to_json()}\n"
            digest.update(text.encode())
        unit = Unit(
            unit_id=input_id(uri),
            source="video",
            input=uri,
            first=of_film[0].first,
            last=of_film[-1].last,
            size=of_film[0].size,
            version=digest.hexdigest()[:32],
            name=of_film[0].name,
        )
        whole.append(Film(unit, parts))
    return Films(tuple(whole), tuple(incomplete))


def read_film(output: str, parts: Sequence[Part]) -> tuple[pa.Table, Frames]:
    """Returns a film's annotations (COLUMNS) from all its parts, and its frames, from the ledger.

    Frames whose time nobody knows, because they could not be read, are left out.
    """

    def read(part: Part) -> tuple[pa.Table, pa.Table]:
        return (
            read_table(output, "annotations", part, COLUMNS),
            read_table(output, "ledger", part, ("key", "frame_index", "timestamp")),
        )

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        tables = list(pool.map(read, parts))
    hands = pa.concat_tables([table.replace_schema_metadata(None) for table, _ in tables])
    ledger = pa.concat_tables([table.replace_schema_metadata(None) for _, table in tables])
    times = {
        frame: time
        for frame, time in zip(
            ledger["frame_index"].to_pylist(), ledger["timestamp"].to_pylist(), strict=True
        )
        if frame is not None and time is not None
    }
    index = np.array(sorted(times), np.int64)
    return hands, Frames(index, np.array([times[frame] for frame in index.tolist()], np.float64))


def read_tracks(output: str, film: Unit) -> pa.Table:
    """Returns a film's tracks."""
    return read_file(output, "tracks", film.unit_id)
