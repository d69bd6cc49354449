"""Plans a job's units: probes what is new among its inputs, here or on the cluster, and tells a person of it."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jobs import record
from jobs.console import say, some
from jobs.model_choice import ModelChoice
from pipeline import ray_data, storage
from pipeline.annotation import Annotation
from pipeline.boxes.given import Given
from pipeline.errors import ConfigError
from pipeline.plan import drop_plan
from pipeline.probe import probe
from pipeline.records import Unit
from pipeline.sources.source import Input
from pipeline.units import INPUTS_PER_PIECE, Piece, Settled, settle

# Stands there as long as the plan may not be whole, or belongs to no job.json yet; says whose plan it is.
UNFINISHED = "plan/unfinished.json"
SAY_EVERY_S = 10.0


def planned_by(output: str) -> str | None:
    """Returns the fingerprint of the job that planned what the output holds, None where none did."""
    about = record.read(output, UNFINISHED) or record.read(output, "job.json") or {}
    return about.get("fingerprint")


def begin(output: str, fingerprint: str) -> None:
    """Drops the plan of a job with other settings, and marks what is there as this job's and not whole.

    The parts of the other job follow when the new plan is there.
    """
    if planned_by(output) != fingerprint:
        drop_plan(output)
    elif is_unfinished(output):
        say("the planning was interrupted: it goes on where it was")
    record.write(output, UNFINISHED, {"fingerprint": fingerprint})


def end(output: str) -> None:
    """Marks the plan as whole; job.json, which says whose it is from now on, is there."""
    storage.delete(storage.join(output, UNFINISHED))


def describe(
    output: str,
    choice: ModelChoice,
    job: Annotation,
    settled: Settled,
    inputs: Sequence[Input],
    about: Mapping[str, Any],
) -> None:
    """Writes an output's job.json, with which its plan is whole.

    about: what else the command says of itself there.
    """
    weights = choice.weights
    content = {
        "command": "annotate",
        **about,
        "content": job.content,
        "fingerprint": job.fingerprint,
        "conventions": job.metadata,
        "weights": {
            "sha256": weights.sha256,
            "source": weights.source,
            "trained": weights.trained,
            "notes": dict(weights.notes),
        },
        "hand_model": choice.hand_model.name,
        "remarks": list(choice.remarks),
        "plan": {
            "units": len(settled.units),
            "digest": settled.digest,
            # What was never annotated of an input that is no longer asked for is not left to do.
            "given_up": sorted({unit.input for unit in settled.units} - {source.uri for source in inputs}),
        },
        "versions": record.versions(),
        "machine": record.machine(),
    }
    record.write(output, "job.json", content)
    end(output)


def is_unfinished(output: str) -> bool:
    """Says whether the output is being planned, or that was interrupted."""
    return record.read(output, UNFINISHED) is not None


def require_finished(output: str) -> None:
    """Refuses an output that is being planned: what is there of its plan may be a part, or another job's.

    Raises:
        ConfigError: it is, or that was interrupted.
    """
    if is_unfinished(output):
        raise ConfigError(
            f"{output}: it is being planned, or that was interrupted; the same annotate continues"
        )


def plan(
    job: Annotation,
    inputs: Sequence[Input],
    output: str,
    *,
    connect: Callable[[], object],
    stored: Sequence[Unit] | None = None,
    store: bool = True,
    doubt_damage: bool = False,
) -> Settled:
    """Holds the stored plan against the inputs, adds what is new, and says what changed.

    connect: connects to the cluster; called where there is more to probe than one machine should.
    stored, store, doubt_damage: as in `settle`.
    """
    settled = settle(
        output,
        inputs,
        unit_rows=job.unit_rows,
        crop_size=job.weights.config.input_size,
        probe=functools.partial(probe, sampling=job.sampling, needs_boxes=isinstance(job.boxes, Given)),
        run=functools.partial(_run, connect),
        stored=stored,
        store=store,
        doubt_damage=doubt_damage,
    )
    if settled.known and settled.added:
        say(f"new since the last run: {some(settled.added)}")
    if settled.changed:
        say(f"changed since the last run and done anew: {some(settled.changed)}")
    if settled.doubted:
        say(f"found damaged by an earlier run and looked at again: {some(settled.doubted)}")
    if settled.removed:
        say(f"no longer among the inputs (what was annotated stays): {some(settled.removed)}")
    return settled


def _run(
    connect: Callable[[], object], function: Callable[..., list[Unit]], pieces: Sequence[Piece]
) -> Iterator[list[Unit]]:
    """Runs the planning of pieces: one alone here, more as Ray tasks, with a line now and then."""
    if len(pieces) <= 1:
        yield from map(function, pieces)
        return
    total = sum(len(piece.inputs) for piece in pieces)
    say(f"planning: {total} inputs are looked at, {INPUTS_PER_PIECE} a task")
    connect()
    started = told = time.monotonic()
    done = 0
    planned = ray_data.in_order(function, pieces, carefully=functools.partial(function, apart=True))
    for piece, units in zip(pieces, planned, strict=True):
        done += len(piece.inputs)
        now = time.monotonic()
        if now - told > SAY_EVERY_S or done == total:
            told = now
            rate = done / (now - started)
            say(
                f"planning: {done} of {total} inputs, {rate:.0f} a second, {(total - done) / rate:.0f} s left"
            )
        yield units
