"""`handocc pseudo-label`: annotates, keeps what is sure enough, and writes it as training shards."""

import contextlib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jobs import annotate, exits, record, work
from jobs.cluster import connect, require_answer
from jobs.console import say
from jobs.pseudo_labels.annotated import (
    Annotated,
    annotations,
    content_of,
    require_weights_of_expected_error,
)
from jobs.pseudo_labels.request import (
    CHOOSE_ANEW,
    NOT_STATED,
    VERSION,
    Options,
    checked,
    how_to_annotate,
    require_apart,
    require_settings,
)
from pipeline import lease, storage
from pipeline.fingerprint import fingerprint_of
from pipeline.pseudo_labels.datasheet import Datasheet, write_datasheet
from pipeline.pseudo_labels.labels import Belongings
from pipeline.pseudo_labels.manifest import Written, fates, missing, write_manifest
from pipeline.pseudo_labels.near_duplicates import Motion
from pipeline.pseudo_labels.selection import KEPT, Balance, Chosen, forget_selection, select, store, stored
from pipeline.pseudo_labels.shards import FOLDER as ACCOUNTS
from pipeline.pseudo_labels.shards import PREFIX, ShardWriter, plan_shards, shards_flow
from pipeline.pseudo_labels.survey import UNREADABLE, Survey, survey_flow, surveyed
from pipeline.pseudo_labels.thresholds import Thresholds
from pipeline.records import Unit

_WRITTEN = re.compile(rf"({re.escape(PREFIX)}\d+-\d+\.tar|{ACCOUNTS}/{re.escape(PREFIX)}\d+-\d+\.parquet)")


def run(options: Options) -> int:
    """Annotates, surveys, chooses, and writes what is not there yet."""
    started = time.monotonic()
    limits = checked(options)
    output = storage.canonical(options.output)
    require_apart(options, output)
    if options.dry_run:
        return annotate.run(how_to_annotate(options, output))
    require_settings(options, output)
    if options.predictions is None and limits.max_error_mm is not None:
        require_weights_of_expected_error(options, output)
    require_answer(options.address)
    storage.require_writable(output)
    with contextlib.ExitStack() as until_done:
        until_done.enter_context(lease.hold(output))
        storage.sweep(output)
        annotated = annotations(options, output)
        if annotated.status == exits.STOPPED:
            return exits.STOPPED
        if limits.max_error_mm is not None:
            annotated.require_expected_error()
        content = content_of(options, annotated)
        fingerprint = fingerprint_of(content)
        record.require_same(
            output,
            "pseudo-label",
            content,
            fingerprint,
            overwrite=options.overwrite,
            way_out=CHOOSE_ANEW,
        )
        if options.retry_rejected or (options.overwrite and not record.is_of(output, fingerprint)):
            _forget(output)
        record.write(output, "job.json", record.job("pseudo-label", options, content))
        if record.read(output, "manifest.json") is None:
            # One cluster for both passes.
            until_done.enter_context(connect(options.address))
        if options.licence == NOT_STATED:
            say("note: --licence is not given: the manifest says that none is stated")
        say(f"note: confidence is {annotated.confidence}")
        _note_idle(limits, annotated.units)
        _survey(options, output, annotated, limits)
        # How many examples it names decides nothing else.
        selection = f"{fingerprint}, {options.examples} examples"
        chosen = stored(output, selection) or _choose(options, output, annotated, selection)
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


def _forget(output: str) -> None:
    """Removes what another job chose and wrote there; annotations and surveys are held to fingerprints of their own."""
    for name in ("manifest.json", "manifest.parquet", "datasheet.html"):
        storage.delete(storage.join(output, name))
    forget_selection(output)
    # The shards, which vouch for their accounts, go first. What has another name is somebody else's.
    files = (file.uri for file in storage.list_files(output))
    written = [uri for uri in files if _WRITTEN.fullmatch(storage.key_below(output, uri))]
    for uri in sorted(written, key=lambda uri: not uri.endswith(".tar")):
        storage.delete(uri)


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
        # Pictures that cannot be read any more, or can again, shift the numbers of all behind them.
        _forget(output)
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
        "confidence": annotated.confidence,
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
