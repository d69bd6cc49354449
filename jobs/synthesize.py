"""`handocc synthesize`: labelled synthetic shards, a function of the seed."""

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass

from jobs import exits, record, work
from jobs.console import say
from jobs.options import option
from model.mano.synthetic import synthetic_hand
from pipeline import lease, storage
from pipeline.errors import ConfigError
from pipeline.synthesis.sample import SceneSpec
from pipeline.synthesis.shards import ShardMaker, missing, plan_shards, synthesis_flow


@dataclass(frozen=True)
class Options:
    """Makes labelled pictures of the procedural hand: poses, shapes, cameras, lights, things that hide it."""

    output: str = option(help="folder or URI that takes the shards")
    count: int = option(help="how many pictures")
    seed: int = option(0, help="the same seed gives the same bytes")
    per_shard: int = option(500, help="pictures per shard")
    size: int = option(320, help="pixels a side")
    occlusion: float = option(0.75, help="share of pictures in which something hides the hand")
    vertices: bool = option(False, help="write the 778 vertices into the labels")
    split: str = option("train", help="what the labels say of themselves")
    overwrite: bool = option(False, help="do anew what another job left in the output")
    address: str | None = option(None, help="a Ray cluster; default: this machine")


def run(options: Options) -> int:
    """Makes the shards that are not there yet."""
    started = time.monotonic()
    for name in ("count", "per_shard"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed}: must not be negative")
    if not 64 <= options.size <= 2048:
        raise ConfigError(f"--size {options.size}: must be between 64 and 2048")
    if not 0 <= options.occlusion <= 1:
        raise ConfigError(f"--occlusion {options.occlusion:g}: must be between 0 and 1")
    output = storage.canonical(options.output)
    hand_model = synthetic_hand()
    spec = SceneSpec(
        size=options.size, occlusion=options.occlusion, vertices=options.vertices, split=options.split
    )
    content = {
        "seed": options.seed,
        "spec": json.loads(json.dumps(asdict(spec))),
        "hand_model": hand_model.name,
    }
    content["per_shard"] = options.per_shard
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    if not options.overwrite:
        record.require_same(output, content, fingerprint)
    storage.require_writable(output)
    units = plan_shards(output, count=options.count, seed=options.seed, per_shard=options.per_shard)
    with lease.hold(output):
        storage.sweep(output)
        if options.overwrite:
            _forget_shards(output)
        job = {
            "command": "synthesize",
            "options": record.without_secrets(asdict(options)),
            "content": content,
        }
        job |= {"fingerprint": fingerprint, "versions": record.versions(), "machine": record.machine()}
        record.write(output, "job.json", job)
        flow = synthesis_flow(ShardMaker(output, options.seed, spec, hand_model))
        outcome = work.carry_out(lambda _: flow, missing(output, units), address=options.address)
    seconds = time.monotonic() - started
    say(
        f"{outcome.counts.samples} pictures in {seconds:.1f} s, {outcome.counts.samples / seconds:.1f} a second"
    )
    print(f"{len(units)} shards with {options.count} pictures: {output}")
    return exits.DONE


def _forget_shards(output: str) -> None:
    for file in list(storage.list_files(output)):
        if storage.name_of(file.uri).startswith("synthetic-"):
            storage.delete(file.uri)


if __name__ == "__main__":
    from jobs.cli import command

    command(["synthesize", *sys.argv[1:]])
