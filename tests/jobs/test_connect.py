"""What happens between a job and Ray: signals, settings for workers, and nodes that are lost."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from jobs.cli import main
from jobs.cluster import can_come, for_workers, offered
from pipeline import storage
from pipeline.errors import Interrupted
from pipeline.flow import spread
from tests.conftest import Handocc
from tests.datasets import ho3d
from tests.s3_faults import Service

ROOT = Path(__file__).resolve().parents[2]

# Is told to end while Ray starts, which takes seconds.
INTERRUPTED = """
import os, signal, threading, time
from jobs.cluster import connect
threading.Timer(float(os.environ["AFTER_S"]), os.kill, (os.getpid(), getattr(signal, os.environ["SIGNAL"]))).start()
started = time.monotonic()
try:
    with connect(None):
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    os._exit(0)  # as every command ends
"""

# Steps that do nothing on a cluster of four nodes; the parent takes two away when units come out.
LOSES_NODES = """
import functools, json, pathlib, sys, time
from jobs.cluster import connect
from pipeline import ray_data
from pipeline.flow import Flow, Stage, spread
from pipeline.records import Unit

def step(seconds, record):
    time.sleep(seconds)
    return record

def make(seconds):
    return functools.partial(step, seconds)

with connect(sys.argv[1]) as resources:
    workers = spread(resources.cpus, 0, actors=None, gpus_per_actor=None, node_cpus=resources.node_cpus)
    infer = Stage("infer", functools.partial(make, 0.3), cpus=workers.actor_cpus, actors=workers.actors)
    tasks = [
        Stage(name, functools.partial(make, 0.1), cpus=workers.task_cpus * share)
        for name, share in (("decode_and_crop", 1), ("write", 1 / 4))
    ]
    flow = Flow("lost", (tasks[0], infer, tasks[1]))
    flow.check(resources.cpus, resources.gpus)
    units = [Unit(f"unit-{number}", "images", "file:///x", number, number + 1, 1, "v") for number in range(60)]
    print("actors", *workers.actors, flush=True)
    finished = []
    for record in ray_data.run(flow, units):
        finished.append(record.unit.unit_id)
        print(len(finished), flush=True)
    pathlib.Path(sys.argv[2]).write_text(json.dumps(finished))
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without CPUs; sockets lie in its folder, whose path must be short."""
    folder = tempfile.mkdtemp(prefix="ray-")
    cluster = Cluster()
    cluster.add_node(num_cpus=0, temp_dir=folder, include_dashboard=False)
    yield cluster
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def test_workers_get_settings_and_never_secrets() -> None:
    environment = {
        "AWS_ENDPOINT_URL": "http://store:9000",
        "AWS_REGION": "eu-west-1",
        "AWS_REQUEST_PAYER": "requester",
        "AWS_DEFAULT_REGION": "",
        "AWS_ENDPOINT_URL_S3": "http://user:secret@store:9000",
        "AWS_ACCESS_KEY_ID": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "secret",
        "AWS_PROFILE": "mine",
        "AWS_SHARED_CREDENTIALS_FILE": "/home/me/.aws",
        "FSSPEC_S3": '{"secret": "secret"}',
        "HOME": "/home/me",
    }
    assert for_workers(environment) == {
        "AWS_ENDPOINT_URL": "http://store:9000",
        "AWS_REGION": "eu-west-1",
        "AWS_REQUEST_PAYER": "requester",
    }


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            "annotate shards --model tiny --weights random:0 --address 127.0.0.1:1",
            "no Ray cluster answers there",
        ),
        ("annotate shards --model tiny --weights random:0 --actors 100000", "lower --actors"),
        ("synthesize --count 1 --address 127.0.0.1:1", "no Ray cluster answers there"),
        ("prepare ho3d-v2 ho3d --address 127.0.0.1:1", "no Ray cluster answers there"),
    ],
)
def test_a_cluster_that_will_not_do_is_refused_before_the_output_is_touched(
    tmp_path: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    says: str,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").symlink_to(shards)
    ho3d.build(tmp_path / "ho3d")
    names = ["plan/000000.parquet", "annotations/a-1.parquet", "tracks/a-1.parquet", "summary.json"]
    names += ["synthetic-0-00000000-00000001.tar", "ho3d-v2-train-00000000-00000002.tar"]
    for name in names:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"of another job")
    earlier = {"command": command.split()[0], "content": {}, "fingerprint": "f"}
    (tmp_path / "out" / "job.json").write_text(json.dumps(earlier))
    assert main([*command.split(), "--output", "out", "--overwrite"]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    left = {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}
    assert {name for name in left if not name.startswith("lease/")} == {*names, "job.json"}


@pytest.mark.parametrize("node_cpus", [1, 2, 3, 4, 8, 11, 16, 64])
def test_twice_the_default_actors_leave_room_for_a_task_on_every_node(node_cpus: int) -> None:
    for nodes in (1, 2, 4, 7):
        workers = spread(nodes * node_cpus, 0, actors=None, gpus_per_actor=None, node_cpus=node_cpus)
        on_a_node = 2 * -(-workers.actors[1] // nodes)
        assert on_a_node * workers.actor_cpus + workers.task_cpus <= node_cpus
        assert workers.actor_cpus != workers.task_cpus, "Ray would fuse the stages"


def test_a_cluster_whose_machines_are_all_gone_is_waited_for_by_the_same_command() -> None:
    with pytest.raises(Interrupted, match="no CPU at the moment"):
        spread(0.0, 0.0, actors=None, gpus_per_actor=None)


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
@pytest.mark.parametrize("after_s", [1.0, pytest.param(2.5, marks=pytest.mark.slow)])
def test_a_signal_while_ray_starts_is_an_interruption(kind: str, after_s: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        env={**os.environ, "SIGNAL": kind, "AFTER_S": str(after_s)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.nodes
@pytest.mark.slow
def test_half_of_the_nodes_lost_slow_a_job_down_and_do_not_stop_it(cluster: Cluster, tmp_path: Path) -> None:
    # Ray's own threads tell of lost nodes on the same console, in the middle of lines too.
    finished = tmp_path / "finished.json"
    workers = [cluster.add_node(num_cpus=2) for _ in range(4)]
    job = subprocess.Popen(
        [sys.executable, "-c", LOSES_NODES, cluster.gcs_address, str(finished)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert job.stdout is not None
        lines = [job.stdout.readline() for _ in range(6)]
        assert lines[0] == "actors 4 4\n"
        for node in workers[:2]:
            cluster.remove_node(node, allow_graceful=False)
        _, why = job.communicate(timeout=240)
    finally:
        job.kill()
    assert job.returncode == 0, why
    assert sorted(json.loads(finished.read_text())) == sorted(f"unit-{number}" for number in range(60))


@pytest.mark.ray
@pytest.mark.nodes
@pytest.mark.slow
def test_the_endpoint_of_the_driver_reaches_the_workers_of_a_cluster(
    s3: Service, cluster: Cluster, shards: Path, monkeypatch: pytest.MonkeyPatch, handocc: Callable[..., Any]
) -> None:
    for shard in shards.glob("*.tar"):
        storage.put(f"{s3.bucket}/in/{shard.name}", shard.read_bytes())
    with monkeypatch.context() as on_nodes:
        on_nodes.delenv("AWS_ENDPOINT_URL")
        on_nodes.delenv("AWS_REGION")
        cluster.add_node(num_cpus=2)
    options = ("--model", "tiny", "--weights", "random:0", "--address", cluster.gcs_address)
    done = handocc("annotate", f"{s3.bucket}/in/*.tar", "--output", f"{s3.bucket}/out", *options)
    assert done.returncode == 0, done.stderr
    assert "the cluster's workers take AWS_ENDPOINT_URL, AWS_REGION from here" in done.stderr
    assert json.loads(storage.read(f"{s3.bucket}/out/summary.json"))["counts"]["samples"] == 24
    assert b"http://" not in storage.read(f"{s3.bucket}/out/job.json")


def test_an_address_that_cannot_serve_is_one_line_at_once(
    tmp_path: Path, shards: Path, handocc_here: Handocc
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    command = ("annotate", f"{shards}/*.tar", "--model", "tiny", "--weights", "random:0")
    for address, why in ((nobody, "no Ray cluster answers there"), (f"ray://{nobody}", "ray job submit")):
        done = handocc_here(*command, "--output", tmp_path, "--address", address)
        assert done.returncode == 2
        assert why in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [], "what is there is left alone"


def test_what_an_autoscaler_can_bring_counts_before_it_is_there(tmp_path: Path) -> None:
    assert can_come(tmp_path / "none") == []
    kinds = {
        "head": {"max_workers": 0, "resources": {"CPU": 0}},
        "decode": {"max_workers": 3, "resources": {"CPU": 16}},
        "infer": {"max_workers": 9, "resources": {"CPU": 0, "GPU": 1}},
    }
    (tmp_path / "bootstrap").write_text(json.dumps({"max_workers": 4, "available_node_types": kinds}))
    resources = offered([{"CPU": 0.0}], can_come(tmp_path / "bootstrap"))
    assert (resources.cpus, resources.gpus, resources.gpus_now) == (48, 4, 0)
    assert (resources.node_cpus, resources.gpu_node_cpus) == (16, 0)
    workers = resources.spread()
    assert (workers.actors, workers.actor_cpus, workers.device) == ((1, 4), 0, "cuda")


def test_what_a_task_or_an_actor_claims_fits_on_one_node() -> None:
    for node_cpus in (1, 2, 4, 16):
        workers = spread(10 * node_cpus, 0, actors=None, gpus_per_actor=None, node_cpus=node_cpus)
        assert workers.actor_cpus + workers.task_cpus <= node_cpus
