"""How fast and how well hands are put into camera space, beside a fit per hand as HandOccNet's demo makes it.

The other fit is that of demo_fitting.py (github.com/namepllet/HandOccNet): L-BFGS with strong Wolfe line search on
the sum of |pixels|, with a prior that pulls the depth to a guess; its settings are kept.
"""

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.mano.synthetic import synthetic_hand
from pipeline.camera import place_hands, project
from pipeline.synthesis.hands import HandKit
from pipeline.synthesis.staging import place_hand, random_camera

Floats = NDArray[np.float64]

SIZE: Final = 256
NOISE_PX: Final = 2.0
NOISE_MM: Final = (5.0, 10.0)
WILD_JOINTS: Final = 3
FITS_OF_ONE: Final = 32  # what the slow fit is timed on
DEPTH_GUESS_M: Final = 0.5
_PRIOR: Final = 1e3
_RATE: Final = 0.1
_INNER_STEPS: Final = 20
_STEPS: Final = 300
_LEAST_CHANGE: Final = 1e-10


@dataclass(frozen=True)
class Hands:
    """Hands of both sides: joints (N, 21, 3), camera (N, 4), and the true wrists (N, 3)."""

    joints: Floats
    camera: Floats
    wrists: Floats


def random_hands(count: int) -> Hands:
    """Poses hands before cameras as `handocc synthesize` does, without drawing them."""
    rng, kit = np.random.default_rng(0), HandKit(synthetic_hand())
    joints, cameras, wrists = [], [], []
    for number in range(count):
        hand, camera = kit.random_hand(rng, "left" if number % 2 else "right"), random_camera(rng, SIZE)
        joints.append(hand.joints)
        cameras.append(camera)
        wrists.append(place_hand(rng, hand.vertices, camera, SIZE))
    return Hands(np.array(joints), np.array(cameras), np.array(wrists))


def run(count: int) -> None:
    """Prints the errors of depth with true joints, with noise and with wild joints, and the ratio of speeds."""
    hands, rng = random_hands(count), np.random.default_rng(1)
    exact = project(hands.joints + hands.wrists[:, None], hands.camera)
    noisy = exact + rng.normal(0, NOISE_PX, exact.shape)
    wild = noisy.copy()
    for pixels in wild:
        pixels[rng.permutation(21)[:WILD_JOINTS]] = rng.uniform(0, SIZE, (WILD_JOINTS, 2))
    print(
        f"{count} hands of both sides in {SIZE}x{SIZE} pictures, {_depths(hands)} away; error of the depth:"
    )
    noise = f"{NOISE_PX:g} px of noise"
    kinds = {
        "true joints": exact,
        noise: noisy,
        f"{noise}, {WILD_JOINTS} of 21 joints wild": wild,
    }
    for name, pixels in kinds.items():
        print(f"  {name:<40} {_error(hands, _placed(hands, pixels))}")
    for noise_mm in NOISE_MM:
        moved = hands.joints + rng.normal(0, noise_mm / 1000, hands.joints.shape)
        found = _placed(replace(hands, joints=moved), exact)
        print(f"  {f'{noise_mm:g} mm of noise in the 3D joints':<40} {_error(hands, found)}")
    few = Hands(*(values[:FITS_OF_ONE] for values in (hands.joints, hands.camera, hands.wrists)))
    started = time.process_time()
    fitted = np.array([_fitted(*hand) for hand in zip(few.joints, wild, few.camera, strict=False)])
    one = (time.process_time() - started) / len(fitted)
    print(f"  {f'the same, by L-BFGS, {len(fitted)} hands':<40} {_error(few, fitted)}")
    rounds = 5
    started = time.process_time()
    for _ in range(rounds):
        _placed(hands, wild)
    batched = (time.process_time() - started) / rounds / count
    print(f"placing, batched    {batched * 1e6:10.1f} µs of CPU time a hand")
    print(f"L-BFGS, one by one  {one * 1e6:10.1f} µs of CPU time a hand")
    print(f"L-BFGS / placing    {one / batched:10.0f}")


def _placed(hands: Hands, pixels: Floats) -> Floats:
    return place_hands(hands.joints, pixels, np.ones(pixels.shape[:2]), hands.camera).translation


def _depths(hands: Hands) -> str:
    low, high = np.percentile(hands.wrists[:, 2], (5, 95))
    return f"{low:.2f} to {high:.2f} m"


def _error(hands: Hands, translation: Floats) -> str:
    off = 1000 * np.abs(translation - hands.wrists)[:, 2]
    share = off / (10 * hands.wrists[:, 2])
    return (
        f"median {np.median(off):8.4f} mm ({np.median(share):.4f} %), "
        f"95th percentile {np.percentile(off, 95):8.4f} mm"
    )


def _fitted(joints: Floats, pixels: Floats, camera: Floats) -> Floats:
    """Returns the translation of one hand by the published fit."""
    points, seen, intrinsics = (torch.from_numpy(values).float() for values in (joints, pixels, camera))
    translation = torch.tensor([0.0, 0.0, DEPTH_GUESS_M], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [translation], lr=_RATE, max_iter=_INNER_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        moved = points + translation
        projected = moved[:, :2] / moved[:, 2:] * intrinsics[:2] + intrinsics[2:]
        loss = (projected - seen).abs().sum() + _PRIOR * (translation[2] - DEPTH_GUESS_M) ** 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = float("inf")
    for _ in range(_STEPS):
        loss = float(optimizer.step(closure).detach())  # type: ignore[no-untyped-call]
        if not np.isfinite(loss) or abs(before - loss) <= _LEAST_CHANGE * max(abs(before), abs(loss), 1.0):
            break
        before = loss
    return translation.detach().double().numpy()
