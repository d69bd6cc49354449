"""What `handocc train` finds in its output when it begins: nothing, its own run, another one, or what a kill left."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.training import checkpoints
from jobs.training.begin import begin
from pipeline.errors import ConfigError

CONTENT = {"model": {"name": "tiny", "heads": 4}, "seed": 0}
SETTINGS = {"learning_rate": 1e-3, "clip_norm": None}


def begun(output: Path, *, content: Any = CONTENT, settings: Any = SETTINGS, **way: bool) -> dict[str, Any]:
    begin(str(output), content, settings, {"remarks": []}, **{"resume": False, "overwrite": False} | way)
    job: dict[str, Any] = json.loads((output / "job.json").read_text())
    return job


def checkpoint(output: Path, name: str) -> Path:
    state = io.BytesIO()
    torch.save({"done": 4}, state)
    folder = output / "run" / f"checkpoint_{name}"
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(state.getvalue())
    return folder


def listing(output: Path, *names: str) -> Path:
    path = output / "run" / "checkpoint_manager_snapshot.json"
    path.write_text(json.dumps({"checkpoint_results": [{"checkpoint_dir_name": name} for name in names]}))
    return path


def test_a_run_is_continued_only_when_that_is_asked_for(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(ConfigError, match="holds this run already: --resume continues it, --overwrite"):
        begun(tmp_path)
    assert begun(tmp_path, resume=True)["settings_before"] == []


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.heads was 4 and is 2\): use another --output"):
        begun(tmp_path, content=CONTENT | {"model": {"name": "tiny", "heads": 2}}, resume=True)


def test_a_learning_rate_may_change_on_the_way_and_job_json_keeps_what_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path)
    job = begun(tmp_path, settings=SETTINGS | {"learning_rate": 1e-4}, resume=True)
    assert capsys.readouterr().err == "note: goes on with learning_rate 0.0001 (was 0.001)\n"
    assert (job["settings_before"], job["settings"]["learning_rate"]) == ([SETTINGS], 1e-4)
    assert begun(tmp_path, settings=SETTINGS | {"learning_rate": 1e-4}, resume=True) == job


def test_overwriting_leaves_nothing_of_the_other_run(tmp_path: Path) -> None:
    begun(tmp_path)
    checkpoint(tmp_path, "2026-01-01")
    listing(tmp_path, "checkpoint_2026-01-01")
    for name in ("weights/last.safetensors", "pictures/step.jpg", "tensorboard/events", "metrics.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"of the other run")
    begun(tmp_path, content=CONTENT | {"seed": 1}, overwrite=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "job.json"]


def test_a_checkpoint_that_was_never_finished_is_removed(tmp_path: Path) -> None:
    whole, orphan = checkpoint(tmp_path, "2026-01-01"), checkpoint(tmp_path, "2026-01-02")
    text = listing(tmp_path, whole.name).read_text()
    checkpoints.mend(str(tmp_path))
    assert (whole / "state.pt").exists()
    assert not (orphan / "state.pt").exists()
    assert (tmp_path / "run" / "checkpoint_manager_snapshot.json").read_text() == text


@pytest.mark.parametrize(
    "text", ["", '{"checkpoint_results": [{"check', "[]", '{"checkpoint_results": [{}]}']
)
def test_a_list_of_checkpoints_that_was_cut_is_renewed_from_the_last_whole_one(
    tmp_path: Path, text: str
) -> None:
    first, second = checkpoint(tmp_path, "2026-01-01"), checkpoint(tmp_path, "2026-01-02")
    third = checkpoint(tmp_path, "2026-01-03")
    (third / "state.pt").write_bytes((third / "state.pt").read_bytes()[:-100])
    path = listing(tmp_path)
    path.write_text(text)
    checkpoints.mend(str(tmp_path))
    renewed = json.loads(path.read_text())
    assert [result["checkpoint_dir_name"] for result in renewed["checkpoint_results"]] == [second.name]
    assert renewed["latest_checkpoint_result"]["checkpoint_dir_name"] == second.name
    assert [(folder / "state.pt").exists() for folder in (first, second, third)] == [False, True, False]


def test_a_list_that_names_a_missing_checkpoint_is_renewed(tmp_path: Path) -> None:
    there = checkpoint(tmp_path, "2026-01-01")
    path = listing(tmp_path, there.name, "checkpoint_2026-01-02")
    checkpoints.mend(str(tmp_path))
    assert [one["checkpoint_dir_name"] for one in json.loads(path.read_text())["checkpoint_results"]] == [
        there.name
    ]
