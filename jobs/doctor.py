"""`handocc doctor`: what this machine has, what is missing, and how to get it."""

import hashlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from jobs import exits, record
from jobs.cluster import connect
from jobs.fetch_detector import IN_WHEEL, URL_SHA256
from jobs.options import option
from model.crop import require_opencv4
from model.errors import ModelError
from model.mano.asset import load_mano
from pipeline import storage
from pipeline.boxes.detect import MODELS_INSIDE, default_model
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """Checks this machine, and a cluster if one is named; status 2 when something that a job needs is missing."""

    address: str | None = option(None, help="a Ray cluster to ask as well")
    mano: str | None = option(None, help="a MANO_RIGHT.pkl to check")
    output: str | None = option(None, help="a folder or URI to try to write to")


@dataclass(frozen=True)
class Finding:
    """One line: is it well, what was looked at, what was found, and the way out."""

    well: bool | None  # None: optional and not there
    what: str
    found: str


def run(options: Options) -> int:
    """Prints one line per thing looked at."""
    wanting = False
    for finding in _look(options):
        mark = {True: "ok     ", False: "MISSING", None: "absent "}[finding.well]
        print(f"{mark}  {finding.what:<16} {finding.found}", flush=True)
        wanting |= finding.well is False
    return exits.USAGE if wanting else exits.DONE


def _look(options: Options) -> Iterator[Finding]:
    versions = record.versions()
    yield Finding(True, "python", versions.pop("python"))
    for name, version in versions.items():
        present = version != "not installed" or name == "handocc"
        yield Finding(present, name, version if present else "not installed: `pip install handocc` brings it")
    try:
        require_opencv4()
        yield Finding(True, "cv2", "OpenCV 4: crops as the weights expect them")
    except ModelError as error:
        yield Finding(False, "cv2", str(error))
    yield _gpus()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding(True, "machine", f"{os.cpu_count()} CPUs, {memory / 2**30:.1f} GiB of memory")
    yield _shared_memory(memory)
    for name, what in (("s3fs", "s3:// locations"), ("gcsfs", "gs:// locations")):
        there = importlib.util.find_spec(name) is not None
        yield Finding(True if there else None, what, name if there else f"`pip install {name}` brings them")
    yield _mediapipe()
    yield _detector()
    if options.mano is None:
        yield Finding(None, "MANO", "not named; --mano MANO_RIGHT.pkl checks it (from mano.is.tue.mpg.de)")
    else:
        yield _mano(options.mano)
    if options.output is not None:
        try:
            storage.require_writable(storage.canonical(options.output))
            yield Finding(True, "output", f"{options.output} can be written")
        except ConfigError as error:
            yield Finding(False, "output", str(error))
    try:
        with connect(options.address) as resources:
            where = options.address or "started on this machine"
            yield Finding(True, "ray", f"{where}: {resources.cpus:g} CPUs, {resources.gpus:g} GPUs")
    except ConfigError as error:
        yield Finding(False, "ray", str(error))


def _gpus() -> Finding:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if names:
        return Finding(True, "GPUs", ", ".join(names))
    return Finding(None, "GPUs", "none that torch can use: the network will run on CPUs")


def _shared_memory(memory: int) -> Finding:
    """Ray keeps its objects in /dev/shm; containers often have 64 MiB there."""
    if not Path("/dev/shm").is_dir():
        return Finding(None, "/dev/shm", "none on this system: Ray uses its own folder")
    size = shutil.disk_usage("/dev/shm").total
    enough = size >= min(2 << 30, memory // 4)
    way_out = "" if enough else "; a container needs --shm-size=2g or more"
    return Finding(enough, "/dev/shm", f"{size / 2**30:.1f} GiB{way_out}")


def _mediapipe() -> Finding:
    try:
        version = importlib.metadata.version("mediapipe")
    except importlib.metadata.PackageNotFoundError:
        return Finding(None, "mediapipe", "`pip install 'handocc[detect]'` brings it, for --boxes detect")
    return Finding(True, "mediapipe", version)


def _detector() -> Finding:
    """Looks at the model file that --boxes detect takes by default."""
    where = default_model()
    shown = storage.redacted(where)
    try:
        data = storage.read(where)
    except (FileNotFoundError, NotADirectoryError):
        found = f"{shown} is not there; `handocc fetch-detector` gets it, for --boxes detect"
        return Finding(None, "detector", found)
    except (OSError, ConfigError) as error:
        return Finding(False, "detector", f"{shown} cannot be read ({error})")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as task:
            inside = {name: _sha256(task.read(name)) for name in MODELS_INSIDE}
    except (zipfile.BadZipFile, KeyError):
        return Finding(False, "detector", f"{shown} is no hand landmarker; `handocc fetch-detector` gets one")
    assembled = {name: IN_WHEEL[name][1] for name in MODELS_INSIDE}
    if _sha256(data) == URL_SHA256 or inside == assembled:
        return Finding(True, "detector", f"{shown}, its checksum is right")
    return Finding(True, "detector", f"{shown}, none that fetch-detector brings (sha256 {_sha256(data)})")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _mano(uri: str) -> Finding:
    try:
        model = load_mano(storage.read(uri), "right")
    except (OSError, ModelError) as error:
        return Finding(False, "MANO", f"{uri}: {error}")
    return Finding(True, "MANO", f"{uri}: hand model {model.name[:16]}")


if __name__ == "__main__":
    from jobs.cli import command

    command(["doctor", *sys.argv[1:]])
