"""`handocc track`: the hands of films, frame by frame, to tracks."""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobs import exits, planning, record, work
from jobs.cluster import require_answer
from jobs.console import say, some
from jobs.options import option, require_least
from jobs.predictions import own_hand_model
from model.mano.asset import HandModel
from pipeline import compact, lease, storage
from pipeline.calibration import DETECTED, origin_of
from pipeline.errors import ConfigError
from pipeline.fingerprint import fingerprint_of
from pipeline.plan import load_plan
from pipeline.sinks.parts import committed
from pipeline.tracking.accuracy import Accuracy, find_truth, measure_film, read_truth
from pipeline.tracking.films import Films, find_films, read_film, read_tracks
from pipeline.tracking.smoothing import REACH
from pipeline.tracking.stage import SUMMARY, Tracking, tracked, tracking_flow, withdraw_others
from pipeline.tracking.tracks import Settings, Tally

TRACKING_VERSION = "3"


@dataclass(frozen=True)
class Options:
    """Links the hands of a film's frames to tracks of one side and one shape, smooths them and fills short gaps."""

    output: str = option(help="an output of annotate that holds films", positional=True)
    gap: float = option(
        Settings.gap_s, help="seconds for which a hand may be lost and goes on as the same track, filled"
    )
    smoothing: float = option(
        Settings.smoothing_s,
        help="how far smoothing looks, before and after: the Gaussian's standard deviation in seconds, of which three "
        "count; 0: not at all",
    )
    min_frames: int = option(Settings.min_frames, help="leave out tracks of fewer annotated hands")
    mano: str | None = option(
        None,
        help="MANO_RIGHT.pkl, the checkpoint that annotated, or synthetic: the annotations' own hand model; needed "
        "unless it is synthetic",
    )
    truth: str | None = option(
        None,
        help="measure against the truth of `handocc synthesize --films`, its folder `truth`; the annotations' boxes "
        "must be its boxes.parquet",
    )
    overwrite: bool = option(False, help="do anew what was tracked with other settings")
    address: str | None = option(None, help="a Ray cluster; default: RAY_ADDRESS, else this machine")


def run(options: Options) -> int:
    """Tracks the films that are not tracked yet, and sums up; films that are not annotated to the end wait."""
    started = time.monotonic()
    _check(options)
    output = storage.canonical(options.output)
    job = record.of_annotate(output)
    if options.truth is not None and origin_of(job["content"]["boxes"]) == DETECTED:
        raise ConfigError(
            f"--truth {options.truth}: knows hands by their index in its boxes.parquet, and {options.output} was "
            "annotated with --boxes detect; annotate with --boxes and that table"
        )
    hand_model = _hand_model(options.mano, job)
    settings = Settings(options.gap, options.smoothing, options.min_frames)
    content = {"version": TRACKING_VERSION, **asdict(settings), "hand_model": hand_model.name}
    fingerprint = fingerprint_of(content)
    record.require_same(
        output,
        "track",
        content,
        fingerprint,
        overwrite=options.overwrite,
        name=SUMMARY,
        way_out="--overwrite tracks all films anew",
    )
    require_answer(options.address)
    storage.require_writable(output)
    with lease.hold(output):
        storage.sweep(output)
        compact.finish(output)
        films = _films(output, job)
        units = [film.unit for film in films.whole]
        truth = None if options.truth is None else find_truth(options.truth, units)
        done = tracked(output, films.whole, fingerprint)
        withdraw_others(output, done)
        about = record.job("track", options, content)
        record.write(output, SUMMARY, about)
        left = [unit for unit in units if unit.unit_id not in done]
        flow = tracking_flow(
            Tracking(
                output=output,
                settings=settings,
                hand_model=hand_model,
                parts={film.unit.unit_id: film.parts for film in films.whole},
                metadata=_metadata(settings, job),
                fingerprint=fingerprint,
            )
        )
        outcome = work.carry_out(lambda _: flow, left, address=options.address)
        done = tracked(output, films.whole, fingerprint)
        total = sum(done.values(), Tally())
        summary = {
            "films": {"tracked": len(films.whole), "incomplete": list(films.incomplete)},
            "total": total.plain(),
            "by_film": {film.unit.input: done[film.unit.unit_id].plain() for film in films.whole},
            "truth": None,
            "this_run": {"films": outcome.units, "seconds": round(time.monotonic() - started, 3)},
        }
        record.write(output, SUMMARY, about | summary)
        accuracy = None
        if truth is not None:
            # It may be that of other boxes: the tracks are there all the same.
            accuracy = _measured(output, films, truth)
            summary["truth"] = {"of": options.truth, **accuracy.plain()}
            record.write(output, SUMMARY, about | summary)
    _show(output, films, total, accuracy, outcome.units)
    if total.alone:
        say(
            f"note: {total.alone} of {total.tracked} hands have no neighbour within {REACH * settings.smoothing_s:g} s "
            "in their track, and are as they were annotated: --smoothing looks farther"
        )
    return exits.REJECTS if films.incomplete else exits.DONE


