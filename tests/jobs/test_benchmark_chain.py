"""Each benchmark from its own layout to a trained network, its metrics and its submission, by the commands alone."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline import storage
from tests.conftest import Handocc
from tests.datasets import dexycb, fpha, freihand, ho3d
from tests.datasets.truth import write_mano
from tests.s3_faults import Service


class Chain(NamedTuple):
    """How a benchmark is built, and its splits; `submission` is the file for its server, if it has one."""

    dataset: str
    build: Callable[[Path], Path]
    learnt: str
    tested: str
    submission: str | None


CHAINS = (
    Chain("freihand", partial(freihand.build, truth=True), "training", "evaluation", "pred.zip"),
    Chain("ho3d-v2", ho3d.build, "train", "evaluation", "pred.zip"),
    Chain("ho3d-v3", partial(ho3d.build, version=3), "train", "evaluation", "pred.zip"),
    Chain("dexycb", dexycb.build, "s1_val", "s1_val", "pred.txt"),
    Chain("fpha", fpha.build, "actions-train", "actions-test", None),
)
TINY = ("--model", "tiny", "--weights", "random:0")


@pytest.mark.slow
@pytest.mark.ray
def test_benchmarks_are_prepared_learnt_together_measured_and_submitted(
    tmp_path: Path, handocc_on_one_ray: Handocc
) -> None:
    mano = write_mano(tmp_path / "mano")
    for chain in CHAINS:
        folder = tmp_path / chain.dataset
        root = chain.build(folder / "root")
        for split in {chain.learnt, chain.tested}:
            prepared = handocc_on_one_ray(
                "prepare", chain.dataset, root, "--split", split, "--mano", mano, "--output", folder / split
            )
            assert prepared.returncode == 0, prepared.stderr

    run, right = tmp_path / "run", ("--mano", mano / "MANO_RIGHT.pkl")
    learnt = [f"{tmp_path}/{chain.dataset}/{chain.learnt}/*.tar" for chain in CHAINS]
    options = "--model tiny --epochs 1 --batch-size 4 --micro-batch 2".split()
    trained = handocc_on_one_ray("train", *learnt, "--output", run, *options, *right)
    assert trained.returncode == 0, trained.stderr

    for chain in CHAINS:
        folder = tmp_path / chain.dataset
        data = ("--data", f"{folder}/{chain.tested}/*.tar", "--dataset", chain.dataset)
        weights = ("--weights", run / "weights" / "last.safetensors")
        measured = handocc_on_one_ray("evaluate", *data, *weights, *right, "--output", folder / "scores")
        assert measured.returncode == 0, measured.stderr
        metrics = json.loads((folder / "scores" / "metrics.json").read_text())
        assert metrics["hands"]["measured"] > 0
        assert 0 < metrics["metrics"]["pa_mpjpe_mm"]["mean"] < metrics["metrics"]["mpjpe_mm"]["mean"]
        submission = folder / "scores" / "submission"
        expected = [chain.submission] if chain.submission else []
        assert [path.name for path in submission.glob("*")] == expected


@pytest.mark.slow
@pytest.mark.ray
def test_a_benchmark_on_s3_is_prepared_and_measured_there(
    tmp_path: Path, s3: Service, handocc: Handocc
) -> None:
    root, mano = freihand.build(tmp_path / "root", truth=True), write_mano(tmp_path / "mano")
    for path in root.rglob("*"):
        if path.is_file():
            storage.put(f"{s3.bucket}/root/{path.relative_to(root)}", path.read_bytes())
    measured = []
    for place, benchmark in ((s3.bucket, f"{s3.bucket}/root"), (str(tmp_path), str(root))):
        options = ("--split", "evaluation", "--mano", mano, "--output", f"{place}/shards")
        prepared = handocc("prepare", "freihand", benchmark, *options)
        assert prepared.returncode == 0, prepared.stderr
        options = ("--data", f"{place}/shards/*.tar", "--output", f"{place}/scores", *TINY)
        evaluated = handocc("evaluate", "--dataset", "freihand", *options)
        assert evaluated.returncode == 0, evaluated.stderr
        metrics = json.loads(storage.read(f"{place}/scores/metrics.json"))
        # The intervals draw pictures by their names, which say where they lie.
        measured.append({name: row["mean"] for name, row in metrics["metrics"].items()} | metrics["hands"])
        assert storage.stat(f"{place}/scores/submission/pred.zip") is not None
    assert measured[0] == measured[1]
