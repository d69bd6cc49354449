"""`handocc compact`: the many small parts of short inputs, merged into bigger ones."""

import sys
from dataclasses import dataclass

from jobs import exits, record
from jobs.console import say
from jobs.options import option, require_least
from pipeline import compact, lease, storage
from pipeline.sinks.parts import committed
from pipeline.units import load_plan


@dataclass(frozen=True)
class Options:
    """Merges an output's small annotation and ledger parts; rows, counts and what is done stay the same."""

    output: str = option(help="an output of annotate that nobody is writing to", positional=True)
    part_size: int = option(128, help="MiB of annotations that a merged part takes at most")


def run(options: Options) -> int:
    """Finishes a merge that was interrupted, then merges what is small."""
    require_least(options, "part_size")
    output = storage.canonical(options.output)
    job = record.of_annotate(output)
    with lease.hold(output):
        storage.sweep(output)
        if compact.finish(output):
            say("completed a merge that was interrupted")
        units = load_plan(output)
        done = committed(output, units, job["fingerprint"])
        groups = compact.choose(output, units, done, options.part_size << 20)
        parts = len({part.file for part in done.values()})
        for number, group in enumerate(compact.merge(output, groups), start=1):
            parts += 1 - len(group.files)
            say(f"{number} of {len(groups)}: merged {len(group.files)} parts")
    print(f"{len(done)} units in {parts} parts: {output}")
    return exits.DONE


if __name__ == "__main__":
    from jobs.cli import command

    command(["compact", *sys.argv[1:]])
