"""How an input's samples are cut into units of bounded size, and what those are called."""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline import storage
from pipeline.records import Unit
from pipeline.sources import SOURCES
from pipeline.sources.source import Extent, Input
from pipeline.storage import FileInfo

SMALLEST_UNIT = 16
UNITS_PER_JOB = 64
UNIT_BYTES = 256 << 20


def input_id(uri: str) -> str:
    """Returns `<slug>-<hash>` of an input."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", storage.name_of(uri)).strip("-")[:80].strip("-") or "input"
    digest = hashlib.sha256(storage.canonical(uri).encode()).hexdigest()[:16]
    return f"{slug}-{digest}"


def unit_id(uri: str, first: int, last: int) -> str:
    """Returns `<slug>-<hash>-<first>-<last>` for samples [first, last) of an input."""
    return f"{input_id(uri)}-{first:08d}-{last:08d}"


def most_rows(crop_size: int) -> int:
    """Returns how many samples a unit holds at most unless an option says so: 256 MiB of crops."""
    return max(1, UNIT_BYTES // (crop_size * crop_size * 3))


def rows_per_unit(samples: int, crop_size: int) -> int:
    """Returns how many samples a unit holds unless an option says so, in a job of few inputs.

    A small job is cut finer than `most_rows`, so that little is lost with a unit and progress shows.
    """
    return min(most_rows(crop_size), max(SMALLEST_UNIT, -(-samples // UNITS_PER_JOB)))


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
    files = {} if one_object else files_by_key(source)
    units = []
    bounds = _bounds(len(extent.keys), rows, extent.seams)
    for start, stop in pairwise(bounds):
        keys = tuple(extent.keys[start:stop])
        if one_object:
            versions: tuple[str, ...] = ()
            size, version = source.files[0].size, source.version
        else:
            versions = tuple(version_of(files[key]) for key in keys)
            size, version = sum(files[key].size for key in keys), version_of_all(keys, versions)
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


def files_by_key(folder: Input) -> dict[str, FileInfo]:
    """Returns the files of a folder by their paths below it."""
    return {storage.key_below(folder.uri, file.uri): file for file in folder.files}


def version_of(file: FileInfo) -> str:
    """Returns what changes when a file's content does."""
    return f"{file.size}-{file.version}"


def version_of_all(keys: Iterable[str], versions: Iterable[str]) -> str:
    """Returns the version of a unit of loose images."""
    digest = hashlib.sha256()
    for key, version in zip(keys, versions, strict=True):
        digest.update(f"{key}\0{version}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
