"""`handocc train`: one short run, what it leaves, and the requests that it refuses before anything moves."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs import cli
from jobs.cluster import Resources
from jobs.training import staff
from model.mano.synthetic import synthetic_hand
from model.weights import load_weights
from pipeline.errors import ConfigError
from tests.training_shards import changed, label

STEPS = 18


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shards: Path, handocc: Callable[..., Any]) -> Path:
    """Two workers, six epochs of three steps, over the same pictures as they are measured on."""
    output = tmp_path_factory.mktemp("train") / "out"
    command = "--model tiny --workers 2 --epochs 6 --batch-size 8 --micro-batch 4 --learning-rate 8e-3"
    command += " --rotation 0 --paste 0 --log-steps 1 --keep 1"
    done = handocc(
        "train", shards, "--output", output, "--validation", shards / "synthetic-3-00000012-00000024.tar",
        *command.split(), timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "24 samples, 3 steps an epoch of 8 (2 x 4), 18 steps in all; learning rate 0.002" in done.stderr
    assert done.stderr.count("after epoch") == 7
    assert f"weights: file://{output}/weights" in done.stdout
    return output


@pytest.mark.ray
def test_the_loss_falls(trained: Path) -> None:
    steps = [row for row in rows(trained) if "loss/total" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [row["epoch"] for row in steps] == [step // 3 for step in range(STEPS)]
    losses = [row["loss/total"] for row in steps]
    assert sum(losses[-6:]) / 6 < 0.9 * sum(losses[:3]) / 3, losses
    terms = [name for name in steps[0] if name.startswith("loss/") and name != "loss/total"]
    assert steps[0]["loss/total"] == pytest.approx(sum(steps[0][name] for name in terms), rel=1e-5)


@pytest.mark.ray
def test_every_epoch_is_measured_and_drawn(trained: Path) -> None:
    measured = [row for row in rows(trained) if "validation/pa_mpjpe_mm" in row]
    assert [row["step"] for row in measured] == [0, 3, 6, 9, 12, 15, 18]
    assert measured[-1]["validation/mpjpe_mm"] < measured[0]["validation/mpjpe_mm"]
    assert {"validation/pa_mpvpe_mm", "validation/pa_f5", "validation/pa_f15"} <= measured[0].keys()
    drawn = sorted(path.name for path in (trained / "pictures").iterdir())
    assert drawn == [f"step-{step:08d}.jpg" for step in range(0, STEPS + 1, 3)]


@pytest.mark.ray
def test_tensorboard_shows_what_metrics_jsonl_says(trained: Path) -> None:
    [logs] = (trained / "tensorboard").iterdir()
    shown = EventAccumulator(str(logs)).Reload()
    for name in ("loss/total", "learning_rate", "validation/pa_mpjpe_mm"):
        written = [(row["step"], row[name]) for row in rows(trained) if name in row]
        assert [event.step for event in shown.Scalars(name)] == [step for step, _ in written]
        assert [event.value for event in shown.Scalars(name)] == pytest.approx([v for _, v in written])


@pytest.mark.ray
def test_the_best_and_the_last_weights_are_kept_with_all_that_they_need(trained: Path) -> None:
    measured = [row for row in rows(trained) if "validation/pa_mpjpe_mm" in row and row["step"]]
    lowest = min(row["validation/pa_mpjpe_mm"] for row in measured)
    last, best = (
        load_weights((trained / "weights" / f"{name}.safetensors").read_bytes()) for name in ("last", "best")
    )
    assert last.notes["step"] == "18"
    assert last.notes["trained on"] == "labels of the procedural hand only"
    assert last.hand_model_name == synthetic_hand().name
    assert float(best.notes["validation pa_mpjpe_mm"]) == pytest.approx(lowest, rel=1e-3)
    job = json.loads((trained / "job.json").read_text())
    assert {f"model.{name}": value for name, value in last.config.to_dict().items()}.items() <= job[
        "content"
    ].items()
    kept = {path.name for path in (trained / "run").iterdir() if path.name.startswith("checkpoint_20")}
    assert 1 <= len(kept) <= 2, "the best one and the last one"


@pytest.mark.ray
def test_annotate_takes_the_weights_as_they_are(
    trained: Path, tmp_path: Path, shards: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    weights = trained / "weights" / "last.safetensors"
    done = handocc_on_one_ray(
        "annotate", shards / "*.tar", "--output", tmp_path / "out", "--weights", weights
    )
    assert done.returncode == 0, done.stderr
    assert "labels of the procedural hand only" in done.stderr
    for name in ("job.json", "summary.json"):
        assert "labels of the procedural hand only" in (tmp_path / "out" / name).read_text()
    part = next((tmp_path / "out" / "annotations").iterdir())
    metadata = pq.read_schema(part).metadata
    assert any(b"labels of the procedural hand only" in value for value in metadata.values())


@pytest.fixture
def refused(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Gives the command something that it cannot do, and returns its one line."""

    def run(*arguments: str | Path, inputs: Path = shards) -> str:
        command = ["train", str(inputs), "--output", str(tmp_path / "out"), *map(str, arguments)]
        assert cli.main(command) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1, said
        return said[0]

    yield run
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--batch-size 10 --micro-batch 4", "--batch-size 10 is not a multiple of --micro-batch 4"),
        ("--micro-batch 1", "--micro-batch 1 of --batch-size 32: batch norm needs at least two samples"),
        ("--batch-size 17", "--micro-batch 1 of --batch-size 17"),
        ("--ablation fit=hard", "there is no ablation 'fit=hard'; there are neck= identity"),
        ("--recipe fast", "there is no recipe 'fast'; choose one of paper, release"),
        ("--model huge", "there is no model 'huge'; choose one of paper, release, tiny"),
        ("--workers many", "--workers many: N or MIN:MAX, from 1 up"),
        ("--workers 3:2", "--workers 3:2: N or MIN:MAX"),
        ("--epochs 0", "--epochs 0: must be at least 1"),
        ("--steps 0", "--steps 0: must be at least 1"),
        ("--learning-rate nan", "--learning-rate nan: must be a positive number"),
        ("--clip-norm 0", "--clip-norm 0: must be a positive number"),
        ("--paste 1.5", "--paste 1.5: must be between 0 and 1"),
        ("--resume --overwrite", "--resume and --overwrite exclude each other"),
        ("--compile --cuda-graph", "--compile and --cuda-graph exclude each other"),
        ("--weights nowhere.safetensors", "--weights nowhere.safetensors: no such file"),
        ("--mano nowhere.pkl", "--mano nowhere.pkl: no such file"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_ray_starts(
    refused: Callable[..., str], options: str, said: str
) -> None:
    model = () if "--model" in options else ("--model", "tiny")
    assert said in refused(*model, *options.split())


def test_shards_that_are_not_there_or_none_are_refused_before_ray_starts(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    assert "nowhere" in refused("--model", "tiny", inputs=tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"")
    assert "training reads .tar shards only" in refused("--model", "tiny", inputs=tmp_path / "pictures")


def test_shards_of_the_licensed_hand_need_it(
    refused: Callable[..., str], tmp_path: Path, shards: Path
) -> None:
    good = sorted(shards.glob("*.tar"))[0]
    (tmp_path / "in").mkdir()
    changed(good, tmp_path / "in" / "s.tar", {"00000000.json": label("hand_model", "mano-right")})
    assert "needs --mano: MANO_RIGHT.pkl" in refused("--model", "tiny", inputs=tmp_path / "in")


def resources(cpus: float, gpus: float, node_cpus: float | None = None) -> Resources:
    node = cpus if node_cpus is None else node_cpus
    return Resources(cpus=cpus, gpus=gpus, gpus_now=gpus, node_cpus=node, gpu_node_cpus=node)


def test_there_is_a_worker_per_gpu_but_none_without_a_micro_batch() -> None:
    choices: dict[str, Any] = {"workers": None, "gpus_per_worker": None, "threads": None}
    chosen = staff.choose(resources(16, 4), lanes=8, **choices)
    assert (chosen.least, chosen.most, chosen.gpus, chosen.threads) == (4, 4, 1.0, 4)
    assert staff.choose(resources(16, 4), lanes=2, **choices).most == 2
    assert staff.choose(resources(16, 0), lanes=8, **choices).most == 1


@pytest.mark.parametrize("cpus", [1.0, 2.0, 16.0])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_leave_room_for_the_tasks_that_read_for_them(cpus: float, workers: int) -> None:
    chosen = staff.choose(
        resources(cpus, 0), workers=(workers, workers), gpus_per_worker=None, threads=None, lanes=8
    )
    assert workers * chosen.cpus + chosen.read_cpus <= cpus
    assert chosen.threads >= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": (1, 9)}, "--workers 9: a step has 8 micro-batches, and every worker needs one"),
        ({"workers": (2, 2), "gpus_per_worker": 1.0}, "with 1 GPUs each they need 2, the cluster has 0"),
        ({"gpus_per_worker": 0.5}, "--gpus-per-worker 0.5: must be 0, 1 or another whole number"),
    ],
)
def test_workers_that_would_never_start_or_never_work_are_refused(options: dict[str, Any], said: str) -> None:
    choices: dict[str, Any] = {"workers": None, "gpus_per_worker": None, "threads": None} | options
    with pytest.raises(ConfigError) as refusal:
        staff.choose(resources(8, 0), lanes=8, **choices)
    assert said in str(refusal.value)
