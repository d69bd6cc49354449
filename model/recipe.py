"""How a network is trained: loss weights, learning rate by epoch and batch, augmentation; the authors' as values."""

import math
from dataclasses import dataclass
from typing import Literal

from model.augmentation import AugmentationRanges
from model.errors import ModelError
from model.losses import LOSSES, LossWeights


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way of training; Adam without weight decay, as the paper and its code have it.

    The learning rate belongs to `reference_batch` samples a step, over all workers. Other batches scale it in
    proportion: people who trained the published code on one GPU at the rate for four did not reach its results.
    """

    name: str
    epochs: int
    learning_rate: float
    reference_batch: int
    schedule: Literal["steps", "cosine"]
    decay: float = 1.0  # of "steps": the factor,
    decay_every: int = 1  # every so many epochs,
    decays: int = 0  # at most so often
    warmup: float = 0.0  # share of all steps over which the rate rises from 0
    losses: LossWeights
    augmentation: AugmentationRanges

    def rate(self, *, batch: int, epoch: int, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Return the learning rate of one step (epoch and step from 0, step within the epoch)."""
        rate = self.learning_rate * batch / self.reference_batch
        done, total = epoch * steps_per_epoch + step, epochs * steps_per_epoch
        rising = self.warmup * total
        if done < rising:
            return rate * (done + 1) / (rising + 1)
        if self.schedule == "cosine":
            return rate * 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1.0, total - rising)))
        return float(rate * self.decay ** min(epoch // self.decay_every, self.decays))


# The paper gives the rate, the batch of 24 and "annealing at every 10th epoch"; its factor and number of epochs
# are those of the published code for HO-3D. `release` is that code (four GPUs with 16 each), `release-dexycb` its
# settings for DexYCB (reference: RELEASE_NETWORK section 2). `small` is ours, for networks without a pretrained
# trunk on synthetic pictures: hands are found sooner in boxes that vary less in size.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="paper",
            epochs=70,
            learning_rate=1e-4,
            reference_batch=24,
            schedule="steps",
            decay=0.7,
            decay_every=10,
            decays=6,
            losses=LOSSES["paper"],
            augmentation=AugmentationRanges(),
        ),
        Recipe(
            name="release",
            epochs=70,
            learning_rate=1e-4,
            reference_batch=64,
            schedule="steps",
            decay=0.7,
            decay_every=10,
            decays=6,
            losses=LOSSES["release"],
            augmentation=AugmentationRanges(),
        ),
        Recipe(
            name="release-dexycb",
            epochs=25,
            learning_rate=1e-4,
            reference_batch=64,
            schedule="steps",
            decay=0.9,
            decay_every=1,
            decays=24,
            losses=LOSSES["release"],
            augmentation=AugmentationRanges(),
        ),
        Recipe(
            name="small",
            epochs=20,
            learning_rate=1e-3,
            reference_batch=32,
            schedule="cosine",
            warmup=0.02,
            losses=LOSSES["small"],
            augmentation=AugmentationRanges(scale=0.1),
        ),
    )
}
OF_MODEL = {"paper": "paper", "release": "release", "tiny": "small"}


def recipe(name: str) -> Recipe:
    """Return the recipe of that name, or raise ModelError with the names there are."""
    if name not in RECIPES:
        raise ModelError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
