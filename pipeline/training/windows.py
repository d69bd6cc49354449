"""Reads windows of training samples from shards: every picture decoded, one of its hands cut out and augmented."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from model.augmentation import AugmentationRanges
from pipeline.errors import DataError
from pipeline.records import Sample, Unit
from pipeline.sources import webdataset
from pipeline.training.labels import hand_count, hand_model_of, has_mano
from pipeline.training.order import Piece, Window
from pipeline.training.samples import TrainingSamples, concatenate, training_sample

Supervision = Literal["all", "joints"]
OTHER_HAND_MODEL = "another hand model"


class TrainingDataError(Exception):
    """Shards that training cannot go on with: labels of another hand model, none that it can use, a changed shard."""

    @classmethod
    def found_in(cls, text: str) -> str | None:
        """Returns the message of such an error in a traceback, which is all that Ray hands on of one."""
        told = re.search(rf"{cls.__module__}\.{cls.__qualname__}: (.+)", text)
        return told[1] if told else None


@dataclass(frozen=True)
class ReadWindow:
    """The samples of a window, and what was passed over of it, with the reason."""

    samples: TrainingSamples
    skipped: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """Returns it as one row of a dataset."""
        return {**self.samples.to_row(), "skipped": json.dumps(self.skipped)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "ReadWindow":
        """Returns what such a row holds."""
        return cls(TrainingSamples.from_row(row), tuple(json.loads(row["skipped"])))


@dataclass(frozen=True)
class WindowReader:
    """Reads windows of segments of shards.

    ranges: how far samples are augmented; None, for validation, takes every hand as it is and in order. With the
    supervision `all` a label must belong to the hand model of that name.
    """

    segments: Sequence[Unit]
    crop_size: int
    seed: int
    ranges: AugmentationRanges | None
    hand_model: str
    supervise: Supervision = "all"

    def __call__(self, window: Window) -> ReadWindow:
        """Returns a window's samples, shuffled in training, in order otherwise.

        In training one hand of each picture is drawn, and a picture that cannot be used has another one of the
        window in its place, so that every micro-batch is full. A window of validation may hold none.

        Raises:
            TrainingDataError: a label of another hand model, a shard that is no longer what was planned, or, in
                training, not one usable sample.
        """
        found: list[TrainingSamples] = []
        skipped: list[str] = []
        for piece in window.pieces:
            for position, sample in self._pictures(piece):
                try:
                    found += self._hands(window, position, sample)
                except DataError as error:
                    if error.kind == OTHER_HAND_MODEL:
                        raise TrainingDataError(f"{self.segments[piece.segment].input}: {error}") from error
                    skipped.append(f"{self.segments[piece.segment].input}: {sample.key}: {error}")
        if not found and self.ranges is None:
            return ReadWindow(TrainingSamples.none(self.crop_size), tuple(skipped))
        if not found:
            first = self.segments[window.pieces[0].segment].input
            raise TrainingDataError(
                f"{first}: not one sample of {len(skipped)} can be used; first: {skipped[:1]}"
            )
        samples = concatenate(found)
        if self.ranges is None:
            return ReadWindow(samples, tuple(skipped))
        rng = np.random.default_rng([self.seed, 2, window.epoch, window.lane, window.number])
        wanted = sum(piece.last - piece.first for piece in window.pieces)
        order = np.concatenate(
            [np.arange(len(samples)), rng.integers(len(samples), size=wanted - len(samples))]
        )
        return ReadWindow(samples.select(rng.permutation(order)), tuple(skipped))

    def row(self, window: Window) -> dict[str, Any]:
        """Returns a window's samples as one row of a dataset."""
        return self(window).to_row()

    def _pictures(self, piece: Piece) -> Iterator[tuple[int, Sample]]:
        """Yields the pictures of a piece, each with its number in the epoch."""
        unit = self.segments[piece.segment]
        try:
            samples = list(webdataset.read_as_named(unit))
        except DataError as error:
            named = str(error) if unit.input in str(error) else f"{unit.input}: {error}"
            raise TrainingDataError(named) from error
        for number in range(piece.first, piece.last):
            yield piece.position + number - piece.first, samples[number]

    def _hands(self, window: Window, position: int, sample: Sample) -> list[TrainingSamples]:
        if sample.error is not None:
            raise sample.error
        if sample.label is None:
            raise DataError("no label", "there is no .json beside the picture")
        named = hand_model_of(sample.key, sample.label)
        count = hand_count(sample.key, sample.label)
        # Benchmarks that do not name their hand model have MANO's.
        unnamed = named is None and self.hand_model.startswith("synthetic") and has_mano(sample.label)
        if self.supervise == "all" and (unnamed or named not in (None, self.hand_model)):
            raise DataError(
                OTHER_HAND_MODEL,
                f"{sample.key}: its pose and shape belong to hand model {named[:20] if named else 'MANO'}, the run's "
                f"is {self.hand_model[:20]}; choose --mano accordingly, or --supervise joints",
            )
        if not count:
            raise DataError("no hand", "the label has none")
        chosen: Sequence[int] = range(count)
        rng = None
        if self.ranges is not None:
            rng = np.random.default_rng([self.seed, 1, window.epoch, position])
            chosen = [int(rng.integers(count))]
        return [
            training_sample(
                sample.key,
                sample.image,
                sample.label,
                hand_index,
                crop_size=self.crop_size,
                rng=rng,
                ranges=self.ranges or AugmentationRanges(),
            )
            for hand_index in chosen
        ]
