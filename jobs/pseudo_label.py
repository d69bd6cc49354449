"""`handocc pseudo-label`: annotates, keeps what is sure enough, and writes it as training shards."""

import contextlib
import hashlib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from jobs import annotate, exits, record, work
from jobs.cluster import connect, require_answer
from jobs.console import say
from jobs.model_choice import choose_model
from jobs.options import option, require_least
from pipeline import lease, storage
from pipeline.calibration import CALIBRATED
from pipeline.errors import ConfigError
from pipeline.fingerprint import fingerprint_of
from pipeline.inputs import expand
from pipeline.pseudo_labels.datasheet import Datasheet, write_datasheet
from pipeline.pseudo_labels.labels import Belongings
from pipeline.pseudo_labels.manifest import Written, fates, missing, write_manifest
from pipeline.pseudo_labels.near_duplicates import Motion
from pipeline.pseudo_labels.selection import KEPT, Balance, Chosen, forget_selection, select, store, stored
from pipeline.pseudo_labels.shards import FOLDER as ACCOUNTS
from pipeline.pseudo_labels.shards import PREFIX, Frames, ShardWriter, plan_shards, shards_flow
from pipeline.pseudo_labels.survey import UNREADABLE, Survey, survey_flow, surveyed
from pipeline.pseudo_labels.thresholds import Thresholds, thresholds
from pipeline.records import Unit
from pipeline.sinks.parts import Part, committed, read_metadata
from pipeline.units import load_plan

VERSION = "3"  # of the rules by which hands are kept
PREDICTIONS = "predictions"
NOT_STATED = "not stated"
_WRITTEN = re.compile(rf"({re.escape(PREFIX)}\d+-\d+\.tar|{ACCOUNTS}/{re.escape(PREFIX)}\d+-\d+\.parquet)")


@dataclass(frozen=True, kw_only=True)
class Options(annotate.Options):
    """Makes training shards of unlabelled inputs: annotates them, or takes annotations, and keeps the surest hands.

    All options of annotate say how the inputs are annotated, in OUTPUT/predictions.
    """

    inputs: tuple[str, ...] = option(
        (), help="what annotate takes: folders, .tar, .parquet, films, globs, @list.txt", positional=True
    )
    predictions: str | None = option(None, help="an output of annotate to take instead of INPUTS")
    min_confidence: float = option(help="the least confidence of a hand that is kept, 0 to 1")
    min_confidence_of: tuple[str, ...] = option(
        (),
        help="[SIDE:]GLOB=X: another one for a side, for sources or pictures, as left:*=0.6; the last that applies",
    )
    max_expected_error: float | None = option(
        None, help="drop hands of a larger expected_error_mm, where the annotations are calibrated"
    )
    weight_power: float = option(1.0, help="a hand's weight is its confidence to this power; 0: all count 1")
    per_source: int | None = option(None, help="most hands of one film, shard, table or folder")
    pose_clusters: int = option(64, help="with --per-cluster: into how many kinds finger poses are sorted")
    per_cluster: int | None = option(None, help="most hands of one kind of finger pose")
    still_mm: float = option(
        5.0, help="drop a hand whose joints moved less than this since one was kept; 0 keeps all"
    )
    still_box: float = option(0.1, help="and whose box moved less than this part of its longer side")
    equal_bits: int = option(
        3, help="drop pictures whose 128-bit hashes differ in at most so many bits, 0 to 3; -1 keeps all"
    )
    seed: int = option(0, help="decides which hands are taken where not all are")
    frames: Frames = option(
        "crop", help="crop: the hands' surroundings, as JPEG; whole: pictures with the bytes they have"
    )
    crop_factor: float = option(2.5, help="with --frames crop: how far a hand's box is enlarged")
    per_shard: int = option(500, help="pictures per shard")
    split: str = option("train", help="what the labels say of themselves")
    licence: str = option(NOT_STATED, help="under which licence the pictures may be used, for the manifest")
    examples: int = option(
        8, help="how many kept hands, and dropped ones for each reason, the datasheet shows"
    )


@dataclass(frozen=True)
class Annotated:
    """The annotations that are chosen from; conventions: what their parts say of themselves."""

    uri: str
    job: Mapping[str, Any]
    units: tuple[Unit, ...]
    parts: Mapping[str, Part]
    conventions: Mapping[str, str]
    status: int = exits.DONE


