"""From annotations to training shards, stage by stage in this process, on annotations that are the truth itself."""

import functools
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model.augmentation import AugmentationRanges
from model.config import preset
from model.crop import CROP_RULES
from model.handoccnet.network import HandOutput
from model.losses import LOSSES, losses
from model.mano.layer import ManoLayer
from model.mano.synthetic import synthetic_hand
from model.weights import random_weights
from pipeline import boxes, local
from pipeline.annotation import Annotation
from pipeline.errors import ConfigError
from pipeline.flow import Workers
from pipeline.inputs import find_inputs
from pipeline.pseudo_labels import clusters
from pipeline.pseudo_labels.labels import Belongings, region
from pipeline.pseudo_labels.manifest import Written, write_manifest
from pipeline.pseudo_labels.near_duplicates import Motion, Walk
from pipeline.pseudo_labels.picture_hash import first_of_equal, perceptual_hash
from pipeline.pseudo_labels.selection import (
    EQUAL,
    KEPT,
    NEAR_DUPLICATE,
    OF_POSE,
    OF_SOURCE,
    Balance,
    Chosen,
    select,
    store,
)
from pipeline.pseudo_labels.shards import Frames, ShardWriter, plan_shards
from pipeline.pseudo_labels.survey import UNREADABLE, UNSURE, Survey
from pipeline.pseudo_labels.thresholds import thresholds
from pipeline.records import Unit, UnitRecord
from pipeline.sinks.parts import Part, committed, part_uri, write_part
from pipeline.sources import SOURCES
from pipeline.stages.decode import decode_image
from pipeline.training.samples import concatenate, training_sample
from pipeline.training.targets import to_targets
from pipeline.units import load_plan, settle
from tests.films import PLAIN, drawn, encode
from tests.pipeline.evaluation.annotated import FINGERPRINT, Hand, annotate

ALL = Balance(Motion(0, 0), None, None, 64, None, 0)


@dataclass
class Made:
    """What a run left: the labels of its shards by member, their pictures, and the manifest's rows."""

    output: Path
    chosen: Chosen
    written: Written
    labels: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    manifest: list[dict[str, Any]] = field(default_factory=list)


def pseudo_label(
    predictions: Path,
    output: Path,
    *,
    fingerprint: str = FINGERPRINT,
    least: float = 0.0,
    rules: tuple[str, ...] = (),
    balance: Balance = ALL,
    frames: Frames = "whole",
    factor: float = 2.5,
) -> Made:
    """Runs all stages, as the command does on Ray."""
    units = load_plan(str(predictions))
    parts = committed(str(predictions), units, fingerprint)
    survey = Survey(
        str(output),
        str(predictions),
        parts,
        thresholds(least, rules, None),
        balance.seed,
        balance.equal_bits is not None,
        "s",
    )
    for unit in units:
        survey()(UnitRecord(unit))
    chosen, hands = select(str(output), units, balance)
    chosen = store(str(output), units, chosen, hands, per_shard=7, examples=3, fingerprint="f")
    writer = ShardWriter(
        output=str(output),
        predictions=str(predictions),
        units={unit.unit_id: unit for unit in units},
        parts=parts,
        belongings=Belongings(synthetic_hand().name, synthetic_hand().fingertip_vertices, "train"),
        frames=frames,
        crop_factor=factor,
        power=1.0,
        per_shard=7,
    )
    shards = plan_shards(str(predictions), chosen.pictures, 7, "f")
    for shard in shards:
        writer()(UnitRecord(shard))
    made = Made(output, chosen, write_manifest(str(output), shards, {}))
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                data = archive.extractfile(member).read()  # type: ignore[union-attr]
                stem, ending = member.name.split(".")
                if ending == "json":
                    made.labels[stem] = json.loads(data)
                else:
                    made.pictures[stem] = data
    made.manifest = pq.read_table(output / "manifest.parquet").to_pylist()
    return made


