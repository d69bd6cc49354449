"""HO-3D's pickles are read without running them, and its truth is held against its frames."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smplx
import torch

from model.mano.joints import FINGERTIP_VERTICES
from model.mano.synthetic import export_mano_pickle, synthetic_hand
from pipeline.datasets.ho3d import read_meta
from pipeline.errors import ConfigError, DataError
from tests.datasets import ho3d
from tests.pipeline.datasets.prepared import prepare


def test_the_fixture_is_what_smplx_makes_of_its_parameters(tmp_path: Path) -> None:
    file = tmp_path / "MANO_RIGHT.pkl"
    file.write_bytes(export_mano_pickle(synthetic_hand()))
    layer = smplx.MANO(str(file), use_pca=False, flat_hand_mean=True, dtype=torch.float64)
    meta = ho3d.train_meta(ho3d.hands("train")[0])
    pose, betas, transl = (
        torch.from_numpy(meta[name])[None] for name in ("handPose", "handBeta", "handTrans")
    )
    with torch.inference_mode():
        out = layer(global_orient=pose[:, :3], hand_pose=pose[:, 3:], betas=betas, transl=transl)
    tips = out.vertices[:, list(FINGERTIP_VERTICES["ho3d"])]
    joints = torch.cat([out.joints, tips], dim=1)[0].numpy()
    assert joints == pytest.approx(meta["handJoints3D"], abs=1e-6)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_meta_file_of_any_protocol_reads_the_same(protocol: int) -> None:
    meta = ho3d.train_meta(ho3d.hands("train")[0])
    read = read_meta(pickle.dumps(meta, protocol=protocol))
    for name in ("camMat", "handPose", "handBeta", "handJoints3D"):
        np.testing.assert_array_equal(read[name], meta[name])
    assert read["objName"] == "021_bleach_cleanser"


def test_a_meta_file_of_python_2_reads_too() -> None:
    array = b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n"
    array += b"(I1\n(I3\ntp6\ncnumpy\ndtype\np7\n(S'f8'\np8\nI0\nI1\ntp9\nRp10\n"
    array += b"(I3\nS'<'\np11\nNNNI-1\nI-1\nI0\ntp12\nbI00\n"
    array += b"S" + repr(np.array([0.5, -1.0, 2.0]).tobytes())[1:].encode() + b"\np13\ntp14\nb"
    read = read_meta(
        b"(dp20\nS'handJoints3D'\np21\n" + array + b"sS'objName'\np22\nS'mug'\np23\nsS'handPose'\nNs."
    )
    assert read["handJoints3D"].tolist() == [0.5, -1.0, 2.0]
    assert (read["objName"], read["handPose"]) == ("mug", None)


def test_a_hostile_meta_file_is_rejected_and_does_not_run(tmp_path: Path) -> None:
    root, witness = ho3d.build(tmp_path / "root"), tmp_path / "ran"
    command = f"touch {witness}".encode()
    hostile = b"cos\nsystem\n(S'" + command + b"'\ntR."
    (root / "train/ABF10/meta/0001.pkl").write_bytes(hostile)
    prepared = prepare("ho3d-v2", root, "train", tmp_path / "out", None)
    assert not witness.exists()
    assert list(prepared.labels) == ["ABF10/0000", "MC1/0007"]
    (row,) = [row for row in prepared.ledger if row["status"] == "rejected"]
    assert row["key"] == "ABF10/0001"
    assert "asks for 'os.system'" in row["reason"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02cos\nsystem\nU\x04true\x85R.",
        b"(lp0\ng0\na.",
        b"(dp999999999\n.",
        pickle.dumps({"camMat": np.full((3, 3), None)}),
        pickle.dumps({"handJoints3D": np.zeros((21, 3))})[:-200],
        b"\x80\x02}(U\x06camMatq\x01]q\x02(" + b"h\x02" * 90 + b"eu.",
    ],
)
def test_a_meta_file_that_is_none_is_said_in_one_line(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^damaged annotation: .+") as refusal:
        read_meta(data)
    assert "\n" not in str(refusal.value)


def test_a_frame_that_nobody_annotated_is_no_reject(tmp_path: Path) -> None:
    prepared = prepare("ho3d-v2", ho3d.build(tmp_path / "root"), "train", tmp_path / "out", None)
    assert [row["reason"] for row in prepared.ledger if row["status"] == "no_hand"] == ["not annotated"]
    assert (prepared.counts.samples, prepared.counts.samples_rejected) == (4, 0)


def test_the_evaluation_keeps_its_order_box_and_pictures(tmp_path: Path) -> None:
    root = ho3d.build(tmp_path / "root", truth=False)
    prepared = prepare("ho3d-v2", root, "evaluation", tmp_path / "out", None)
    assert list(prepared.labels) == list(ho3d.EVALUATION)
    for index, (line, label) in enumerate(prepared.labels.items()):
        left, top, right, bottom = ho3d.evaluation_meta(ho3d.hands("evaluation")[index])["handBoundingBox"]
        assert label["index"] == index
        assert label["hands"][0]["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=1e-3)
        assert label["object"] == "021_bleach_cleanser"
        sequence, number = line.split("/")
        assert prepared.images[line] == (root / f"evaluation/{sequence}/rgb/{number}.png").read_bytes()
        assert "joints_3d" not in label["hands"][0]


def test_truth_of_other_frames_is_rejected(tmp_path: Path) -> None:
    root = ho3d.build(tmp_path / "root")
    xyz = json.loads((root / "evaluation_xyz.json").read_text())
    (root / "evaluation_xyz.json").write_text(json.dumps([xyz[1], xyz[0], xyz[2]]))
    prepared = prepare("ho3d-v2", root, "evaluation", tmp_path / "out", None)
    assert prepared.counts.rejects == {"truth of another frame": 2}
    (root / "evaluation_xyz.json").write_text(json.dumps(xyz[:2]))
    with pytest.raises(ConfigError, match=r"evaluation_xyz.json has 2 rows, evaluation.txt 3 lines"):
        prepare("ho3d-v2", root, "evaluation", tmp_path / "again", None)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("version", "name", "spoil", "kind"),
    [
        (2, "rgb/0001.png", None, "missing image"),
        (2, "meta/0001.pkl", None, "missing annotation"),
        (2, "rgb/0001.png", _cut, "unreadable image"),
        (3, "rgb/0001.jpg", _cut, "unreadable image"),
        (3, "rgb/0001.jpg", lambda data: b"<html>", "unreadable image"),
        (2, "meta/0001.pkl", _cut, "damaged annotation"),
    ],
)
def test_a_file_of_a_half_downloaded_sequence_is_named(
    tmp_path: Path, version: int, name: str, spoil: Any, kind: str
) -> None:
    root = ho3d.build(tmp_path / "root", version)
    file = root / "train/ABF10" / name
    if spoil is None:
        file.unlink()
    else:
        file.write_bytes(spoil(file.read_bytes()))
    prepared = prepare(f"ho3d-v{version}", root, "train", tmp_path / "out", None)
    assert prepared.counts.rejects == {kind: 1}
    (row,) = [row for row in prepared.ledger if row["status"] == "rejected"]
    assert (row["key"], row["frame_index"]) == ("ABF10/0001", 1)
    assert len(prepared.labels) == 2


def test_a_senseless_annotation_is_rejected(tmp_path: Path) -> None:
    root = ho3d.build(tmp_path / "root")
    meta = ho3d.train_meta(ho3d.hands("train")[0])
    spoilt = {
        "ABF10/meta/0000": meta | {"handPose": np.full(48, np.nan)},
        "ABF10/meta/0001": meta | {"handJoints3D": -meta["handJoints3D"]},
        "MC1/meta/0007": meta | {"handBeta": np.zeros(9)},
    }
    for name, content in spoilt.items():
        stream = io.BytesIO()
        pickle.dump(content, stream, protocol=2)
        (root / "train" / f"{name}.pkl").write_bytes(stream.getvalue())
    prepared = prepare("ho3d-v2", root, "train", tmp_path / "out", None)
    assert prepared.counts.rejects == {"damaged annotation": 1, "senseless annotation": 2}
    assert prepared.labels == {}
