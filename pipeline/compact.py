"""Merges the small parts of many short inputs into bigger ones, so that no moment shows a row twice.

No store moves many files at once. A merged part is therefore made whole in `OUTPUT/compaction/`, where nobody looks
for results, then the parts that it replaces are deleted, then it is put in their place. In between rows are
missing from `annotations/*.parquet`, and `summary.json`, which says that an output is whole, waits in `compaction/`
as well. From the moment the merged annotations lie there a killed compaction is finished by whoever comes next;
before that it is undone. All of it is for the holder of the output's lease.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pipeline import storage
from pipeline.records import Counts, Unit
from pipeline.sinks.parts import (
    COMPACTED,
    Part,
    Rows,
    part_uri,
    read_file,
    read_metadata,
    read_parts,
    write_part,
)

STAGING = "compaction"
FOLDERS = ("annotations", "ledger")
# A reader of one unit fetches a few of these, a reader of a whole part is not slowed by their number.
ROWS_PER_GROUP = 4096


@dataclass(frozen=True)
class Group:
    """Parts that become one: the names of their files, and their units in the order of the rows."""

    files: tuple[str, ...]
    parts: tuple[Part, ...]


def choose(output: str, units: Sequence[Unit], done: Mapping[str, Part], part_bytes: int) -> list[Group]:
    """Returns which parts to merge, in the plan's order: those under half of `part_bytes`, up to it together.

    A part of which anything is stale, or whose ledger is gone, is left as it is.
    """
    annotations, ledger = (_sizes(output, folder) for folder in FOLDERS)
    by_file: dict[str, list[Part]] = {}
    for unit in units:
        if unit.unit_id in done:
            by_file.setdefault(done[unit.unit_id].file, []).append(done[unit.unit_id])
    groups, files, parts, size = [], list[str](), list[Part](), 0
    for file in by_file:
        if annotations.get(file, part_bytes) > part_bytes // 2 or file not in ledger:
            continue
        inside = read_parts(output, file) if file.startswith(COMPACTED) else by_file[file]
        if len(inside) != len(by_file[file]):
            continue
        if size + annotations[file] > part_bytes:
            groups.append(Group(tuple(files), tuple(parts)))
            files, parts, size = [], [], 0
        files.append(file)
        parts += inside
        size += annotations[file]
    groups.append(Group(tuple(files), tuple(parts)))
    return [group for group in groups if len(group.files) > 1]


def _sizes(output: str, folder: str) -> dict[str, int]:
    files = storage.list_files(storage.join(output, folder))
    return {storage.name_of(file.uri).removesuffix(".parquet"): file.size for file in files}


def merge(output: str, groups: Sequence[Group]) -> Iterator[Group]:
    """Merges each group, and yields it when that is done."""
    if not groups:
        return
    _move(storage.join(output, "summary.json"), storage.join(output, STAGING, "summary.json"))
    for group in groups:
        _replace(output, _stage(output, group))
        yield group
    finish(output)


def _stage(output: str, group: Group) -> str:
    """Writes the merged part where nobody looks yet, its annotations last; returns its name."""
    with ThreadPoolExecutor(16) as pool:
        annotations, ledgers = (
            list(pool.map(functools.partial(read_file, output, folder), group.files)) for folder in FOLDERS
        )
    parts: list[Part] = []
    for file, rows, ledger in zip(group.files, annotations, ledgers, strict=True):
        inside = [part for part in group.parts if part.file == file]
        if inside[0].annotations is None:
            inside = [replace(inside[0], annotations=Rows(0, rows.num_rows), ledger=Rows(0, ledger.num_rows))]
        assert sum(part.counts.hands_annotated for part in inside) == rows.num_rows
        parts += inside
    name = f"{COMPACTED}{_digest(group)}"
    metadata = _metadata(read_metadata(output, "annotations", group.files[0]), parts)
    metadata["replaces"] = json.dumps(group.files)
    staging = storage.join(output, STAGING)
    write_part(part_uri(staging, "ledger", name), _joined(ledgers), metadata, ROWS_PER_GROUP)
    write_part(part_uri(staging, "annotations", name), _joined(annotations), metadata, ROWS_PER_GROUP)
    return name


def _digest(group: Group) -> str:
    text = [*group.files, *(f"{part.unit_id} {part.unit_version} {part.fingerprint}" for part in group.parts)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    plain = [table.replace_schema_metadata(None) for table in tables]
    return pa.concat_tables(plain, promote_options="default")


def _metadata(said: Mapping[str, str], parts: Sequence[Part]) -> dict[str, str]:
    """Returns what a merged part says of itself, from what one that it replaces says."""
    listed = [
        {
            "unit_id": part.unit_id,
            "unit_version": part.unit_version,
            "counts": asdict(part.counts),
            "annotations": part.annotations.count,
            "ledger": part.ledger.count,
        }
        for part in parts
        if part.annotations and part.ledger
    ]
    assert len(listed) == len(parts)
    kept = {key: value for key, value in said.items() if key not in ("unit_id", "unit_version", "replaces")}
    total = sum((part.counts for part in parts), Counts())
    return kept | {"counts": total.to_json(), "compacted": json.dumps(listed)}


def _replace(output: str, name: str) -> None:
    """Puts a staged part in the place of those that it replaces; can be repeated from any point."""
    staging = storage.join(output, STAGING)
    replaced = json.loads(read_metadata(staging, "annotations", name)["replaces"])
    for folder in FOLDERS:
        storage.delete_all(part_uri(output, folder, file) for file in replaced)
    for folder in reversed(FOLDERS):
        _move(part_uri(staging, folder, name), part_uri(output, folder, name))


def _move(uri: str, target: str) -> None:
    """Moves an object if it is there; killed in between, both hold the same."""
    try:
        storage.put(target, storage.read(uri))
    except FileNotFoundError:
        return
    storage.delete(uri)


def _names(output: str, folder: str) -> set[str]:
    return {name for name in _sizes(output, folder) if name.startswith(COMPACTED)}


def is_interrupted(output: str) -> bool:
    """Says whether a compaction was killed here, or runs now."""
    return any(True for _ in storage.list_files(storage.join(output, STAGING)))


def finish(output: str) -> bool:
    """Completes or undoes what a killed compaction left; says whether there was anything."""
    staging = storage.join(output, STAGING)
    if not is_interrupted(output):
        return False
    staged = _names(staging, "annotations")
    for name in _names(staging, "ledger") - staged:
        storage.delete(part_uri(staging, "ledger", name))
    for name in sorted(staged):
        _replace(output, name)
    _move(storage.join(staging, "summary.json"), storage.join(output, "summary.json"))
    return True


def release(output: str, staying: Set[str]) -> int:
    """Takes the rows of all units but those that stay out of merged parts; returns how many units that were.

    For units that are done anew, which would else be there twice. The annotations go first: a unit that is not
    listed there is not done, and its ledger rows go with the next call.
    """
    released = 0
    present = _names(output, "annotations")
    for name in sorted(present | _names(output, "ledger")):
        parts = read_parts(output, name)
        if name in present and not parts:
            continue  # not readable: nothing is deleted that was not understood
        kept = {part.unit_id for part in parts} & staying
        released += len(parts) - len(kept)
        for folder in FOLDERS:
            _keep(output, folder, name, kept)
    return released


def _keep(output: str, folder: str, name: str, kept: Set[str]) -> None:
    listed = read_parts(output, name, folder)
    if not kept:
        storage.delete(part_uri(output, folder, name))
    elif len(listed) > len(kept):
        parts = [part for part in listed if part.unit_id in kept]
        whole = read_file(output, folder, name)
        rows = [part.annotations if folder == "annotations" else part.ledger for part in parts]
        tables = [whole.slice(some.first, some.count) for some in rows if some]
        metadata = _metadata(read_metadata(output, folder, name), parts)
        write_part(part_uri(output, folder, name), _joined(tables), metadata, ROWS_PER_GROUP)
