"""`handocc status`: what of an output is done, left and rejected, and why."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from jobs import exits, planning, record
from jobs.console import some
from jobs.options import option
from pipeline import compact, storage
from pipeline.plan import load_plan
from pipeline.records import Counts, Unit
from pipeline.sinks.parts import COMPACTED, Part, PartGone, committed, read_parts, read_table


@dataclass(frozen=True)
class Options:
    """Says what of an output is done; status 0: all, 1: all but rejects, 3: units or files are missing."""

    output: str = option(help="an output of annotate", positional=True)
    rejects: int = option(10, help="how many rejected records to list")


def run(options: Options) -> int:
    """Holds the output's parts against its plan."""
    output = storage.canonical(options.output)
    is_planned = not planning.is_unfinished(output)
    if not is_planned:
        print("it is being planned, or that was interrupted: the same command continues")
        if record.read(output, "job.json") is None:
            print(f"{len(load_plan(output))} units are planned so far")
            return exits.INTERRUPTED
    job = record.of_annotate(output)
    planned = load_plan(output)
    done = committed(output, planned, job["fingerprint"])
    units = record.asked_for(job, planned, done)
    total = sum((part.counts for part in done.values()), Counts())
    print(f"{len(done)} of {len(units)} units done, {len(units) - len(done)} left")
    if abandoned := len(planned) - len(units):
        print(
            f"{abandoned} more are of inputs that the last command did not name: one that does goes on with them"
        )
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
        print(f"  rejected  {number:6d}  {printable(kind)}")
    spoilt = _spoilt(output, units, done) + _list_rejects(output, done, options.rejects)
    for line in spoilt:
        print(line)
    if len(done) < len(units) or not units or spoilt or not is_planned:
        left = {unit.input for unit in units if unit.unit_id not in done}
        print(f"not complete: {record.way_to_the_end(job, left)}")
        return exits.INTERRUPTED
    return exits.REJECTS if total.rejects else exits.DONE


def _list_rejects(output: str, done: Mapping[str, Part], most: int) -> list[str]:
    """Prints the first rejected records, and returns a line for each ledger that cannot be read."""
    shown, spoilt = 0, []
    for part in done.values():
        if not part.counts.rejects or shown >= most:
            continue
        try:
            ledger = read_table(output, "ledger", part)
        except PartGone:
            continue  # named among those that are missing
        except (OSError, pa.ArrowException) as error:
            spoilt.append(_way_out(f"ledger/{part.file}.parquet is damaged ({_line(error)})", part.file))
            continue
        for row in ledger.filter(pc.equal(ledger["status"], "rejected")).slice(0, most - shown).to_pylist():
            place = f"{row['source']} {row['key'] or '(rest)'}"
            print(f"    {printable(place)}: {printable(row['reason'])}")
            shown += 1
    return spoilt


def _spoilt(output: str, units: Sequence[Unit], done: Mapping[str, Part]) -> list[str]:
    """Returns a line for each kind of file that is missing beside a finished unit, or that cannot be read."""
    lines = []
    there = {
        folder: {
            storage.name_of(file.uri).removesuffix(".parquet")
            for file in storage.list_files(storage.join(output, folder))
        }
        for folder in ("annotations", "ledger")
    }
    missing = sorted({part.file for part in done.values()} - there["ledger"])
    if missing:
        lines.append(_way_out(f"{len(missing)} ledger parts are missing: {some(missing)}", missing[0]))
    left = {unit.unit_id for unit in units} - done.keys()
    names = [name for name in there["annotations"] if name in left or name.startswith(COMPACTED)]
    damaged = sorted(name for name in names if not read_parts(output, name))
    if damaged:
        lines.append(
            f"{len(damaged)} annotation parts are damaged, their units count as left: {some(damaged)}"
        )
    return lines


def _way_out(what: str, name: str) -> str:
    return f"{what}; without annotations/{name}.parquet the same command does it anew"


def _line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))


def printable(text: str) -> str:
    """Returns text in which what would move the cursor, hide or reorder letters is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


if __name__ == "__main__":
    from jobs.cli import command

    command(["status", *sys.argv[1:]])
