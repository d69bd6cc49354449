"""What `status` says of outputs that are not as they should be: lines, never a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import exits
from jobs.cli import main
from jobs.status import printable
from pipeline.units import load_plan

pytestmark = pytest.mark.ray

Status = Callable[[], tuple[int, list[str]]]


@pytest.fixture
def output(tmp_path: Path, annotated: Path) -> Path:
    return Path(shutil.copytree(annotated, tmp_path / "out"))


@pytest.fixture
def status(output: Path, capsys: pytest.CaptureFixture[str]) -> Status:
    def run() -> tuple[int, list[str]]:
        done = main(["status", str(output)])
        said = capsys.readouterr()
        assert said.err == ""
        return done, said.out.splitlines()

    return run


def rejecting(output: Path) -> Path:
    """Returns the first ledger in which something was rejected."""
    ledgers = sorted((output / "ledger").iterdir())
    return next(path for path in ledgers if "rejected" in pq.read_table(path)["status"].to_pylist())


def test_a_ledger_that_is_missing_or_damaged_is_a_line_and_the_output_not_complete(
    output: Path, status: Status
) -> None:
    assert status()[0] == exits.REJECTS
    ledger = rejecting(output)
    ledger.write_bytes(ledger.read_bytes()[:-9])
    done, lines = status()
    assert done == exits.INTERRUPTED
    assert [
        line for line in lines if f"ledger/{ledger.name} is damaged" in line and "the same command" in line
    ]
    ledger.unlink()
    done, lines = status()
    assert done == exits.INTERRUPTED
    assert [line for line in lines if f"1 ledger parts are missing: {ledger.stem}" in line]


def test_a_damaged_annotation_part_is_named_and_its_unit_is_left(output: Path, status: Status) -> None:
    part = min((output / "annotations").iterdir())
    part.write_bytes(part.read_bytes()[:-9])
    done, lines = status()
    assert done == exits.INTERRUPTED
    assert "1 left" in lines[0]
    assert [line for line in lines if "1 annotation parts are damaged" in line and part.stem in line]


def test_what_the_last_command_did_not_name_is_counted_apart(output: Path, status: Status) -> None:
    part = min((output / "annotations").iterdir())
    about = json.loads((output / "job.json").read_text())
    about["plan"]["given_up"] = sorted({unit.input for unit in load_plan(str(output))})
    (output / "job.json").write_text(json.dumps(about))
    part.unlink()
    done, lines = status()
    assert done == exits.REJECTS
    assert "0 left" in lines[0]
    assert lines[1].startswith("1 more are of inputs that the last command did not name")


def test_names_cannot_write_on_the_terminal(output: Path, status: Status) -> None:
    ledger = rejecting(output)
    table = pq.read_table(ledger)
    index = table.column_names.index("reason")
    reasons = ["\x1b[2Jgone \u202e ü" if reason else None for reason in table["reason"].to_pylist()]
    pq.write_table(table.set_column(index, table.schema.field(index), [reasons]), ledger)
    text = "\n".join(status()[1])
    assert "\x1b" not in text
    assert "\\x1b[2Jgone \\u202e ü" in text
    assert printable("a\r\nb\u2028\udcff") == "a\\r\\nb\\u2028\\udcff"
