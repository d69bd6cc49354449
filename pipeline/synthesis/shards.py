"""Synthetic shards: units of a set that is a function of its seed."""

import io
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.mano.asset import HandModel
from pipeline import storage
from pipeline.flow import Flow, Stage
from pipeline.records import Counts, Unit, UnitRecord
from pipeline.synthesis.hands import HandKit
from pipeline.synthesis.labels import to_json
from pipeline.synthesis.sample import SceneSpec, encode_jpeg, synthesize


def plan_shards(output: str, *, count: int, seed: int, per_shard: int) -> list[Unit]:
    """Returns a unit per shard for samples 0 … count - 1 of a seed."""
    units = []
    for first in range(0, count, per_shard):
        last = min(first + per_shard, count)
        name = f"synthetic-{seed}-{first:08d}-{last:08d}"
        units.append(Unit(name, "synthetic", output, first, last, size=0, version=str(seed)))
    return units


def shard_uri(output: str, unit: Unit) -> str:
    """Returns where a shard lies; its existence is the commit."""
    return storage.join(output, f"{unit.unit_id}.tar")


class MakeShard:
    """Draws a unit's samples and writes them as one WebDataset tar."""

    def __init__(self, output: str, seed: int, spec: SceneSpec, hand_model: HandModel) -> None:
        self.output, self.seed, self.spec = output, seed, spec
        self.kit = HandKit(hand_model)

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        unit = record.unit
        stream = io.BytesIO()
        hands = 0
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for index in range(unit.first, unit.last):
                sample = synthesize(self.seed, index, self.spec, self.kit)
                hands += len(sample.label["hands"])
                _add(archive, f"{index:08d}.jpg", encode_jpeg(sample.image))
                _add(archive, f"{index:08d}.json", to_json(sample.label).encode())
        storage.put(shard_uri(self.output, unit), stream.getvalue())
        samples = unit.last - unit.first
        counts = Counts(samples=samples, samples_with_hands=samples, hands=hands, hands_annotated=hands)
        return replace(record, counts=counts).timed("synthesize", time.perf_counter() - started)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))


@dataclass(frozen=True)
class ShardMaker:
    """What every worker makes its `MakeShard` of."""

    output: str
    seed: int
    spec: SceneSpec
    hand_model: HandModel

    def __call__(self) -> MakeShard:
        return MakeShard(self.output, self.seed, self.spec, self.hand_model)


def synthesis_flow(maker: ShardMaker) -> Flow:
    """Returns the one stage that makes shards."""
    return Flow("synthesize", (Stage("synthesize", maker, cpus=1.0),))


def missing(output: str, units: Sequence[Unit]) -> list[Unit]:
    """Returns the shards that are not there yet."""
    there = {file.uri for file in storage.list_files(output)}
    return [unit for unit in units if shard_uri(output, unit) not in there]
