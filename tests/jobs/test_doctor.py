"""What `doctor` says of the hand detector; the address where nothing answers keeps it from starting Ray."""

import zipfile
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.boxes.detect import MODELS_INSIDE


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    main(["doctor", "--address", "127.0.0.1:1"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " detector " in line)
    return line


def test_the_detectors_file_is_looked_for_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "hands.task"
    monkeypatch.setenv("HANDOCC_DETECTOR", str(task))
    line = line_of(capsys)
    assert line.startswith("absent")
    assert f"{task} is not there; `handocc fetch-detector`" in line
    task.write_bytes(b"<html>")
    assert line_of(capsys).startswith("MISSING")
    with zipfile.ZipFile(task, "w") as archive:
        for name in MODELS_INSIDE:
            archive.writestr(name, b"another network")
    line = line_of(capsys)
    assert line.startswith("ok")
    assert "none that fetch-detector brings" in line
