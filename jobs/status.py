"""`handocc status`: what of an output is done, left and rejected, and why."""

import sys
from dataclasses import dataclass

import pyarrow as pa

from jobs import exits, record
from jobs.options import option
from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.records import Counts
from pipeline.sinks.parts import committed, read_table
from pipeline.units import load_plan


@dataclass(frozen=True)
class Options:
    """Says what of an output is done; status 0: all, 1: all but rejects, 3: units are left."""

    output: str = option(help="an output of annotate", positional=True)
    rejects: int = option(10, help="how many rejected records to list")


def run(options: Options) -> int:
    """Holds the output's parts against its plan."""
    output = storage.canonical(options.output)
    job = record.read(output, "job.json")
    if job is None or job["command"] != "annotate":
        raise ConfigError(f"{options.output}: no output of `handocc annotate` (there is no such job.json)")
    units = load_plan(output)
    done = committed(output, units, job["fingerprint"])
    total = sum((part.counts for part in done.values()), Counts())
    print(f"{len(done)} of {len(units)} units done, {len(units) - len(done)} left")
    print(
        f"{total.samples} images: {total.samples_with_hands} with hands, "
        f"{total.samples_without_hands} without, {total.samples_rejected} rejected"
    )
    print(
        f"{total.hands} hands asked for: {total.hands_annotated} annotated, {total.hands_rejected} rejected"
    )
    for kind, number in sorted(total.rejects.items(), key=lambda item: -item[1]):
        print(f"  rejected  {number:6d}  {kind}")
    shown = 0
    for name, part in done.items():
        if part.counts.rejects and shown < options.rejects:
            ledger = read_table(output, "ledger", name)
            for row in ledger.filter(pa.compute.equal(ledger["status"], "rejected")).to_pylist():
                if shown < options.rejects:
                    print(f"    {row['source']} {row['key'] or '(rest)'}: {row['reason']}")
                shown += 1
    if len(done) < len(units):
        print("not complete: the command that job.json names continues")
        return exits.INTERRUPTED
    return exits.REJECTS if total.rejects else exits.DONE


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["status", *sys.argv[1:]]))
