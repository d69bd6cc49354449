"""Runs what may kill its process in a process of its own."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

# What a process dies of through its own fault; all else comes from outside: too little memory, a machine's end.
OWN_FAULTS = frozenset({"SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE"})


class Child:
    """A process that yields what its work yields, up to its end or death.

    died: the signal that it died of, when all its messages are there.
    """

    def __init__(self, work: Callable[[], Iterator[Any]]) -> None:
        self._work = pickle.dumps(work)
        self.died: str | None = None

    @property
    def blameless(self) -> bool:
        """Says whether it died of what is not its work's fault, or need not be."""
        return self.died is not None and self.died not in OWN_FAULTS

    def messages(self) -> Iterator[Any]:
        """Yields what the work yields.

        Raises:
            RuntimeError: the work raised; the message is its traceback.
        """
        # What decoders print must not come between.
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as said, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs],
                # A worker finds this code where its driver told it, which a child would not know.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            os.close(theirs)
            try:
                _hand_over(process, self._work)
                while (message := _received(said)) is not None:
                    yield message
                status = process.wait()
                if status > 0:
                    errors.seek(0)
                    raise RuntimeError(errors.read()[-4000:].decode(errors="replace"))
                self.died = signal.Signals(-status).name if status else None
            finally:
                process.kill()
                process.wait()


def _hand_over(process: "subprocess.Popen[bytes]", work: bytes) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as stream:
            stream.write(work)
    except BrokenPipeError:
        # It died at its start; its status tells.
        return


def _received(stream: IO[bytes]) -> Any:
    """Returns the next message, or None where there is none, or only the beginning of one."""
    try:
        return pickle.load(stream)
    except (EOFError, pickle.UnpicklingError):
        return None


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "wb") as out:
        for said in pickle.load(sys.stdin.buffer)():
            out.write(pickle.dumps(said))
            out.flush()
