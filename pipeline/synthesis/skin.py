"""The colour of skin: tones, paler palms, redder knuckles, nails, and a texture of blotches and pores."""

import numpy as np
from numpy.typing import NDArray

from model.mano.joints import TIPS_IN_SIMPLE
from pipeline.synthesis.hands import HandKit
from pipeline.synthesis.surfaces import unit
from pipeline.synthesis.textures import TEXTURE_SIZE, Image, noise, random_colour

Floats = NDArray[np.floating]

# The ten tones of the Monk Skin Tone Scale (skintone.google), sRGB.
_TONES = np.array(
    [
        *((246, 237, 228), (243, 231, 219), (247, 234, 208), (234, 218, 186), (215, 189, 150)),
        *((160, 126, 86), (130, 92, 67), (96, 65, 52), (58, 49, 42), (41, 36, 32)),
    ]
)


def skin_colours(rng: np.random.Generator, kit: HandKit) -> Floats:
    """(V, 3) a tone of its own, paler palm, redder knuckles and tips, nails, blotches."""
    place = rng.uniform(0, len(_TONES) - 1)
    lower = min(int(place), len(_TONES) - 2)
    tone = (_TONES[lower] + (place - lower) * (_TONES[lower + 1] - _TONES[lower])) / 255
    tone = np.clip(tone * (1.0, 0.94, 0.89) * rng.normal(1, 0.04, 3) * rng.uniform(0.88, 1.02), 0.08, 1)
    flushed = np.clip(tone * (1.04, 0.80, 0.78) + (0.03, 0.0, 0.0), 0, 1)
    pale = 0.45 * tone + 0.55 * np.array([0.87, 0.68, 0.58]) * max(tone.max(), 0.6)

    facing_palm = kit.rest_normals @ kit.palm
    tips = kit.rest_joints[list(TIPS_IN_SIMPLE)]
    bends = np.delete(kit.rest_joints, [0, 1, *TIPS_IN_SIMPLE], axis=0)
    near_tip = np.exp(-((_distance(kit.rest, tips) / 0.012) ** 2))
    near_bend = np.exp(-((_distance(kit.rest, bends) / 0.014) ** 2)) * (facing_palm < 0.2)
    flush = rng.uniform(0.2, 0.8) * np.maximum(near_tip, near_bend)[:, None]
    palmar = np.clip(facing_palm * 1.5 + 0.2, 0, 1)[:, None] * rng.uniform(0.4, 0.9)

    colours: Floats = tone * (1 - palmar) + pale * palmar
    colours = colours * (1 - flush) + flushed * flush
    colours *= 1 + rng.uniform(0.01, 0.05) * rng.normal(size=(len(colours), 1))
    nails = _nails(kit)
    nail = np.clip(0.4 * tone + 0.6 * np.array([0.93, 0.76, 0.72]) * max(tone.max(), 0.55), 0, 1)
    if rng.random() < 0.12:
        nail = np.asarray(random_colour(rng), np.float64)  # varnish
    colours[nails] = 0.2 * colours[nails] + 0.8 * nail
    return colours.clip(0.03, 1)


def skin_texture(rng: np.random.Generator) -> Image:
    """Blotches of blood and a fine grain, close to 1."""
    blotches = noise(rng, TEXTURE_SIZE, TEXTURE_SIZE, cells=4, octaves=3)[..., None] - 0.5
    grain = noise(rng, TEXTURE_SIZE, TEXTURE_SIZE, cells=32, octaves=2)[..., None] - 0.5
    redness = np.array([0.25, 1.0, 0.9], np.float32)
    strength, roughness = rng.uniform(0.02, 0.14), rng.uniform(0.03, 0.16)
    return np.asarray(np.clip(0.97 + strength * blotches * redness + roughness * grain, 0, 1), np.float32)


def _nails(kit: HandKit) -> NDArray[np.bool_]:
    """(V,) the back of each finger's end."""
    nails = np.zeros(len(kit.rest), bool)
    for tip in TIPS_IN_SIMPLE:
        bone = unit(kit.rest_joints[tip] - kit.rest_joints[tip - 1])
        back = -kit.palm if tip > 4 else -kit.palm + np.cross(kit.palm, kit.along) * 0.6
        back = unit(back - (back @ bone) * bone)
        near = np.linalg.norm(kit.rest - kit.rest_joints[tip], axis=1) < 0.012
        nails |= near & (kit.rest_normals @ back > 0.55)
    return nails


def _distance(points: Floats, marks: Floats) -> Floats:
    """(N,) from each of (N, 3) points to the nearest of the marks (M, 3)."""
    distance: Floats = np.linalg.norm(points[:, None] - marks[None], axis=-1).min(axis=1)
    return distance
