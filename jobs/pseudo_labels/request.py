"""What is asked of `handocc pseudo-label`, and what no job can run with."""

import json
from dataclasses import dataclass, fields
from typing import Any

from jobs import annotate, record
from jobs.console import some
from jobs.options import option, require_least
from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.fingerprint import fingerprint_of
from pipeline.inputs import expand, find_inputs
from pipeline.plan import load_plan
from pipeline.pseudo_labels.shards import Frames
from pipeline.pseudo_labels.thresholds import Thresholds, thresholds

VERSION = "3"  # of the rules by which hands are kept
PREDICTIONS = "predictions"
NOT_STATED = "not stated"
CHOOSE_ANEW = (
    "what is chosen depends on all annotations: use another --output, or --overwrite, which chooses anew and keeps "
    "what is annotated"
)


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
    per_shard: int = option(500, help="pictures per shard, which is held in memory while it is written")
    split: str = option("train", help="what the labels say of themselves")
    licence: str = option(NOT_STATED, help="under which licence the pictures may be used, for the manifest")
    examples: int = option(
        8, help="how many kept hands, and dropped ones for each reason, the datasheet shows"
    )


def checked(options: Options) -> Thresholds:
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


def require_apart(options: Options, output: str) -> None:
    """Refuses an output where inputs lie, and one inside an input: its shards would be annotated in their turn."""
    place = storage.resolved(output) + "/"
    for uri in expand(options.inputs):
        own = storage.resolved(uri)
        if own.startswith(place):
            raise ConfigError(f"--output {options.output}: the input {uri} lies in it; use another")
        if storage.is_folder(uri) and place.startswith(own + "/"):
            raise ConfigError(f"--output {options.output}: lies inside the input {uri}; use another")


def how_to_annotate(options: Options, output: str) -> annotate.Options:
    """Returns how the inputs are annotated."""
    named = {field.name: getattr(options, field.name) for field in fields(annotate.Options)}
    return annotate.Options(**{**named, "output": storage.join(output, PREDICTIONS)})


def settings(options: Options) -> dict[str, Any]:
    """What of the options decides what is in the shards, beside the annotations."""
    names = (
        *("min_confidence", "min_confidence_of", "max_expected_error", "weight_power", "per_source"),
        *("pose_clusters", "per_cluster", "still_mm", "still_box", "equal_bits", "seed"),
        *("frames", "crop_factor", "per_shard", "split"),
    )
    return {"version": VERSION, **json.loads(json.dumps({name: getattr(options, name) for name in names}))}


def require_settings(options: Options, output: str) -> None:
    """Refuses, before anything is annotated, other settings than those of the output, and more inputs.

    Raises:
        ConfigError: they differ, or the output is another command's.
    """
    earlier = record.require_own(output, "pseudo-label")
    if earlier is None:
        return
    content = earlier["content"] | settings(options)
    record.require_same(output, "pseudo-label", content, fingerprint_of(content), overwrite=options.overwrite)
    if options.inputs and not options.overwrite:
        chosen_from = {unit.input for unit in load_plan(storage.join(output, PREDICTIONS))}
        named, _ = find_inputs(options.inputs, output=output, note=lambda _: None, look_into_tables=True)
        if more := [source.uri for source in named if source.uri not in chosen_from]:
            raise ConfigError(f"{some(more)}: not among what {output} was chosen from; {CHOOSE_ANEW}")
