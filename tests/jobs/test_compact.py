"""Merging small parts changes no row, and no moment of it shows a row twice."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.compact import Options, run
from pipeline import compact, lease
from pipeline.errors import ConfigError
from pipeline.sinks.parts import committed, read_table
from pipeline.units import load_plan

pytestmark = pytest.mark.ray

MODEL = "--model tiny --weights random:0 --unit-rows 2 --meshes tar".split()

# Merges in a forked child, and kills it when it is about to move or delete a file for the nth time. The parent has
# no threads, so that forking is safe; it says how often a child was killed until one came through.
KILLER = """
import os, shutil, signal, sys
from jobs.compact import Options, run

original, scratch = sys.argv[1:]

def child(output, moment):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event in ("os.rename", "os.remove") and output in str(arguments[0]) and "lease" not in str(arguments):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    os._exit(run(Options(output=output)))

moment, status = 0, -1
while status != 0:
    moment += 1
    output = f"{scratch}/{moment}"
    shutil.copytree(original, output)
    pid = os.fork()
    if pid == 0:
        child(output, moment)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
print(moment - 1)
"""


def rows(output: Path, folder: str) -> list[Any]:
    """Everything that a plain reader of the folder sees, in an order of its own."""
    files = list((output / folder).glob("*.parquet"))
    tables = [pq.read_table(file).replace_schema_metadata(None) for file in files]
    return sorted(map(repr, pa.concat_tables(tables).to_pylist())) if tables else []


def everything(output: Path) -> dict[str, list[Any]]:
    return {folder: rows(output, folder) for folder in ("annotations", "ledger")}


def parts(output: Path) -> list[str]:
    return sorted(file.stem for file in (output / "annotations").iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, shards: Path, handocc: Callable[..., Any]) -> Path:
    """A shard in six small units, beside a copy of the input."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "in").mkdir()
    shutil.copy(min(shards.glob("*.tar")), folder / "in" / "a.tar")
    done = handocc("annotate", folder / "in", "--output", folder / "out", *MODEL)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def output(tmp_path: Path, small: Path) -> Path:
    return Path(shutil.copytree(small / "out", tmp_path / "out"))


def test_merging_changes_no_row_no_count_and_nothing_that_is_done(
    small: Path, output: Path, handocc_here: Callable[..., Any]
) -> None:
    before = handocc_here("status", small / "out")
    done = handocc_here("compact", output)
    assert done.returncode == 0, done.stderr
    assert "6 units in 1 parts" in done.stdout
    assert len(parts(small / "out")) == 6
    assert len(parts(output)) == 1
    assert everything(output) == everything(small / "out")
    assert not (output / "compaction").exists() or not list((output / "compaction").rglob("*.*"))
    for name in ("summary.json", "job.json"):
        assert (output / name).read_bytes() == (small / "out" / name).read_bytes()
    after = handocc_here("status", output)
    assert (after.returncode, after.stdout) == (before.returncode, before.stdout)
    report = handocc_here("report", output, "--count", "6")
    assert "6 hands" in report.stdout, report.stderr


def test_each_unit_is_found_in_the_merged_part(small: Path, output: Path) -> None:
    fingerprint = json.loads((output / "job.json").read_text())["fingerprint"]
    units = load_plan(str(output))
    before = committed(str(output), units, fingerprint)
    tables = {
        (name, folder): read_table(str(output), folder, part)
        for name, part in before.items()
        for folder in ("annotations", "ledger")
    }
    assert run(Options(output=str(output))) == 0
    after = committed(str(output), units, fingerprint)
    assert [part.counts for part in after.values()] == [part.counts for part in before.values()]
    for (name, folder), table in tables.items():
        merged, backwards = read_table(str(output), folder, after[name]), range(table.num_rows)[::-1]
        assert merged.equals(table)
        assert merged.take([*backwards]).to_pylist() == table.take([*backwards]).to_pylist()
    said = pq.read_metadata(output / "annotations" / f"{parts(output)[0]}.parquet").metadata
    assert json.loads(said[b"counts"])["samples"] == 12
    assert said[b"fingerprint"].decode() == fingerprint
    assert said[b"units"] == b"metres, radians, pixels"


