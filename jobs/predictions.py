"""The annotations that `handocc evaluate` measures: stored ones, or those that it makes of labelled shards.

What it makes is an output of annotate: `handocc status` and `handocc report` read it, and it is continued like one.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs import planning, record, work
from jobs.cluster import Resources
from jobs.console import say
from jobs.model_choice import ModelChoice, choose_hand_model
from model.mano.asset import HandModel
from model.mano.synthetic import synthetic_hand
from model.predictor import Precision
from pipeline import compact, lease, storage
from pipeline.annotation import Annotation
from pipeline.errors import ConfigError
from pipeline.evaluation.crops import EvaluationCrop
from pipeline.flow import Flow
from pipeline.sinks.parts import committed, drop_orphans, withdraw
from pipeline.sources.source import Input
from pipeline.units import within

BY_EVALUATE = {"by": "evaluate"}


@dataclass(frozen=True)
class Predicted:
    """An output of annotate: where it lies, its job.json, and the hand model of its parameters if that is at hand."""

    uri: str
    job: Mapping[str, Any]
    hand_model: HandModel | None

    @property
    def boxes_given(self) -> bool:
        """Says whether its boxes were the labels' own, hand by hand."""
        return str(self.job["content"].get("boxes")).startswith("given")


def stored(output: str, mano: str | None) -> Predicted:
    """Returns an output of annotate that can be held against labels.

    Raises:
        ConfigError: it is none, has no boxes, or `mano` is not its hand model.
    """
    uri = storage.canonical(output)
    job = record.of_annotate(uri)
    planning.require_finished(uri)
    if job["content"].get("boxes") == "whole":
        raise ConfigError(
            f"--predictions {output}: annotated with --boxes whole, so that nobody knows which of the labelled hands "
            "is meant; annotate with --boxes given, detect or a table"
        )
    return Predicted(uri, job, own_hand_model(job, mano))


def own_hand_model(job: Mapping[str, Any], mano: str | None) -> HandModel | None:
    """Returns the hand model that the annotations' parameters belong to; None where it has to be named and is not.

    Raises:
        ConfigError: `mano` is another one, or cannot be read.
    """
    name = str(job["hand_model"])
    if mano is None:
        hand_model = synthetic_hand()
        return hand_model if hand_model.name == name else None
    hand_model, _ = choose_hand_model(mano)
    if hand_model.name != name:
        raise ConfigError(
            f"--mano {mano}: is hand model {hand_model.name[:20]}, the annotations' parameters belong to {name[:20]}"
        )
    return hand_model


@dataclass(frozen=True)
class Prediction:
    """How the shards are annotated; the fields are annotate's options of the same names."""

    precision: Precision
    unit_rows: int | None
    batch_size: int | None
    actors: tuple[int, int] | None
    gpus_per_actor: float | None
    limit: int | None

    def annotation(self, choice: ModelChoice, crop: EvaluationCrop) -> Annotation:
        """Returns the job that annotates what the labels box, without vertices: the parameters give them."""
        return Annotation(
            weights=choice.weights,
            hand_model=choice.hand_model,
            boxes=crop.boxes,
            boxes_identity=crop.identity,
            side=None,
            crop_rule=crop.rule,
            precision=self.precision,
            meshes="none",
            vertices=False,
            unit_rows=self.unit_rows,
        )

    def flow(self, job: Annotation, output: str, resources: Resources) -> Flow:
        """Returns the job's stages, spread over a cluster."""
        workers = resources.spread(actors=self.actors, gpus_per_actor=self.gpus_per_actor)
        return job.flow(output, workers, self.batch_size or workers.crops_at_once)


def predict(
    prediction: Prediction,
    choice: ModelChoice,
    job: Annotation,
    inputs: Sequence[Input],
    output: str,
    *,
    connect: Callable[[], object],
    address: str | None,
) -> None:
    """Annotates what of the inputs is not annotated in the output yet; its settings must be the job's.

    connect: connects to the cluster for the rest of the command; called when there is something to do.
    """
    with lease.hold(output):
        storage.sweep(output)
        compact.finish(output)
        planning.begin(output, job.fingerprint)
        settled = planning.plan(job, inputs, output, connect=connect)
        drop_orphans(output, settled.units)
        # In the order in which they are measured, which is what a limit counts in.
        order = {source.uri: number for number, source in enumerate(inputs)}
        requested = [unit for unit in settled.units if unit.unit_id in settled.requested]
        units = within(sorted(requested, key=lambda unit: (order[unit.input], unit.first)), prediction.limit)
        done = committed(output, settled.units, job.fingerprint)
        left = [unit for unit in units if unit.unit_id not in done]
        compact.release(output, {unit.unit_id for unit in settled.units} - {unit.unit_id for unit in left})
        planning.describe(output, choice, job, settled, inputs, BY_EVALUATE)
        if not left:
            return
        say(f"annotating {sum(unit.last - unit.first for unit in left)} images in {len(left)} units")
        storage.delete(storage.join(output, "summary.json"))
        withdraw(output, left)
        connect()
        work.carry_out(functools.partial(prediction.flow, job, output), left, address=address)
