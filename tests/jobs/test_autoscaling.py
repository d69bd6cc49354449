"""Nodes come when work asks for them and go when it is done: Ray's autoscaler, its nodes processes of this machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.nodes, pytest.mark.slow]

RAY = str(Path(sys.executable).with_name("ray"))
HEAD = "f" * 51 + "00000"

# Annotates on nodes that offer a GPU by name only: the network itself stays on their CPU.
ANNOTATE = """
import dataclasses, json, sys
import ray
from jobs.cluster import connect
from model.config import preset
from model.crop import CROP_RULES
from model.mano.synthetic import synthetic_hand
from model.weights import random_weights
from pipeline import boxes, ray_data
from pipeline.annotation import Annotation
from pipeline.flow import spread
from pipeline.inputs import find_inputs
from pipeline.sources import SOURCES
from pipeline.units import settle

address, output, pattern = sys.argv[1:]
job = Annotation(
    weights=random_weights(preset("tiny"), 0), hand_model=synthetic_hand(), boxes=boxes.choose("given", None),
    boxes_identity="given", side=None, crop_rule=CROP_RULES["demo"], precision="fp32", meshes="none",
    vertices=False, unit_rows=2,
)
probe = lambda items: [SOURCES[item.source].probe(item) for item in items]
plan = settle(output, find_inputs([pattern])[0], unit_rows=2, crop_size=128, probe=probe)
with connect(address) as resources:
    before = len(ray.nodes())
    workers = spread(
        resources.cpus, resources.gpus, actors=None, gpus_per_actor=None, gpus_now=resources.gpus_now,
        node_cpus=resources.node_cpus, gpu_node_cpus=resources.gpu_node_cpus,
    )
    flow = job.flow(output, dataclasses.replace(workers, device="cpu", threads=1), 16)
    flow.check(resources.cpus, resources.gpus)
    samples = sum(record.counts.samples for record in ray_data.run(flow, plan.units))
    after = [node["Resources"] for node in ray.nodes() if node["Alive"]]
print(json.dumps({"before": before, "actors": workers.actors, "samples": samples, "after": after}))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head(repository: Path) -> Iterator[tuple[str, Path]]:
    """A head whose autoscaler may start what cluster.yaml lists; its address, and the home of its processes."""
    home = Path(tempfile.mkdtemp(prefix="ray-"))
    port = free_port()
    kinds = yaml.safe_load((repository / "cluster.yaml").read_text())["available_node_types"]
    claims = {name: {**kind, "node_config": {}} for name, kind in kinds.items()}
    # Ray's stand-in for a cloud knows the head by this name.
    claims["ray.head.default"] = {**claims.pop("head"), "max_workers": 0}
    claims["decode"] |= {"resources": {"CPU": 2}, "max_workers": 1}
    for kind in claims.values():
        kind.pop("docker", None)
    config = {
        "cluster_name": "here",
        "max_workers": 4,
        "idle_timeout_minutes": 0.2,
        "upscaling_speed": 10,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": HEAD,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": claims,
    }
    config |= {name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")}
    config |= {f"{name}_commands": [] for name in ("setup", "head_setup", "worker_setup", "initialization")}
    config |= {f"{name}_start_ray_commands": [] for name in ("head", "worker")}
    config |= {"auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False}
    bootstrap = home / "ray_bootstrap_config.yaml"
    bootstrap.write_text(json.dumps(config))
    command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += [f"--temp-dir={home}", f"--autoscaling-config={bootstrap}", "--num-cpus=0", "--num-gpus=0"]
    command += ["--include-dashboard=false", "--dashboard-agent-listen-port=0", "--disable-usage-stats"]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={free_port()}"]
    command += ["--object-store-memory=150000000"]
    environment = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
    }
    log = home / "head.log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", home
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(45)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(home, ignore_errors=True)


def test_nodes_come_from_nothing_and_go_again(
    head: tuple[str, Path], tmp_path: Path, shards: Path, repository: Path
) -> None:
    address, home = head
    done = subprocess.run(
        [sys.executable, "-c", ANNOTATE, address, str(tmp_path), f"{shards}/*.tar"],
        cwd=repository,
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["before"], said["samples"]) == (1, 24)
    assert said["actors"] == [1, 4]
    assert sum(node.get("CPU", 0) for node in said["after"]) == 2
    assert 1 <= sum(node.get("GPU", 0) for node in said["after"]) <= 4
    assert len(list((tmp_path / "annotations").glob("*.parquet"))) == 12

    deadline = time.monotonic() + 120
    active: list[str] | None = None
    while active != ["ray.head.default"] and time.monotonic() < deadline:
        time.sleep(2)
        told = subprocess.run(
            [RAY, "status", "--address", address], capture_output=True, text=True, check=False
        )
        active = re.findall(r"^ \d+ (\S+)$", told.stdout, re.M)
    assert active == ["ray.head.default"], told.stdout
