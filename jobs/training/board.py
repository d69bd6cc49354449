"""What the workers tell the driver while they train: how far they are, and why they had to give up."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOOK_EVERY_S = 1.0
NAMED = 5


@dataclass
class Notes:
    """What the board holds: lines for the person who waits, and a reason to stop for good, if there is one.

    passed_over: what of the shards cannot be used, and why; every epoch comes across it again.
    """

    lines: list[str] = field(default_factory=list)
    fatal: str | None = None
    passed_over: set[str] = field(default_factory=set)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def pass_over(self, reasons: Sequence[str]) -> None:
        """Says the first few, and counts all."""
        for reason in reasons:
            if reason not in self.passed_over and len(self.passed_over) < NAMED:
                self.lines.append(f"passed over {reason}")
            self.passed_over.add(reason)

    def give_up(self, reason: str) -> None:
        """Keeps the first reason: the others follow from it."""
        self.fatal = self.fatal or reason

    def reason(self) -> str | None:
        return self.fatal

    def passed_over_count(self) -> int:
        return len(self.passed_over)

    def take(self) -> list[str]:
        """Returns the lines since the last call."""
        lines, self.lines = self.lines, []
        return lines


class Board:
    """A handle on the notes, which lie in an actor on the driver's node; it travels to the workers."""

    def __init__(self) -> None:
        # Only here is it as safe as the run itself.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._notes: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Notes).remote()

    def say(self, line: str) -> None:
        self._notes.say.remote(line)

    def pass_over(self, reasons: Sequence[str]) -> None:
        """Notes pictures that cannot be used."""
        if reasons:
            self._notes.pass_over.remote(reasons)

    def passed_over(self) -> int:
        """Returns how many different pictures could not be used."""
        count: int = ray.get(self._notes.passed_over_count.remote())
        return count

    def give_up(self, reason: str) -> None:
        """Notes a reason that a restart cannot mend."""
        ray.get(self._notes.give_up.remote(reason))

    def reason(self) -> str | None:
        """Returns why the run cannot go on, if it cannot."""
        reason: str | None = ray.get(self._notes.reason.remote())
        return reason

    @contextlib.contextmanager
    def shown(self, show: Callable[[str], None]) -> Iterator[None]:
        """Hands every line on to a person for as long as it is entered."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(LOOK_EVERY_S):
                for line in ray.get(self._notes.take.remote()):
                    show(line)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            for line in ray.get(self._notes.take.remote()):
                show(line)
