import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import boxes
from pipeline.errors import ConfigError, DataError
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