def _check(options: Options) -> None:
    for name in ("gap", "smoothing"):
        value = getattr(options, name)
        if not 0 <= value <= 60:
            raise ConfigError(f"--{name} {value:g}: must be between 0 and 60 seconds")
    require_least(options, "min_frames")


def _hand_model(mano: str | None, job: Mapping[str, Any]) -> HandModel:
    """Returns the hand model that the annotations' parameters belong to."""
    hand_model = own_hand_model(job, mano)
    if hand_model is None:
        raise ConfigError(
            f"needs --mano: the annotations' parameters belong to hand model {str(job['hand_model'])[:20]}; give its "
            "MANO_RIGHT.pkl, or the authors' checkpoint, where its arrays annotated"
        )
    return hand_model


def _films(output: str, job: Mapping[str, Any]) -> Films:
    """Returns the output's films.

    Raises:
        ConfigError: it is being planned, holds none, or none whose annotation is complete.
    """
    planning.require_finished(output)
    planned = load_plan(output)
    done = committed(output, planned, job["fingerprint"])
    named = {unit.input for unit in record.asked_for(job, planned, done)}
    # All of a film, of which a later command may have given up what was not done yet.
    units = [unit for unit in planned if unit.input in named]
    if not any(unit.source == "video" for unit in units):
        raise ConfigError(
            f"{output}: holds no films; tracks are made of what `handocc annotate` makes of films"
        )
    films = find_films(units, done)
    if films.incomplete:
        say(
            f"note: not annotated to the end, and left out until they are: {some(films.incomplete)}; "
            f"{record.way_to_the_end(job, films.incomplete)}"
        )
    if not films.whole:
        raise ConfigError(
            f"{output}: no film is annotated to the end; {record.way_to_the_end(job, films.incomplete)}"
        )
    return films


def _metadata(settings: Settings, job: Mapping[str, Any]) -> dict[str, str]:
    """What every part says of itself beside the film's own entries."""
    kept = (
        *("schema_version", "hand_model", "left_model", "flat_hand_mean", "joint_order"),
        *("fingertip_vertices", "units", "axes", "weights_sha256", "weights_trained", "weights_trained_on"),
    )
    conventions = job["conventions"]
    return {name: conventions[name] for name in kept if name in conventions} | {
        "tracking_version": TRACKING_VERSION,
        "gap_s": f"{settings.gap_s:g}",
        "min_frames": str(settings.min_frames),
        "smoothing_s": f"{settings.smoothing_s:g}",
        "smoothing": "local linear, Gaussian in time and weighted by confidence, zero phase; rotations in the tangent "
        "space at their running mean; axis-angle within [0, pi]; samples far from that line (rotations by 60 degrees, "
        "joints_2d by half a hand, translation by 0.2 m) count for next to nothing in it",
        "betas": "one per track: Huber mean weighted by confidence",
        "joints": "of the hand model with the row's parameters; raw values: annotations, by instance_id",
    }


def _measured(output: str, films: Films, truth: Mapping[str, str]) -> Accuracy:
    """Measures film by film what lies between annotations, tracks and truth."""
    total = Accuracy()
    for film in films.whole:
        hands, _ = read_film(output, film.parts)
        total += measure_film(hands, read_tracks(output, film.unit), read_truth(truth[film.unit.unit_id]))
    return total


def _show(output: str, films: Films, total: Tally, accuracy: Accuracy | None, tracked_now: int) -> None:
    plain = total.plain()
    jitter = plain["jitter_mm_per_frame2"]
    print(
        f"{len(films.whole)} films ({tracked_now} in this run): {total.tracks} tracks in {total.frames} frames"
    )
    print(
        f"{total.hands} hands: {total.tracked} tracked, {plain['untracked']} in tracks under --min-frames; "
        f"{total.filled} rows filled, {total.side_changed} of the other side"
    )
    if jitter["raw"] is not None:
        print(f"jitter of joints: {jitter['raw']:.2f} mm/frame² raw, {jitter['smoothed']:.2f} smoothed")
    if accuracy is not None:
        print("\n".join(accuracy.lines()))
    print(f"results: {storage.join(output, 'tracks')}, {SUMMARY}")


if __name__ == "__main__":
    from jobs.cli import command

    command(["track", *sys.argv[1:]])
