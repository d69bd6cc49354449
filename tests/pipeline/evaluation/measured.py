"""Measures an output of annotate in this process, as a worker does."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from model.mano.asset import HandModel
from model.mano.synthetic import synthetic_hand
from pipeline.evaluation.errors import UnitMeasurer
from pipeline.evaluation.matching import match_units
from pipeline.evaluation.measurement import Measurement
from pipeline.inputs import find_inputs
from pipeline.records import Unit, UnitRecord
from pipeline.sinks.parts import Part, committed
from tests.pipeline.evaluation.annotated import FINGERPRINT


@dataclass(frozen=True)
class MeasuredOutput:
    """What was measured, and what it takes to go on with it."""

    output: str
    units: list[Unit]
    parts: dict[str, Part]
    measurement: Measurement


def measure(
    shards: Path,
    predictions: Path,
    output: Path,
    dataset: str = "shards",
    *,
    hand_model: HandModel | None = None,
    has_vertices: bool = True,
    boxes_given: bool = True,
) -> MeasuredOutput:
    matched = match_units(str(predictions), find_inputs([f"{shards}/*.tar"])[0])
    parts = committed(str(predictions), [unit.annotated for unit in matched], FINGERPRINT)
    hand = synthetic_hand()
    measurement = Measurement(
        dataset=dataset,
        predictions=str(predictions),
        parts=parts,
        hand_model=hand_model,
        hand_model_name=hand.name,
        fingertips=hand.fingertip_vertices,
        has_vertices=has_vertices,
        boxes_given=boxes_given,
        baseline=False,
        fingerprint="e" * 64,
    )
    units = [unit.labelled for unit in matched]
    step = UnitMeasurer(str(output), measurement)()
    for unit in units:
        step(UnitRecord(unit))
    return MeasuredOutput(str(output), units, parts, measurement)


def copy(shards: Path, to: Path) -> Path:
    to.mkdir(parents=True, exist_ok=True)
    for shard in shards.glob("*.tar"):
        shutil.copy(shard, to)
    return to