def run(options: Options) -> int:
    """Annotates, surveys, chooses, and writes what is not there yet."""
    started = time.monotonic()
    limits = _checked(options)
    output = storage.canonical(options.output)
    _require_apart(options, output)
    if options.dry_run:
        return annotate.run(_of_annotate(options, output))
    _require_settings(options, output)
    if options.predictions is None and limits.max_error_mm is not None:
        _require_expected_error(options, output)
    require_answer(options.address)
    storage.require_writable(output)
    with contextlib.ExitStack() as until_done:
        until_done.enter_context(lease.hold(output))
        storage.sweep(output)
        annotated = _annotated(options, output)
        if annotated.status == exits.STOPPED:
            return exits.STOPPED
        confidence = annotated.conventions.get("confidence", "of an unknown kind")
        if limits.max_error_mm is not None and annotated.units and not confidence.startswith(CALIBRATED):
            raise ConfigError(
                f"--max-expected-error: the hands of {annotated.uri} have no expected error, since the weights that "
                "annotated them are not calibrated; `handocc calibrate` first"
            )
        content = _content(options, annotated)
        fingerprint = fingerprint_of(content)
        record.require_same(
            output,
            "pseudo-label",
            content,
            fingerprint,
            overwrite=options.overwrite,
            way_out="what is chosen depends on all annotations: use another --output, or --overwrite to choose anew",
        )
        if options.retry_rejected or (options.overwrite and not record.is_of(output, fingerprint)):
            _forget(output)
        record.write(output, "job.json", record.job("pseudo-label", options, content))
        if record.read(output, "manifest.json") is None:
            # One cluster for both passes.
            until_done.enter_context(connect(options.address))
        if options.licence == NOT_STATED:
            say("note: --licence is not given: the manifest says that none is stated")
        say(f"note: confidence is {confidence}")
        _note_idle(limits, annotated.units)
        _survey(options, output, annotated, limits)
        chosen = stored(output, fingerprint) or _choose(options, output, annotated, fingerprint)
        shards = plan_shards(annotated.uri, chosen.pictures, options.per_shard, fingerprint[:16])
        flow = shards_flow(_writer(options, output, annotated))
        outcome = work.carry_out(lambda _: flow, missing(output, shards), address=options.address)
        said = {"fingerprint": fingerprint, "weights_sha256": annotated.job["weights"]["sha256"]}
        written = write_manifest(output, shards, said | {"licence": options.licence})
        manifest = _manifest(options, annotated, content, fingerprint, chosen, written, len(shards))
        sheet = Datasheet(manifest, chosen, written, annotated.uri, annotated.units, annotated.parts)
        write_datasheet(output, sheet)
        manifest["this_run"] = {
            "shards": outcome.units,
            "seconds": round(time.monotonic() - started, 3),
            "seconds_per_stage": {name: round(spent, 3) for name, spent in outcome.seconds.items()},
        }
        record.write(output, "manifest.json", manifest)
    _show(output, manifest)
    if unreadable := manifest["hands"]["dropped"].get(UNREADABLE, 0):
        say(f"the pictures of {unreadable} hands cannot be read any more; --retry-rejected tries again")
    return exits.REJECTS if written.lost or unreadable else annotated.status


def _checked(options: Options) -> Thresholds:
    """Refuses values that no job can run with."""
    if bool(options.inputs) == (options.predictions is not None):
        raise ConfigError(
            "needs INPUTS, to annotate them, or --predictions, an output of annotate: one of them"
        )
    if options.predictions is not None:
        _require_no_annotating(options)
    require_least(options, "per_source", "per_cluster", "pose_clusters", "per_shard")
    for name in ("weight_power", "still_mm", "still_box", "examples", "seed"):
        if not getattr(options, name) >= 0:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name):g}: must not be negative")
    if options.pose_clusters > 4096:
        raise ConfigError(f"--pose-clusters {options.pose_clusters}: at most 4096")
    if not -1 <= options.equal_bits <= 3:
        raise ConfigError(f"--equal-bits {options.equal_bits}: must be between -1 and 3")
    if not 1 <= options.crop_factor <= 100:
        raise ConfigError(f"--crop-factor {options.crop_factor:g}: must be between 1 and 100")
    return thresholds(options.min_confidence, options.min_confidence_of, options.max_expected_error)


