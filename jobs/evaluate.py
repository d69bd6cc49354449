"""`handocc evaluate`: how far predictions are from the labels of a benchmark, beside the paper's tables."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2

from jobs import exits, record, work
from jobs.annotate import actor_range, require_share
from jobs.cluster import connect, require_answer
from jobs.console import say, some
from jobs.model_choice import ModelChoice, choose_model
from jobs.options import option, require_least
from jobs.predictions import Predicted, Prediction, predict, stored
from model.mano.asset import HandModel
from model.predictor import Precision
from pipeline import lease, storage
from pipeline.annotation import Annotation
from pipeline.errors import ConfigError
from pipeline.evaluation.crops import EVALUATION_CROPS
from pipeline.evaluation.errors import ERRORS_VERSION, MISSING, REJECTED, evaluation_flow
from pipeline.evaluation.hands import HandPoser
from pipeline.evaluation.matching import MatchedUnit, match_units, require_same_hands
from pipeline.evaluation.measurement import Measurement
from pipeline.evaluation.overlays import worst_sheet
from pipeline.evaluation.report import (
    Measured,
    filled_tables,
    headlines,
    remarks,
    submission_remarks,
    table_file,
)
from pipeline.evaluation.submissions import FORMATS, NoSubmission, Submission, write_submission
from pipeline.evaluation.summary import Summary, drop_others, measured_units, summarise, to_json
from pipeline.evaluation.tables import TABLES, to_text
from pipeline.fingerprint import fingerprint_of
from pipeline.inputs import find_inputs, labelled
from pipeline.records import SCHEMA_VERSION, Unit
from pipeline.sinks.parts import Part, committed
from pipeline.sources.source import Input
from pipeline.units import within

Dataset = Literal["ho3d-v2", "ho3d-v3", "fpha", "dexycb", "freihand", "shards"]
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Options:
    """Measures a network, or stored annotations, against labelled shards by a benchmark's own protocol."""

    data: tuple[str, ...] = option(help="the labelled shards: what prepare, synthesize or pseudo-label wrote")
    dataset: Dataset = option(help="whose protocol; `shards`: the training validation's own")
    output: str = option(
        help="folder or URI that takes the results; the same command continues what is there"
    )
    weights: str | None = option(
        None,
        help="a checkpoint, shipped:tiny, or random:SEED for an untrained network, to annotate the shards with",
    )
    predictions: str | None = option(
        None, help="an output of annotate to measure instead, without the network"
    )
    model: str | None = option(None, help="paper, release or tiny; weights of ours know theirs")
    mano: str | None = option(
        None,
        help="MANO_RIGHT.pkl, the authors' checkpoint or synthetic, with --weights also the word checkpoint; with "
        "--predictions for meshes that are not stored",
    )
    precision: Precision = option("fp32", help="arithmetic of the network")
    unit_rows: int | None = option(None, help="samples per unit of work; default: at most 256 MiB of crops")
    batch_size: int | None = option(None, help="crops per forward pass; default 16 on CPUs, 64 on GPUs")
    actors: str | None = option(
        None, help="workers that hold the model, N or MIN:MAX; default: by what is there"
    )
    gpus_per_actor: float | None = option(None, help="default 1 where there are GPUs; 0 leaves them alone")
    baseline: Literal["none", "mean-pose"] = option("none", help="measures the hand at rest beside the rest")
    worst: int = option(16, help="how many of the worst hands to draw")
    limit: int | None = option(None, help="stop after the units that hold the first N samples")
    overwrite: bool = option(False, help="do anew what another job left in the output")
    address: str | None = option(None, help="a Ray cluster; default: RAY_ADDRESS, else this machine")


@dataclass(frozen=True)
class Network:
    """A network, how it is run, and the job of annotating with it."""

    model: ModelChoice
    how: Prediction
    job: Annotation


@dataclass(frozen=True)
class ToMeasure:
    """The annotations to measure, known before they are made: where, of which job, with which hand model.

    network: what makes them; None where they are stored.
    """

    uri: str
    fingerprint: str
    hand_model: HandModel | None
    network: Network | None


