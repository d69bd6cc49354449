"""The whole command: what it writes, read back by readers that know nothing of this project."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
import smplx
import torch
import trimesh

from model.mano.joints import SIMPLE_FROM_HO3D
from model.mano.synthetic import export_mano_pickle, synthetic_hand

pytestmark = pytest.mark.ray

TINY = ("--model", "tiny", "--weights", "random:0")


def rows(folder: Path) -> pd.DataFrame:
    return duckdb.sql(f"select * from '{folder}/annotations/*.parquet' order by instance_id").df()


def stacked(column: Any) -> np.ndarray:
    return np.array([np.array(value.tolist()) for value in column], np.float64)


def test_the_sums_hold_and_every_hand_is_accounted_for(annotated: Path) -> None:
    counts = json.loads((annotated / "summary.json").read_text())["counts"]
    ledger = duckdb.sql(f"select * from '{annotated}/ledger/*.parquet'").df()
    assert counts["samples"] == (
        counts["samples_with_hands"] + counts["samples_without_hands"] + counts["samples_rejected"]
    )
    assert counts["hands"] == counts["hands_annotated"] + counts["hands_rejected"]
    assert len(ledger) == counts["hands"] + sum(ledger["hand_index"].isna())
    taken = ledger[ledger["status"] == "annotated"]
    assert len(rows(annotated)) == counts["hands_annotated"] == len(taken) > 12
    named = set(taken["source"] + "#" + taken["key"] + "#" + taken["hand_index"].astype(int).astype(str))
    assert named == set(rows(annotated)["instance_id"])
    rejected = ledger[ledger["status"] == "rejected"]
    assert list(rejected["reason"].str.split(":").str[0].unique()) in (
        ["truncated shard", "damaged input"],
        ["damaged input"],
        ["no boxes", "damaged input"],
    )


def test_the_summary_says_on_what_the_network_ran(annotated: Path) -> None:
    network = json.loads((annotated / "summary.json").read_text())["this_run"]["network"]
    least, most = network["actors"]
    assert 1 <= least <= most
    on_gpus = network["gpus_per_actor"] > 0
    assert (network["device"], network["batch_size"]) == (("cuda", 64) if on_gpus else ("cpu", 16))


def test_duckdb_polars_and_pandas_read_the_same_numbers(annotated: Path) -> None:
    pattern = f"{annotated}/annotations/*.parquet"
    by_duckdb = duckdb.sql(
        f"select joints[5][3] as z, betas[10] as b from '{pattern}' order by instance_id"
    ).df()
    by_polars = pl.read_parquet(pattern).sort("instance_id")
    assert by_polars.schema["joints"] == pl.Array(pl.Float32, (21, 3))
    assert by_polars.schema["vertices"] == pl.Array(pl.Float32, (778, 3))
    by_pandas = pd.concat(pd.read_parquet(path) for path in (annotated / "annotations").iterdir())
    by_pandas = by_pandas.sort_values("instance_id")
    z = by_duckdb["z"].to_numpy()
    assert np.array_equal(by_polars["joints"].to_numpy()[:, 4, 2], z)
    assert np.array_equal(stacked(by_pandas["joints"])[:, 4, 2].astype(np.float32), z)
    assert np.array_equal(by_polars["betas"].to_numpy()[:, 9], by_duckdb["b"].to_numpy())


@pytest.mark.parametrize("side", ["right", "left"])
def test_smplx_with_the_stored_parameters_gives_the_stored_hand(
    annotated: Path, tmp_path: Path, side: str
) -> None:
    table = rows(annotated)
    table = table[table["side"] == side]
    assert len(table) > 3
    path = tmp_path / f"MANO_{side.upper()}.pkl"
    path.write_bytes(export_mano_pickle(synthetic_hand(side)))
    mano = smplx.MANO(str(path), is_rhand=side == "right", use_pca=False, flat_hand_mean=True)

    def column(name: str) -> torch.Tensor:
        return torch.tensor(stacked(table[name]), dtype=torch.float32)

    out = mano(global_orient=column("global_orient"), hand_pose=column("hand_pose"), betas=column("betas"))
    wrist = out.joints[:, :1]
    tips = out.vertices[:, list(synthetic_hand().fingertip_vertices)]
    joints = torch.cat([out.joints, tips], dim=1)[:, list(SIMPLE_FROM_HO3D)] - wrist
    assert (out.vertices - wrist - column("vertices")).abs().max() < 1e-5
    assert (joints - column("joints")).abs().max() < 1e-5


def test_trimesh_reads_every_mesh_with_the_numbers_of_its_row(annotated: Path) -> None:
    table = rows(annotated)
    for _, row in table.iterrows():
        file, member = row["mesh"].split("#")
        with tarfile.open(annotated / file) as archive:
            data = archive.extractfile(member).read()
        mesh = trimesh.load(io.BytesIO(data), file_type="ply", process=False)
        assert mesh.vertices.shape == (778, 3)
        assert mesh.faces.shape == (1538, 3)
        assert np.array_equal(
            mesh.vertices.astype(np.float32), stacked([row["vertices"]])[0].astype(np.float32)
        )
        header = data.split(b"end_header")[0].decode()
        assert f"comment instance_id {row['instance_id']}" in header
        assert f"comment side {row['side']}" in header
        closed = mesh.copy()
        closed.fill_holes()
        assert closed.volume > 0


def test_every_file_says_which_hand_model_and_conventions_it_follows(annotated: Path) -> None:
    pattern = f"{annotated}/annotations/*.parquet"
    found = duckdb.sql(
        f"select decode(key) as k, decode(value) as v from parquet_kv_metadata('{pattern}')"
    ).df()
    said = dict(zip(found["k"], found["v"], strict=True))
    assert said["hand_model"] == synthetic_hand().name
    assert said["fingertip_vertices"] == "745,317,444,556,673"
    assert said["flat_hand_mean"] == "True"
    assert said["left_model"] == "mirrored_right"
    assert said["schema_version"] == "1"
    assert said["joint_order"].startswith("wrist,thumb_1,")
    assert {"model", "weights_sha256", "crop_rule", "units", "axes", "fingerprint", "counts"} <= said.keys()


def test_status_and_report_read_what_is_there(annotated: Path, handocc_here: Callable[..., Any]) -> None:
    status = handocc_here("status", annotated)
    assert status.returncode == 1
    assert "0 left" in status.stdout
    assert "damaged input" in status.stdout
    report = handocc_here("report", annotated, "--count", "6", "--weights", "random:0")
    assert report.returncode == 0, report.stderr
    assert len(list((annotated / "report" / "hands").glob("*.png"))) == 6
    pictures = {path.stem: cv2.imread(str(path)) for path in (annotated / "report").glob("*.png")}
    assert pictures.keys() == {"gallery-00", "maps-00", "maps-01"}
    # Two rows a hand: features, and correlations of two queries.
    assert pictures["maps-00"].shape[0] == 2 * pictures["maps-01"].shape[0] - 4
    other = handocc_here("report", annotated, "--weights", "random:1")
    assert other.returncode == 2
    assert "not those that annotated this output" in other.stderr


def test_running_it_again_does_nothing_and_another_job_is_refused(
    annotated: Path, handocc_here: Callable[..., Any]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (annotated / "annotations").iterdir()}
    inputs = f"{annotated.parent}/*.tar"
    again = handocc_here("annotate", inputs, "--output", annotated, *TINY, "--vertices", "--meshes", "tar")
    assert again.returncode == 1
    assert "nothing was left to do" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (annotated / "annotations").iterdir()}
    other = handocc_here("annotate", inputs, "--output", annotated, *TINY, "--meshes", "none")
    assert other.returncode == 2
    assert "meshes was tar and is none" in other.stderr
    assert "--overwrite" in other.stderr


@pytest.mark.slow
def test_new_inputs_join_an_output_and_overwriting_replaces_it(
    tmp_path: Path, shards: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    first, second = sorted(shards.glob("*.tar"))
    out = tmp_path / "out"
    assert handocc_on_one_ray("annotate", first, "--output", out, *TINY).returncode == 0
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "annotations").iterdir()}
    grown = handocc_on_one_ray("annotate", first, second, "--output", out, *TINY)
    assert grown.returncode == 0, grown.stderr
    assert "new since the last run" in grown.stderr
    now = {path.name: path.stat().st_mtime_ns for path in (out / "annotations").iterdir()}
    assert len(now) == 2 * len(kept)
    assert kept.items() <= now.items()
    assert json.loads((out / "summary.json").read_text())["counts"]["samples"] == 24
    done = handocc_on_one_ray("annotate", second, "--output", out, *TINY, "--unit-rows", "5", "--overwrite")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (out / "annotations").iterdir())
    assert [name[-25:-8] for name in names] == ["00000000-00000005", "00000005-00000010", "00000010-00000012"]
    assert sorted(path.name for path in (out / "ledger").iterdir()) == names
