"""Which shards a run reads, and the runs of samples that they are read in."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.console import say, some
from model.errors import ModelError
from pipeline import ray_data, storage
from pipeline.errors import ConfigError, DataError
from pipeline.inputs import find_inputs, labelled
from pipeline.records import PLAN, Unit
from pipeline.sources import webdataset
from pipeline.sources.source import Extent, Input
from pipeline.training.labels import hand_model_of
from pipeline.units import cut

SEGMENT = 32


def plan(output: str, name: str, arguments: Sequence[str]) -> list[Unit]:
    """Returns runs of at most 32 consecutive samples of all shards; what is known of a shard is kept in the output.

    Raises:
        ConfigError: nothing is there, something is no shard, a shard cannot be read, or all are empty.
    """
    shards = _shards(arguments, say)
    stored = storage.join(output, f"{name}-shards.parquet")
    known = _known(stored)
    fresh = [shard for shard in shards if (shard.uri, shard.version) not in known]
    probed = ray_data.in_order(webdataset.probe, fresh) if fresh else ()
    for shard, extent in zip(fresh, probed, strict=True):
        known[shard.uri, shard.version] = _segments(shard, extent)
    units = [unit for shard in shards for unit in known[shard.uri, shard.version]]
    if empty := [shard.uri for shard in shards if not known[shard.uri, shard.version]]:
        say(f"note: passed over, holding no samples: {some(empty)}")
    if not units:
        raise ConfigError(f"{some([shard.uri for shard in shards])}: there are no samples in them")
    if fresh:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([asdict(unit) for unit in units], schema=PLAN), sink)
        storage.put(stored, sink.getvalue())
    damaged = [f"{unit.input}: {unit.damage}" for unit in units if unit.damage]
    if damaged:
        say(f"read only as far as they go: {some(damaged)}")
    return units


def hand_model_named(arguments: Sequence[str]) -> str | None:
    """Returns the hand model that the first sample of all names, None where there is no sample or it names none."""
    for shard in _shards(arguments):
        segments = _segments(shard, webdataset.probe(shard))
        try:
            for sample in webdataset.read_as_named(segments[0]) if segments else ():
                return hand_model_of(sample.key, sample.label)
        except (DataError, ModelError) as error:
            raise ConfigError(f"{shard.uri}: {error}") from error
    return None


def _shards(arguments: Sequence[str], note: Callable[[str], object] = lambda _: None) -> list[Input]:
    if not arguments:
        raise ConfigError(
            "needs SHARDS: folders or .tar files, as `handocc synthesize` and `handocc prepare` write"
        )
    found, _ = find_inputs(arguments)
    shards = labelled(found)
    others = sorted({item.uri for item in found} - {shard.uri for shard in shards})
    if not shards:
        raise ConfigError(f"{some(others)}: training reads .tar shards only; `handocc prepare` makes them")
    if others:
        note(f"note: passed over, being no training shards: {some(others)}")
    return sorted(shards, key=lambda shard: shard.uri)


def _segments(shard: Input, extent: Extent) -> list[Unit]:
    if not extent.keys and extent.damage:
        raise ConfigError(f"{shard.uri}: nothing of it can be read ({extent.damage}); leave it out")
    return [planned.unit for planned in cut(shard, extent, SEGMENT)] if extent.keys else []


def _known(stored: str) -> dict[tuple[str, str], list[Unit]]:
    known: dict[tuple[str, str], list[Unit]] = {}
    if storage.stat(stored) is not None:
        for row in pq.read_table(io.BytesIO(storage.read(stored))).to_pylist():
            unit = Unit(**row)
            known.setdefault((unit.input, unit.version), []).append(unit)
    return known
