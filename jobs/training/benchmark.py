"""How fast training goes beside a plain loop: one process, the same samples ready in memory, a DataLoader."""

import json
import statistics
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from jobs import train
from jobs.training.shards import plan
from model.config import preset
from model.losses import Targets, losses
from model.mano.layer import ManoLayer
from model.mano.synthetic import synthetic_hand
from model.recipe import OF_MODEL, recipe
from model.weights import random_weights
from pipeline.records import UnitRecord
from pipeline.synthesis.sample import SceneSpec
from pipeline.synthesis.shards import MakeShard, plan_shards
from pipeline.training.order import Order
from pipeline.training.samples import TrainingSamples, concatenate
from pipeline.training.targets import to_targets
from pipeline.training.windows import WindowReader

PER_SHARD = 64


def make_shards(folder: Path, count: int) -> str:
    """Draws `count` labelled pictures; returns where they are."""
    maker = MakeShard(str(folder), 0, SceneSpec(size=320), synthetic_hand())
    for unit in plan_shards(str(folder), count=count, seed=0, per_shard=PER_SHARD):
        maker(UnitRecord(unit))
    return str(folder)


def job(
    shards: str,
    output: Path,
    model: str,
    precision: str,
    batch: int,
    *,
    cuda_graph: bool,
    address: str | None,
) -> float:
    """Returns the samples/s of `handocc train` with one worker, waiting for data included, its first step left out."""
    options = train.Options(
        shards=(shards,),
        output=str(output),
        model=model,
        precision="bf16" if precision == "bf16" else "fp32",
        batch_size=batch,
        micro_batch=batch,
        epochs=1,
        workers="1",
        cuda_graph=cuda_graph,
        log_steps=1,
        address=address,
    )
    train.run(options)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rates = [row["samples_per_second"] for row in rows if "samples_per_second" in row][1:]
    return float(statistics.harmonic_mean(rates))


def plain_loop(shards: str, output: Path, model: str, precision: str, batch: int, steps: int) -> float:
    """Returns the samples/s of the same steps over the same samples, read and augmented beforehand."""
    config, chosen, hand_model = preset(model), recipe(OF_MODEL[model]), synthetic_hand()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    units = plan(str(output), "train", (shards,))
    order = Order([unit.last - unit.first for unit in units], lanes=1, micro_batch=batch, seed=0)
    reader = WindowReader(units, config.input_size, 0, chosen.augmentation, hand_model.name)
    samples = concatenate([reader(window).samples for window in order.windows(0, 0)])
    network = random_weights(config, 0).network.train().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mano = ManoLayer(hand_model).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=chosen.learning_rate)
    loader = DataLoader(_tensors(samples), batch_size=batch, shuffle=True, drop_last=True)
    done, started = -1, 0.0
    while True:
        for crops, *labels in loader:
            images_B3HW = crops.to(device).permute(0, 3, 1, 2).float().div_(255.0)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                output_ = network(images_B3HW)
            targets = Targets(*(label.to(device) for label in labels))
            total = losses(output_, targets, mano, chosen.losses)["total"]
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total.item()
            done += 1
            if done == 0:
                started = time.perf_counter()
            if done == steps:
                return steps * batch / (time.perf_counter() - started)


def _tensors(samples: TrainingSamples) -> TensorDataset:
    return TensorDataset(torch.from_numpy(samples.crops), *to_targets(samples, torch.device("cpu")))
