"""Hands found in the image by MediaPipe's hand landmarker: several of them, several people's, each once."""

import functools
import hashlib
import importlib.util
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.boxes.box_source import camera_of
from pipeline.boxes.mediapipe_hands import HandLandmarker
from pipeline.boxes.search import search
from pipeline.errors import ConfigError, DataError
from pipeline.records import HandBox, Sample

MODELS_INSIDE = ("hand_detector.tflite", "hand_landmarks_detector.tflite")
# The network was trained on 1.5 times the tight box of the joints (published code, its training sets); the
# crop rule of annotate enlarges by 1.25, and this makes up the rest.
EXPANSION = 1.2


@dataclass(frozen=True)
class DetectorOptions:
    """What a person may choose of the detector.

    model: the URI of its `.task` file, None for the usual place. max_hands: of one image, the largest first.
    tiles: the image is shown whole, and cut into tiles x tiles; 1 shows it whole only.
    """

    model: str | None = None
    max_hands: int = 8
    tiles: int = 2


def default_model() -> str:
    """Returns where the detector's model file is looked for: HANDOCC_DETECTOR, or the user's cache."""
    if named := os.environ.get("HANDOCC_DETECTOR"):
        return named
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(cache) / "handocc" / "hand_landmarker.task")


def load_detector(options: DetectorOptions) -> "Detect":
    """Reads the detector's model file and returns the box source.

    Raises:
        ConfigError: MediaPipe is not installed or cannot be loaded, there is no such file, or it is no hand landmarker.
    """
    if options.max_hands < 1:
        raise ConfigError(f"--max-hands {options.max_hands}: must be at least 1")
    if not 1 <= options.tiles <= 8:
        raise ConfigError(f"--tiles {options.tiles}: must be between 1 (the whole image only) and 8")
    where = options.model or default_model()
    shown = storage.redacted(where)
    try:
        model = storage.read(where)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ConfigError(
            f"--boxes detect: there is no model file {shown}; `handocc fetch-detector` gets it, "
            "--detector or HANDOCC_DETECTOR says where another one is"
        ) from error
    except OSError as error:
        raise ConfigError(f"--boxes detect: the model file {shown} cannot be read ({error})") from error
    try:
        names = zipfile.ZipFile(io.BytesIO(model)).namelist()
    except zipfile.BadZipFile:
        names = []
    if not set(MODELS_INSIDE) <= set(names):
        raise ConfigError(
            f"--boxes detect: {shown} is no hand landmarker (a .task file is a zip with "
            f"{' and '.join(MODELS_INSIDE)}); `handocc fetch-detector` gets one"
        )
    if importlib.util.find_spec("mediapipe") is None:
        raise ConfigError("--boxes detect: mediapipe is not installed; `pip install 'handocc[detect]'`")
    detector = Detect(model, max_hands=options.max_hands, tiles=options.tiles)
    try:
        detector.prepare()
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"--boxes detect: mediapipe cannot be loaded ({_line(error)}); of the system it needs libEGL and "
            "libGLESv2 (Debian, Ubuntu: `apt-get install libegl1 libgles2`)"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--boxes detect: mediapipe cannot use {shown} ({_line(error)}); `handocc fetch-detector` gets one"
        ) from error
    return detector


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


@dataclass(frozen=True)
class Detect:
    """Finds hands with MediaPipe, whose networks are built in the worker, when they are first used.

    model: the bytes of the `.task` file, so that no worker needs the file; the rest as in DetectorOptions.
    """

    model: bytes
    max_hands: int
    tiles: int

    @property
    def identity(self) -> str:
        """What tells this detector's boxes from another's."""
        digest = hashlib.sha256(self.model).hexdigest()
        return f"detect max_hands={self.max_hands} tiles={self.tiles} {digest}"

    def __reduce__(self) -> tuple[type["Detect"], tuple[bytes, int, int]]:
        return Detect, (self.model, self.max_hands, self.tiles)

    def prepare(self) -> None:
        """Builds the networks now, in this process; raises what MediaPipe does where it cannot."""
        self._landmarker  # noqa: B018

    @functools.cached_property
    def _landmarker(self) -> HandLandmarker:
        return HandLandmarker(self.model, max_hands=self.max_hands)

    def asked(self, sample: Sample) -> int:  # noqa: ARG002
        return 0

    def find(self, sample: Sample, image: NDArray[np.uint8]) -> Sequence[HandBox | DataError]:
        height, width = image.shape[:2]
        camera = camera_of(sample.camera)
        boxes = []
        for hand in search(image, self._landmarker, tiles=self.tiles):
            bbox = expanded(hand.landmarks, width, height)
            if bbox is not None:
                boxes.append(
                    HandBox(
                        bbox=bbox,
                        side=hand.side,
                        side_source="detector",
                        bbox_source="detect",
                        score=hand.score,
                        camera=camera,
                    )
                )
        return sorted(boxes, key=lambda box: -box.bbox[2] * box.bbox[3])[: self.max_hands]


def expanded(
    landmarks: NDArray[np.float64], width: int, height: int
) -> tuple[float, float, float, float] | None:
    """Returns the box (x, y, w, h) that goes into the crop rule, cut at the image's border; None outside of it.

    It is cut here since the crop rule moves a box that begins outside of the image, as published code does.
    """
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    margin = (high - low) * (EXPANSION - 1) / 2
    x, y = np.maximum(low - margin, 0)
    right, bottom = np.minimum(high + margin, (width - 1, height - 1))
    if not (right - x >= 1 and bottom - y >= 1):
        return None
    return float(x), float(y), float(right - x), float(bottom - y)
