"""The same command on a cluster: submitted from elsewhere, with nodes that lack the code and nodes that are lost."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

from pipeline import storage
from pipeline.boxes.detect import default_model
from tests.jobs.test_films_s3 import copies, put_all
from tests.s3_faults import Service
from tests.s3_jobs import committed as done_on_s3
from tests.s3_jobs import parts

pytestmark = [pytest.mark.ray, pytest.mark.nodes]

MODEL = "--model tiny --weights random:0 --unit-rows 1 --meshes tar --actors 1".split()

# The nodes of a test run in this repository's environment, where it is installed: this takes it away from them.
WITHOUT_THE_CODE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]
"""

# Steps that say where they ran; they travel to the nodes as they are.
WHERE = """
import collections, json, os, sys, time
import ray
from jobs.cluster import connect
from pipeline import ray_data
from pipeline.flow import Flow, Stage
from pipeline.records import Unit

def stage(name, seconds, **claims):
    def make():
        here = f"{name}@{ray.get_runtime_context().get_node_id()}@{os.getpid()}"
        def step(record):
            time.sleep(seconds)
            return record.timed(here, seconds)
        return step
    return Stage(name, make, **claims)

with connect(sys.argv[1]) as resources:
    gpus = {node["NodeID"]: bool(node["Resources"].get("GPU")) for node in ray.nodes()}
    infer = stage("infer", 0.4, cpus=min(0.3, resources.gpu_node_cpus), gpus=1.0, actors=(1, 2))
    flow = Flow("where", (stage("decode", 0.05, cpus=1.0), infer, stage("write", 0.01, cpus=0.25)))
    flow.check(resources.cpus, resources.gpus)
    units = [Unit(f"unit-{number}", "images", "file:///x", number, number + 1, 1, "v") for number in range(40)]
    seen = collections.defaultdict(set)
    for record in ray_data.run(flow, units):
        for key in record.seconds:
            name, node, process = key.split("@")
            seen[name].add((gpus[node], process))
print(json.dumps({name: sorted(places) for name, places in seen.items()}))
"""


@pytest.fixture
def start() -> Iterator[Callable[..., Cluster]]:
    """Starts clusters of processes on this machine, whose nodes do not have this repository's code."""
    clusters, folders = [], []
    kept = {name: os.environ.get(name) for name in ("PYTHONPATH", "PATH")}

    def begin(**head: Any) -> Cluster:
        # Sockets lie in it, whose paths must be short.
        folder = tempfile.mkdtemp(prefix="ray-")
        (Path(folder) / "sitecustomize.py").write_text(WITHOUT_THE_CODE)
        os.environ["PYTHONPATH"] = folder
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        folders.append(folder)
        clusters.append(Cluster())
        clusters[-1].add_node(num_cpus=0, temp_dir=folder, **head)
        return clusters[-1]

    yield begin
    for cluster in clusters:
        cluster.shutdown()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in kept.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def submission(port: int) -> list[str]:
    """The start of a `ray job submit` to the cluster with this dashboard, once its job agent is up.

    The dashboard answers before the agent on the head node has come, and refuses jobs until then.
    """
    address = f"http://127.0.0.1:{port}"
    client = JobSubmissionClient(address)
    deadline = time.monotonic() + 180
    while True:
        try:
            client.submit_job(entrypoint="true")
            break
        except RuntimeError as error:
            if "try again later" not in str(error) or time.monotonic() > deadline:
                raise
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", address]
    return [*submit, "--working-dir", "."]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shards: Path, handocc: Callable[..., Any]) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = handocc("annotate", f"{shards}/*.tar", "--output", output, *MODEL)
    assert done.returncode == 0, done.stderr
    return output


def assert_same(output: Path, expected: Path) -> None:
    """The same parts, ids and rows; floats within what another number of threads may change."""
    for folder in ("annotations", "ledger", "meshes"):
        assert sorted(os.listdir(output / folder)) == sorted(os.listdir(expected / folder))
    for folder in ("annotations", "ledger"):
        for part in (expected / folder).iterdir():
            ours, theirs = pq.read_table(output / folder / part.name), pq.read_table(part)
            assert ours.schema.equals(theirs.schema)
            for name in theirs.column_names:
                column = theirs.column(name).combine_chunks()
                if pa.types.is_fixed_size_list(column.type) or pa.types.is_floating(column.type):
                    numbers = [np.array(table.column(name).to_pylist(), float) for table in (ours, theirs)]
                    np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-4, err_msg=name)
                else:
                    assert ours.column(name).equals(theirs.column(name)), name


def committed(output: Path) -> int:
    return len(list((output / "annotations").glob("*.parquet"))) if (output / "annotations").is_dir() else 0


