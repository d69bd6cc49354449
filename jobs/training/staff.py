"""How many workers train, and what each of them claims of a cluster."""

from dataclasses import dataclass

from jobs.cluster import Resources
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Staff:
    """From `least` to `most` workers; cpus and gpus of each, read_cpus of a task that reads for it."""

    least: int
    most: int
    cpus: float
    gpus: float
    read_cpus: float
    threads: int


def asked(workers: str | None) -> tuple[int, int] | None:
    """Reads N or MIN:MAX."""
    if workers is None:
        return None
    least, colon, most = workers.partition(":")
    if not least.isdecimal() or (colon and not most.isdecimal()) or not 1 <= int(least) <= int(most or least):
        raise ConfigError(f"--workers {workers}: N or MIN:MAX, from 1 up")
    return int(least), int(most or least)


def choose(
    resources: Resources,
    *,
    workers: tuple[int, int] | None,
    gpus_per_worker: float | None,
    threads: int | None,
    lanes: int,
) -> Staff:
    """Chooses the workers for a cluster: one per GPU, but no more than there are micro-batches in a step.

    Workers claim less than they use: the tasks that read for them need room of their own, also on what is left when
    half of the nodes are lost.

    Raises:
        ConfigError: so many do not fit there, or would have nothing to do.
    """
    gpus = (1.0 if resources.gpus else 0.0) if gpus_per_worker is None else gpus_per_worker
    if gpus < 0 or gpus != int(gpus):
        # NCCL refuses two workers on one GPU.
        raise ConfigError(f"--gpus-per-worker {gpus:g}: must be 0, 1 or another whole number")
    if workers is None:
        count = max(1, min(lanes, int(resources.gpus / gpus))) if gpus else 1
        workers = count, count
    least, most = workers
    if most > lanes:
        raise ConfigError(
            f"--workers {most}: a step has {lanes} micro-batches, and every worker needs one; "
            "lower --micro-batch, or raise --batch-size"
        )
    if least * gpus > resources.gpus:
        raise ConfigError(
            f"--workers {least}: with {gpus:g} GPUs each they need {least * gpus:g}, the cluster has "
            f"{resources.gpus:g}"
        )
    cpus = min(1.0, 0.25 * resources.cpus / most)
    if gpus:
        # Nodes may offer their CPUs to nobody, so that only what needs the GPU runs there.
        cpus = min(cpus, resources.gpu_node_cpus)
    share = max(1, int(resources.node_cpus) // most)
    read_cpus = min(1.0, resources.node_cpus / 2)
    return Staff(least, most, cpus, gpus, read_cpus, threads or share)
