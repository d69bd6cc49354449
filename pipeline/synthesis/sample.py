"""One labelled synthetic picture: a hand, what hides it, what stands behind it, and the camera's faults."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from model.mano.asset import Side
from pipeline.synthesis.backgrounds import background
from pipeline.synthesis.dress import dress
from pipeline.synthesis.hands import HandKit, PosedHand
from pipeline.synthesis.labels import Label, hand_label
from pipeline.synthesis.night import photograph_at_night
from pipeline.synthesis.shading import GAMMA, draw, random_light
from pipeline.synthesis.staging import held_or_in_front, place_hand, place_occluder, project, random_camera
from pipeline.synthesis.surfaces import Surface

Floats = NDArray[np.floating]
Look = Literal["day", "night"]


@dataclass(frozen=True)
class SceneSpec:
    """What the pictures of a synthetic set have in common."""

    size: int = 320  # pixels, square
    occlusion: float = 0.75  # probability that something stands before the hand or is held by it
    hidden_share: tuple[float, float] = (
        0.0,
        0.8,
    )  # of the 21 joints, what that thing is chosen to hide; uniform
    second_hand: float = (
        0.15  # probability that the thing is another hand; labelled when half of it is in the picture
    )
    left: float = 0.5  # probability that the hand is a left one
    vertices: bool = False  # write the mesh into the label
    split: str = "train"
    look: Look = "day"  # whose pictures these are: of an ordinary camera, or of one at night


@dataclass(frozen=True)
class Sample:
    """A picture and its label, laid out as a training shard's JSON."""

    image: NDArray[np.uint8]  # (size, size, 3) RGB
    label: Label


def synthesize(seed: int, index: int, spec: SceneSpec, kit: HandKit) -> Sample:
    """Make sample `index` of the set `seed`: the same bytes whoever else is made, in whatever order."""
    rng = np.random.default_rng([seed, index])
    camera = random_camera(rng, spec.size)
    side: Side = "left" if rng.random() < spec.left else "right"
    hand = kit.random_hand(rng, side)
    translation = place_hand(rng, hand.vertices, camera, spec.size)
    placed = [(hand, translation, 0)]
    surfaces = [surface.moved(np.eye(3), translation) for surface in dress(rng, kit, hand)]

    if rng.random() < spec.occlusion:
        wanted = float(rng.uniform(*spec.hidden_share))
        joints = hand.joints + translation
        if rng.random() < spec.second_hand:
            other = kit.random_hand(rng, "right" if side == "left" else "left")
            dressed = dress(rng, kit, other)
            found = place_occluder(rng, joints, wanted, lambda: _before(rng, dressed, other, joints))
            if found:
                there = found[0].vertices[0] - dressed[0].vertices[0]
                if _mostly_inside(project(other.joints + there, camera), spec.size):
                    placed.append((other, there, len(surfaces)))
        else:
            found = place_occluder(rng, joints, wanted, lambda: held_or_in_front(rng, hand, translation))
        surfaces += found

    drawing = draw(surfaces, camera, random_light(rng), height=spec.size, width=spec.size)
    behind = background(rng, spec.size, spec.size) ** GAMMA
    taken = photograph_at_night if spec.look == "night" else photograph
    image = taken(rng, drawing.colour + behind * (1 - drawing.alpha[..., None]))
    label: Label = {
        "camera": [float(f"{value:.6g}") for value in camera],
        "split": spec.split,
        "dataset": "synthetic",
        "index": index,
        "hand_model": kit.hand_model.name,
        "fingertip_vertices": list(kit.hand_model.fingertip_vertices),
        "hands": [
            hand_label(kit, one, there, camera, drawing, owner, spec.vertices) for one, there, owner in placed
        ],
    }
    return Sample(image, label)


def encode_jpeg(image: NDArray[np.uint8], quality: int = 92) -> bytes:
    """An RGB image as JPEG bytes."""
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV could not encode a picture of our own"
    return data.tobytes()


def _mostly_inside(points: Floats, size: int) -> bool:
    inside = ((points > -0.5) & (points < size - 0.5)).all(axis=1)
    return float(inside.mean()) >= 0.5


def _before(
    rng: np.random.Generator, dressed: list[Surface], other: PosedHand, joints: Floats
) -> list[Surface]:
    """Propose the other hand somewhere around the first one's joints, mostly nearer to the camera."""
    anchor = other.joints[rng.integers(21)]
    target = joints[rng.integers(21)] * rng.uniform(0.7, 1.05) + rng.normal(0, 0.03, 3)
    return [surface.moved(np.eye(3), target - anchor) for surface in dressed]


def photograph(rng: np.random.Generator, linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What a camera makes of linear light: exposure, colour cast, blur, vignette, noise; (H, W, 3) uint8."""
    size = linear.shape[1]
    # Automatic exposure, which goes most of the way to a mid grey that differs from camera to camera.
    exposure = (rng.uniform(0.12, 0.32) / max(float(linear.mean()), 1e-4)) ** 0.7
    light = linear * (exposure * rng.normal(1, 0.04, 3)).astype(np.float32)
    blur = rng.choice(["none", "soft", "motion"], p=[0.35, 0.5, 0.15])
    if blur == "soft":
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.3, 1.1) * size / 320)
    elif blur == "motion":
        light = cv2.filter2D(light, -1, _motion_kernel(rng, rng.uniform(2, 5) * size / 320))
    ramp = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    light *= (1 - rng.uniform(0, 0.2) * (ramp[:, None] + ramp))[..., None]
    tones = np.sqrt(np.clip(light, 0, None))
    # A soft shoulder keeps highlights from clipping flat.
    tones = np.where(tones > 0.8, 0.8 + 0.2 * np.tanh((tones - 0.8) / 0.2), tones)
    tones += rng.uniform(0.002, 0.03) * rng.standard_normal(tones.shape, np.float32)
    image: NDArray[np.uint8] = np.clip(np.rint(tones * 255), 0, 255).astype(np.uint8)
    return image


def _motion_kernel(rng: np.random.Generator, length: float) -> NDArray[np.float32]:
    """A streak of `length` pixels in a random direction, its sum 1."""
    half = int(np.ceil(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    turn = rng.uniform(0, np.pi)
    for step in np.linspace(-length / 2, length / 2, 8 * half + 1):
        kernel[int(np.rint(half + step * np.sin(turn))), int(np.rint(half + step * np.cos(turn)))] += 1
    kernel /= kernel.sum()
    return kernel
