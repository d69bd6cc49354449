"""The whole command with inputs, configuration and output on S3, while requests to it go wrong."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from tests.s3_faults import Service
from tests.s3_jobs import RATES, kill_at, parts

pytestmark = pytest.mark.ray

TINY = ("--model", "tiny", "--weights", "random:0", "--meshes", "tar")


@pytest.fixture
def bucket(s3: Service, shards: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The shards on S3, behind the proxy; a stalled connection is given up after 2 s."""
    monkeypatch.setenv("FSSPEC_S3", json.dumps({"config_kwargs": {"read_timeout": 2}}))
    for shard in shards.glob("*.tar"):
        storage.put(f"{s3.bucket}/shards/{shard.name}", shard.read_bytes())
    s3.faults.stall_s = 5.0
    s3.faults.requests.clear()
    return s3.bucket


def hands(output: str) -> list[dict[str, Any]]:
    """Returns the rows of an output without what names the place of its input."""
    rows: list[dict[str, Any]] = []
    for file in storage.list_files(storage.join(output, "annotations")):
        table = pq.read_table(io.BytesIO(storage.read(file.uri)))
        rows += table.drop_columns(["source", "instance_id", "mesh"]).to_pylist()
    return sorted(rows, key=lambda row: (row["key"], row["hand_index"]))


def test_a_run_through_failing_storage_gives_what_a_local_run_gives(
    s3: Service, bucket: str, annotated: Path, handocc: Callable[..., Any]
) -> None:
    for shard in annotated.parent.glob("*.tar"):
        storage.put(f"{bucket}/in/{shard.name}", shard.read_bytes())
    config = {"boxes": "given", "output": f"{bucket}/out", "inputs": [f"{bucket}/in/*.tar"], "vertices": True}
    storage.put(f"{bucket}/job.yaml", json.dumps(config).encode())
    s3.faults.rates = RATES
    remote = handocc("annotate", "--config", f"{bucket}/job.yaml", *TINY)
    assert remote.returncode == 1, remote.stderr
    assert s3.faults.injected.total() >= 3
    s3.faults.rates = {}
    assert hands(f"{bucket}/out") == hands(str(annotated)) != []
    counts = [
        json.loads(storage.read(f"{out}/summary.json"))["counts"] for out in (f"{bucket}/out", annotated)
    ]
    assert counts[0] == counts[1]
    assert "secret" not in storage.read(f"{bucket}/out/job.json").decode().lower()


@pytest.mark.slow
def test_killed_twice_on_failing_storage_the_same_command_ends_with_the_same_parts(
    s3: Service, bucket: str, handocc: Callable[..., Any]
) -> None:
    command = ["annotate", f"{bucket}/shards/*.tar", *TINY, "--unit-rows", "2"]
    assert handocc(*command, "--output", f"{bucket}/calm").returncode == 0
    s3.faults.rates = RATES
    rough = [*command, "--output", f"{bucket}/rough"]
    for count in (1, 6):
        kill_at(rough, f"{bucket}/rough", count, watch=s3.committed)
    done = handocc(*rough)
    assert done.returncode == 0, done.stderr
    s3.faults.rates = {}
    assert parts(f"{bucket}/rough") == parts(f"{bucket}/calm") != {}


@pytest.mark.slow
def test_weights_boxes_and_hand_model_may_lie_there_too(
    bucket: str, handocc: Callable[..., Any], tmp_path: Path
) -> None:
    from model.config import preset
    from model.mano.synthetic import export_mano_pickle, synthetic_hand
    from model.weights import random_weights, save_weights

    network = random_weights(preset("tiny"), 0).network
    name = synthetic_hand().name
    weights = save_weights(network, preset("tiny"), hand_model_name=name, notes={}, half=False)
    storage.put(f"{bucket}/weights.safetensors", weights)
    storage.put(f"{bucket}/MANO_RIGHT.pkl", export_mano_pickle(synthetic_hand()))
    pq.write_table(
        pa.table({"key": ["00000000"], "bbox": [[9.0, 9.0, 90.0, 90.0]]}), tmp_path / "boxes.parquet"
    )
    storage.put(f"{bucket}/boxes.parquet", (tmp_path / "boxes.parquet").read_bytes())
    options = ("--weights", f"{bucket}/weights.safetensors", "--boxes", f"{bucket}/boxes.parquet")
    done = handocc(
        "annotate",
        f"{bucket}/shards/*.tar",
        "--output",
        f"{bucket}/out",
        *options,
        "--side",
        "right",
        "--limit",
        "1",
    )
    assert done.returncode == 0, done.stderr
    other = handocc(
        "annotate",
        f"{bucket}/shards/*.tar",
        *options,
        "--output",
        f"{bucket}/o",
        "--mano",
        f"{bucket}/MANO_RIGHT.pkl",
    )
    assert "parameters of one mean nothing in the other" in other.stderr


@pytest.mark.slow
def test_a_storage_that_dies_in_the_middle_ends_the_job_in_one_line_and_it_continues(
    s3: Service, bucket: str, handocc: Callable[..., Any], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    command = ["annotate", f"{bucket}/shards/*.tar", "--output", f"{bucket}/out", *TINY, "--unit-rows", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *command], cwd=repository, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(storage.list_files(f"{bucket}/out/annotations")):
        time.sleep(0.1)
    s3.faults.rates = {"slow_down": 1.0}
    _, said = process.communicate(timeout=120)
    s3.faults.rates = {}
    last = said.strip().splitlines()[-1]
    assert process.returncode == 3, said
    assert last.startswith("handocc annotate: s3://")
    assert "SlowDown" in last
    assert "the same command continues" in last
    assert "Traceback" not in said
    assert handocc(*command).returncode == 0