def test_a_kill_at_any_step_shows_no_row_twice_and_the_next_run_completes_it(
    small: Path, tmp_path: Path
) -> None:
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, str(small / "out"), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert killer.returncode == 0, killer.stderr
    kills = int(killer.stdout.split()[-1])
    assert kills >= 2 + 12 + 4, "every part is staged, deleted or moved once at least"
    whole = everything(small / "out")
    missing = 0
    for moment in range(1, kills + 1):
        output = tmp_path / str(moment)
        seen = everything(output)
        for folder in whole:
            assert len(set(seen[folder])) == len(seen[folder]), f"kill {moment} shows rows of {folder} twice"
            assert set(seen[folder]) <= set(whole[folder])
        missing += seen != whole
        assert seen == whole or not (output / "summary.json").exists(), (
            f"kill {moment} looks whole and is not"
        )
        assert run(Options(output=str(output))) == 0
        assert everything(output) == whole
        assert len(parts(output)) == 1
        assert (output / "summary.json").exists()
        assert not [file for file in (output / "compaction").rglob("*") if file.is_file()]
        assert not compact.is_interrupted(str(output))
    assert missing >= 6


def test_units_that_are_done_anew_leave_the_merged_part_first(small: Path, output: Path) -> None:
    assert run(Options(output=str(output))) == 0
    ids = sorted(file.stem for file in (small / "out" / "annotations").iterdir())
    assert compact.release(str(output), set(ids)) == 0
    assert everything(output) == everything(small / "out")
    assert compact.release(str(output), set(ids[2:])) == 2
    for name in ids[:2]:
        for folder in ("annotations", "ledger"):
            shutil.copy(small / "out" / folder / f"{name}.parquet", output / folder)
    assert everything(output) == everything(small / "out")
    # Killed between the two files, the ledger still lists what the annotations do not: the next call mends that.
    name = next(name for name in parts(output) if name not in ids)
    shutil.copy(output / "ledger" / f"{name}.parquet", output / "kept")
    assert compact.release(str(output), set(ids[3:])) == 1
    shutil.copy(output / "kept", output / "ledger" / f"{name}.parquet")
    assert compact.release(str(output), set(ids)) == 0
    assert len(rows(output, "ledger")) < len(rows(small / "out", "ledger"))
    assert compact.release(str(output), set()) == 3
    assert parts(output) == ids[:2]


@pytest.mark.slow
def test_a_later_run_goes_on_top_and_what_changed_is_not_there_twice(
    small: Path, output: Path, tmp_path: Path, shards: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    inputs = small / "in"
    assert run(Options(output=str(output))) == 0
    merged = parts(output)
    shutil.copy(max(shards.glob("*.tar")), inputs / "b.tar")
    more = handocc_on_one_ray("annotate", inputs, "--output", output, *MODEL)
    assert "this run: 6 units" in more.stdout, more.stdout + more.stderr
    assert set(merged) < set(parts(output))
    assert run(Options(output=str(output))) == 0
    assert len(parts(output)) == 1
    ledger = rows(output, "ledger")
    assert len(ledger) == len(set(ledger))
    kept = [row for row in rows(output, "annotations") if "b.tar" in row]

    shutil.copy(max(shards.glob("*.tar")), inputs / "a.tar")
    again = handocc_on_one_ray("annotate", inputs, "--output", output, *MODEL)
    assert "this run: 6 units" in again.stdout, again.stdout + again.stderr
    annotations = rows(output, "annotations")
    assert len(annotations) == len(set(annotations)) == 2 * len(kept)
    assert [row for row in annotations if "b.tar" in row] == kept
    assert len(rows(output, "ledger")) == 2 * sum("b.tar" in row for row in ledger)
    assert handocc_on_one_ray("status", output).returncode == 0


def test_an_output_that_is_being_written_is_left_alone(output: Path) -> None:
    with lease.hold(str(output)), pytest.raises(ConfigError, match="is writing there"):
        run(Options(output=str(output)))
    assert len(parts(output)) == 6
    assert os.listdir(output / "annotations")
