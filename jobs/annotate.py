"""`handocc annotate`: hands in images to MANO parameters, joints and meshes."""

import contextlib
import functools
import math
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from jobs import exits, planning, record, work
from jobs.cluster import Resources, connect, is_here, require_answer
from jobs.console import say, some
from jobs.model_choice import ModelChoice, choose_crop_rule, choose_model
from jobs.options import option, require_least
from model.predictor import Precision
from pipeline import boxes, compact, lease, storage
from pipeline.annotation import Annotation
from pipeline.boxes.detect import Detect, DetectorOptions
from pipeline.boxes.table import Table
from pipeline.cut import input_id
from pipeline.errors import ConfigError
from pipeline.flow import Flow, Workers
from pipeline.inputs import find_inputs
from pipeline.intrinsics import camera_rule
from pipeline.plan import any_keys, load_keys
from pipeline.records import Counts, Unit
from pipeline.sinks.parts import committed, drop_orphans, withdraw
from pipeline.sources.sampling import Sampling
from pipeline.sources.source import Input
from pipeline.tracking.stage import forget_tracks
from pipeline.units import Settled, within

ENOUGH_TO_JUDGE = 100
UNITS_TO_MATCH = 256
INPUTS_TO_MATCH = 64  # where keys begin anew in every input, the first few tell


@dataclass(frozen=True)
class Options:
    """Annotates every hand in images: MANO parameters, 21 joints and, on request, a 778-vertex mesh."""

    inputs: tuple[str, ...] = option(
        help="folders, .tar shards, .parquet tables, films, globs, {00..99}, @list.txt", positional=True
    )
    output: str = option(
        help="folder or URI that takes the results; the same command continues what is there"
    )
    boxes: str = option("given", help=f"where hands are: {boxes.CHOICES}")
    detector: str | None = option(
        None, help="with --boxes detect: its .task file; default: where `handocc fetch-detector` puts it"
    )
    max_hands: int = option(
        DetectorOptions.max_hands, help="with --boxes detect: most hands of one image, the largest first"
    )
    tiles: int = option(
        DetectorOptions.tiles, help="with --boxes detect: look into N x N parts as well, for small hands"
    )
    side: Literal["right", "left"] | None = option(None, help="whose hand it is, where the boxes do not say")
    box_scale: float | None = option(
        None, help="how far a box is enlarged, in place of the crop rule's factor"
    )
    every: int | None = option(None, help="of films, take every N-th frame")
    fps: float | None = option(None, help="of films, take the first frame at or after each tick, X a second")
    model: str | None = option(None, help="paper, release or tiny; weights of ours know theirs")
    weights: str | None = option(
        None, help="a checkpoint, shipped:tiny, or random:SEED for an untrained network"
    )
    mano: str | None = option(
        None, help="MANO_RIGHT.pkl, checkpoint or synthetic; default: what the weights say"
    )
    camera: str | None = option(
        None,
        help="FX,FY,CX,CY in pixels, for all images; fov:DEG, the field of view that is assumed along the longer side "
        "where neither input nor EXIF knows the camera; given: the input's only; default: the input's, else EXIF's",
    )
    meshes: Literal["none", "ply", "tar"] = option("none", help="meshes as files or as one tar per unit")
    vertices: bool = option(False, help="write the 778 vertices into the Parquet as well")
    unit_rows: int | None = option(None, help="samples per unit of work; default: at most 256 MiB of crops")
    batch_size: int | None = option(None, help="crops per forward pass; default 16 on CPUs, 64 on GPUs")
    precision: Precision = option("fp32", help="arithmetic of the network")
    tta: bool = option(
        False,
        help="look at every crop again, mirrored and shifted, for more quality columns; 4 times the network",
    )
    actors: str | None = option(
        None, help="workers that hold the model, N or MIN:MAX; default: by what is there"
    )
    gpus_per_actor: float | None = option(None, help="default 1 where there are GPUs; 0 leaves them alone")
    limit: int | None = option(None, help="stop after the units that hold the first N samples")
    dry_run: bool = option(False, help="print the plan and stop")
    overwrite: bool = option(False, help="do anew what another job left in the output")
    retry_rejected: bool = option(False, help="do the units anew in which something was rejected")
    max_reject_rate: float | None = option(
        None, help="stop when a larger share of samples is rejected (status 4)"
    )
    address: str | None = option(None, help="a Ray cluster; default: RAY_ADDRESS, else this machine")


