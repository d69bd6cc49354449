"""One driver per output: a lease that is taken by a create-only write, renewed, and expires.

The lease is the file of the highest number in `OUTPUT/lease/`. Whoever creates the next number holds it, so
that of several who find an expired lease exactly one wins.
"""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError, Interrupted, StorageError

LIFETIME_S = 60.0


def _process() -> dict[str, Any]:
    """Identifies this process on this boot of this machine."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "started": _started(pid)}


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _started(pid: int) -> str:
    """Returns when a process started, in the kernel's ticks; empty when it does not run (or has no /proc)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _is_dead(holder: dict[str, Any]) -> bool:
    """Says whether the holder was a process of this very machine and boot that has ended."""
    here = _process()
    if not here["boot"] or (holder["host"], holder["boot"]) != (here["host"], here["boot"]):
        return False
    return _started(int(holder["pid"])) != str(holder["started"])


@contextlib.contextmanager
def hold(output: str, lifetime_s: float = LIFETIME_S) -> Iterator[None]:
    """Holds the output for this process, or says who does; a process that loses it is sent a SIGTERM.

    Raises:
        ConfigError: another driver holds it.
        Interrupted: another driver has taken it over.
    """
    folder = storage.join(output, "lease")
    number = 0
    for file_number in _numbers(folder):
        number = max(number, file_number)
        holder = _holder(folder, file_number)
        if holder is None or holder["released"] or _is_dead(holder) or holder["expires"] < time.time():
            continue
        raise ConfigError(
            f"{output}: process {holder['pid']} on {holder['host']} is writing there; wait for it to end "
            f"(its lease runs out {max(0.0, holder['expires'] - time.time()):.0f} s after its last sign of life)"
        )
    mine = _uri(folder, number + 1)
    identity = {**_process(), "token": uuid.uuid4().hex}

    def content(released: bool) -> bytes:
        text = json.dumps({**identity, "expires": time.time() + lifetime_s, "released": released})
        return text.encode()

    if not storage.put_new(mine, content(False)):
        raise ConfigError(f"{output}: another driver has just started there")
    for older in _numbers(folder):
        if older <= number:
            storage.delete(_uri(folder, older))
    stop, lost = threading.Event(), threading.Event()

    def renew() -> None:
        while not stop.wait(lifetime_s / 4):
            try:
                if max(_numbers(folder), default=0) > number + 1:
                    # This process was held up for longer than its lease: another driver has the output now.
                    lost.set()
                    # No SIGINT, which shells have jobs in the background ignore.
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                storage.put(mine, content(False))
            except (OSError, StorageError):
                # The lease lasts for three more tries.
                continue

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        raise Interrupted(
            f"{output}: this process was held up, and another driver has taken it over", "let that one finish"
        ) from None
    finally:
        stop.set()
        thread.join()
        # A storage that has given out must not hide why the job ends: the lease then runs out.
        with contextlib.suppress(OSError, StorageError):
            if max(_numbers(folder), default=0) == number + 1:
                storage.put(mine, content(True))


def _uri(folder: str, number: int) -> str:
    return storage.join(folder, f"{number:06d}.json")


def _numbers(folder: str) -> list[int]:
    """Returns the numbers of the leases that are there; other files are none of ours."""
    names = [storage.name_of(file.uri) for file in storage.list_files(folder)]
    return [int(name[:6]) for name in names if re.fullmatch(r"\d{6}\.json", name)]


def _holder(folder: str, number: int) -> dict[str, Any] | None:
    """Returns who holds a lease; None when it has just been removed, or says nothing."""
    try:
        holder = json.loads(storage.read(_uri(folder, number)))
    except (FileNotFoundError, ValueError):
        return None
    keys = {"host", "boot", "pid", "started", "expires", "released"}
    return holder if isinstance(holder, dict) and keys <= holder.keys() else None
