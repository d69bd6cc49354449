"""A unit's Parquet parts: the ledger, and the annotations, whose existence is the commit."""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.records import Counts, Unit


@dataclass(frozen=True)
class Part:
    """What a committed annotation part says of its unit."""

    unit_id: str
    unit_version: str
    fingerprint: str
    counts: Counts


def part_uri(output: str, folder: str, unit_id: str) -> str:
    """Returns where a unit's part lies; `folder` is annotations or ledger."""
    return storage.join(output, folder, f"{unit_id}.parquet")


def write_part(uri: str, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Writes a table with file metadata, atomically; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(dict(metadata)), sink, compression="zstd", store_schema=True)
    storage.put(uri, sink.getvalue())


def read_part(output: str, unit_id: str) -> Part | None:
    """Reads the footer of a unit's annotation part; None where it is missing or not ours."""
    try:
        with storage.open_input(part_uri(output, "annotations", unit_id)) as stream:
            metadata = pq.read_metadata(stream).metadata or {}
        said = {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"}
        return Part(unit_id, said["unit_version"], said["fingerprint"], Counts.from_json(said["counts"]))
    except (FileNotFoundError, pa.ArrowInvalid, KeyError, ValueError):
        return None


def read_table(output: str, folder: str, unit_id: str) -> pa.Table:
    """Returns a unit's part as a table; `folder` is annotations or ledger."""
    return pq.read_table(io.BytesIO(storage.read(part_uri(output, folder, unit_id))))


def committed(output: str, units: Sequence[Unit], fingerprint: str) -> dict[str, Part]:
    """Returns the parts of those units that are done: there, of this fingerprint, of the unit's version."""
    present = {storage.name_of(file.uri) for file in storage.list_files(storage.join(output, "annotations"))}
    there = [unit for unit in units if f"{unit.unit_id}.parquet" in present]
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(lambda unit: read_part(output, unit.unit_id), there))
    return {
        unit.unit_id: part
        for unit, part in zip(there, parts, strict=True)
        if part is not None and part.fingerprint == fingerprint and part.unit_version == unit.version
    }


def drop_orphans(output: str, units: Sequence[Unit]) -> int:
    """Removes what lies in the output for units that are no longer in the plan; returns how many parts.

    The annotation part goes first: without it the rest counts for nothing.
    """
    planned = {unit.unit_id for unit in units}
    dropped = 0
    for folder in ("annotations", "ledger", "meshes"):
        root = storage.join(output, folder)
        for file in storage.list_files(root):
            name = storage.key_below(root, file.uri).split("/", 1)[0]
            if name.removesuffix(".parquet").removesuffix(".tar") not in planned:
                storage.delete(file.uri)
                dropped += folder == "annotations"
    return dropped