def run(options: Options) -> int:
    """Checks the request, plans, runs what is left of the plan, and says what came of it."""
    started = time.monotonic()
    _check(options)
    choice = choose_model(options.model, options.weights, options.mano)
    job = annotation(options, choice)
    choice = replace(choice, remarks=(*choice.remarks, *job.remarks))
    output = storage.canonical(options.output)
    inputs, passed_over = find_inputs(options.inputs, output=output, note=say, look_into_tables=True)
    if isinstance(job.boxes, Table):
        job.boxes.require_frames({source.name for source in inputs if source.source == "video"})
    record.require_same(output, "annotate", job.content, job.fingerprint, overwrite=options.overwrite)
    for remark in choice.remarks:
        say(f"note: {remark}")
    if passed_over:
        say(f"note: {len(passed_over)} files of other kinds are passed over: {some(passed_over)}")
    if options.dry_run:
        return _dry_run(options, job, inputs, output)
    require_answer(options.address)
    storage.require_writable(output)
    with lease.hold(output), contextlib.ExitStack() as until_done:
        # Before anything of the output is dropped.
        _require_room(options, job, output, until_done)
        storage.sweep(output)
        compact.finish(output)
        earlier = record.read(output, "job.json")
        if earlier is not None and earlier.get("fingerprint") != job.fingerprint:
            forget_tracks(output)
        planning.begin(output, job.fingerprint)
        join = functools.partial(_join, options, job, output, until_done)
        settled = planning.plan(job, inputs, output, connect=join, doubt_damage=options.retry_rejected)
        dropped = drop_orphans(output, settled.units)
        if dropped:
            say(f"removed {dropped} parts of units that are no longer planned")
        if isinstance(job.boxes, Table):
            job.boxes.require_any(_keys_of_boxes(output, settled.units))
            requested = [unit for unit in settled.units if unit.unit_id in settled.requested]
            job.boxes.require_apart(_first_keys(output, requested))
        units = within([unit for unit in settled.units if unit.unit_id in settled.requested], options.limit)
        done = {name: part.counts for name, part in committed(output, settled.units, job.fingerprint).items()}
        left = [unit for unit in units if unit.unit_id not in done or _again(unit, done, settled, options)]
        done = {name: counts for name, counts in done.items() if name not in {unit.unit_id for unit in left}}
        if abandoned := len({unit.unit_id for unit in settled.units} - settled.requested - done.keys()):
            say(
                f"{abandoned} units of inputs that are not named now are not annotated: name them again for that"
            )
        compact.release(output, {unit.unit_id for unit in settled.units} - {unit.unit_id for unit in left})
        about = {"options": record.without_secrets(asdict(options))}
        planning.describe(output, choice, job, settled, inputs, about)
        if left:
            storage.delete(storage.join(output, "summary.json"))
        forget_tracks(output, {input_id(unit.input) for unit in left if unit.source == "video"})
        withdraw(output, left)
        network: dict[str, Any] = {}
        outcome = work.carry_out(
            functools.partial(_told_flow, options, job, output, network),
            left,
            address=options.address,
            stop=functools.partial(_too_many_rejects, options.max_reject_rate, least=ENOUGH_TO_JUDGE),
        )
        total = sum(done.values(), outcome.counts)
        unfinished = len(settled.requested - done.keys()) - outcome.units
        summary = work.summary(total, outcome, time.monotonic() - started, list(choice.remarks))
        summary["this_run"] |= {"network": network or None}
        if not unfinished:
            record.write(output, "summary.json", summary | {"units": len(done) + outcome.units})
        work.show(output, summary, unfinished)
    if outcome.stopped or _too_many_rejects(options.max_reject_rate, total):
        counts = outcome.counts if outcome.stopped else total
        say(f"stopped by --max-reject-rate: {counts.samples_rejected} of {counts.samples} rejected")
        return exits.STOPPED
    return exits.REJECTS if total.rejects else exits.DONE