def _require_no_annotating(options: Options) -> None:
    """Refuses options that would say how to annotate what is annotated already."""
    given = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(annotate.Options)
        if field.name not in ("inputs", "output", "overwrite", "address", "retry_rejected")
        and getattr(options, field.name) != field.default
    ]
    if given:
        raise ConfigError(
            f"--predictions {options.predictions}: is annotated already; leave out {', '.join(given)}"
        )


def _require_apart(options: Options, output: str) -> None:
    """Refuses an output where inputs lie, and one inside an input: its shards would be annotated in their turn."""
    place = storage.resolved(output) + "/"
    for uri in expand(options.inputs):
        own = storage.resolved(uri)
        if own.startswith(place):
            raise ConfigError(f"--output {options.output}: the input {uri} lies in it; use another")
        if storage.is_folder(uri) and place.startswith(own + "/"):
            raise ConfigError(f"--output {options.output}: lies inside the input {uri}; use another")


def _of_annotate(options: Options, output: str) -> annotate.Options:
    """Returns how the inputs are annotated."""
    named = {field.name: getattr(options, field.name) for field in fields(annotate.Options)}
    return annotate.Options(**{**named, "output": storage.join(output, PREDICTIONS)})


def _annotated(options: Options, output: str) -> Annotated:
    """Returns the annotations, after making what is lacking of them."""
    uri, status = storage.canonical(options.predictions or storage.join(output, PREDICTIONS)), exits.DONE
    if options.predictions is None:
        status = annotate.run(_of_annotate(options, output))
    job = record.of_annotate(uri)
    planned = load_plan(uri)
    parts = committed(uri, planned, job["fingerprint"])
    # Of its own annotations those of the inputs that are named now, of others' all that are there.
    units = record.asked_for(job, planned, parts if options.predictions else ())
    there = tuple(unit for unit in units if unit.unit_id in parts)
    if len(there) < len(units) and options.limit is None and status != exits.STOPPED:
        raise ConfigError(
            f"{uri}: {len(units) - len(there)} of {len(units)} units are not annotated yet; the command that its "
            "job.json names continues"
        )
    said = read_metadata(uri, "annotations", parts[there[0].unit_id].file) if there else {}
    return Annotated(uri, job, there, parts, {**job["conventions"], **said}, status)


def _require_settings(options: Options, output: str) -> None:
    """Refuses, before anything is annotated, other settings than those of the output.

    Raises:
        ConfigError: they differ, or the output is another command's.
    """
    earlier = record.require_own(output, "pseudo-label")
    if earlier is not None:
        content = earlier["content"] | _settings(options)
        record.require_same(
            output, "pseudo-label", content, fingerprint_of(content), overwrite=options.overwrite
        )


def _require_expected_error(options: Options, output: str) -> None:
    """Refuses, before anything is annotated, weights that say no expected error of such boxes."""
    how = _of_annotate(options, output)
    job = annotate.annotation(how, choose_model(how.model, how.weights, how.mano))
    if job.calibration is None:
        raise ConfigError(
            "--max-expected-error: the weights are not calibrated for such boxes, so that hands have no expected "
            "error; `handocc calibrate` first"
        )


def _settings(options: Options) -> dict[str, Any]:
    """What of the options decides what is in the shards, beside the annotations."""
    names = (
        *("min_confidence", "min_confidence_of", "max_expected_error", "weight_power", "per_source"),
        *("pose_clusters", "per_cluster", "still_mm", "still_box", "equal_bits", "seed"),
        *("frames", "crop_factor", "per_shard", "split"),
    )
    return {"version": VERSION, **json.loads(json.dumps({name: getattr(options, name) for name in names}))}


def _content(options: Options, annotated: Annotated) -> dict[str, Any]:
    """What decides what is in the shards."""
    # A unit that was annotated anew has other hands.
    units = [
        f"{unit.unit_id} {unit.version} {annotated.parts[unit.unit_id].counts.to_json()}"
        for unit in annotated.units
    ]
    return {
        **_settings(options),
        "predictions_fingerprint": annotated.job["fingerprint"],
        "annotations": f"{len(units)} units, {hashlib.sha256(chr(10).join(units).encode()).hexdigest()[:16]}",
    }


def _forget(output: str) -> None:
    """Removes what another job chose and wrote there; annotations and surveys are held to fingerprints of their own."""
    for name in ("manifest.json", "manifest.parquet", "datasheet.html"):
        storage.delete(storage.join(output, name))
    forget_selection(output)
    # The shards, which vouch for their accounts, go first. What has another name is somebody else's.
    for file in sorted(storage.list_files(output), key=lambda file: not file.uri.endswith(".tar")):
        if _WRITTEN.fullmatch(storage.key_below(output, file.uri)):
            storage.delete(file.uri)


