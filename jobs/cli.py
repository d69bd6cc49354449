"""The command `handocc`: its subcommands in one table."""

import contextlib
import importlib
import importlib.metadata
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from jobs import exits
from model.errors import ModelError
from pipeline.errors import ConfigError, Interrupted

COMMANDS = {
    "annotate": "hands in images to MANO parameters, joints and meshes",
    "train": "a network from training shards, on one machine or a cluster",
    "ablate": "a table of the paper's ablations, a training run per row",
    "evaluate": "predictions against labels: the benchmarks' metrics, tables and submission files",
    "calibrate": "what a confidence is worth, learnt from annotations of labelled shards",
    "pseudo-label": "hands that are sure enough to training shards, with their origin",
    "status": "what of an output is done, left and rejected",
    "compact": "merges the small parts of an output into bigger ones",
    "track": "hands of films to tracks: one shape each, smoothed, short gaps filled",
    "report": "pictures of an output: overlays and a gallery",
    "prepare": "a benchmark's own layout to training shards",
    "synthesize": "labelled synthetic shards",
    "benchmark": "the network alone, a plain loop, and the pipeline, in one run",
    "fetch-detector": "the hand detector's model file, checked",
    "doctor": "what this machine has, what is missing, and how to get it",
}


def usage() -> str:
    """Returns the text of `handocc --help`."""
    lines = [f"  {name:<14} {what}" for name, what in COMMANDS.items()]
    return (
        "usage: handocc COMMAND ...\n\n"
        + "\n".join(lines)
        + "\n\n`handocc COMMAND --help` explains one, `handocc --version` says which this is."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; a request that cannot be met is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return exits.DONE if arguments else exits.USAGE
    if arguments[0] == "--version":
        print(f"handocc {importlib.metadata.version('handocc')}")
        return exits.DONE
    command = arguments[0]
    if command not in COMMANDS:
        print(f"handocc: there is no command {command!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return exits.USAGE
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        # Seconds in which a signal must find the handlers below.
        with _uninterrupted():
            from jobs.options import parse

            module = importlib.import_module(f"jobs.{command.replace('-', '_')}")
        status: int = module.run(parse(module.Options, command, arguments[1:]))
    except (ConfigError, ModelError, PermissionError) as error:
        print(f"handocc {command}: {' '.join(str(error).split())}", file=sys.stderr)
        return exits.USAGE
    except Interrupted as error:
        print(f"handocc {command}: {error}; {error.then}", file=sys.stderr)
        return exits.INTERRUPTED
    except KeyboardInterrupt:
        print("\nhandocc: interrupted; the same command continues where this one stopped", file=sys.stderr)
        return exits.INTERRUPTED
    except Exception:  # noqa: BLE001
        # A bug: Python's own status for it is 1, which says that a job has finished with rejects.
        traceback.print_exc()
        return exits.CRASHED
    return status


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Lets a signal wait for the end: what it raises in the middle of torch's import aborts the process."""
    came: list[signal.Signals] = []
    before = {
        kind: signal.signal(kind, lambda number, _frame: came.append(signal.Signals(number)))
        for kind in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    if any(before[kind] is not signal.SIG_IGN for kind in came):
        raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def command(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command as this process and ends it with the command's status.

    The interpreter is not taken down in its usual order: C++ threads of the libraries have been seen to abort
    then, which would spoil the status of a job that is done.
    """
    status = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    command()