def _check(options: Options) -> None:
    """Refuses values that no job can run with."""
    require_least(options, "unit_rows", "batch_size", "limit")
    if options.max_reject_rate is not None and not 0 <= options.max_reject_rate <= 1:
        raise ConfigError(f"--max-reject-rate {options.max_reject_rate:g}: must be between 0 and 1")
    require_share(options.gpus_per_actor)
    if options.boxes == "detect" and options.side is not None:
        raise ConfigError(
            f"--side {options.side}: with --boxes detect the detector says whose hand it is; leave --side out"
        )
    for name in ("detector", "max_hands", "tiles") if options.boxes != "detect" else ():
        value = getattr(options, name)
        if value != getattr(Options, name):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: changes nothing without --boxes detect")
    Sampling(options.every, options.fps).check()
    actor_range(options.actors)


def require_share(gpus_per_actor: float | None) -> None:
    """Refuses what Ray cannot give to one actor: no number of GPUs, or one and a half."""
    if gpus_per_actor is None:
        return
    if not math.isfinite(gpus_per_actor) or gpus_per_actor < 0:
        raise ConfigError(f"--gpus-per-actor {gpus_per_actor:g}: must be 0 or more")
    if gpus_per_actor > 1 and gpus_per_actor != int(gpus_per_actor):
        raise ConfigError(f"--gpus-per-actor {gpus_per_actor:g}: must be a whole number where it is above 1")


def actor_range(text: str | None) -> tuple[int, int] | None:
    """Reads N or MIN:MAX."""
    if text is None:
        return None
    least, colon, most = text.partition(":")
    if not least.isdecimal() or (colon and not most.isdecimal()):
        raise ConfigError(f"--actors {text}: must be N or MIN:MAX")
    low, high = int(least), int(most if colon else least)
    if not 1 <= low <= high:
        raise ConfigError(f"--actors {text}: needs at least 1, and MAX not under MIN")
    return low, high


def annotation(options: Options, choice: ModelChoice) -> Annotation:
    """Returns the job that the options describe."""
    detector = DetectorOptions(options.detector, options.max_hands, options.tiles)
    source = boxes.choose(options.boxes, options.side, detector)
    return Annotation(
        weights=choice.weights,
        hand_model=choice.hand_model,
        boxes=source,
        boxes_identity=source.identity if isinstance(source, Table | Detect) else options.boxes,
        side=options.side,
        crop_rule=choose_crop_rule(options.boxes, options.box_scale),
        precision=options.precision,
        meshes=options.meshes,
        vertices=options.vertices,
        unit_rows=options.unit_rows,
        sampling=Sampling(options.every, options.fps),
        cameras=camera_rule(options.camera),
        tta=options.tta,
    )


def _keys_of_boxes(output: str, units: Sequence[Unit]) -> Iterator[set[str]]:
    """Yields the keys by which a boxes table knows samples, those of some units at a time."""
    for start in range(0, len(units), UNITS_TO_MATCH):
        some = units[start : start + UNITS_TO_MATCH]
        films = {unit.name for unit in some if unit.source == "video"}
        yield films | any_keys(output, [unit for unit in some if unit.source != "video"])


def _first_keys(output: str, units: Sequence[Unit]) -> Iterator[tuple[str, Collection[str]]]:
    """Yields the keys by which a boxes table knows an input's first samples, of every film and of some other inputs."""
    first: dict[str, Unit] = {}
    for unit in units:
        first.setdefault(unit.input, unit)
    films = [unit for unit in first.values() if unit.source == "video"]
    others = [unit for unit in first.values() if unit.source != "video"]
    for unit in films:
        yield unit.input, [unit.name]
    for unit in others[:INPUTS_TO_MATCH]:
        yield unit.input, load_keys(output, unit)