def _survey(options: Options, output: str, annotated: Annotated, limits: Thresholds) -> None:
    """Surveys the annotated units that are not surveyed yet."""
    about = {
        "predictions": annotated.job["fingerprint"],
        "version": VERSION,
        "thresholds": asdict(limits),
        "seed": options.seed,
        "hashes": options.equal_bits >= 0,
    }
    survey = Survey(
        output=output,
        predictions=annotated.uri,
        parts=annotated.parts,
        thresholds=limits,
        seed=options.seed,
        hashes=options.equal_bits >= 0,
        fingerprint=fingerprint_of(about),
    )
    done = surveyed(survey, annotated.units, retry_unreadable=options.retry_rejected)
    left = [unit for unit in annotated.units if unit.unit_id not in done]
    if left:
        say(f"surveying the hands of {len(left)} units")
        forget_selection(output)
        work.carry_out(lambda _: survey_flow(survey), left, address=options.address)


def _note_idle(limits: Thresholds, units: Sequence[Unit]) -> None:
    """Says which rules apply to none of the films; what keys other sources hold nobody knows before they are read."""
    if any(unit.source != "video" for unit in units):
        return
    sources = {unit.input for unit in units}
    for rule in limits.rules:
        if sources and not any(rule.names(source, "") for source in sources):
            say(
                f"note: --min-confidence-of: {rule.pattern} matches none of the films, such as {min(sources)}"
            )


def _choose(options: Options, output: str, annotated: Annotated, fingerprint: str) -> Chosen:
    balance = Balance(
        motion=Motion(options.still_mm, options.still_box),
        equal_bits=None if options.equal_bits < 0 else options.equal_bits,
        per_source=options.per_source,
        clusters=options.pose_clusters,
        per_cluster=options.per_cluster,
        seed=options.seed,
    )
    started = time.monotonic()
    chosen, hands = select(output, annotated.units, balance)
    chosen = store(
        output,
        annotated.units,
        chosen,
        hands,
        per_shard=options.per_shard,
        examples=options.examples,
        fingerprint=fingerprint,
    )
    say(f"chose {chosen.by_reason()[KEPT]} of {chosen.hands} hands in {time.monotonic() - started:.1f} s")
    return chosen


def _writer(options: Options, output: str, annotated: Annotated) -> ShardWriter:
    tips = annotated.job["conventions"]["fingertip_vertices"].split(",")
    return ShardWriter(
        output=output,
        predictions=annotated.uri,
        units={unit.unit_id: unit for unit in annotated.units},
        parts=annotated.parts,
        belongings=Belongings(annotated.job["hand_model"], tuple(map(int, tips)), options.split),
        frames=options.frames,
        crop_factor=options.crop_factor,
        power=options.weight_power,
        per_shard=options.per_shard,
    )


def _manifest(
    options: Options,
    annotated: Annotated,
    content: Mapping[str, Any],
    fingerprint: str,
    chosen: Chosen,
    written: Written,
    shards: int,
) -> dict[str, Any]:
    """What manifest.json says: where the hands come from, how they were chosen, and what became of each."""
    weights = annotated.job["weights"]
    return {
        "licence": options.licence,
        "model": annotated.conventions["model"],
        "weights": {"sha256": weights["sha256"], "source": weights["source"], "trained": weights["trained"]},
        "weights_trained_on": annotated.conventions.get("weights_trained_on", NOT_STATED),
        "hand_model": annotated.job["hand_model"],
        "confidence": annotated.conventions.get("confidence", NOT_STATED),
        "settings": dict(content),
        "fingerprint": fingerprint,
        **fates(chosen, written),
        "shards": shards,
        "versions": record.versions(),
    }


def _show(output: str, manifest: Mapping[str, Any]) -> None:
    hands = manifest["hands"]
    print(f"{hands['annotated']} hands annotated: {hands['kept']} kept, in {manifest['pictures']} pictures")
    for reason, number in sorted(hands["dropped"].items(), key=lambda item: -item[1]):
        print(f"  dropped  {number:6d}  {reason}")
    print(f"{manifest['shards']} shards, {storage.join(output, 'datasheet.html')}")
    print(f"results: {output}")


if __name__ == "__main__":
    from jobs.cli import command

    command(["pseudo-label", *sys.argv[1:]])
