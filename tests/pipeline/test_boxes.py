import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import boxes
from pipeline.boxes.table import Table, load
from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.records import HandBox, Sample

IMAGE = np.zeros((30, 40, 3), np.uint8)


def test_given_boxes_keep_their_order_sides_and_cameras() -> None:
    hands = [
        {"bbox": [1, 2, 3, 4], "side": "left", "camera": [5, 5, 6, 6]},
        {"bbox": [0, 0, 9, 9], "side": "right"},
    ]
    found = boxes.choose("given", None).find(Sample("k", hands=hands, camera=[7, 7, 8, 8]), IMAGE)
    assert found == [
        HandBox((1, 2, 3, 4), "left", "given", "given", None, (5, 5, 6, 6)),
        HandBox((0, 0, 9, 9), "right", "given", "given", None, (7, 7, 8, 8)),
    ]


@pytest.mark.parametrize(
    "entry",
    [
        {"bbox": [1, 2, 3, float("nan")], "side": "left"},
        {"bbox": [1, 2, 0, 4], "side": "left"},
        {"bbox": [1, 2, -3, 4], "side": "left"},
        {"bbox": [1, 2, 3], "side": "left"},
        {"bbox": "1234", "side": "left"},
        {"bbox": [1, 2, 3, 10**400], "side": "left"},
        {"bbox": [1, 2, 3, True], "side": "left"},
        {"bbox": [1, 2, 3, 4], "side": "middle"},
        {"bbox": [1, 2, 3, 4], "side": {"a": 1}},
        {"side": "left"},
        {"bbox": [1, 2, 3, 4]},
        None,
        7,
    ],
)
def test_a_bad_box_spoils_no_other_one(entry: object) -> None:
    good = {"bbox": [1, 2, 3, 4], "side": "left"}
    found = boxes.choose("given", None).find(Sample("k", hands=[entry, good]), IMAGE)
    assert isinstance(found[0], DataError)
    assert isinstance(found[1], HandBox)


@pytest.mark.parametrize("hands", [None, {"bbox": [1, 2, 3, 4]}, 3])
def test_a_sample_that_says_nothing_of_its_hands_is_rejected(hands: object) -> None:
    with pytest.raises(DataError):
        boxes.choose("given", None).find(Sample("k", hands=hands), IMAGE)
    assert list(boxes.choose("given", None).find(Sample("k", hands=[]), IMAGE)) == []


def test_a_whole_image_needs_a_side() -> None:
    with pytest.raises(ConfigError, match="--side"):
        boxes.choose("whole", None)
    (hand,) = boxes.choose("whole", "left").find(Sample("k"), IMAGE)
    assert hand == HandBox((0, 0, 40, 30), "left", "option", "whole")


def test_tables_of_every_kind_give_the_same_hands(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {
                "key": ["a", "a"],
                "bbox": [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]],
                "side": ["left", "right"],
            }
        ),
        tmp_path / "t.parquet",
    )
    (tmp_path / "t.csv").write_text("key,x,y,w,h,side\na,1,2,3,4,left\na,5,6,7,8,right\n")
    coco = {
        "images": [{"id": 3, "file_name": "a"}],
        "annotations": [
            {"image_id": 3, "bbox": [1, 2, 3, 4], "side": "left"},
            {"image_id": 3, "bbox": [5, 6, 7, 8], "hand_type": "right"},
        ],
    }
    (tmp_path / "t.json").write_text(json.dumps(coco))
    for ending in ("parquet", "csv", "json"):
        table = boxes.choose(str(tmp_path / f"t.{ending}"), None)
        assert table.asked(Sample("a")) == 2
        assert list(table.find(Sample("b"), IMAGE)) == []
        assert list(table.find(Sample("a"), IMAGE)) == [
            HandBox((1, 2, 3, 4), "left", "given", "table"),
            HandBox((5, 6, 7, 8), "right", "given", "table"),
        ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", "name,x\na,1\n", "needs `key`"),
        ("t.json", "[]", "not a readable"),
        ("t.parquet", "nothing", "not a readable"),
        ("t.txt", "", "must be given"),
    ],
)
def test_a_table_that_cannot_serve_stops_the_job(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=says):
        boxes.choose(str(tmp_path / name), None)


