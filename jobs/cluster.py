"""Connects to Ray, quietly."""

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import torch

import jobs
import model
import pipeline
from pipeline.errors import ConfigError
from pipeline.quiet import no_stderr

# What the head of a cluster started by `ray up` knows of itself; its autoscaler is started with this file.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
KNOCK_S = 10.0


@dataclass(frozen=True)
class Resources:
    """What a cluster offers, in Ray's units: what its nodes have, or what its autoscaler can bring if that is more.

    gpus_now: the GPUs that are there already. node_cpus: the CPUs of the largest node. gpu_node_cpus: the CPUs of the
    smallest node with a GPU; none where such nodes are for the model alone.
    """

    cpus: float
    gpus: float
    gpus_now: float
    node_cpus: float
    gpu_node_cpus: float

    @classmethod
    def here(cls) -> "Resources":
        """Returns what this machine would offer."""
        cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
        return cls(cpus=cpus, gpus=gpus, gpus_now=gpus, node_cpus=cpus, gpu_node_cpus=cpus)


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[Resources]:
    """Connects to the Ray cluster at an address, or starts one on this machine, and leaves it at the end.

    Raises:
        ConfigError: nothing answers there.
    """
    # The address given, else the cluster that this process was started in, else one of our own.
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"include_dashboard": False} if where == "local" else {}
    if where != "local" and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        # The nodes may have another version of this code or none; a submitted job brings its own.
        rooms = [str(Path(str(room.__file__)).parent) for room in (model, pipeline, jobs)]
        options["runtime_env"] = {"py_modules": rooms}
    # Ray's C++ side writes its errors on the driver's console, those of retries that succeed included.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    _require_answer(where)
    try:
        with no_stderr():
            ray.init(where, logging_level="ERROR", log_to_driver=False, **options)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"--address {where}: no Ray cluster answers there ({error})") from error
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield offered(nodes, [] if where == "local" else can_come())
    finally:
        ray.shutdown()


def _require_answer(where: str) -> None:
    """Knocks at an address: Ray itself would keep trying for more than five minutes."""
    if where.startswith("ray://"):
        raise ConfigError(
            f"--address {where}: Ray Data does not run through Ray Client; use `ray job submit`, or HOST:PORT "
            "on a machine of the cluster"
        )
    named = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", where)
    if named is None:
        return
    try:
        socket.create_connection((named[1], int(named[2])), timeout=KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--address {where}: no Ray cluster answers there ({error})") from error


def can_come(bootstrap: Path = BOOTSTRAP) -> list[Mapping[str, float]]:
    """Returns what each node offers that the autoscaler of this head may start; nothing on any other machine."""
    try:
        config = json.loads(bootstrap.expanduser().read_text())
    except FileNotFoundError:
        return []
    kinds = config["available_node_types"].values()
    return [
        kind["resources"]
        for kind in kinds
        for _ in range(min(kind.get("max_workers", 0), config["max_workers"]))
    ]


def offered(nodes: Sequence[Mapping[str, float]], coming: Sequence[Mapping[str, float]]) -> Resources:
    """Returns what the nodes that are there, or those that can come if that is more, offer together."""

    def most(name: str) -> float:
        return max(sum(node.get(name, 0.0) for node in group) for group in (nodes, coming))

    return Resources(
        cpus=most("CPU"),
        gpus=most("GPU"),
        gpus_now=sum(node.get("GPU", 0.0) for node in nodes),
        node_cpus=max((node.get("CPU", 0.0) for node in (*nodes, *coming)), default=0.0),
        gpu_node_cpus=min(
            (node.get("CPU", 0.0) for node in (*nodes, *coming) if node.get("GPU")), default=0.0
        ),
    )


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
