"""MediaPipe's hand landmarker: 21 landmarks and a side for every hand that it sees in an image.

Its model file is a `.task`: a zip that holds a palm detector (192 pixels square) and a landmark network.
"""

import ctypes
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.boxes.search import FoundHand
from pipeline.quiet import no_stderr

# Above this side an image is shrunk before it is shown. MediaPipe ends the process at 32767, and it samples
# its 192 pixels out of whatever it gets, so that more of them show it no more.
LARGEST_SIDE = 4096
# The least certainty of the palm detector. MediaPipe's own default of 0.5 misses hands that 0.3 finds; false
# palms are then refused by the landmark network, whose threshold stays where it was.
MIN_PALM = 0.3
MIN_PRESENCE = 0.5


class HandLandmarker:
    """Keeps the networks of one model file; not to be pickled, each process makes its own."""

    def __init__(self, model: bytes, *, max_hands: int) -> None:
        # Heavy, and an extra: only who detects needs it.
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        self._mediapipe = mediapipe
        options = vision.HandLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=model),
            running_mode=vision.RunningMode.IMAGE,
            num_hands=max_hands,
            min_hand_detection_confidence=MIN_PALM,
            min_hand_presence_confidence=MIN_PRESENCE,
        )
        with no_stderr():
            self._landmarker: Any = vision.HandLandmarker.create_from_options(options)
            self(np.zeros((8, 8, 3), np.uint8))
        # Kept until the process ends. Its own end needs a thread pool, which Python closes first: it would
        # complain of that at every exit.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._landmarker))

    def __call__(self, image: NDArray[np.uint8]) -> list[FoundHand]:
        """Returns the hands of an image (RGB, uint8), in no particular order.

        The sides are those of the people seen: the Tasks API names them for pictures as they are, not for
        mirrored ones as MediaPipe's older `solutions` did.
        """
        height, width = image.shape[:2]
        shrink = min(1.0, LARGEST_SIDE / max(height, width))
        if shrink < 1:
            size = max(1, round(width * shrink)), max(1, round(height * shrink))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        picture = self._mediapipe.Image(
            image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image)
        )
        result = self._landmarker.detect(picture)
        return [
            FoundHand(
                landmarks=np.array([[point.x * width, point.y * height] for point in points]),
                side=sides[0].category_name.lower(),
                score=float(sides[0].score),
            )
            for points, sides in zip(result.hand_landmarks, result.handedness, strict=True)
        ]