def checkout(repository: Path, folder: Path) -> Path:
    """A copy of what people have on their laptops: the code, and much that is nobody else's business."""
    for name in ("model", "pipeline", "jobs"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / ".gitignore", folder)
    for name in (
        ".venv/bin/python",
        ".git/objects/pack",
        "demo-output/shards/a.tar",
        "model/__pycache__/a.pyc",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not for the cluster")
    return folder


@pytest.mark.slow
def test_a_submitted_job_survives_a_lost_node_and_writes_what_one_machine_writes(
    tmp_path: Path, shards: Path, undisturbed: Path, repository: Path, start: Callable[..., Cluster]
) -> None:
    port = free_port()
    cluster = start(include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port)
    workers = [cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2)]
    import_it = [sys.executable, "-c", "import jobs"]
    assert subprocess.run(import_it, cwd="/", capture_output=True, check=False).returncode != 0

    output = tmp_path / "out"
    submit = [*submission(port), "--", "python", "-m", "jobs.annotate"]
    submit += [f"{shards}/*.tar", "--output", str(output), *MODEL]
    folder = checkout(repository, tmp_path / "checkout")
    job = subprocess.Popen(submit, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while committed(output) < 4 and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    lost_at = committed(output)
    cluster.remove_node(workers[0], allow_graceful=False)
    said, _ = job.communicate(timeout=180)
    assert job.returncode == 0, said
    assert "24 images" in said, said
    assert 4 <= lost_at < 24
    assert_same(output, undisturbed)

    session = Path(cluster.head_node.get_session_dir_path())
    packages = list((session / "runtime_resources" / "working_dir_files").glob("_ray_pkg_*/"))
    assert [sorted(os.listdir(package)) for package in packages] == [
        [".gitignore", "jobs", "model", "pipeline"]
    ]
    assert not list(packages[0].rglob("a.pyc"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_hands_found_in_films_on_s3_are_the_same_when_a_submitted_job_loses_a_node(
    s3: Service,
    tmp_path: Path,
    shared: Path,
    repository: Path,
    start: Callable[..., Cluster],
    handocc: Callable[..., Any],
) -> None:
    pytest.importorskip("mediapipe")
    if not Path(default_model()).is_file():
        pytest.skip("no detector's model file: `handocc fetch-detector`")
    films = copies(shared / "real" / "videos" / "asl_hand_25fps.mp4", tmp_path)
    names = ("whole.mp4", "overwritten.mp4")
    inputs = put_all(s3.bucket, {name: films[name] for name in names})[:1]
    job = [*inputs, *MODEL, "--boxes", "detect", "--every", "24", "--unit-rows", "2"]
    calm = handocc("annotate", *job, "--output", f"{s3.bucket}/calm", timeout=900)
    assert calm.returncode == 1, calm.stderr

    port = free_port()
    cluster = start(include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port)
    workers = [cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2)]
    passed = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    passed["HANDOCC_DETECTOR"] = default_model()
    submit = [*submission(port), "--runtime-env-json", json.dumps({"env_vars": passed})]
    submit += ["--", "python", "-m", "jobs.annotate"]
    submit += [*job, "--output", f"{s3.bucket}/out"]
    submitted = subprocess.Popen(
        submit,
        cwd=checkout(repository, tmp_path / "checkout"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 300
    while done_on_s3(f"{s3.bucket}/out") < 3 and submitted.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    lost_at = done_on_s3(f"{s3.bucket}/out")
    cluster.remove_node(workers[0], allow_graceful=False)
    said, _ = submitted.communicate(timeout=900)
    # Status 1: frames of the damaged films are rejected. `ray job submit` says of it that the job failed.
    assert "results: s3://" in said, said
    assert 3 <= lost_at < done_on_s3(f"{s3.bucket}/calm")
    for output in ("calm", "out"):
        for name, data in parts(f"{s3.bucket}/{output}").items():
            (tmp_path / output / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / output / name).write_bytes(data)
    assert_same(tmp_path / "out", tmp_path / "calm")
    summaries = [json.loads(storage.read(f"{s3.bucket}/{output}/summary.json")) for output in ("calm", "out")]
    assert summaries[0]["counts"] == summaries[1]["counts"]
    assert summaries[0]["counts"]["hands_annotated"] > 20


@pytest.mark.slow
def test_a_driver_brings_the_code_to_a_cluster_that_lacks_it(
    tmp_path: Path, shards: Path, undisturbed: Path, repository: Path, start: Callable[..., Cluster]
) -> None:
    cluster = start(include_dashboard=False)
    cluster.add_node(num_cpus=2)
    # Ray's workers look where their driver was started, and this is one machine: it is started elsewhere.
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "annotate",
        f"{shards}/*.tar",
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [*command, *MODEL, "--address", cluster.gcs_address],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}{os.pathsep}{repository}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_decoding_stays_on_cpu_nodes_inference_on_gpu_nodes_and_the_actors_grow(
    start: Callable[..., Cluster], repository: Path
) -> None:
    cluster = start(include_dashboard=False)
    cluster.add_node(num_cpus=2)
    for _ in range(2):
        cluster.add_node(num_cpus=0, num_gpus=1)
    done = subprocess.run(
        [sys.executable, "-c", WHERE, cluster.gcs_address],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    places = json.loads(done.stdout.splitlines()[-1])
    assert {has_gpu for has_gpu, _ in places["decode"]} == {False}
    assert {has_gpu for has_gpu, _ in places["infer"]} == {True}
    assert len(places["infer"]) == 2, "one actor became two"