@pytest.fixture(scope="module")
def truth(shards: Path) -> dict[str, tuple[Any, bytes]]:
    """Label and picture of every sample of the source, by file name and key."""
    found: dict[str, Any] = {}
    for path in shards.glob("*.tar"):
        with tarfile.open(path) as archive:
            data = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        for name in data:
            if name.endswith(".json"):
                key = name.removesuffix(".json")
                found[f"{path.name}#{key}"] = json.loads(data[name]), data[key + ".jpg"]
    return found


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """The truth as annotations, with a camera and a translation, and confidences from 0 to 1."""
    output = annotate(shards, tmp_path_factory.mktemp("annotated"), _with_wrist, vertices=False)
    for number, (unit, part) in enumerate(_parts(output).items()):
        table = pq.read_table(part_uri(str(output), "annotations", unit))
        rng = np.random.default_rng(number)
        sure = pa.array(rng.uniform(size=table.num_rows).astype(np.float32))
        camera = pa.array([[300.0, 310.0, 80.5, 79.5]] * table.num_rows, pa.list_(pa.float32()))
        table = table.set_column(
            table.schema.get_field_index("confidence"), table.schema.field("confidence"), sure
        )
        table = table.set_column(table.schema.get_field_index("camera"), table.schema.field("camera"), camera)
        said = {"fingerprint": FINGERPRINT, "unit_id": unit, "unit_version": part.unit_version}
        write_part(
            part_uri(str(output), "annotations", unit), table, said | {"counts": part.counts.to_json()}
        )
    return output


def _with_wrist(_key: str, hand: Hand) -> Hand:
    return replace(hand, wrist=np.array([0.01, -0.02, 0.5]))


def _parts(output: Path) -> Mapping[str, Part]:
    return committed(str(output), load_plan(str(output)), FINGERPRINT)


def test_the_last_rule_that_applies_says_how_sure_a_hand_must_be() -> None:
    limits = thresholds(0.5, ("left:*=0.6", "*/night/*=0.8", "right:*.mp4=0.1"), None)
    assert limits.confidence("s3://b/day/a.tar", "right") == 0.5
    assert limits.confidence("s3://b/day/a.tar", "left") == 0.6
    assert limits.confidence("s3://b/night/a.mp4", "left") == 0.8
    assert limits.confidence("s3://b/night/a.mp4", "right") == 0.1


@pytest.mark.parametrize("rule", ["left", "=0.5", "left:=0.5", "*=2", "*=high"])
def test_a_rule_of_another_form_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"must be \[SIDE:\]GLOB=X"):
        thresholds(0.5, (rule,), None)


def test_a_hand_that_hardly_moved_is_dropped_and_one_that_did_is_kept() -> None:
    walk = Walk(Motion(joints_mm=5, box=0.1))
    joints, box = np.random.default_rng(0).normal(0, 0.05, (21, 3)), np.array([50.0, 60, 100, 80])
    assert walk.keeps("right", joints, box)
    assert walk.keeps("left", joints, box), "the other hand is another hand"
    assert not walk.keeps("right", joints + 0.001, box + np.array([3, 0, 0, 0]))
    assert walk.keeps("right", joints, box + np.array([30, 0, 0, 0])), "its box moved"
    assert walk.keeps("right", joints + 0.02, box), "its pose changed"
    assert not walk.keeps("right", joints + 0.0205, box), "compared with what was kept last"
    assert all(Walk(Motion(0, 0.1)).keeps("left", joints, box) for _ in range(3))


def test_copies_of_a_picture_are_known_and_other_pictures_are_told_apart(
    truth: Mapping[str, tuple[Any, bytes]],
) -> None:
    pictures = [decode_image(data) for _, data in truth.values()]
    copies = [cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA) for picture in pictures]
    copies = [cv2.imdecode(cv2.imencode(".jpg", copy, [1, 70])[1], -1) for copy in copies]
    hashes = np.array([[perceptual_hash(picture)] * 2 for picture in (*pictures, *copies)], np.uint64)
    assert first_of_equal(hashes[:24], 3).all()
    found = ~first_of_equal(hashes, 3)[24:]
    assert found.mean() > 0.5
    assert (~first_of_equal(hashes, 0)[24:]).sum() <= found.sum()


