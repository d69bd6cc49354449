import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.cli import main
from tests.s3_jobs import kill_at, parts

pytestmark = pytest.mark.ray


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                found[member.name] = hashlib.sha256(stream.read()).hexdigest()
    return found


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pictures_in_any_shards(
    tmp_path: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    one = handocc_on_one_ray(
        "synthesize", "--output", tmp_path / "a", "--count", 9, "--seed", 5, "--per-shard", 4, "--size", 128
    )
    assert one.returncode == 0, one.stderr
    other = handocc_on_one_ray(
        "synthesize", "--output", tmp_path / "b", "--count", 9, "--seed", 5, "--size", 128
    )
    assert other.returncode == 0, other.stderr
    assert len(list((tmp_path / "a").glob("*.tar"))) == 3
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    (tmp_path / "a" / "synthetic-5-00000004-00000008.tar").unlink()
    same = "--count 9 --seed 5 --per-shard 4 --size 128 --overwrite".split()
    again = handocc_on_one_ray("synthesize", "--output", tmp_path / "a", *same)
    assert "4 pictures" in again.stderr, "the same job is continued, also when it may overwrite another"
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    refused = handocc_on_one_ray(
        "synthesize", "--output", tmp_path / "a", "--count", 9, "--seed", 6, "--per-shard", 4
    )
    assert refused.returncode == 2
    assert "seed was 5 and is 6" in refused.stderr


@pytest.mark.slow
def test_films_whose_making_was_killed_become_those_of_a_calm_run(
    tmp_path: Path, handocc: Callable[..., Any]
) -> None:
    command = ["synthesize", "--films", "4", "--frames", "40", "--size", "96", "--seed", "3", "--output"]
    calm, killed = (str(tmp_path / name) for name in ("calm", "killed"))
    assert handocc(*command, calm).returncode == 0
    assert 0 < kill_at([*command, killed], killed, 1, folder="truth") < 4
    done = handocc(*command, killed)
    assert done.returncode == 0, done.stderr
    made, wanted = (parts(output, ["films", "truth"]) for output in (killed, calm))
    assert made == wanted
    assert len(wanted) == 4 + 4
    assert (tmp_path / "killed" / "boxes.parquet").read_bytes() == (
        tmp_path / "calm" / "boxes.parquet"
    ).read_bytes()


def test_overwriting_removes_what_another_job_made_and_goes_on_when_it_is_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], handocc_here: Callable[..., Any]
) -> None:
    own = [f"synthetic-0-{number:08d}-{number + 1:08d}.tar" for number in range(3)]
    own += ["films/film-7-000000.mp4", "truth/film-7-000000.parquet", "boxes.parquet"]
    others = [
        "film-noir.mp4",
        "synthetic-notes.tar",
        "deep/synthetic-0-00000000-00000001.tar",
        "films/film-a.mp4",
    ]
    for name in (*own, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def left() -> set[str]:
        found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        return {name for name in found if not name.startswith("lease/")} - {"job.json", *others}

    command = ["synthesize", "--output", str(tmp_path), "--per-shard", "1", "--size", "64", "--count"]
    # All is there: no cluster is started.
    assert main([*command, "3"]) == 0
    assert left() == set(own)
    assert main([*command, "2"]) == 2, "the third would stay beside the two"
    assert "an earlier command made it for another --count" in capsys.readouterr().err
    assert left() == set(own)
    assert main([*command, "2", "--overwrite"]) == 0
    assert left() == set(own[:2])
    assert "0 pictures" in capsys.readouterr().err
    anew = handocc_here(*command, "1", "--occlusion", "0", "--overwrite")
    assert "1 pictures" in anew.stderr
    assert left() == {own[0]}
    assert (tmp_path / own[0]).stat().st_size
    assert all((tmp_path / name).exists() for name in others)


def test_a_shard_holds_what_the_contract_names(shards: Path) -> None:
    with tarfile.open(sorted(shards.glob("*.tar"))[0]) as archive:
        names = archive.getnames()
        label = json.loads(archive.extractfile("00000000.json").read())  # type: ignore[union-attr]
        image = Image.open(io.BytesIO(archive.extractfile("00000000.jpg").read()))  # type: ignore[union-attr]
    assert names[:4] == ["00000000.jpg", "00000000.json", "00000001.jpg", "00000001.json"]
    assert image.size == (160, 160)
    assert {
        "camera",
        "split",
        "dataset",
        "index",
        "hand_model",
        "fingertip_vertices",
        "hands",
    } == label.keys()
    hand = label["hands"][0]
    assert {"bbox", "side", "joints_3d", "joints_2d", "root_3d", "mano", "visible", "vertices"} == hand.keys()
    assert set(hand["mano"]) == {"global_orient", "hand_pose", "betas", "translation"}
    assert len(hand["visible"]) == 21
