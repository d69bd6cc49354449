"""A flow: its stages in reading order, which can be printed and checked before anything moves."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import ConfigError, Interrupted
from pipeline.records import UnitRecord

Step = Callable[[UnitRecord], UnitRecord]
THREADS_PER_ACTOR = 8


@dataclass(frozen=True)
class Stage:
    """One step of a flow.

    make: builds the step; called once in every worker that runs it. It travels to the workers as it is.
    actors: (least, most) workers that keep what `make` built; None for a stage of short tasks.
    cpus, gpus: what one task or actor claims of a node.
    """

    name: str
    make: Callable[[], Step]
    cpus: float = 1.0
    gpus: float = 0.0
    actors: tuple[int, int] | None = None


def as_it_is(step: Step) -> Step:
    """Returns the step: with `functools.partial`, what makes one that travels to the workers ready for use.

    It stands here, far from torch: a worker imports the module in which what makes its step is defined.
    """
    return step


@dataclass(frozen=True)
class Flow:
    """The stages through which every unit passes."""

    name: str
    stages: tuple[Stage, ...]

    def describe(self) -> str:
        """Returns one line per stage, for a person."""
        lines = []
        for stage in self.stages:
            workers = "tasks" if stage.actors is None else "{} to {} actors".format(*stage.actors)
            gpus = f", {stage.gpus:g} GPU" if stage.gpus else ""
            lines.append(f"  {stage.name:<16} {workers:<14} {stage.cpus:g} CPU{gpus} each")
        return "\n".join(lines)

    def check(self, cpus: float, gpus: float) -> None:
        """Holds what the flow claims against what the cluster has.

        Raises:
            ConfigError: the actors would leave no CPU for the tasks, or there are too few GPUs.
        """
        claimed_cpus = sum(stage.cpus * stage.actors[0] for stage in self.stages if stage.actors)
        claimed_gpus = sum(stage.gpus * stage.actors[0] for stage in self.stages if stage.actors)
        largest = max((stage.cpus for stage in self.stages if not stage.actors), default=0.0)
        if claimed_cpus + largest > cpus:
            raise ConfigError(
                f"the actors claim {claimed_cpus:g} of {cpus:g} CPUs and a task needs {largest:g}: lower --actors"
            )
        if claimed_gpus > gpus:
            raise ConfigError(
                f"the actors claim {claimed_gpus:g} GPUs, the cluster has {gpus:g}: "
                "lower --actors or --gpus-per-actor"
            )


@dataclass(frozen=True)
class Workers:
    """How a flow spreads over a cluster: what each task and each actor claims, and how many actors there are."""

    task_cpus: float
    actor_cpus: float
    actor_gpus: float
    actors: tuple[int, int]
    threads: int
    device: str

    @property
    def crops_at_once(self) -> int:
        """How many crops go through the network together, where nobody says."""
        return 64 if self.device == "cuda" else 16


def spread(
    cpus: float,
    gpus: float,
    *,
    actors: tuple[int, int] | None,
    gpus_per_actor: float | None,
    gpus_now: float | None = None,
    node_cpus: float | None = None,
    gpu_node_cpus: float | None = None,
) -> Workers:
    """Chooses the workers for a cluster: an actor per GPU, or one for every eight CPUs where there are none.

    gpus_now: how many GPUs are there already, where an autoscaler can bring the rest. Each of those has an actor
    from the start; the others get theirs when there is work for them. node_cpus: the CPUs of the largest node,
    where there are several: what one task or actor claims must fit on one. gpu_node_cpus: those of a node with a
    GPU; where such nodes offer none, so that nothing else runs there, an actor must not ask for any.

    An actor on CPUs claims less than it uses, so that a CPU is left for tasks: two pools that claimed one CPU
    each would hang on a machine of two. What it claims is no whole number with others', so that a rest is always
    left, in which writing finds room. By default it claims so little that twice as many fit on a node beside a
    task: when half of the nodes are lost, their actors start on the others, and would else take the tasks' room.

    Raises:
        ConfigError: an actor is to have GPUs, and the cluster has none.
        Interrupted: the cluster has no CPU, perhaps since all its machines were just taken away.
    """
    if not cpus:
        raise Interrupted(
            "the cluster has no CPU at the moment, and says of none that can come: start a worker",
            "the same command continues then",
        )
    if gpus_per_actor and not gpus:
        raise ConfigError(
            f"--gpus-per-actor {gpus_per_actor:g}: the cluster has {cpus:g} CPUs and no GPU, and none that can come: "
            "leave it out to run on CPUs, or name a cluster with GPUs in --address"
        )
    node = int(cpus if node_cpus is None else min(cpus, node_cpus))
    task_cpus = 1.0 if node >= 2 else 0.5
    if gpus > 0 and gpus_per_actor != 0:
        share = gpus_per_actor or 1.0
        count = max(1, int(gpus / share))
        least = count if gpus_now is None else max(1, int(gpus_now / share))
        beside = 0.29 if gpu_node_cpus is None else min(0.29, gpu_node_cpus)
        return Workers(task_cpus, beside, share, actors or (least, count), THREADS_PER_ACTOR, "cuda")
    count = max(1, int(cpus) // max(1, min(THREADS_PER_ACTOR, node)))
    most = actors[1] if actors else count
    threads = max(1, min(THREADS_PER_ACTOR, node, int(cpus) // most))
    claim = 0.449 * threads
    if actors is None:
        on_a_node = math.ceil(count * node / cpus)
        # A little less than half of the room: a claim that equals the tasks' would make Ray fuse the stages.
        claim = min(claim, 0.49 * (max(node, 1) - task_cpus) / on_a_node)
    return Workers(task_cpus, claim, 0.0, actors or (count, count), threads, "cpu")
