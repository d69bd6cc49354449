"""What a run of training is: everything that a worker has to know, as one value."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from model.config import ModelConfig
from model.mano.asset import HandModel
from model.recipe import Recipe
from pipeline.records import Unit
from pipeline.training.order import WINDOW, Order

WINDOW_BYTES = 64 << 20  # of crops: what one task reads and one worker holds of each of its lanes


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run.

    segments, validation: what is read in one piece, in the plan's order. batch is lanes x micro_batch samples,
    whatever the number of workers; every worker takes some of the lanes, one after another.
    """

    output: str
    config: ModelConfig
    hand_model: HandModel
    recipe: Recipe
    epochs: int
    segments: Sequence[Unit]
    validation: Sequence[Unit]
    lanes: int
    micro_batch: int
    seed: int
    supervise: Literal["all", "joints"]
    start: bytes | None  # weights to start from, as `model.weights.load_weights` reads them
    adapt: bool  # of which only what fits the config is taken
    trunk: bytes | None  # torchvision's ResNet-50, for the trunk alone
    precision: Literal["fp32", "bf16"]
    clip_norm: float | None
    compile: bool
    cuda_graph: bool
    half: bool  # weights are written as float16
    sync_batch_norm: bool
    threads: int
    read_cpus: float
    checkpoint_steps: int | None
    steps: int | None  # the run ends after so many, in all
    log_steps: int
    notes: dict[str, str]

    @functools.cached_property
    def order(self) -> Order:
        """The order of the training samples; large crops are shuffled in smaller windows."""
        crop_bytes = 3 * self.config.input_size**2
        return Order(
            [unit.last - unit.first for unit in self.segments],
            lanes=self.lanes,
            micro_batch=self.micro_batch,
            seed=self.seed,
            window=min(WINDOW, WINDOW_BYTES // crop_bytes),
        )

    @functools.cached_property
    def last_step(self) -> int:
        """How many steps the run has in all."""
        total = self.epochs * self.order.steps
        return total if self.steps is None else min(self.steps, total)
