"""What the benchmarks say in their own ways comes out in ours."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.mano.asset import mirrored
from model.mano.layer import ManoLayer, wrist_relative
from model.mano.synthetic import export_mano_pickle, synthetic_hand
from pipeline.datasets.agreement import agreement, remarks
from pipeline.datasets.conventions import simple_from_fpha
from pipeline.datasets.dexycb import SPLITS, chosen_by
from pipeline.datasets.hand_models import HandModels, left_is_faulty, load_hand_models
from pipeline.datasets.labels import hand_label, mano_label
from pipeline.errors import ConfigError
from tests.datasets import ho3d
from tests.datasets.truth import Floats, faulty_left, true_hand, write_mano
from tests.pipeline.datasets.prepared import prepare


def rest_vertices(side: str, betas: Floats, faulty: bool = False) -> Floats:
    model = synthetic_hand() if side == "right" else mirrored(synthetic_hand())
    model = faulty_left() if faulty else model
    with torch.inference_mode():
        out = ManoLayer(model, torch.float64)(torch.eye(3).expand(1, 16, 3, 3), torch.from_numpy(betas)[None])
        vertices, _ = wrist_relative(out)
    return vertices[0].numpy()


def test_betas_of_the_published_left_hand_are_fitted_anew(tmp_path: Path) -> None:
    models = load_hand_models(str(write_mano(tmp_path)))
    assert left_is_faulty(models)
    for seed in range(5):
        betas = np.random.default_rng(seed).normal(size=10)
        labelled = rest_vertices("left", betas, faulty=True)
        unchanged, fitted = (
            np.linalg.norm(rest_vertices("left", new) - labelled, axis=1).mean()
            for new in (betas, models.betas("left", betas))
        )
        assert fitted < 0.5 * unchanged
        assert fitted < 0.003


def test_betas_of_a_sound_left_hand_and_of_right_hands_stay(tmp_path: Path) -> None:
    right = synthetic_hand()
    models = HandModels(right, mirrored(right))
    betas = np.random.default_rng(0).normal(size=10)
    assert not left_is_faulty(models)
    assert models.betas("left", betas) == pytest.approx(betas, abs=1e-6)
    assert models.betas("right", betas) is betas


def test_fphas_order_puts_every_finger_in_a_row() -> None:
    # Names as FPHA lists them: wrist, five knuckles, then three joints of each finger.
    names = "W TM IM MM RM PM TP TD TT IP ID IT MP MD MT RP RD RT PP PD PT".split()
    numbers = np.arange(21.0)[:, None] * np.ones(3)
    ordered = [names[int(row[0])] for row in simple_from_fpha(numbers)]
    assert ordered == "W TM TP TD TT IM IP ID IT MM MP MD MT RM RP RD RT PM PP PD PT".split()


def test_dexycbs_splits_are_the_toolkits() -> None:
    sizes = {
        split: (len(chosen.subjects), len(chosen.serials), len(chosen.sequences))
        for split in SPLITS
        if (chosen := chosen_by(split))
    }
    assert sizes == {
        "s0_train": (10, 8, 80),
        "s0_val": (2, 8, 20),
        "s0_test": (8, 8, 20),
        "s1_train": (7, 8, 100),
        "s1_val": (1, 8, 100),
        "s1_test": (2, 8, 100),
        "s2_train": (10, 6, 100),
        "s2_val": (10, 1, 100),
        "s2_test": (10, 1, 100),
        "s3_train": (10, 8, 75),
        "s3_val": (10, 8, 10),
        "s3_test": (10, 8, 15),
    }
    assert chosen_by("s0_test").sequences[:3] == (4, 9, 14)
    assert chosen_by("s1_test").subjects == (7, 8)
    assert chosen_by("s3_val").sequences == (*range(15, 20), *range(95, 100))


def test_parameters_in_another_pose_convention_are_noticed(tmp_path: Path) -> None:
    hand = true_hand(1)
    camera = np.array([600.0, 600.0, 320.0, 240.0])
    mean = synthetic_hand().hands_mean

    def label(pose: Floats) -> dict[str, object]:
        mano = mano_label(hand.global_orient, pose, hand.betas, hand.joints[0])
        entry = hand_label("right", camera, joints=hand.joints, mano=mano)
        return {"fingertip_vertices": list(synthetic_hand().fingertip_vertices), "hands": [entry]}

    right = agreement([label(hand.hand_pose)], synthetic_hand())
    wrong = agreement([label(hand.hand_pose - mean)], synthetic_hand())
    assert right["right"].mean_mm == pytest.approx(0, abs=0.01)
    assert remarks(right) == []
    assert "is --mano the model" in remarks(wrong)[0]
    assert agreement([label(hand.hand_pose)], None)["right"].mean_mm is None


def test_a_box_elsewhere_than_the_joints_is_noticed(tmp_path: Path) -> None:
    root = ho3d.build(tmp_path / "root")
    prepared = prepare("ho3d-v2", root, "evaluation", tmp_path / "out", None)
    labels = list(prepared.labels.values())
    assert remarks(agreement(labels, None)) == []
    for label in labels:
        label["hands"][0]["bbox"][0] += 400
    assert "lie in their boxes" in remarks(agreement(labels, None))[0]


def test_a_folder_without_manos_files_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        load_hand_models(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"no MANO_RIGHT\.pkl"):
        load_hand_models(str(tmp_path))
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(b"<html>")
    with pytest.raises(ConfigError, match="was refused"):
        load_hand_models(str(tmp_path))
    for name in ("MANO_RIGHT.pkl", "MANO_LEFT.pkl"):
        (tmp_path / name).write_bytes(export_mano_pickle(synthetic_hand()))
    with pytest.raises(ConfigError, match=r"MANO_LEFT\.pkl holds the right hand"):
        load_hand_models(str(tmp_path))
    assert load_hand_models("synthetic").name == synthetic_hand().name
    assert load_hand_models(str(tmp_path / "MANO_RIGHT.pkl")).left is None