def run(options: Options) -> int:
    """Annotates what is not annotated yet, measures what is not measured yet, and sums up."""
    started = time.monotonic()
    _check(options)
    output = storage.canonical(options.output)
    shards = labelled_shards(options.data, output)
    with contextlib.ExitStack() as until_done:
        join = functools.cache(lambda: until_done.enter_context(connect(options.address)))
        to_measure = _to_measure(options, output)
        content = _content(options, to_measure)
        fingerprint = fingerprint_of(content)
        record.require_same(output, "evaluate", content, fingerprint, overwrite=options.overwrite)
        require_answer(options.address)
        storage.require_writable(output)
        until_done.enter_context(lease.hold(output))
        storage.sweep(output)
        predicted = _predicted(to_measure, shards, join, options.address)
        matched = _within(match_units(predicted.uri, shards), options.limit)
        if by_name := sorted({unit.labelled.input for unit in matched if unit.is_by_name}):
            say(f"note: taken for what was annotated, by name and samples' keys: {some(by_name)}")
        parts = annotated_parts(predicted, matched)
        if predicted.boxes_given:
            require_same_hands(predicted.uri, matched, parts)
        units = [unit.labelled for unit in matched]
        drop_others(output, units)
        done = measured_units(output, units, parts, fingerprint)
        left = [unit for unit in units if unit.unit_id not in done]
        about = record.job("evaluate", options, content)
        record.write(output, "job.json", about | {"weights": predicted.job["weights"]})
        _withdraw(output)
        if left:
            say(f"measuring {sum(unit.last - unit.first for unit in left)} images in {len(left)} units")
            join()
        flow = evaluation_flow(output, _measurement(options, predicted, parts, fingerprint))
        outcome = work.carry_out(lambda _: flow, left, address=options.address)
        summary = summarise(output, units, options.worst)
        measured = Measured(
            options.dataset,
            _method(predicted),
            predicted.job["hand_model"],
            predicted.job["weights"]["trained"],
            _other_crop(options.dataset, predicted),
        )
        notes = remarks(measured, summary)
        submission = _submit(options, output, predicted, units, parts, notes)
        _draw_worst(output, predicted, summary, units, parts)
        filled, lines = filled_tables(measured, summary), headlines(summary)
        storage.put(storage.join(output, "table.md"), table_file(filled, lines, notes).encode())
        seconds = time.monotonic() - started
        metrics = {
            "dataset": options.dataset,
            "predictions": predicted.uri,
            "confidence": predicted.job["conventions"].get("confidence"),
            **to_json(summary),
            "submission": None if submission is None else asdict(submission),
            "remarks": notes,
            "this_run": {
                "units": outcome.units,
                "samples": outcome.counts.samples,
                "seconds": round(seconds, 3),
                "seconds_per_stage": {name: round(spent, 3) for name, spent in outcome.seconds.items()},
            },
        }
        record.write(output, "metrics.json", metrics)
    print("\n\n".join(to_text(table) for table in filled[: len(TABLES[options.dataset])]), end="\n\n")
    print("\n".join(lines))
    for note in notes:
        say(f"note: {note}")
    if submission is not None:
        print(f"submission: {submission.uri}")
    print(f"results: {output}")
    lost = summary.counts[MISSING] - summary.not_found
    return exits.REJECTS if lost or summary.counts[REJECTED] else exits.DONE


def _other_crop(dataset: str, predicted: Predicted) -> str | None:
    """Returns how predictions were cut, None where that is how the benchmark is evaluated, or there is no benchmark."""
    content, crop = predicted.job["content"], EVALUATION_CROPS[dataset]
    same = content.get("boxes") == crop.identity and content.get("crop_rule") == asdict(crop.rule)
    if same or dataset == "shards":
        return None
    rule = predicted.job["conventions"].get("crop_rule", "an unknown crop rule")
    # The detector's options, or a table's version, are for the fingerprint.
    return f"--boxes {str(content.get('boxes')).split()[0]} and crop rule {rule}"


def _check(options: Options) -> None:
    if (options.weights is None) == (options.predictions is None):
        raise ConfigError(
            "needs --weights, to annotate the shards, or --predictions, an output of annotate: one of them"
        )
    require_least(options, "unit_rows", "batch_size", "limit")
    if options.worst < 0:
        raise ConfigError(f"--worst {options.worst}: must not be negative")
    require_share(options.gpus_per_actor)
    actor_range(options.actors)


def labelled_shards(data: Sequence[str], output: str) -> list[Input]:
    """Returns the shards that --data names.

    Raises:
        ConfigError: there are none.
    """
    inputs, _ = find_inputs(data, output=output, note=say)
    shards = labelled(inputs)
    if not shards:
        raise ConfigError(f"--data {' '.join(data)}: holds no .tar; `handocc prepare` writes labelled shards")
    return shards


def _to_measure(options: Options, output: str) -> ToMeasure:
    """Returns the stored annotations, or those that the network will make in the output."""
    if options.predictions is not None:
        found = stored(options.predictions, options.mano)
        return ToMeasure(found.uri, found.job["fingerprint"], found.hand_model, None)
    assert options.weights is not None
    choice = choose_model(options.model, options.weights, options.mano)
    how = Prediction(
        precision=options.precision,
        unit_rows=options.unit_rows,
        batch_size=options.batch_size,
        actors=actor_range(options.actors),
        gpus_per_actor=options.gpus_per_actor,
        limit=options.limit,
    )
    job = how.annotation(choice, EVALUATION_CROPS[options.dataset])
    for remark in (*choice.remarks, *job.remarks):
        say(f"note: {remark}")
    uri = storage.join(output, PREDICTIONS)
    record.require_same(uri, "annotate", job.content, job.fingerprint, overwrite=options.overwrite)
    return ToMeasure(uri, job.fingerprint, choice.hand_model, Network(choice, how, job))


