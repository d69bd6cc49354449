"""Connects to Ray, quietly."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import ray
import torch

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Resources:
    """What a cluster offers, in Ray's units."""

    cpus: float
    gpus: float

    @classmethod
    def here(cls) -> "Resources":
        """Returns what this machine would offer."""
        return cls(cpus=os.cpu_count() or 1, gpus=torch.cuda.device_count())


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[Resources]:
    """Connects to the Ray cluster at an address, or starts one on this machine, and leaves it at the end.

    Raises:
        ConfigError: nothing answers there.
    """
    # The address given, else the cluster that this process was started in, else one of our own.
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    local = {"include_dashboard": False} if where == "local" else {}
    # Ray's C++ side writes its errors on the driver's console, those of retries that succeed included.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _no_stderr():
            ray.init(where, logging_level="ERROR", log_to_driver=False, **local)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"--address {where}: no Ray cluster answers there ({error})") from error
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        offered = ray.cluster_resources()
        yield Resources(cpus=offered.get("CPU", 0.0), gpus=offered.get("GPU", 0.0))
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Keeps the C++ side's greeting off the console; what is wrong comes as an exception."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