def _workers(options: Options, resources: Resources) -> Workers:
    return resources.spread(actors=actor_range(options.actors), gpus_per_actor=options.gpus_per_actor)


def _flow(options: Options, job: Annotation, output: str, workers: Workers) -> Flow:
    return job.flow(output, workers, _batch_size(options, workers))


def _batch_size(options: Options, workers: Workers) -> int:
    return options.batch_size or workers.crops_at_once


def _told_flow(
    options: Options, job: Annotation, output: str, network: dict[str, Any], resources: Resources
) -> Flow:
    """Returns the flow of this run, and says on what its network runs: on the console and in `network`."""
    workers = _workers(options, resources)
    least, most = workers.actors
    network |= {
        "actors": [least, most],
        "device": workers.device,
        "gpus_per_actor": workers.actor_gpus,
        "batch_size": _batch_size(options, workers),
    }
    number = f"{most} actor{'s' if most > 1 else ''}" if least == most else f"{least} to {most} actors"
    each = f"{workers.actor_gpus:g} GPU each" if workers.actor_gpus else "CPUs only"
    say(f"the network runs on {number}, {each}, {network['batch_size']} crops at a time")
    return _flow(options, job, output, workers)


def _join(options: Options, job: Annotation, output: str, until_done: contextlib.ExitStack) -> None:
    """Connects to the cluster for the rest of the job, and holds the flow against what it has."""
    _require_fit(options, job, output, until_done.enter_context(connect(options.address)))


def _require_room(options: Options, job: Annotation, output: str, until_done: contextlib.ExitStack) -> None:
    """Holds the flow against the cluster; one on this machine is started when there is work for it."""
    if is_here(options.address):
        _require_fit(options, job, output, Resources.here())
    else:
        _join(options, job, output, until_done)


def _require_fit(options: Options, job: Annotation, output: str, resources: Resources) -> None:
    _flow(options, job, output, _workers(options, resources)).check(resources.cpus, resources.gpus)


def _dry_run(options: Options, job: Annotation, inputs: Sequence[Input], output: str) -> int:
    """Prints what a run would do; writes nothing."""
    # The plan of another job is dropped by a run.
    stored = None if planning.planned_by(output) == job.fingerprint else ()
    with contextlib.ExitStack() as until_done:
        join = functools.partial(_join, options, job, output, until_done)
        settled = planning.plan(
            job,
            inputs,
            output,
            connect=join,
            stored=stored,
            store=False,
            doubt_damage=options.retry_rejected,
        )
        here = is_here(options.address)
        resources = Resources.here() if here else until_done.enter_context(connect(options.address))
    done = committed(output, settled.units, job.fingerprint)
    units = within([unit for unit in settled.units if unit.unit_id in settled.requested], options.limit)
    for unit in units:
        state = "done" if unit.unit_id in done else "to do"
        print(f"{state}  {unit.last - unit.first:6d} samples  {unit.unit_id}  {unit.input}")
    samples = sum(unit.last - unit.first for unit in units)
    print(f"{len(units)} units, {samples} samples, {sum(unit.unit_id in done for unit in units)} units done")
    print(_flow(options, job, output, _workers(options, resources)).describe())
    return exits.DONE


def _again(unit: Unit, done: Mapping[str, Counts], settled: Settled, options: Options) -> bool:
    """Says whether a finished unit is to be done anew for its rejects; not where images of it are gone."""
    return (
        options.retry_rejected and bool(done[unit.unit_id].rejects) and unit.unit_id not in settled.incomplete
    )


def _too_many_rejects(rate: float | None, counts: Counts, least: int = 1) -> bool:
    """Judges the share of rejected samples, once there are enough of them."""
    if rate is None or counts.samples < least:
        return False
    return counts.samples_rejected > rate * counts.samples


if __name__ == "__main__":
    from jobs.cli import command

    command(["annotate", *sys.argv[1:]])
