"""What goes to the console: lines for a person on stderr, results on stdout."""

import sys
from collections.abc import Sequence


def say(text: str) -> None:
    """Tells the person who waits something."""
    print(text, file=sys.stderr, flush=True)


def some(names: Sequence[str], most: int = 3) -> str:
    """Returns the first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
