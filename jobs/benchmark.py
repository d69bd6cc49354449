"""`handocc benchmark`: the network alone, a plain loop, and the whole pipeline, in one run on one machine."""

import functools
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from jobs import camera_benchmark, evaluation_speed, exits
from jobs.cluster import connect
from jobs.model_choice import choose_model
from jobs.options import option, require_least
from jobs.training import benchmark as training
from model.crop import CROP_RULES
from model.predictor import Precision
from pipeline import boxes, local, ray_data
from pipeline.annotation import Annotation
from pipeline.errors import ConfigError
from pipeline.flow import Flow, Workers
from pipeline.inputs import find_inputs
from pipeline.records import Unit
from pipeline.sources import SOURCES
from pipeline.units import settle

SAMPLES_OF_LOOP = 1024


@dataclass(frozen=True)
class Options:
    """Compares the pipeline with the network alone and with a plain loop; speeds are ratios within this run."""

    model: str = option("tiny", help="paper, release or tiny")
    weights: str = option("random:0", help="a checkpoint, shipped:tiny, or random:SEED")
    mano: str | None = option(None, help="as for annotate")
    count: int = option(512, help="how many 640x480 JPEG images to make and annotate")
    batch_size: int = option(16, help="crops per forward pass")
    precision: Precision = option("fp32", help="arithmetic of the network")
    meshes: str = option("none", help="none or tar")
    train: bool = option(False, help="compare training with a plain loop instead; --count samples, once")
    cuda_graph: bool = option(False, help="with --train: as `handocc train --cuda-graph` does it")
    evaluate: bool = option(
        False, help="compare evaluation with a plain loop instead; --count stored samples"
    )
    camera: bool = option(
        False,
        help="measure how hands are put into camera space instead, beside a fit per hand; --count hands",
    )
    address: str | None = option(None, help="a Ray cluster; default: RAY_ADDRESS, else this machine")


