"""One flow, two runners: Ray Data and the trivial one write the same bytes."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from model.config import preset
from model.crop import CROP_RULES
from model.mano.synthetic import synthetic_hand
from model.weights import random_weights
from pipeline import boxes, local, ray_data
from pipeline.annotation import Annotation
from pipeline.boxes.box_source import BoxSource
from pipeline.errors import ConfigError
from pipeline.flow import Workers, spread
from pipeline.inputs import find_inputs
from pipeline.sources import SOURCES
from pipeline.units import settle

WORKERS = Workers(task_cpus=1.0, actor_cpus=0.5, actor_gpus=0, actors=(1, 1), threads=1, device="cpu")


def job(source: BoxSource | None = None) -> Annotation:
    return Annotation(
        weights=random_weights(preset("tiny"), 0),
        hand_model=synthetic_hand(),
        boxes=source or boxes.choose("given", None),
        boxes_identity="given",
        side=None,
        crop_rule=CROP_RULES["demo"],
        precision="fp32",
        meshes="tar",
        vertices=True,
        unit_rows=5,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.ray
def test_both_runners_write_the_same_bytes(tmp_path: Path, shards: Path) -> None:
    inputs, _ = find_inputs([f"{shards}/*.tar"])
    written = []
    for runner in (local, ray_data):
        output = tmp_path / runner.__name__
        settled = settle(
            str(output),
            inputs,
            unit_rows=5,
            crop_size=128,
            probe=lambda items: [SOURCES[item.source].probe(item) for item in items],
        )
        flow = job().flow(str(output), WORKERS, batch_size=4)
        if runner is ray_data:
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            records = list(runner.run(flow, settled.units))
        finally:
            ray.shutdown()
        assert sum(record.counts.samples for record in records) == 24
        assert all(
            set(record.seconds) == {"decode_and_crop", "infer", "place", "score", "write"}
            for record in records
        )
        written.append(files(output))
    assert written[0].keys() == written[1].keys()
    assert len(written[0]) == 6 * 3 + 2
    assert written[0] == written[1]


def test_only_workers_that_hold_a_network_load_torch() -> None:
    read = "import pickle, sys; pickle.load(sys.stdin.buffer)(); print('torch' in sys.modules)"
    for stage in job().flow("out", WORKERS, batch_size=4).stages:
        worker = subprocess.run(
            [sys.executable, "-c", read], input=pickle.dumps(stage.make), capture_output=True, check=True
        )
        assert worker.stdout.decode().strip() == str(stage.name == "infer"), stage.name


def test_every_machine_keeps_a_cpu_for_tasks() -> None:
    for cpus in (1, 2, 4, 8, 16, 64, 256):
        workers = spread(cpus, 0, actors=None, gpus_per_actor=None)
        job().flow("out", workers, 16).check(cpus, 0)
        assert workers.threads * workers.actors[1] <= max(cpus, 1)
    workers = spread(64, 8, actors=None, gpus_per_actor=None)
    assert workers.actors == (8, 8)
    job().flow("out", workers, 16).check(64, 8)


def test_a_flow_that_cannot_fit_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="lower --actors"):
        job().flow("out", spread(2, 0, actors=(4, 4), gpus_per_actor=None), 16).check(2, 0)
    with pytest.raises(ConfigError, match="--gpus-per-actor"):
        job().flow("out", spread(16, 1, actors=(2, 2), gpus_per_actor=None), 16).check(16, 1)


def test_gpus_that_are_asked_for_are_there_or_can_come() -> None:
    with pytest.raises(ConfigError, match="--gpus-per-actor 1: the cluster has 16 CPUs and no GPU"):
        spread(16, 0, actors=None, gpus_per_actor=1)
    assert spread(16, 0, actors=None, gpus_per_actor=0).device == "cpu"
    assert spread(16, 4, actors=None, gpus_per_actor=1, gpus_now=0).actors == (1, 4)


def test_decoding_and_inference_claim_differently_so_that_ray_keeps_them_apart() -> None:
    for cpus, gpus in ((1, 0), (2, 0), (16, 0), (16, 2)):
        stages = job().flow("out", spread(cpus, gpus, actors=None, gpus_per_actor=None), 16).stages
        claims = {stage.name: (stage.cpus, stage.gpus) for stage in stages}
        crop, infer, place, score, write = claims.values()
        assert crop != infer != place
        # What is cheap runs in one task with writing.
        assert place == score == write
