"""Pseudo-labels made in this process, stage by stage, of annotations that are there."""

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from model.mano.synthetic import synthetic_hand
from pipeline.pseudo_labels.labels import Belongings
from pipeline.pseudo_labels.manifest import Written, write_manifest
from pipeline.pseudo_labels.near_duplicates import Motion
from pipeline.pseudo_labels.selection import (
    Balance,
    Chosen,
    select,
    store,
)
from pipeline.pseudo_labels.shards import Frames, ShardWriter, plan_shards
from pipeline.pseudo_labels.survey import Survey
from pipeline.pseudo_labels.thresholds import thresholds
from pipeline.records import UnitRecord
from pipeline.sinks.parts import Part, committed
from pipeline.units import load_plan
from tests.pipeline.evaluation.annotated import FINGERPRINT

ALL = Balance(Motion(0, 0), None, None, 64, None, 0)


@dataclass
class Made:
    """What a run left: the labels of its shards by member, their pictures, and the manifest's rows."""

    output: Path
    chosen: Chosen
    written: Written
    labels: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    manifest: list[dict[str, Any]] = field(default_factory=list)


def pseudo_label(
    predictions: Path,
    output: Path,
    *,
    fingerprint: str = FINGERPRINT,
    least: float = 0.0,
    rules: tuple[str, ...] = (),
    balance: Balance = ALL,
    frames: Frames = "whole",
    factor: float = 2.5,
) -> Made:
    """Runs all stages, as the command does on Ray."""
    units = load_plan(str(predictions))
    parts = committed(str(predictions), units, fingerprint)
    survey = Survey(
        str(output),
        str(predictions),
        parts,
        thresholds(least, rules, None),
        balance.seed,
        balance.equal_bits is not None,
        "s",
    )
    for unit in units:
        survey()(UnitRecord(unit))
    chosen, hands = select(str(output), units, balance)
    chosen = store(str(output), units, chosen, hands, per_shard=7, examples=3, fingerprint="f")
    writer = ShardWriter(
        output=str(output),
        predictions=str(predictions),
        units={unit.unit_id: unit for unit in units},
        parts=parts,
        belongings=Belongings(synthetic_hand().name, synthetic_hand().fingertip_vertices, "train"),
        frames=frames,
        crop_factor=factor,
        power=1.0,
        per_shard=7,
    )
    shards = plan_shards(str(predictions), chosen.pictures, 7, "f")
    for shard in shards:
        writer()(UnitRecord(shard))
    made = Made(output, chosen, write_manifest(str(output), shards, {}))
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                data = archive.extractfile(member).read()  # type: ignore[union-attr]
                stem, ending = member.name.split(".")
                if ending == "json":
                    made.labels[stem] = json.loads(data)
                else:
                    made.pictures[stem] = data
    made.manifest = pq.read_table(output / "manifest.parquet").to_pylist()
    return made


def parts_of(output: Path) -> Mapping[str, Part]:
    """Returns the committed parts of annotations."""
    return committed(str(output), load_plan(str(output)), FINGERPRINT)
