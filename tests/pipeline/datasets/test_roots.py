"""What is wrong with a download is said in one line that names it, before anything is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.datasets import DATASETS
from pipeline.datasets.hand_models import HandModels, load_hand_models
from pipeline.errors import ConfigError
from tests.datasets import coco, dexycb, fpha, freihand, ho3d
from tests.datasets.truth import write_mano
from tests.pipeline.datasets.prepared import prepare
from tests.s3_faults import Service

BUILD: dict[str, Callable[[Path], Path]] = {
    "ho3d-v2": ho3d.build,
    "ho3d-v3": lambda root: ho3d.build(root, 3),
    "fpha": fpha.build,
    "dexycb": dexycb.build,
    "freihand": freihand.build,
    "coco": coco.build_ho3d,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> HandModels:
    return load_hand_models(str(write_mano(tmp_path_factory.mktemp("mano"))))


def refusal(name: str, root: Path, split: str, models: HandModels) -> str:
    with pytest.raises(ConfigError) as refused:
        DATASETS[name].find(storage.canonical(str(root)), split, models)
    line = str(refused.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", DATASETS)
def test_a_folder_of_something_else_is_refused_by_every_benchmark(
    tmp_path: Path, name: str, models: HandModels
) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    for split in DATASETS[name].splits:
        line = refusal(name, tmp_path, split, models)
        assert str(tmp_path) in line
        assert "there is no" in line


@pytest.mark.parametrize(
    ("name", "split", "gone", "said"),
    [
        ("ho3d-v2", "evaluation", "evaluation.txt", "there is no evaluation.txt"),
        (
            "fpha",
            "actions-train",
            "data_split_action_recognition.txt",
            "no data_split_action_recognition.txt",
        ),
        (
            "fpha",
            "actions-train",
            "Hand_pose_annotation_v1/Subject_1/put_salt/1",
            "Subject_1/put_salt/1/skeleton.txt",
        ),
        (
            "dexycb",
            "s1_val",
            f"{dexycb.SUBJECT}/{dexycb.sequence(7)}/meta.yml",
            f"{dexycb.sequence(7)}/meta.yml",
        ),
        ("dexycb", "s1_val", f"{dexycb.SUBJECT}/{dexycb.sequence(7)}", "has 99 sequences"),
        ("dexycb", "s1_val", "calibration/intrinsics/836212060125_640x480.yml", "836212060125_640x480.yml"),
        (
            "dexycb",
            "s1_val",
            "calibration/mano_20200813-subject-07_left",
            "mano_20200813-subject-07_left/mano.yml",
        ),
        ("freihand", "training", "training_xyz.json", "there is no training_xyz.json"),
        ("freihand", "training", "training/rgb", "there is no training/rgb"),
        ("coco", "train", "annotations", "no annotations/HO3D_train_data.json"),
    ],
)
def test_what_is_missing_of_a_download_is_named(
    tmp_path: Path, name: str, split: str, gone: str, said: str, models: HandModels
) -> None:
    root = BUILD[name](tmp_path / "root")
    place = root / gone
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    assert said in refusal(name, root, split, models)


def test_the_other_version_of_ho3d_is_noticed(tmp_path: Path, models: HandModels) -> None:
    root = ho3d.build(tmp_path, 3)
    assert "so this is ho3d-v3; ho3d-v2 was asked for" in refusal("ho3d-v2", root, "train", models)


@pytest.mark.parametrize(
    ("name", "split", "file", "text", "said"),
    [
        ("ho3d-v2", "train", "train.txt", "", "must hold lines such as ABF10/0000"),
        ("ho3d-v2", "train", "train.txt", "ABF10/0000\n../../etc/passwd\n", "not '../../etc/passwd'"),
        ("ho3d-v2", "evaluation", "evaluation_verts.json", "[[[1, 2", "fetch it again"),
        (
            "freihand",
            "training",
            "training_mano.json",
            "[[[1.0]]]",
            "training_mano.json has 1 rows, and 2 belong",
        ),
        ("freihand", "training", "training_K.json", '{"a": [[1]]}', "must be one JSON array"),
        ("coco", "train", "annotations/HO3D_train_data.json", '{"images": []}', "`images` and `annotations`"),
        ("dexycb", "s1_val", f"{dexycb.SUBJECT}/{dexycb.sequence(0)}/meta.yml", "[", "is no YAML"),
        ("dexycb", "s1_val", f"{dexycb.SUBJECT}/{dexycb.sequence(0)}/meta.yml", "a: 1", "lacks num_frames"),
        (
            "dexycb",
            "s1_val",
            "calibration/mano_20200813-subject-07_right/mano.yml",
            "betas: [1]",
            "fetch it again",
        ),
    ],
)
def test_a_damaged_file_that_all_depends_on_is_named(
    tmp_path: Path, name: str, split: str, file: str, text: str, said: str, models: HandModels
) -> None:
    root = BUILD[name](tmp_path / "root")
    (root / file).write_text(text)
    line = refusal(name, root, split, models)
    assert said in line
    assert storage.name_of(file) in line


def test_left_hands_need_the_left_file(tmp_path: Path, models: HandModels) -> None:
    right_only = HandModels(models.right)
    line = refusal("dexycb", dexycb.build(tmp_path / "dexycb"), "s1_val", right_only)
    assert "MANO_LEFT.pkl" in line
    assert "MANO_LEFT.pkl" in refusal("coco", coco.build_dexycb(tmp_path / "coco"), "s0_train", right_only)


def test_frames_of_a_half_downloaded_dexycb_sequence_are_named_and_the_others_keep_their_places(
    tmp_path: Path, models: HandModels
) -> None:
    root = dexycb.build(tmp_path / "root")
    whole = prepare("dexycb", root, "s1_val", tmp_path / "whole", models, per_shard=16)
    folder = root / dexycb.SUBJECT / dexycb.sequence(8) / dexycb.SERIALS[2]
    shutil.rmtree(folder)
    (root / dexycb.SUBJECT / dexycb.sequence(3) / dexycb.SERIALS[0] / "labels_000001.npz").write_bytes(
        b"PK\3\4"
    )
    part = prepare("dexycb", root, "s1_val", tmp_path / "part", models, per_shard=16)
    assert part.counts.rejects == {"damaged annotation": 1, "missing annotation": 2}
    assert part.counts.samples_without_hands == whole.counts.samples_without_hands == 2
    assert all(whole.labels[key] == label for key, label in part.labels.items())
    # Two sequences of eight cameras with two frames, one frame of each without a hand: camera by camera.
    assert [label["index"] for label in whole.labels.values()] == [n for n in range(32) if n not in (3, 19)]
    assert list(whole.labels)[2].endswith(f"{dexycb.SERIALS[1]}/color_000000")


def test_freihands_four_pictures_of_a_pose_have_one_label(tmp_path: Path, models: HandModels) -> None:
    prepared = prepare(
        "freihand", freihand.build(tmp_path / "root"), "training", tmp_path / "out", models, per_shard=3
    )
    assert [label["index"] for label in prepared.labels.values()] == list(range(8))
    assert list(prepared.labels)[5] == "training/rgb/00000005"
    assert prepared.hands[1] == prepared.hands[3] == prepared.hands[5] == prepared.hands[7]
    assert prepared.hands[0] != prepared.hands[1]


def test_freihands_evaluation_without_truth_has_the_whole_picture_as_box(
    tmp_path: Path, models: HandModels
) -> None:
    prepared = prepare("freihand", freihand.build(tmp_path / "root"), "evaluation", tmp_path / "out", models)
    assert prepared.hands == [{"side": "right", "bbox": [0.0, 0.0, 224.0, 224.0]}] * 2


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "a/../../b.png", "x.pkl"])
def test_an_annotation_that_names_a_file_elsewhere_reads_nothing(
    tmp_path: Path, name: str, models: HandModels
) -> None:
    root = coco.build_ho3d(tmp_path / "root")
    file = root / "annotations/HO3D_train_data.json"
    content = json.loads(file.read_text())
    content["images"][-1]["file_name"] = name
    content["annotations"][1]["image_id"] = 4242
    file.write_text(json.dumps(content))
    prepared = prepare("coco", root, "train", tmp_path / "out", models)
    assert [row["reason"] for row in prepared.ledger if row["status"] == "rejected"] == [
        "damaged annotation: it names no picture"
    ] * 2
    assert len(prepared.labels) == 1


def test_from_s3_to_the_same_shards(tmp_path: Path, s3: Service, models: HandModels) -> None:
    root = ho3d.build(tmp_path / "root")
    bucket = s3.bucket
    for file in root.rglob("*"):
        if file.is_file():
            storage.put(f"{bucket}/HO 3D/{file.relative_to(root)}", file.read_bytes())
    far = prepare("ho3d-v2", f"{bucket}/HO 3D", "evaluation", tmp_path / "far", models)
    near = prepare("ho3d-v2", root, "evaluation", tmp_path / "near", models)
    assert (far.labels, far.images, far.counts) == (near.labels, near.images, near.counts)


def test_dexycb_is_listed_on_s3(tmp_path: Path, s3: Service, models: HandModels) -> None:
    bucket = s3.bucket
    root = dexycb.build(tmp_path / "root")
    for file in root.rglob("*.yml"):
        storage.put(f"{bucket}/dex/{file.relative_to(root)}", file.read_bytes())
    far = DATASETS["dexycb"].find(f"{bucket}/dex", "s1_val", models)
    assert [frame.key for frame in far.frames(30, 32)] == [
        f"{dexycb.SUBJECT}/{dexycb.sequence(8)}/{dexycb.SERIALS[7]}/color_{number:06d}" for number in (0, 1)
    ]
