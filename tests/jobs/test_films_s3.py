"""Films on S3, whole and damaged, annotated to S3: every frame accounted for, whatever is killed or fails."""

import io
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.boxes.detect import default_model
from tests.films import FAST, FRAGMENTS, PLAIN, cut_at, encode, overwritten, remuxed, sound
from tests.s3_faults import Service
from tests.s3_jobs import RATES, committed, kill_at, parts

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]

EVERY = 24  # frames of the real film
TINY = ("--model", "tiny", "--weights", "random:0")


@pytest.fixture
def bucket(s3: Service, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket behind the proxy; a stalled connection is given up after 2 s."""
    monkeypatch.setenv("FSSPEC_S3", json.dumps({"config_kwargs": {"read_timeout": 2}}))
    s3.faults.stall_s = 5.0
    return s3.bucket


def copies(film: Path, folder: Path) -> Mapping[str, bytes]:
    """Returns a film, and what becomes of films: cut short at several places, damaged, without a picture, empty."""
    whole = film.read_bytes()
    front = remuxed(film, folder / "front.mp4", FAST)
    fragments = remuxed(film, folder / "fragments.mp4", FRAGMENTS)
    clusters = remuxed(film, folder / "clusters.mkv", {})
    return {
        "whole.mp4": whole,
        "cut-early.mp4": cut_at(front, 0.25),
        "cut-late.mp4": cut_at(front, 0.9),
        "cut-fragment.mp4": cut_at(fragments, 0.8),
        "cut-cluster.mkv": cut_at(clusters, 0.6),
        "cut-table.mp4": cut_at(remuxed(film, folder / "table-last.mov", {}), 0.6),
        "overwritten.mp4": overwritten(front, 0.5, len(front) // 300),
        "overwritten.mkv": overwritten(clusters, 0.7, len(clusters) // 10),
        "sound.mp4": sound(),
        "empty.mp4": b"",
    }


def put_all(bucket: str, files: Mapping[str, bytes]) -> list[str]:
    """Puts the films into the bucket and returns the patterns that name them."""
    for name, data in files.items():
        storage.put(f"{bucket}/in/{name}", data)
    return [f"{bucket}/in/*.mp4", f"{bucket}/in/*.mkv"]


def table(output: str, folder: str) -> list[dict[str, Any]]:
    """Returns the rows of an output's annotations or ledger, with the film's name in place of its URI."""
    files = [storage.read(file.uri) for file in storage.list_files(storage.join(output, folder))]
    rows = pa.concat_tables(pq.read_table(io.BytesIO(data)) for data in files).to_pylist()
    return [row | {"source": storage.name_of(row["source"])} for row in rows]


def check_account(output: str, taken: Callable[[int], bool]) -> Mapping[str, Sequence[dict[str, Any]]]:
    """Holds the summary against the ledger and the annotations; returns the ledger by film.

    Every frame that is taken of what there is of a film stands in the ledger once, with its own index; what is
    damaged is said once.
    """
    ledger = table(output, "ledger")
    hands = table(output, "annotations")
    counts = json.loads(storage.read(f"{output}/summary.json"))["counts"]
    statuses = Counter(row["status"] for row in ledger)
    assert counts["hands_annotated"] == len(hands) == statuses["annotated"]
    assert counts["samples_without_hands"] == statuses["no_hand"]
    assert counts["samples"] == (
        counts["samples_with_hands"] + counts["samples_without_hands"] + counts["samples_rejected"]
    )
    assert counts["hands"] == counts["hands_annotated"] + counts["hands_rejected"]
    assert sum(counts["rejects"].values()) == statuses["rejected"]
    assert len({row["instance_id"] for row in hands}) == len(hands)
    by_film = defaultdict(list)
    for row in ledger:
        by_film[row["source"]].append(row)
    assert counts["samples"] == sum(
        len({row["frame_index"] for row in rows if row["key"] is not None}) for rows in by_film.values()
    )
    for name, rows in by_film.items():
        indices = sorted({row["frame_index"] for row in rows if row["key"] is not None})
        assert indices == [number for number in range(max(indices, default=-1) + 1) if taken(number)], name
        rests = [row for row in rows if row["key"] is None]
        assert len(rests) == len({row["reason"] for row in rests}) <= 1, name
    return by_film


def damage(rows: Sequence[dict[str, Any]]) -> str | None:
    """Returns what the ledger says of the rest of a film, if it says that there is one."""
    return next((row["reason"] for row in rows if row["key"] is None), None)


def test_films_on_failing_storage_are_accounted_for_also_when_the_driver_is_killed(
    s3: Service, bucket: str, handocc: Callable[..., Any], tmp_path: Path
) -> None:
    names = ("whole.mp4", "overwritten.mp4", "overwritten.mkv", "sound.mp4")
    films = {
        name: data
        for name, data in copies(encode(tmp_path, PLAIN, frames=16), tmp_path).items()
        if name in names
    }
    command = ["annotate", *put_all(bucket, films), *TINY, "--boxes", "whole", "--side", "right"]
    command += ["--unit-rows", "4"]
    calm = handocc(*command, "--output", f"{bucket}/calm")
    assert calm.returncode == 1, calm.stderr
    ledger = check_account(f"{bucket}/calm", lambda _: True)
    assert {name for name in films if damage(ledger[name]) is None} == {"whole.mp4", "overwritten.mp4"}
    assert Counter(row["status"] for row in ledger["whole.mp4"]) == {"annotated": 16}
    assert {row["status"] for row in ledger["overwritten.mp4"]} == {"annotated", "rejected"}
    s3.faults.rates = RATES
    rough = [*command, "--output", f"{bucket}/rough"]
    assert kill_at(rough, f"{bucket}/rough", 3, watch=s3.committed) < committed(f"{bucket}/calm")
    done = handocc(*rough)
    assert done.returncode == 1, done.stderr
    assert s3.faults.injected.total() >= 10
    s3.faults.rates = {}
    assert parts(f"{bucket}/rough") == parts(f"{bucket}/calm") != {}


@pytest.mark.slow
def test_tracks_and_pseudo_labels_on_failing_storage_are_those_of_a_calm_run_also_after_kills(
    s3: Service, bucket: str, handocc: Callable[..., Any], tmp_path: Path
) -> None:
    film = encode(tmp_path, PLAIN, frames=16).read_bytes()
    films = put_all(bucket, {f"{name}.mp4": film for name in ("one", "two", "three")})[:1]
    command = ["annotate", *films, *TINY, "--boxes", "whole", "--side", "right"]
    made = []
    for name in ("calm", "rough"):
        output, labels = f"{bucket}/{name}", f"{bucket}/{name}-labels"
        s3.faults.rates = {}
        assert handocc(*command, "--output", output).returncode == 0
        track = ["track", output]
        label = ["pseudo-label", "--predictions", output, "--output", labels, "--min-confidence", "0"]
        label += ["--still-mm", "0", "--equal-bits", "-1", "--per-shard", "8"]
        if name == "rough":
            s3.faults.rates = RATES
            assert kill_at(track, output, 1, folder="tracks", watch=s3.committed) > 0
            assert kill_at(label, labels, 1, folder="accounts", watch=s3.committed) > 0
        for each in (track, label):
            done = handocc(*each)
            assert done.returncode == 0, done.stderr
        made.append(parts(output, ["tracks"]) | parts(labels, [""]))
    s3.faults.rates = {}
    calm, rough = made
    shards = [name for name in calm if name.endswith(".tar")]
    assert (len(shards), sum(name.startswith("tracks/") for name in calm)) == (6, 3)
    written = re.compile(r"tracks/.*|accounts/.*|.*\.tar|manifest\.parquet")
    assert {name for name in rough if written.fullmatch(name)} == {n for n in calm if written.fullmatch(n)}
    assert all(rough[name] == calm[name] for name in calm if written.fullmatch(name))


@pytest.mark.slow
def test_hands_found_in_damaged_films_are_those_of_the_whole_one_also_after_three_kills(
    s3: Service, bucket: str, handocc: Callable[..., Any], shared: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mediapipe")
    if not Path(default_model()).is_file():
        pytest.skip("no detector's model file: `handocc fetch-detector`")
    films = copies(shared / "real" / "videos" / "asl_hand_25fps.mp4", tmp_path)
    command = ["annotate", *put_all(bucket, films), *TINY, "--boxes", "detect", "--every", str(EVERY)]
    command += ["--unit-rows", "4", "--meshes", "tar"]
    calm = handocc(*command, "--output", f"{bucket}/calm", timeout=900)
    assert calm.returncode == 1, calm.stderr
    ledger = check_account(f"{bucket}/calm", lambda number: number % EVERY == 0)
    assert {name for name in films if damage(ledger[name]) is None} == {"whole.mp4", "overwritten.mp4"}
    check_hands(f"{bucket}/calm", ledger)
    units = committed(f"{bucket}/calm")
    s3.faults.rates = RATES
    rough = [*command, "--output", f"{bucket}/rough"]
    rng = random.Random(3)
    counts = [rng.randint(1, units - 3) for _ in range(3)]
    left = [units - kill_at(rough, f"{bucket}/rough", count, watch=s3.committed) for count in counts]
    assert min(left) > 0
    done = handocc(*rough, timeout=900)
    assert done.returncode == 1, done.stderr
    s3.faults.rates = {}
    assert parts(f"{bucket}/rough") == parts(f"{bucket}/calm") != {}


def check_hands(output: str, ledger: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Holds the hands of each copy of the real film against those of the same moments of the whole one.

    The film shows one right hand in every frame. A frame that damage has touched is rejected, and no hand in it.
    """
    hands = table(output, "annotations")
    whole = {round(row["timestamp"], 2): row for row in hands if row["source"] == "whole.mp4"}
    assert {row["side"] for row in whole.values()} == {"right"}
    assert len(whole) == len(ledger["whole.mp4"]) == len(range(0, 325, EVERY))
    counted = Counter(row["source"] for row in hands)
    for name, share in (("cut-early.mp4", 0.15), ("cut-late.mp4", 0.8), ("cut-cluster.mkv", 0.5)):
        assert counted[name] >= share * len(whole), name
    rejected = [row for row in ledger["overwritten.mp4"] if row["status"] == "rejected"]
    # From the hit, in frame 143, up to the next key frame, 205.
    assert [row["frame_index"] for row in rejected] == [n for n in range(143, 205) if n % EVERY == 0]
    # A container may begin its clock elsewhere.
    begin = {
        name: min((row["timestamp"] for row in rows if row["key"]), default=0.0)
        for name, rows in ledger.items()
    }
    pairs = [(row, whole.get(round(row["timestamp"] - begin[row["source"]], 2))) for row in hands]
    known = [(row, other) for row, other in pairs if other is not None]
    # Behind a gap in a Matroska file, frames have other numbers, and other ones are taken.
    assert {row["source"] for row, other in pairs if other is None} <= {"overwritten.mkv"}
    assert len(known) >= 0.9 * len(hands)
    for row, other in known:
        assert (row["bbox"], row["side"], row["bbox_score"]) == (
            other["bbox"],
            other["side"],
            other["bbox_score"],
        )
        for name in ("joints", "joints_2d", "global_orient", "hand_pose", "betas"):
            one, two = np.array(row[name]), np.array(other[name])
            assert np.abs(one - two).max() <= 1e-4 * max(np.abs(two).max(), 1), (row["source"], name)
