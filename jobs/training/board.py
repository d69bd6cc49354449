"""What the workers tell the driver while they train: how far they are, and why they had to give up."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

LOOK_EVERY_S = 1.0


@dataclass
class Notes:
    """What the board holds: lines for the person who waits, and a reason to stop for good, if there is one."""

    lines: list[str] = field(default_factory=list)
    fatal: str | None = None

    def say(self, line: str) -> None:
        self.lines.append(line)

    def give_up(self, reason: str) -> None:
        """Keeps the first reason: the others follow from it."""
        self.fatal = self.fatal or reason

    def reason(self) -> str | None:
        return self.fatal

    def take(self) -> list[str]:
        """Returns the lines since the last call."""
        lines, self.lines = self.lines, []
        return lines


class Board:
    """A handle on the notes, which lie in an actor of their own; it travels to the workers."""

    def __init__(self) -> None:
        self._notes: Any = ray.remote(num_cpus=0)(Notes).remote()

    def say(self, line: str) -> None:
        self._notes.say.remote(line)

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
