import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import exits
from jobs.cli import main


def test_damaged_job_files_are_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = '{"command": "annotate", "fingerprint": "f", "plan": {"given_up": []}}'
    for content in ("", "{", "[]", '{"command": "other"}', half):
        (tmp_path / "job.json").write_text(content)
        assert main(["status", str(tmp_path)]) == exits.USAGE
        assert len(capsys.readouterr().err.splitlines()) == 1
    (tmp_path / "folder" / "job.json").mkdir(parents=True)
    assert main(["status", str(tmp_path / "folder")]) == exits.USAGE
    assert "job.json cannot be read" in capsys.readouterr().err


def test_the_command_says_which_version_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == exits.DONE
    assert re.fullmatch(r"handocc \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_a_bug_does_not_look_like_a_finished_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('a bug')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("importlib.import_module", lambda _: exec((tmp_path / "broken.py").read_text()))
    assert main(["status", str(tmp_path)]) == exits.CRASHED
    assert "RuntimeError: a bug" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_first_second_is_an_interruption(tmp_path: Path, kind: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "synthesize", "--output", str(tmp_path / "out"), "--count", "5"],
        cwd=Path(__file__).resolve().parents[2],
        stderr=subprocess.PIPE,
        env={**os.environ},
        text=True,
    )
    time.sleep(1.5)
    process.send_signal(kind)
    _, said = process.communicate(timeout=60)
    assert process.returncode == exits.INTERRUPTED, said
    assert "the same command continues" in said
