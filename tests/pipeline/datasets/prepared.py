"""Prepares a fixture in this process and reads back what was written."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.datasets import DATASETS
from pipeline.datasets.hand_models import HandModels
from pipeline.datasets.shards import PrepareShard, plan_shards
from pipeline.records import Counts, UnitRecord


@dataclass(frozen=True)
class Prepared:
    """Labels and pictures of the shards, by key in their order, and the rows of the ledger."""

    labels: dict[str, dict[str, Any]]
    images: dict[str, bytes]
    ledger: list[dict[str, Any]]
    counts: Counts

    @property
    def hands(self) -> list[dict[str, Any]]:
        return [label["hands"][0] for label in self.labels.values()]


def prepare(
    name: str, root: Path | str, split: str, output: Path, models: HandModels | None, per_shard: int = 2
) -> Prepared:
    uri = storage.canonical(str(root))
    benchmark = DATASETS[name].find(uri, split, models)
    step = PrepareShard(str(output), benchmark, models)
    counts = Counts()
    for unit in plan_shards(name, split, uri, len(benchmark), per_shard):
        counts += step(UnitRecord(unit)).counts
    return read_back(output, counts)


def read_back(output: Path, counts: Counts) -> Prepared:
    labels, images, ledger = {}, {}, list[dict[str, Any]]()
    for shard in sorted(output.glob("*.tar")):
        ledger += pq.read_table(
            io.BytesIO((output / "ledger" / f"{shard.stem}.parquet").read_bytes())
        ).to_pylist()
        with tarfile.open(shard) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                key, ending = member.name.rsplit(".", 1)
                if ending == "json":
                    labels[key] = json.loads(stream.read())
                else:
                    images[key] = stream.read()
    return Prepared(labels, images, ledger, counts)
