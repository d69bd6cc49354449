"""The weights that come along: what they say of themselves, and that they know a hand when they see one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.model_choice import choose_model, read_weights
from model import shipped
from model.mano.layer import ManoLayer
from model.mano.synthetic import synthetic_hand
from model.predictor import Predictor
from model.weights import load_weights, random_weights
from pipeline.errors import ConfigError
from pipeline.metrics import PROTOCOLS, MetricSums
from pipeline.training.order import Piece, Window
from pipeline.training.samples import TrainingSamples, concatenate
from pipeline.training.windows import WindowReader
from tests.training_shards import segments


@pytest.fixture
def fresh(shards: Path) -> TrainingSamples:
    """Pictures of another seed than the training's."""
    units = segments(shards)
    reader = WindowReader(units, 128, 0, None, synthetic_hand().name)
    whole = (Window(0, 0, i, (Piece(i, 0, unit.last - unit.first, 0),)) for i, unit in enumerate(units))
    return concatenate([reader(window).samples for window in whole])


@pytest.mark.parametrize("name", shipped.NAMES)
def test_they_are_small_and_say_what_they_have_seen(name: str) -> None:
    data = read_weights(f"shipped:{name}")
    assert len(data) <= 15e6
    choice = choose_model(None, f"shipped:{name}", None)
    assert choice.weights.trained
    assert choice.hand_model.name == synthetic_hand().name
    assert "the weights were trained on synthetic hands only" in choice.remarks


def test_tiny_is_better_than_the_mean_pose_on_pictures_that_it_has_not_seen(fresh: TrainingSamples) -> None:
    trained = load_weights(shipped.read("tiny"))
    at_rest = random_weights(trained.config, 0)
    errors = []
    for weights in (trained, at_rest):
        predict = Predictor(weights.network, ManoLayer(synthetic_hand()))
        found = predict(fresh.crops, np.zeros(len(fresh), np.bool_))
        sums = MetricSums(PROTOCOLS["shards"])
        sums.add(joints=torch.from_numpy(found.joints), true_joints=torch.from_numpy(fresh.joints_3d))
        errors.append(sums.result())
    assert errors[0]["mpjpe_mm"] < 0.5 * errors[1]["mpjpe_mm"]


def test_others_than_there_are_are_answered_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"--weights shipped:large: no such weights come along; there are shipped:tiny"
    ):
        read_weights("shipped:large")
