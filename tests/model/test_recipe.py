import json
import math
from pathlib import Path

import pytest

from model.config import PRESETS
from model.errors import ModelError
from model.recipe import OF_MODEL, RECIPES, Recipe, recipe


def rates(chosen: Recipe, *, batch: int, epochs: int, steps: int) -> list[list[float]]:
    return [
        [
            chosen.rate(batch=batch, epoch=epoch, step=step, steps_per_epoch=steps, epochs=epochs)
            for step in range(steps)
        ]
        for epoch in range(epochs)
    ]


@pytest.mark.parametrize(("name", "recorded"), [("release", "lr_HO3D"), ("release-dexycb", "lr_DEX_YCB")])
def test_every_epoch_has_the_learning_rate_of_the_published_code(
    shared: Path, name: str, recorded: str
) -> None:
    expected = json.loads((shared / "reference" / "parity" / "data.json").read_text())[recorded]
    chosen = recipe(name)
    assert len(expected) == chosen.epochs
    found = rates(chosen, batch=chosen.reference_batch, epochs=chosen.epochs, steps=3)
    assert [row[0] for row in found] == pytest.approx(expected, rel=1e-12)
    assert all(len(set(row)) == 1 for row in found)


def test_the_paper_lowers_its_rate_at_every_tenth_epoch() -> None:
    chosen = recipe("paper")
    by_epoch = [row[0] for row in rates(chosen, batch=24, epochs=chosen.epochs, steps=1)]
    assert by_epoch[0] == 1e-4
    assert [epoch for epoch in range(1, 70) if by_epoch[epoch] < by_epoch[epoch - 1]] == [
        10,
        20,
        30,
        40,
        50,
        60,
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_the_rate_grows_in_proportion_to_the_batch(name: str) -> None:
    chosen = recipe(name)
    once = rates(chosen, batch=chosen.reference_batch, epochs=3, steps=4)
    quarter = rates(chosen, batch=chosen.reference_batch // 4, epochs=3, steps=4)
    assert quarter == [pytest.approx([rate / 4 for rate in row]) for row in once]


def test_the_cosine_rises_over_its_first_steps_and_ends_near_nothing() -> None:
    chosen = recipe("small")
    curve = [rate for row in rates(chosen, batch=chosen.reference_batch, epochs=10, steps=50) for rate in row]
    rising = round(chosen.warmup * len(curve))
    assert curve[:rising] == sorted(curve[:rising])
    assert 0 < curve[0] < 0.2 * chosen.learning_rate
    assert curve[rising] == max(curve) == pytest.approx(chosen.learning_rate)
    falling = curve[rising:]
    assert falling == sorted(falling, reverse=True)
    assert falling[len(falling) // 2] == pytest.approx(chosen.learning_rate / 2, rel=0.02)
    assert 0 < falling[-1] < 1e-4 * chosen.learning_rate


def test_one_step_alone_has_a_rate() -> None:
    for chosen in RECIPES.values():
        rate = chosen.rate(batch=2, epoch=0, step=0, steps_per_epoch=1, epochs=1)
        assert math.isfinite(rate)
        assert rate > 0


def test_every_preset_has_a_recipe_and_an_unknown_one_is_answered_with_the_known_ones() -> None:
    assert OF_MODEL.keys() == PRESETS.keys()
    assert set(OF_MODEL.values()) <= RECIPES.keys()
    with pytest.raises(ModelError, match="'fast'; choose one of paper, release, release-dexycb, small"):
        recipe("fast")