@pytest.mark.parametrize("bits", [0, 1, 3])
def test_equal_hashes_are_those_that_a_comparison_of_all_pairs_finds(bits: int) -> None:
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 2**63, (40, 2), np.uint64)
    copies = hashes[rng.integers(40, size=120)]
    for copy in copies:
        for bit in rng.integers(128, size=rng.integers(6)):
            copy[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    hashes = np.concatenate([hashes, copies])
    stays: list[int] = []
    for number, one in enumerate(hashes):
        if all(np.bitwise_count(hashes[other] ^ one).sum() > bits for other in stays):
            stays.append(number)
    assert np.flatnonzero(first_of_equal(hashes, bits)).tolist() == stays


def test_poses_fall_into_their_clusters_and_left_hands_into_those_of_right_ones() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.normal(0, 1, (5, 45)).astype(np.float32)
    member = rng.integers(5, size=200)
    right = kinds[member] + rng.normal(0, 0.01, (200, 45)).astype(np.float32)
    is_left = rng.random(200) < 0.5
    stored = clusters.as_right(right, is_left)  # mirroring undoes itself
    poses = clusters.as_right(stored, is_left)
    centres = clusters.fit(poses, 5, seed=1)
    found = clusters.assign(poses, centres)
    assert all(len(set(found[member == kind])) == 1 for kind in range(5))
    assert len(set(found)) == 5
    np.testing.assert_array_equal(centres, clusters.fit(poses, 5, seed=1))
    assert len(clusters.fit(np.repeat(poses[:2], 9, axis=0), 5, seed=1)) == 2


def test_every_hand_is_kept_or_has_its_reason_and_the_surest_are_kept(
    annotated: Path, tmp_path: Path
) -> None:
    made = pseudo_label(annotated, tmp_path / "out", least=0.4, rules=("left:*=0.7",))
    rows = [
        row
        for unit in _parts(annotated)
        for row in pq.read_table(part_uri(str(annotated), "annotations", unit)).to_pylist()
    ]
    sure = {
        row["instance_id"] for row in rows if row["confidence"] >= (0.7 if row["side"] == "left" else 0.4)
    }
    assert {row["instance_id"] for row in made.manifest} == sure
    fates = made.chosen.by_reason()
    assert sum(fates.values()) == made.chosen.hands == len(rows)
    assert (fates[KEPT], fates[UNSURE]) == (len(sure), len(rows) - len(sure))
    assert made.written.hands == len(sure) == sum(len(label["hands"]) for label in made.labels.values())
    for row in made.manifest:
        label = made.labels[row["member"]]
        assert label["sequence"] == row["source"]
        hand = label["hands"][row["hand"]]
        assert hand["side"] == row["side"]
        assert hand["weight"] == pytest.approx(row["confidence"], abs=1e-4)


def test_balance_takes_no_more_than_its_shares_and_the_same_every_time(
    annotated: Path, tmp_path: Path
) -> None:
    balance = replace(ALL, per_source=9, clusters=4, per_cluster=3, seed=5)
    made = pseudo_label(annotated, tmp_path / "a", balance=balance)
    again = pseudo_label(annotated, tmp_path / "b", balance=balance)
    other = pseudo_label(annotated, tmp_path / "c", balance=replace(balance, seed=6))
    fates = made.chosen.by_reason()
    assert fates[KEPT] <= 12
    assert fates[OF_SOURCE] == made.chosen.hands - 18
    assert fates[OF_POSE] == 18 - fates[KEPT]
    assert all(taken <= 3 for _, taken in made.chosen.poses)
    kinds = [row["pose_cluster"] for row in made.manifest]
    assert max(np.bincount(kinds)) <= 3
    for path in (tmp_path / "a").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert made.manifest == again.manifest != other.manifest


def test_pictures_that_come_twice_are_taken_once(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "twice").mkdir()
    for path in shards.glob("*.tar"):
        for name in ("a", "b"):
            (tmp_path / "twice" / f"{name}-{path.name}").write_bytes(path.read_bytes())
    predictions = annotate(tmp_path / "twice", tmp_path / "annotated", vertices=False)
    made = pseudo_label(predictions, tmp_path / "out", balance=replace(ALL, equal_bits=3))
    fates = made.chosen.by_reason()
    assert fates[KEPT] == fates[EQUAL] == made.chosen.hands / 2
    assert {Path(row["source"]).name[0] for row in made.manifest} == {"a"}


def test_whole_pictures_keep_their_bytes_and_their_labels_are_what_was_annotated(
    annotated: Path, tmp_path: Path, truth: Mapping[str, tuple[Any, bytes]]
) -> None:
    made = pseudo_label(annotated, tmp_path / "out")
    assert len(made.labels) == len(truth) == 24
    assert max(len(label["hands"]) for label in made.labels.values()) == 2, "hands of a picture stay together"
    origins = {row["member"]: f"{Path(row['source']).name}#{row['key']}" for row in made.manifest}
    for member, label in made.labels.items():
        true, picture = truth[origins[member]]
        assert made.pictures[member] == picture
        assert label["dataset"] == "pseudo"
        assert label["hand_model"] == synthetic_hand().name
        assert label["camera"] == [300.0, 310.0, 80.5, 79.5]
        for hand, labelled in zip(label["hands"], true["hands"], strict=True):
            assert hand["side"] == labelled["side"]
            for name in ("bbox", "joints_2d"):
                np.testing.assert_allclose(hand[name], labelled[name], atol=2e-3)
            for name in ("global_orient", "hand_pose", "betas"):
                np.testing.assert_allclose(hand["mano"][name], labelled["mano"][name], atol=1e-5)
            np.testing.assert_allclose(hand["root_3d"], [0.01, -0.02, 0.5], atol=1e-6)
            np.testing.assert_allclose(
                np.array(hand["joints_3d"]) - hand["root_3d"],
                np.array(labelled["joints_3d"]) - labelled["root_3d"],
                atol=1e-5,
            )


def test_in_a_crop_everything_lies_on_the_same_spot_of_the_hand(annotated: Path, tmp_path: Path) -> None:
    whole = pseudo_label(annotated, tmp_path / "whole")
    cropped = pseudo_label(annotated, tmp_path / "crop", frames="crop", factor=1.2)
    smaller = 0
    for member, label in cropped.labels.items():
        before = whole.labels[member]
        origin = np.array(before["camera"][2:]) - label["camera"][2:]
        assert (origin == np.round(origin)).all()
        image, crop = (decode_image(made.pictures[member]) for made in (whole, cropped))
        height, width = crop.shape[:2]
        x, y = origin.astype(int)
        assert np.abs(image[y : y + height, x : x + width].astype(int) - crop).mean() < 4
        smaller += crop.size < image.size
        for hand, other in zip(label["hands"], before["hands"], strict=True):
            np.testing.assert_allclose(np.array(hand["joints_2d"]) + origin, other["joints_2d"], atol=2e-3)
            np.testing.assert_allclose(np.array(hand["bbox"][:2]) + origin, other["bbox"][:2], atol=2e-3)
            assert hand["bbox"][2:] == other["bbox"][2:]
            assert hand["joints_3d"] == other["joints_3d"]
            projected = _project(hand["joints_3d"], label["camera"])
            np.testing.assert_allclose(projected + origin, _project(hand["joints_3d"], before["camera"]))
    assert smaller > 12


def _project(joints: Any, camera: Any) -> Any:
    points = np.array(joints)
    return points[:, :2] / points[:, 2:] * camera[:2] + camera[2:]


def test_frames_of_a_film_are_thinned_and_both_hands_of_a_frame_stay_together(tmp_path: Path) -> None:
    film = encode(tmp_path, PLAIN, frames=12)
    hands = [(frame, *hand) for frame in range(12) for hand in ((5, "left"), (70, "right"))]
    rows = [f"{film.name},{frame},{x},20,50,50,{side}" for frame, x, side in hands]
    (tmp_path / "boxes.csv").write_text("key,frame_index,x,y,w,h,side\n" + "\n".join(rows) + "\n")
    fingerprint = _annotate_film(film, tmp_path / "boxes.csv", tmp_path / "annotated")
    made = pseudo_label(
        tmp_path / "annotated", tmp_path / "all", fingerprint=fingerprint, frames="crop", factor=1
    )
    assert [(row["frame_index"], row["side"], row["hand"]) for row in made.manifest] == [
        (frame, side, number) for frame in range(12) for number, side in enumerate(("left", "right"))
    ]
    assert len(made.labels) == 12
    for member, label in made.labels.items():
        frame = next(row["frame_index"] for row in made.manifest if row["member"] == member)
        bbox, joints = np.array(label["hands"][0]["bbox"]), np.array(label["hands"][0]["joints_2d"])
        assert bbox[2:].tolist() == [50, 50]
        assert np.isfinite(joints).all()
        shown = decode_image(made.pictures[member])
        left, top = np.round(np.array([5, 20]) - bbox[:2]).astype(int)
        there = drawn(frame)[top : top + shown.shape[0], left : left + shown.shape[1]]
        assert np.abs(shown.astype(int) - there).mean() < 25, "it is another frame, or another part of it"
    still = replace(ALL, motion=Motion(joints_mm=1000, box=0.1))
    made = pseudo_label(tmp_path / "annotated", tmp_path / "still", fingerprint=fingerprint, balance=still)
    assert [(row["frame_index"], row["side"]) for row in made.manifest] == [(0, "left"), (0, "right")]
    assert made.chosen.by_reason()[NEAR_DUPLICATE] == 22


def _annotate_film(film: Path, table: Path, output: Path) -> str:
    """Annotates a film in this process by an untrained network; returns the fingerprint."""
    job = Annotation(
        weights=random_weights(preset("tiny"), 0),
        hand_model=synthetic_hand(),
        boxes=boxes.choose(str(table), None),
        boxes_identity="table",
        side=None,
        crop_rule=CROP_RULES["demo"],
        precision="fp32",
        meshes="none",
        vertices=False,
        unit_rows=5,
    )
    inputs, _ = find_inputs([str(film)])
    settled = settle(
        str(output),
        inputs,
        unit_rows=5,
        crop_size=64,
        probe=lambda items: [SOURCES[item.source].probe(item) for item in items],
    )
    workers = Workers(task_cpus=1, actor_cpus=0.5, actor_gpus=0, actors=(1, 1), threads=1, device="cpu")
    for record in local.run(job.flow(str(output), workers, 4), settled.units):
        assert record.counts.hands_annotated == record.counts.hands
    return job.fingerprint


def test_a_region_holds_all_hands_and_ends_at_the_border() -> None:
    joints = [[39.0 + number, 50.0] for number in range(21)]
    one = {"bbox": [40, 40, 20, 20], "joints_2d": joints}
    assert region([one], 2.0, 640, 480) == (28, 29, 71, 71)
    other = {"bbox": [600, 460, 60, 60], "joints_2d": [[620.0, 470.0]] * 21}
    assert region([one, other], 2.0, 640, 480) == (28, 29, 640, 480)
    outside = {"bbox": [-500, -500, 10, 10], "joints_2d": [[-490.0, -490.0]] * 21}
    left, top, right, bottom = region([outside], 1.0, 640, 480)
    assert right > left
    assert bottom > top


def test_a_picture_that_is_gone_costs_its_hands_and_is_accounted_for(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for path in shards.glob("*.tar"):
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    predictions = annotate(tmp_path / "data", tmp_path / "annotated", vertices=False)
    sorted((tmp_path / "data").glob("*.tar"))[0].unlink()
    surveyed = pseudo_label(predictions, tmp_path / "a", balance=replace(ALL, equal_bits=0))
    fates = surveyed.chosen.by_reason()
    assert fates[UNREADABLE] > 0
    assert fates[KEPT] == surveyed.written.hands
    unseen = pseudo_label(predictions, tmp_path / "b")
    assert unseen.chosen.by_reason()[KEPT] == unseen.chosen.hands
    assert sum(unseen.written.lost.values()) == fates[UNREADABLE]
    assert unseen.written.hands == len(unseen.manifest) == fates[KEPT]


def test_training_takes_a_hands_weight_and_a_weight_of_0_takes_its_influence(
    annotated: Path, tmp_path: Path
) -> None:
    made = pseudo_label(annotated, tmp_path / "out", frames="crop")
    read = functools.partial(training_sample, crop_size=64, rng=None, ranges=AugmentationRanges())
    member, label = next((name, item) for name, item in made.labels.items() if len(item["hands"]) == 1)
    other, another = next((name, item) for name, item in made.labels.items() if name != member)
    samples = read(member, made.pictures[member], label, 0)
    assert samples.weight[0] == pytest.approx(label["hands"][0]["weight"])
    label["hands"][0]["weight"] = 0.0
    mute = read(member, made.pictures[member], label, 0)
    spoken = read(other, made.pictures[other], another, 0)
    hand_model = ManoLayer(synthetic_hand())
    targets = to_targets(concatenate([mute, spoken]), torch.device("cpu"))
    torch.manual_seed(0)
    size = preset("tiny")
    output = _random_output(2, size.input_size // 8)
    total = losses(output, targets, hand_model, LOSSES["small"])["total"]
    total.backward()
    for value in output:
        if value.grad is not None:
            assert not value.grad[0].any(), "it pulls at the network"
    assert any(value.grad is not None and value.grad[1].any() for value in output)
    moved = targets._replace(
        joints_2d_B21x2=targets.joints_2d_B21x2 + torch.tensor([0.1, 0.0])[:, None, None],
        betas_B10=targets.betas_B10 + torch.tensor([[1.0], [0.0]]),
    )
    again = losses(_random_output(2, size.input_size // 8), moved, hand_model, LOSSES["small"])["total"]
    assert again.item() == pytest.approx(total.item())


def _random_output(count: int, cells: int) -> HandOutput:
    made = torch.Generator().manual_seed(1)
    values = {
        "heatmaps": torch.softmax(torch.randn(count, 21, cells * cells, generator=made), -1).view(
            count, 21, cells, cells
        ),
        "joints_2d": torch.rand(count, 21, 2, generator=made),
        "rotations": torch.linalg.qr(torch.randn(count, 16, 3, 3, generator=made))[0],
        "axis_angle": torch.randn(count, 16, 3, generator=made) * 0.3,
        "betas": torch.randn(count, 10, generator=made),
        "necessity_map": torch.rand(count, 1, cells, cells, generator=made),
    }
    return HandOutput(**{name: values[name].detach().requires_grad_() for name in HandOutput._fields})


def test_the_selections_account_survives_its_file(annotated: Path, tmp_path: Path) -> None:
    made = pseudo_label(annotated, tmp_path / "out", least=0.5)
    again = Chosen.from_json(made.chosen.to_json())
    assert again.counts == made.chosen.counts
    assert again.by_reason() == made.chosen.by_reason()
    assert io.BytesIO((tmp_path / "out" / "selection.parquet").read_bytes()).read(4) == b"PAR1"
    assert sum(map(sum, again.histograms.values())) == again.hands


def test_nothing_is_kept_of_no_hands(annotated: Path, tmp_path: Path) -> None:
    made = pseudo_label(
        annotated, tmp_path / "out", least=1.0, balance=replace(ALL, per_cluster=2, equal_bits=3)
    )
    assert made.manifest == []
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_shards_name_says_which_pictures_it_holds() -> None:
    assert [shard.unit_id for shard in plan_shards("p", 5, 3, "v")] == [
        "pseudo-00000000-00000003",
        "pseudo-00000003-00000005",
    ]
    assert isinstance(plan_shards("p", 1, 3, "v")[0], Unit)
