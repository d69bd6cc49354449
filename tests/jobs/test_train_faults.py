"""What is wrong with data or settings ends a run in one line that names it, and the last checkpoint stays."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from jobs import cli
from jobs.cluster import connect
from tests.training_shards import broken, changed, hand, label

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = "--model tiny --batch-size 8 --micro-batch 4 --threads 1 --log-steps 1".split()


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    """One Ray for all of these runs."""
    with connect(None):
        yield


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Trains on the shards in `in`; returns the status and what was said."""

    def run(*options: str) -> tuple[int, str]:
        command = ["train", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *SMALL, *options]
        status = cli.main(command)
        return status, capsys.readouterr().err

    (tmp_path / "in").mkdir()
    return run


@pytest.fixture
def good(shards: Path) -> Path:
    return sorted(shards.glob("*.tar"))[0]


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_checkpoint(
    tmp_path: Path, good: Path, train: Callable[..., tuple[int, str]]
) -> None:
    changed(good, tmp_path / "in" / "a.tar", {})
    # Three steps an epoch.
    small = ("--batch-size", "4", "--micro-batch", "2", "--workers", "2")
    assert train(*small, "--steps", "1")[0] == 0
    kept = list((tmp_path / "out" / "run").glob("checkpoint_20*/state.pt"))
    assert kept
    status, said = train(*small, "--steps", "20", "--resume", "--learning-rate", "1e12")
    assert status == 2
    last = said.splitlines()[-1]
    assert "is not finite at step 3; samples: every one, so that the weights have run away" in last
    assert "the last checkpoint, of step 1, is intact: --resume with a lower --learning-rate" in last
    assert list((tmp_path / "out" / "run").glob("checkpoint_20*/state.pt")) == kept
    assert train(*small, "--steps", "3", "--resume")[0] == 0


def test_labels_of_another_hand_model_end_the_run_by_name_and_are_not_tried_again(
    tmp_path: Path, good: Path, train: Callable[..., tuple[int, str]]
) -> None:
    shard = changed(good, tmp_path / "in" / "a.tar", {"00000007.json": label("hand_model", "another")})
    status, lines = train("--epochs", "2")
    assert status == 2
    said = "another hand model: 00000007: its pose and shape belong to hand model another"
    assert lines.splitlines()[-1].startswith(f"handocc train: {shard.as_uri()}: {said}")
    assert lines.count("after epoch 0") == 1


def test_broken_pictures_and_labels_are_named_and_counted_and_the_others_are_learnt(
    tmp_path: Path, good: Path, train: Callable[..., tuple[int, str]]
) -> None:
    changes = {f"{number:08d}.jpg": broken for number in range(4, 8)}
    changes |= {f"{number:08d}.json": hand("joints_3d", [[0, 0, 0]] * 20) for number in range(8, 11)}
    shard = changed(good, tmp_path / "in" / "a.tar", changes)
    status, said = train("--epochs", "2")
    assert status == 0
    assert f"passed over {shard.as_uri()}: 00000004: unreadable image" in said
    assert said.count(f"passed over {shard.as_uri()}: ") == 5
    assert "passed over 7 pictures that cannot be used, in every epoch" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it is no fault")
def test_a_cuda_graph_needs_a_gpu(tmp_path: Path, good: Path, train: Callable[..., tuple[int, str]]) -> None:
    changed(good, tmp_path / "in" / "a.tar", {})
    status, said = train("--cuda-graph")
    assert status == 2
    assert said.splitlines()[-1].startswith(
        "handocc train: --cuda-graph is for one worker with a GPU, not for 1 with 0 each"
    )
    assert not (tmp_path / "out" / "job.json").exists()


def test_a_validation_set_of_which_nothing_can_be_used_ends_the_run_by_name(
    tmp_path: Path, good: Path, train: Callable[..., tuple[int, str]]
) -> None:
    changed(good, tmp_path / "in" / "a.tar", {})
    with tarfile.open(good) as archive:
        pictures = [name for name in archive.getnames() if name.endswith(".jpg")]
    (tmp_path / "validation").mkdir()
    changed(good, tmp_path / "validation" / "a.tar", dict.fromkeys(pictures, broken))
    status, said = train("--steps", "1", "--validation", str(tmp_path / "validation"))
    assert status == 2
    last = said.splitlines()[-1]
    assert last.startswith(
        "handocc train: --validation: not one of its samples can be used; the first: file://"
    )
    assert "unreadable image" in last


def test_an_empty_shard_is_named(tmp_path: Path, good: Path, train: Callable[..., tuple[int, str]]) -> None:
    tarfile.open(tmp_path / "in" / "a.tar", "w").close()
    status, said = train("--steps", "1", "--mano", "synthetic")
    assert status == 2
    empty = (tmp_path / "in" / "a.tar").as_uri()
    assert said.splitlines()[-1] == f"handocc train: {empty}: there are no samples in them"
    changed(good, tmp_path / "in" / "b.tar", {})
    status, said = train("--steps", "1")
    assert status == 0, said
    assert f"passed over, holding no samples: {empty}" in said


def test_weights_of_an_ablation_learnt_in_mixed_precision_start_a_run_whose_own_are_written_in_half(
    tmp_path: Path, good: Path, train: Callable[..., tuple[int, str]]
) -> None:
    changed(good, tmp_path / "in" / "a.tar", {})
    options = "--ablation neck=identity --precision bf16 --clip-norm 1 --steps 1"
    status, said = train(*options.split())
    assert status == 0, said
    assert '"model.neck": "identity"' in (tmp_path / "out" / "job.json").read_text()
    weights = tmp_path / "out" / "weights" / "last.safetensors"
    further = ("--output", str(tmp_path / "full"), "--weights", str(weights), "--steps", "1")
    status, said = train(*further)
    assert status == 2
    refusal = said.splitlines()[-1]
    assert f"--weights {weights}: " in refusal
    assert "model 'tiny/table1/identity' is not the 'tiny' asked for: neck='identity'" in refusal
    assert refusal.endswith("; --adapt takes what fits of it")
    status, said = train(*further, "--adapt", "--half")
    assert status == 0, said
    assert "which start untrained: injection, enhancement" in said
    written = safetensors.torch.load_file(tmp_path / "full" / "weights" / "last.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float16, torch.int64}