def run(options: Options) -> int:
    """Measures the three, or what an option names instead, and prints them with their ratios."""
    if options.cuda_graph and not options.train:
        raise ConfigError("--cuda-graph goes with --train only")
    if options.train:
        return _training(options)
    if options.evaluate:
        return _evaluation(options)
    if options.count < 64:
        raise ConfigError(
            f"--count {options.count}: must be at least 64, or start-up is all that is measured"
        )
    if options.camera:
        camera_benchmark.run(options.count)
        return exits.DONE
    started = time.monotonic()
    choice = choose_model(options.model, options.weights, options.mano)
    job = Annotation(
        weights=choice.weights,
        hand_model=choice.hand_model,
        boxes=boxes.choose("whole", "right"),
        boxes_identity="whole",
        side="right",
        crop_rule=CROP_RULES["whole"],
        precision=options.precision,
        meshes=options.meshes,
        vertices=False,
        unit_rows=max(16, options.count // 32),
    )
    with tempfile.TemporaryDirectory() as scratch, connect(options.address) as resources:
        workers = resources.spread()
        units = _images(Path(scratch), options.count, job)
        flow = functools.partial(job.flow, workers=workers, batch_size=options.batch_size)
        first, seconds, rate = _pipeline(flow(f"{scratch}/pipeline"), units)
        print(
            f"pipeline          {options.count / seconds:8.2f} images/s with its start, {rate:.2f} once it runs"
        )
        print(f"first result      {first:8.2f} s after the units were given to Ray, ", end="")
        print(f"{time.monotonic() - started - seconds + first:.2f} s after the command")
        alone = _alone(flow(f"{scratch}/alone"), job, options.count, workers)
        print(f"network alone     {alone:8.2f} crops/s")
        loop = _loop(flow(f"{scratch}/loop"), units)
        print(f"plain loop        {loop:8.2f} images/s, one process, the same stages one after another")
    print(f"pipeline / network alone  {rate / alone:.3f}")
    print(f"pipeline / plain loop     {rate / loop:.3f}")
    return exits.DONE


def _training(options: Options) -> int:
    steps = options.count // options.batch_size - 1  # the first one warms up
    if steps < 1:
        raise ConfigError(f"--count {options.count}: must be at least two batches of {options.batch_size}")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "job"
        shards = training.make_shards(Path(scratch) / "shards", options.count)
        job = training.job(
            shards,
            place,
            options.model,
            options.precision,
            options.batch_size,
            cuda_graph=options.cuda_graph,
            address=options.address,
        )
        loop = training.plain_loop(shards, place, options.model, options.precision, options.batch_size, steps)
    graph = ", as a CUDA graph" if options.cuda_graph else ""
    print(f"handocc train     {job:8.2f} samples/s, one worker{graph}, waiting for data included")
    print(f"plain loop        {loop:8.2f} samples/s, one process, the samples in memory, a DataLoader")
    print(f"handocc train / plain loop  {job / loop:.3f}")
    return exits.DONE


def _evaluation(options: Options) -> int:
    require_least(options, "count")
    pairs = evaluation_speed.make_pairs()
    with tempfile.TemporaryDirectory() as scratch, connect(options.address):
        shards, annotated = evaluation_speed.store(pairs, Path(scratch), options.count)
        before = _peak_mib()
        command = evaluation_speed.of_command(shards, annotated, Path(scratch) / "scores", options.address)
        peak = _peak_mib()
    some = min(options.count, SAMPLES_OF_LOOP)
    batches, loop = evaluation_speed.of_batches(pairs, some), evaluation_speed.of_loop(pairs, some)
    print(f"handocc evaluate  {command.rate:8.2f} samples/s, labels and annotations read, Ray started before")
    print(f"metrics alone     {batches.rate:8.2f} samples/s, the hands in memory, batched, one thread")
    print(f"plain loop        {loop.rate:8.2f} samples/s, the hands in memory, NumPy and SciPy, one by one")
    print(f"driver's memory   {peak:8.0f} MiB at most, {before:.0f} before")
    print(f"handocc evaluate / plain loop  {command.rate / loop.rate:.3f}")
    print(f"metrics alone / plain loop     {batches.rate / loop.rate:.3f}")
    return exits.DONE


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _images(folder: Path, count: int, job: Annotation) -> list[Unit]:
    """Makes JPEG files with as much detail as photographs have, and plans them in each output."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    coarse = rng.integers(0, 256, (8, 60, 80, 3), np.uint8)
    pictures = [cv2.resize(picture, (640, 480), interpolation=cv2.INTER_CUBIC) for picture in coarse]
    encoded = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
    for number in range(count):
        (folder / "images" / f"{number:06d}.jpg").write_bytes(encoded[number % len(encoded)])
    inputs, _ = find_inputs([str(folder / "images")])
    for name in ("pipeline", "alone", "loop"):
        settled = settle(
            str(folder / name),
            inputs,
            unit_rows=job.unit_rows,
            crop_size=job.weights.config.input_size,
            probe=lambda items: [SOURCES[item.source].probe(item) for item in items],
        )
    return list(settled.units)


def _pipeline(flow: Flow, units: list[Unit]) -> tuple[float, float, float]:
    """Returns seconds to the first unit, seconds in all, and images/s after the first unit."""
    started = time.monotonic()
    finished = []
    for done in ray_data.run(flow, units):
        finished.append((time.monotonic() - started, done.counts.samples))
        if done.counts.rejects:
            raise ConfigError(
                f"--address: nodes of the cluster reject the benchmark's pictures ({', '.join(done.counts.rejects)}), "
                f"which lie in this machine's {tempfile.gettempdir()}; measure on one machine"
            )
    first, last = finished[0][0], finished[-1][0]
    return first, last, sum(samples for _, samples in finished[1:]) / (last - first)


def _alone(flow: Flow, job: Annotation, count: int, workers: Workers) -> float:
    """Returns crops/s of the predictors of all actors, were each as fast as one here on ready crops."""
    infer = next(stage.make() for stage in flow.stages if stage.name == "infer")
    size = job.weights.config.input_size
    crops = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), np.uint8)
    mirrored = np.zeros(len(crops), bool)
    predictor = infer.predictor  # type: ignore[attr-defined]
    predictor(crops, mirrored)
    rounds = max(1, count // len(crops))
    started = time.monotonic()
    for _ in range(rounds):
        predictor(crops, mirrored)
    return workers.actors[1] * rounds * len(crops) / (time.monotonic() - started)


def _loop(flow: Flow, units: list[Unit]) -> float:
    started = time.monotonic()
    samples = sum(done.counts.samples for done in local.run(flow, units))
    return samples / (time.monotonic() - started)


if __name__ == "__main__":
    from jobs.cli import command

    command(["benchmark", *sys.argv[1:]])