def _predicted(
    to_measure: ToMeasure, shards: Sequence[Input], join: Callable[[], object], address: str | None
) -> Predicted:
    """Returns the annotations to measure, after making what is lacking of them if there is a network."""
    uri, network = to_measure.uri, to_measure.network
    if network is not None:
        predict(network.how, network.model, network.job, shards, uri, connect=join, address=address)
    return Predicted(uri, record.of_annotate(uri), to_measure.hand_model)


def _within(matched: Sequence[MatchedUnit], limit: int | None) -> list[MatchedUnit]:
    """The first units that together hold so many samples."""
    taken = {unit.unit_id for unit in within([unit.labelled for unit in matched], limit)}
    return [unit for unit in matched if unit.labelled.unit_id in taken]


def annotated_parts(predicted: Predicted, matched: Sequence[MatchedUnit]) -> dict[str, Part]:
    """Returns where the annotations of units lie, by unit id.

    Raises:
        ConfigError: some units are not annotated yet.
    """
    parts = committed(predicted.uri, [unit.annotated for unit in matched], predicted.job["fingerprint"])
    if len(parts) < len(matched):
        left = {unit.annotated.input for unit in matched if unit.annotated.unit_id not in parts}
        raise ConfigError(
            f"{predicted.uri}: {len(matched) - len(parts)} of {len(matched)} units of these shards are not annotated "
            f"yet; {record.way_to_the_end(predicted.job, left)}"
        )
    return parts


def _content(options: Options, to_measure: ToMeasure) -> dict[str, Any]:
    """What decides the errors, beside the labels."""
    if options.baseline != "none" and to_measure.hand_model is None:
        raise ConfigError(f"--baseline {options.baseline} needs --mano: the annotations' own hand model")
    return {
        "schema_version": SCHEMA_VERSION,
        "errors_version": ERRORS_VERSION,
        "dataset": options.dataset,
        "predictions": to_measure.uri,
        "predictions_fingerprint": to_measure.fingerprint,
        "hand_model": None if to_measure.hand_model is None else to_measure.hand_model.name,
        "baseline": options.baseline,
    }


def _measurement(
    options: Options, predicted: Predicted, parts: Mapping[str, Part], fingerprint: str
) -> Measurement:
    tips = predicted.job["conventions"]["fingertip_vertices"].split(",")
    return Measurement(
        dataset=options.dataset,
        predictions=predicted.uri,
        parts=parts,
        hand_model=predicted.hand_model,
        hand_model_name=predicted.job["hand_model"],
        fingertips=tuple(int(tip) for tip in tips),
        has_vertices=bool(predicted.job["content"].get("vertices")),
        boxes_given=predicted.boxes_given,
        baseline=options.baseline != "none",
        fingerprint=fingerprint,
    )


def _method(predicted: Predicted) -> str:
    """The name of the predictions' row in a table."""
    model, weights = predicted.job["conventions"]["model"], predicted.job["weights"]
    return f"handocc {model}, {weights['source']} {weights['sha256'][:8]}"


def _withdraw(output: str) -> None:
    """Takes back what was summed up before; the errors themselves stay."""
    for name in ("metrics.json", "table.md", "worst.jpg"):
        storage.delete(storage.join(output, name))
    for file in list(storage.list_files(storage.join(output, "submission"))):
        storage.delete(file.uri)


def _submit(
    options: Options,
    output: str,
    predicted: Predicted,
    units: Sequence[Unit],
    parts: Mapping[str, Part],
    notes: list[str],
) -> Submission | None:
    """Writes the benchmark's own file, if it has one, and notes what is special about it."""
    if options.dataset not in FORMATS:
        return None
    poser = None if predicted.hand_model is None else HandPoser(predicted.hand_model)
    try:
        written = write_submission(
            output, options.dataset, predictions=predicted.uri, units=units, parts=parts, poser=poser
        )
    except NoSubmission as reason:
        notes.append(f"no submission was written: {reason}")
        return None
    notes += submission_remarks(options.dataset, written)
    return written


def _draw_worst(
    output: str,
    predicted: Predicted,
    summary: Summary,
    units: Sequence[Unit],
    parts: Mapping[str, Part],
) -> None:
    picture = worst_sheet(
        predicted.uri,
        summary.worst,
        {unit.unit_id: unit for unit in units},
        parts,
        predicted.hand_model,
        None if predicted.job["weights"]["trained"] else "UNTRAINED",
    )
    if picture is not None:
        done, data = cv2.imencode(".jpg", picture[..., ::-1])
        assert done, "OpenCV could not encode a picture of our own"
        storage.put(storage.join(output, "worst.jpg"), data.tobytes())


if __name__ == "__main__":
    from jobs.cli import command

    command(["evaluate", *sys.argv[1:]])
