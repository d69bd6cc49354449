"""`handocc status`: what of an output is done, left and rejected, and why."""

import sys
from dataclasses import dataclass

import pyarrow as pa

from jobs import exits, record
from jobs.options import option
from pipeline import compact, storage
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
    job = record.of_annotate(output)
    planned = load_plan(output)
    done = committed(output, planned, job["fingerprint"])
    units = [unit for unit in planned if unit.unit_id in done or unit.input not in job["plan"]["given_up"]]
    total = sum((part.counts for part in done.values()), Counts())
    print(f"{len(done)} of {len(units)} units done, {len(units) - len(done)} left")
    if compact.is_interrupted(output):
        print("parts are being merged, or that was interrupted: `handocc compact` completes it")
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
    for part in done.values():
        if part.counts.rejects and shown < options.rejects:
            ledger = read_table(output, "ledger", part)
            for row in ledger.filter(pa.compute.equal(ledger["status"], "rejected")).to_pylist():
                if shown < options.rejects:
                    print(f"    {row['source']} {row['key'] or '(rest)'}: {row['reason']}")
                shown += 1
    if len(done) < len(units) or not units:
        print("not complete: the command that job.json names continues")
        return exits.INTERRUPTED
    return exits.REJECTS if total.rejects else exits.DONE


if __name__ == "__main__":
    from jobs.cli import command

    command(["status", *sys.argv[1:]])
