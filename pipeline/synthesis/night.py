"""A second camera for synthetic pictures, of a domain of its own: little light, a blue cast, blur and much noise."""

import cv2
import numpy as np
from numpy.typing import NDArray

MOONLIGHT = np.array([0.55, 0.80, 1.35], np.float32)  # what is left of red, green and blue


def photograph_at_night(rng: np.random.Generator, linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What a small camera makes of linear light (H, W, 3) at night: (H, W, 3) uint8 RGB."""
    size = linear.shape[1]
    exposure = rng.uniform(0.012, 0.045) / max(float(linear.mean()), 1e-4)
    light = linear * (exposure * MOONLIGHT * rng.normal(1, 0.08, 3)).astype(np.float32)
    # A wide aperture, and long exposures that the shake of a hand is in.
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(1.0, 2.2) * size / 320)
    photons = rng.uniform(150, 600)
    light = rng.poisson(np.clip(light, 0, 4) * photons).astype(np.float32) / np.float32(photons)
    tones = np.sqrt(np.clip(light, 0, None))
    tones += rng.uniform(0.01, 0.04) * rng.standard_normal(tones.shape, np.float32)
    image: NDArray[np.uint8] = np.clip(np.rint(tones * 255), 0, 255).astype(np.uint8)
    return image
