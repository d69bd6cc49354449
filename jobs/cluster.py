"""Connects to Ray, quietly."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
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
from jobs.console import say
from pipeline.errors import ConfigError, Interrupted
from pipeline.flow import Workers, spread
from pipeline.quiet import no_stderr

# What the head of a cluster started by `ray up` knows of itself; its autoscaler is started with this file.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
KNOCK_S = 10.0
# https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html, and three that others understand.
STORAGE_SETTINGS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_MAX_ATTEMPTS",
    "AWS_REQUEST_PAYER",
    "AWS_NO_SIGN_REQUEST",
)


_told_to_end = threading.Event()


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

    def spread(
        self, *, actors: tuple[int, int] | None = None, gpus_per_actor: float | None = None
    ) -> Workers:
        """Returns the workers that a flow has on it, of as many actors as are asked for."""
        return spread(
            self.cpus,
            self.gpus,
            actors=actors,
            gpus_per_actor=gpus_per_actor,
            gpus_now=self.gpus_now,
            node_cpus=self.node_cpus,
            gpu_node_cpus=self.gpu_node_cpus,
        )


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[Resources]:
    """Connects to the Ray cluster at an address, or starts one on this machine, and leaves it at the end.

    Inside of another `connect` it shares that connection.

    Raises:
        ConfigError: nothing answers there.
        Interrupted: Ray does not start on this machine, which is overloaded.
    """
    where = _where(address)
    if ray.is_initialized():
        yield _resources(where)
        return
    require_answer(address)
    before = signal.getsignal(signal.SIGINT)
    _told_to_end.clear()
    try:
        _begin(where)
        signal.signal(signal.SIGTERM, _interrupt)
        # A shell has its jobs in the background ignore Ctrl-C.
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _interrupt)
        yield _resources(where)
    finally:
        signal.signal(signal.SIGINT, before)
        ray.shutdown()


def go_on() -> None:
    """Does nothing, unless a signal has told this process to end.

    Raises:
        KeyboardInterrupt: it has, and what its handler raised was lost, as has been seen to happen in Ray's C++ code.
    """
    if _told_to_end.is_set():
        raise KeyboardInterrupt


def _where(address: str | None) -> str:
    """Returns the address given, else the cluster that this process was started in, else one of our own."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


def is_here(address: str | None) -> bool:
    """Says whether `connect` starts a cluster on this machine, whose resources are then those of `Resources.here`."""
    return _where(address) == "local"


def _begin(where: str) -> None:
    options: dict[str, Any] = {"include_dashboard": False} if where == "local" else {}
    if where != "local" and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        # The nodes may have another version of this code or none, and know nothing of where this machine's storage
        # is; a submitted job brings its own.
        rooms = [str(Path(str(room.__file__)).parent) for room in (model, pipeline, jobs)]
        settings = for_workers(os.environ)
        options["runtime_env"] = {"py_modules": rooms, "env_vars": settings}
        if settings:
            say(
                f"note: the cluster's workers take {', '.join(settings)} from here, and credentials from their own"
            )
    # Ray's C++ side writes its errors on the driver's console, those of retries that succeed included.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with no_stderr():
            ray.init(where, logging_level="ERROR", log_to_driver=False, **options)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"--address {where}: no Ray cluster answers there ({error})") from error
    except (RuntimeError, ray.exceptions.RayError) as error:
        # Another version of Ray or of Python there, or no right to enter.
        if where == "local":
            raise
        raise ConfigError(f"--address {where}: {' '.join(str(error).split())[:400]}") from error
    except SystemExit as error:
        # What Ray makes of a SIGTERM while it starts.
        raise KeyboardInterrupt from error
    except Exception as error:
        # Ray waits 30 s for itself and then raises a bare Exception (`ray._private.node`), which nothing narrower
        # catches; every other kind is a bug's, and goes on.
        if type(error) is not Exception or "timed out during startup" not in str(error):
            raise
        raise Interrupted(
            "Ray did not start within 30 s: this machine is busy, or short of memory"
        ) from error


def for_workers(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the settings of storage that the workers of a cluster need as well: nothing that is secret.

    Credentials, and the profile that names them, are those of each machine.
    """
    return {
        name: environment[name]
        for name in STORAGE_SETTINGS
        if environment.get(name) and "@" not in environment[name]
    }


def _resources(where: str) -> Resources:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return offered(nodes, [] if where == "local" else can_come())


def require_answer(address: str | None) -> None:
    """Knocks at the address that `connect` goes to: Ray itself would keep trying for more than five minutes.

    A job does so before it changes anything in its output.

    Raises:
        ConfigError: nothing answers there.
    """
    where = _where(address)
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
    _told_to_end.set()
    raise KeyboardInterrupt
