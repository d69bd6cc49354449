"""OUTPUT/manifest.parquet: every hand of the shards, where it comes from and where it is; and what became of all."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.pseudo_labels.selection import KEPT, Chosen
from pipeline.pseudo_labels.shards import ACCOUNT, FOLDER
from pipeline.records import Unit
from pipeline.sinks.parts import part_uri, read_file
from pipeline.synthesis.shards import shard_uri

FILE = "manifest.parquet"
READS_AT_ONCE = 16
ROWS_A_GROUP = 100_000  # and more: the footer has a word on every column of every group


@dataclass
class Written:
    """What is in the shards. lost: hands by side, source and reason that were chosen, and are not in them."""

    hands: int = 0
    pictures: int = 0
    weight: float = 0.0
    lost: Counter[tuple[str, str, str]] = field(default_factory=Counter)


def missing(output: str, shards: Sequence[Unit]) -> list[Unit]:
    """Returns the shards that are not there yet."""
    # Below it lie the annotations too, as many files as hands where each has a mesh.
    there = {file.uri for file in storage.list_files(output) if file.uri.endswith(".tar")}
    return [shard for shard in shards if shard_uri(output, shard) not in there]


def write_manifest(output: str, shards: Sequence[Unit], metadata: dict[str, str]) -> Written:
    """Writes the accounts of all shards as one table, in order; holds it compressed.

    Raises:
        ConfigError: the account of a shard that is there is missing or damaged.
    """
    written, left, sink = Written(), iter(shards), io.BytesIO()
    waiting: list[pa.Table] = []
    schema = ACCOUNT.remove(ACCOUNT.get_field_index("dropped"))
    with (
        pq.ParquetWriter(sink, schema.with_metadata(metadata), compression="zstd") as writer,
        ThreadPoolExecutor(READS_AT_ONCE) as pool,
    ):
        while some := list(islice(left, READS_AT_ONCE)):
            for table in pool.map(lambda shard: _account(output, shard), some):
                is_there = pc.is_null(table["dropped"])
                for row in table.filter(pc.invert(is_there)).to_pylist():
                    written.lost[row["side"], row["source"], row["dropped"]] += 1
                rows = table.filter(is_there)
                written.hands += rows.num_rows
                written.pictures += len(pc.unique(rows["member"]))
                written.weight += pc.sum(rows["weight"]).as_py() or 0.0
                waiting.append(rows.select(schema.names).replace_schema_metadata(metadata))
                if sum(len(table) for table in waiting) >= ROWS_A_GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    storage.put(storage.join(output, FILE), sink.getvalue())
    return written


def fates(chosen: Chosen, written: Written) -> dict[str, Any]:
    """Returns what became of every annotated hand: in all, by side and by source."""
    counts = chosen.counts.copy()
    for (side, source, reason), number in written.lost.items():
        counts[side, source, KEPT] -= number
        counts[side, source, reason] += number
    total = _by(counts, lambda _side, _source: "all").get("all", {})
    assert sum(total.values()) == chosen.hands, "hands were lost between the annotations and the account"
    assert total.get(KEPT, 0) == written.hands
    return {
        "hands": {
            "annotated": chosen.hands,
            "kept": written.hands,
            "dropped": {reason: number for reason, number in total.items() if reason != KEPT},
        },
        "pictures": written.pictures,
        "mean_weight": round(written.weight / written.hands, 4) if written.hands else None,
        "by_side": _by(counts, lambda side, _source: side),
        "by_source": _by(counts, lambda _side, source: source),
    }


def _by(
    counts: Mapping[tuple[str, str, str], int], group: Callable[[str, str], str]
) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (side, source, reason), number in sorted(counts.items()):
        row = found.setdefault(group(side, source), {})
        row[reason] = row.get(reason, 0) + number
    return found


def _account(output: str, shard: Unit) -> pa.Table:
    try:
        return read_file(output, FOLDER, shard.unit_id)
    except (OSError, pa.ArrowException) as error:
        where = part_uri(output, FOLDER, shard.unit_id)
        raise ConfigError(
            f"{where}: is missing or damaged ({error}); remove {shard.unit_id}.tar to do that shard again"
        ) from error
