"""`handocc synthesize`: labelled synthetic shards or films, a function of the seed."""

import functools
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

from jobs import exits, record, work
from jobs.cluster import require_answer
from jobs.console import say
from jobs.options import option, require_least
from model.mano.synthetic import synthetic_hand
from pipeline import lease, storage
from pipeline.errors import ConfigError
from pipeline.fingerprint import fingerprint_of
from pipeline.flow import Flow
from pipeline.records import Unit
from pipeline.synthesis.films import (
    BOXES,
    FILMS,
    TRUTH_FOLDER,
    FilmMaker,
    FilmSpec,
    films_flow,
    missing_films,
    plan_films,
    write_boxes,
)
from pipeline.synthesis.sample import Look, SceneSpec
from pipeline.synthesis.shards import ShardMaker, missing, plan_shards, synthesis_flow

_WRITTEN = re.compile(
    r"synthetic-\d+-\d{8,}-\d{8,}\.tar"
    rf"|{TRUTH_FOLDER}/film-\d+-\d{{6,}}\.parquet|{FILMS}/film-\d+-\d{{6,}}\.mp4"
)


@dataclass(frozen=True)
class Options:
    """Makes labelled pictures of the procedural hand: poses, shapes, cameras, lights, things that hide it."""

    output: str = option(help="folder or URI that takes the shards")
    count: int | None = option(None, help="how many pictures")
    films: int | None = option(
        None, help="instead: how many films of moving hands, with boxes.parquet and the truth of each"
    )
    frames: int = option(FilmSpec.frames, help="of a film")
    seed: int = option(0, help="the same seed gives the same bytes")
    per_shard: int = option(500, help="pictures per shard")
    size: int = option(320, help="pixels a side")
    occlusion: float = option(0.75, help="share of pictures in which something hides the hand")
    vertices: bool = option(False, help="write the 778 vertices into the labels")
    split: str = option("train", help="what the labels say of themselves")
    look: Look = option("day", help="night: dark, blue, blurred and noisy, a domain of its own")
    overwrite: bool = option(False, help="do anew what another job left in the output")
    address: str | None = option(None, help="a Ray cluster; default: RAY_ADDRESS, else this machine")


def run(options: Options) -> int:
    """Makes the shards or films that are not there yet."""
    started = time.monotonic()
    if (options.count is None) == (options.films is None):
        raise ConfigError("needs --count, for shards of pictures, or --films: one of them")
    require_least(options, "count", "films", "frames", "per_shard")
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed}: must not be negative")
    if not 64 <= options.size <= 2048:
        raise ConfigError(f"--size {options.size}: must be between 64 and 2048")
    if not 0 <= options.occlusion <= 1:
        raise ConfigError(f"--occlusion {options.occlusion:g}: must be between 0 and 1")
    output = storage.canonical(options.output)
    work_to_do = _films(options, output) if options.films else _shards(options, output)
    content = work_to_do.content
    fingerprint = fingerprint_of(content)
    record.require_same(output, "synthesize", content, fingerprint, overwrite=options.overwrite)
    require_answer(options.address)
    storage.require_writable(output)
    with lease.hold(output):
        storage.sweep(output)
        planned = {unit.unit_id for unit in work_to_do.units}
        if options.overwrite:
            # What this job made before it was killed stays. Of another job nothing does, and job.json is still its.
            _forget(output, planned if record.is_of(output, fingerprint) else frozenset())
        else:
            _require_none_besides(output, planned, options)
        record.write(output, "job.json", record.job("synthesize", options, content))
        flow, left = work_to_do.flow, work_to_do.missing()
        outcome = work.carry_out(lambda _: flow, left, address=options.address)
        if options.films:
            write_boxes(output, work_to_do.units)
    seconds = time.monotonic() - started
    say(
        f"{outcome.counts.samples} pictures in {seconds:.1f} s, {outcome.counts.samples / seconds:.1f} a second"
    )
    print(work_to_do.told)
    return exits.DONE


@dataclass(frozen=True)
class _Work:
    """What is to be made: all units, the flow that makes them, what decides their content, and the closing line."""

    units: Sequence[Unit]
    missing: Callable[[], Sequence[Unit]]
    flow: Flow
    content: Mapping[str, Any]
    told: str


def _shards(options: Options, output: str) -> _Work:
    assert options.count is not None
    hand_model = synthetic_hand()
    spec = SceneSpec(
        size=options.size,
        occlusion=options.occlusion,
        vertices=options.vertices,
        split=options.split,
        look=options.look,
    )
    units = plan_shards(output, count=options.count, seed=options.seed, per_shard=options.per_shard)
    return _Work(
        units,
        functools.partial(missing, output, units),
        synthesis_flow(ShardMaker(output, options.seed, spec, hand_model)),
        {
            "seed": options.seed,
            "spec": json.loads(json.dumps(asdict(spec))),
            "hand_model": hand_model.name,
            "per_shard": options.per_shard,
        },
        f"{len(units)} shards with {options.count} pictures: {output}",
    )


def _films(options: Options, output: str) -> _Work:
    assert options.films is not None
    if options.look != "day":
        raise ConfigError(f"--look {options.look}: is for pictures; films are of the day")
    if options.size % 2:
        raise ConfigError(f"--size {options.size}: must be even for films")
    hand_model = synthetic_hand()
    spec = FilmSpec(size=options.size, frames=options.frames)
    units = plan_films(output, count=options.films, seed=options.seed, frames=options.frames)
    return _Work(
        units,
        functools.partial(missing_films, output, units),
        films_flow(FilmMaker(output, options.seed, spec, hand_model)),
        {"seed": options.seed, "films": asdict(spec), "hand_model": hand_model.name},
        f"{len(units)} films of {options.frames} frames: {output}/{FILMS}, their hands in {BOXES} and {TRUTH_FOLDER}/",
    )


def _require_none_besides(output: str, planned: Set[str], options: Options) -> None:
    """Refuses to leave shards or films of the same set beside those that are asked for: pictures would be there twice,
    or more of them than are asked for."""
    kind = f"{'synthetic' if options.films is None else 'film'}-{options.seed}-"
    for uri in _written(output, planned):
        if storage.name_of(uri).startswith(kind):
            raise ConfigError(
                f"{uri}: an earlier command made it for another --{'count' if options.films is None else 'films'}, and "
                "this one would not; --overwrite removes it, another --output keeps it"
            )


def _written(output: str, but: Set[str]) -> list[str]:
    """Returns the files that jobs made there, but for some units'; what has another name is somebody else's."""
    return [
        file.uri
        for file in storage.list_files(output)
        if _WRITTEN.fullmatch(storage.key_below(output, file.uri))
        and storage.name_of(file.uri).rsplit(".", 1)[0] not in but
    ]


def _forget(output: str, staying: Set[str]) -> None:
    """Removes what an earlier job made there, but for some units."""
    written = _written(output, staying)
    if any(uri.endswith(".parquet") for uri in written):
        storage.delete(storage.join(output, BOXES))
    # The truth, which is a film's commit, before the film.
    for uri in sorted(written, key=lambda uri: not uri.endswith(".parquet")):
        storage.delete(uri)


if __name__ == "__main__":
    from jobs.cli import command

    command(["synthesize", *sys.argv[1:]])
