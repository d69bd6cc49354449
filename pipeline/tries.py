"""Counts tries where the workers cannot take the count along when they die."""

from collections import Counter


class Tries:
    """How often each thing was begun since it was last ended.

    What is begun a second time was begun by a worker that died, on a node that was lost, or by a call whose answer was.
    """

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, what: str) -> int:
        """Counts one more try and returns how many there are."""
        self._begun[what] += 1
        return self._begun[what]

    def end(self, what: str) -> None:
        """Forgets what has come to its end."""
        self._begun.pop(what, None)
