"""Every row of the paper's Tables 1-4 learns: the network, its losses and Adam, without a cluster."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.ablate import first_of_equals
from model.config import ABLATION_TABLES, ABLATIONS, ModelConfig, ablated, ablation_configs, preset
from model.errors import ModelError
from model.losses import LOSSES, losses
from model.mano.layer import ManoLayer
from model.mano.synthetic import synthetic_hand
from model.weights import random_weights
from pipeline.training.order import Order
from pipeline.training.targets import to_crops, to_images, to_targets
from pipeline.training.windows import WindowReader
from tests.training_shards import segments

STEPS = 4
CPU = torch.device("cpu")


def small(config: ModelConfig) -> ModelConfig:
    """The same parts, at sizes that a test can afford."""
    return replace(
        config,
        input_size=64,
        feature_size=8,
        channels=16,
        trunk_width=8,
        trunk_blocks=(1, 1, 1, 1),
        regressor_channels=16,
        head_widths=(16, 16),
    )


def learnt(config: ModelConfig, shards: Path, recipe: str) -> list[float]:
    """Returns the losses of a few steps on the same four samples; every parameter must take part."""
    mano = ManoLayer(synthetic_hand())
    units = segments(shards)
    reader = WindowReader(units, config.input_size, 0, None, synthetic_hand().name)
    order = Order([unit.last - unit.first for unit in units], lanes=1, micro_batch=4, seed=0, window=4)
    samples = reader(next(order.windows(0, 0))).samples[:4]
    network = random_weights(config, 0).network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    curve = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        total = losses(
            network(to_images(to_crops(samples, CPU))), to_targets(samples, CPU), mano, LOSSES[recipe]
        )["total"]
        total.backward()
        # DistributedDataParallel waits for the gradients of all parameters.
        assert [name for name, value in network.named_parameters() if value.grad is None] == []
        optimizer.step()
        curve.append(float(total.detach()))
    return curve


@pytest.mark.parametrize("base", ["release", "paper"])
@pytest.mark.parametrize("row", ABLATIONS)
def test_a_row_of_the_papers_tables_learns(base: str, row: str, shards: Path) -> None:
    curve = learnt(small(ablation_configs(base)[row]), shards, base)
    assert curve[-1] < curve[0], curve


def test_rows_are_named_as_the_command_takes_them() -> None:
    names = {table: option for option, table in ABLATION_TABLES.items()}
    for row, changes in ABLATIONS.items():
        table, value = row.split("/")
        config = ablated(preset("tiny"), [f"{names[table]}={value}"])
        assert config.to_dict() == preset("tiny").to_dict() | changes | {"name": f"tiny/{row}"}


@pytest.mark.parametrize(
    ("model", "transformers"), [("tiny", "two_transformers"), ("paper", "one_transformer")]
)
def test_a_network_that_several_tables_name_is_trained_once(model: str, transformers: str) -> None:
    first = first_of_equals(model)
    assert {row for row, one in first.items() if one == "table1/fit+set"} == {
        "table1/fit+set",
        "table2/softmax_sigmoid",
        "table3/none",
        f"table4/{transformers}",
    }


def test_rows_of_two_tables_go_together() -> None:
    config = ablated(preset("tiny"), ["fit=softmax", "set=one_transformer"])
    assert (config.fit_attention, config.set_depth) == ("softmax", 1)
    assert config.name == "tiny/table2/softmax/table4/one_transformer"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["fit=hard"], "there is no ablation 'fit=hard'; there are neck= identity, residual"),
        (["softmax"], "there is no ablation 'softmax'"),
        (["neck=fit", "set=identity"], "set_block=identity needs a neck with SET"),
        (["neck=fit", "neck=set"], "neck=set and neck=fit are rows of one table"),
        (["neck=identity", "fit=softmax"], "fit= needs a neck with FIT, neck=identity has none"),
        (["neck=fit", "set=one_transformer"], "set= needs a neck with SET, neck=fit has none"),
    ],
)
def test_what_is_no_row_and_what_excludes_another_is_refused(changes: list[str], said: str) -> None:
    with pytest.raises(ModelError) as refusal:
        ablated(preset("tiny"), changes)
    assert said in str(refusal.value)