def test_a_table_that_names_a_film_must_name_its_frames(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("key,x,y,w,h,side\na.jpg,1,2,3,4,left\nb.mp4,1,2,3,4,left\n")
    table = boxes.choose(str(tmp_path / "t.csv"), None)
    table.require_frames({"other.mp4"})
    with pytest.raises(ConfigError, match=r"names the film 'b\.mp4' without saying which frame.*frame_index"):
        table.require_frames({"b.mp4", "c.mp4"})
    (tmp_path / "u.csv").write_text(
        "key,frame_index,x,y,w,h,side\na.jpg,,1,2,3,4,left\nb.mp4,0,1,2,3,4,left\n"
    )
    boxes.choose(str(tmp_path / "u.csv"), None).require_frames({"b.mp4", "c.mp4"})


def test_a_picture_that_was_a_frame_is_known_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "key,frame_index,x,y,w,h,side\n7.jpg,7,1,2,3,4,left\n7.jpg,7,2,2,3,4,\n8.jpg,8,3,2,3,4,left\n"
    )
    table = boxes.choose(str(tmp_path / "t.csv"), "right")
    found = table.find(Sample("7.jpg"), IMAGE)
    assert [(hand.bbox[0], hand.side) for hand in found if isinstance(hand, HandBox)] == [
        (1, "left"),
        (2, "right"),
    ]
    assert table.asked(Sample("6.jpg")) == table.asked(Sample("9.jpg")) == 0


def test_a_key_that_names_samples_of_two_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("key,x,y,w,h,side\n1.jpg,1,2,3,4,left\n")
    table = boxes.choose(str(tmp_path / "t.csv"), None)
    assert isinstance(table, Table)
    table.require_apart([("a", ["1.jpg", "2.jpg"]), ("b", ["2.jpg"])])
    with pytest.raises(
        ConfigError, match=r"its key '1\.jpg' names a sample of a and one of b; annotate each with"
    ):
        table.require_apart([("a", ["1.jpg"]), ("b", ["2.jpg", "1.jpg"])])


def test_a_table_gives_every_place_its_rows_in_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    keys = rng.integers(-20, 20, 500)
    frames: list[float | None] = [None if frame < 0 else float(frame) for frame in rng.integers(-2, 3, 500)]
    boxes_of_rows = [[float(row), 0.0, 1.0, 1.0] for row in range(500)]
    columns = {"key": keys, "frame_index": frames, "bbox": boxes_of_rows, "note": ["-"] * 500}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=77)
    table = boxes.choose(str(tmp_path / "t.parquet"), "left")
    expected: dict[tuple[str, float | None], list[float]] = {}
    for row, place in enumerate(zip(map(str, keys), frames, strict=True)):
        expected.setdefault(place, []).append(row)
    for (key, frame), rows in expected.items():
        sample = Sample(key, frame_index=None if frame is None else int(frame))
        found = table.find(sample, IMAGE)
        assert [hand.bbox[0] for hand in found if isinstance(hand, HandBox)] == rows
        assert table.asked(sample) == len(rows)
    assert table.asked(Sample("21")) == table.asked(Sample("0", frame_index=9)) == 0


def test_a_coco_table_spoils_one_hand_with_one_bad_entry(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 1, "file_name": "a\udce4"}, {"id": 2, "file_name": "ä"}],
        "annotations": [
            {"image_id": 1, "bbox": [1, 2, 3, 4]},
            {"image_id": 2, "bbox": "1234", "side": 7},
            {"image_id": 2, "bbox": [1, 2, 3, 4], "side": "left", "score": [0.5]},
        ],
    }
    (tmp_path / "t.json").write_text(json.dumps(document))
    bad, good = boxes.choose(str(tmp_path / "t.json"), None).find(Sample("ä"), IMAGE)
    assert isinstance(bad, DataError)
    assert good == HandBox((1, 2, 3, 4), "left", "given", "table")


def test_a_worker_that_finds_another_table_stops_the_job(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("key,x,y,w,h,side\na,1,2,3,4,left\n")
    table = boxes.choose(str(path), None)
    path.write_text("key,x,y,w,h,side\na,1,2,3,40,left\n")
    # Another process, such as a worker that starts later, has nothing of it yet.
    load.cache_clear()
    with pytest.raises(StorageError, match=r"t\.csv: it changed since the job began"):
        table.find(Sample("a"), IMAGE)
    path.unlink()
    with pytest.raises(StorageError, match=r"t\.csv: it changed since the job began"):
        table.find(Sample("a"), IMAGE)


def test_a_table_must_name_one_of_all_samples(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("key,x,y,w,h,side\nz,1,2,3,4,left\nb,1,2,3,4,left\n")
    table = boxes.choose(str(tmp_path / "t.csv"), None)
    assert isinstance(table, Table)
    table.require_any([{"a"}, {"b", "c"}])
    table.require_any([set()])
    with pytest.raises(ConfigError, match=r"none of its keys \(such as 'b'\).* \(such as 'c'\)"):
        table.require_any([set(), {"d", "c"}, {"a"}])


def test_a_large_table_takes_tens_of_bytes_a_row(tmp_path: Path) -> None:
    rows = 200_000
    columns = {"key": [f"{row:08d}.jpg" for row in range(rows)], "side": ["left"] * rows}
    pq.write_table(pa.table(columns | {name: np.ones(rows) for name in "xywh"}), tmp_path / "t.parquet")
    load.cache_clear()
    pa.default_memory_pool().release_unused()
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    table = boxes.choose(str(tmp_path / "t.parquet"), None)
    assert table.asked(Sample("00000007.jpg")) == 1
    held = pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 100 * rows
