from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import planning
from pipeline import compact
from pipeline.errors import ConfigError
from pipeline.inputs import expand, expand_braces, find_inputs
from pipeline.tracking import stage as tracking


def test_braces_and_lists_are_expanded_in_order(tmp_path: Path) -> None:
    assert list(expand_braces("s-{08..11}.tar")) == ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
    assert list(expand_braces("{a,b}/{1..2}")) == ["a/1", "a/2", "b/1", "b/2"]
    listed = tmp_path / "list.txt"
    listed.write_text("# shards\n/x/a.tar\n\n/x/{0..1}.tar\n/x/a.tar\n")
    assert list(expand([f"@{listed}"])) == ["file:///x/a.tar", "file:///x/0.tar", "file:///x/1.tar"]


def test_a_folder_gives_its_images_together_and_its_shards_one_by_one(tmp_path: Path) -> None:
    for name in ("a.jpg", "deep/b.PNG", "c.tar", "d.parquet", "notes.txt", ".hidden.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    inputs, passed_over = find_inputs([str(tmp_path)])
    assert [(item.source, len(item.files)) for item in inputs] == [
        ("images", 2),
        ("webdataset", 1),
        ("parquet", 1),
    ]
    assert [uri.rsplit("/", 1)[-1] for uri in passed_over] == ["notes.txt"]


@pytest.mark.parametrize(
    ("argument", "says"),
    [("nowhere", "no such file or folder"), ("*.nothing", "nothing matches"), ("a.xyz", "no source reads")],
)
def test_an_argument_that_names_nothing_is_an_error(tmp_path: Path, argument: str, says: str) -> None:
    (tmp_path / "a.xyz").write_bytes(b"")
    with pytest.raises(ConfigError, match=says):
        find_inputs([f"{tmp_path}/{argument}"])


def test_what_the_job_wrote_itself_is_no_input(tmp_path: Path) -> None:
    written = [f"{folder}/x.parquet" for folder in (*compact.FOLDERS, compact.STAGING, tracking.FOLDER)]
    written += [planning.UNFINISHED, tracking.SUMMARY, "meshes/x.tar", "report/hands/0.png"]
    for name in ("a.jpg", "images/b.jpg", *written):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path.parent / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path.parent / "link"):
        (images,), passed_over = find_inputs([str(folder)], output=str(tmp_path))
        assert passed_over == []
        names = [uri.rsplit("/", 1)[-1] for uri in (file.uri for file in images.files)]
        assert names == ["a.jpg", "b.jpg"]
        with pytest.raises(ConfigError, match="written by this very job"):
            find_inputs([f"{folder}/meshes/x.tar"], output=str(tmp_path))


def test_a_table_without_images_that_lies_beside_shards_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "00000.tar").write_bytes(b"")
    (folder / "damaged.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"url": ["u"]}), folder / "00000.parquet")
    pq.write_table(pa.table({"image": [b""]}), folder / "photos.parquet")
    for argument in (str(folder), f"{folder}/*"):
        inputs, passed_over = find_inputs([argument], look_into_tables=True)
        assert [item.name for item in inputs] == ["00000.tar", "damaged.parquet", "photos.parquet"]
        assert [Path(uri).name for uri in passed_over] == ["00000.parquet"]
    # What is named by itself, or is all there is, is a mistake that planning tells of.
    inputs, passed_over = find_inputs(
        [str(folder / name) for name in ("00000.tar", "00000.parquet")], look_into_tables=True
    )
    assert (len(inputs), passed_over) == (2, [])
    assert len(find_inputs([f"{folder}/0*.parquet"], look_into_tables=True)[0]) == 1


def test_names_with_odd_characters_keep_their_files_apart(tmp_path: Path) -> None:
    names = ["50% off.jpg", "a#b.jpg", "a?b.jpg", "ü~.jpg", "50%25 off.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    inputs, _ = find_inputs([str(tmp_path)])
    from pipeline import storage

    found = {storage.key_below(inputs[0].uri, file.uri): storage.read(file.uri) for file in inputs[0].files}
    assert found == {name: name.encode() for name in names}
    assert all(storage.read(storage.below(inputs[0].uri, name)) == name.encode() for name in names)


def test_what_several_arguments_name_is_taken_once_and_said(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg", "sub/c.tar", "sub/deep/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    said: list[str] = []
    once, _ = find_inputs([str(tmp_path)], note=said.append)
    assert said == []
    for more in (["sub"], ["sub/c.tar"], ["a.jpg", "sub/b.jpg"], ["sub/*", "sub/deep"]):
        arguments = [str(tmp_path), *(f"{tmp_path}/{name}" for name in more)]
        assert find_inputs(arguments, note=said.append)[0] == once
        assert "lie in more than one of the inputs" in said.pop()
    inputs, _ = find_inputs([f"{tmp_path}/**"])
    files = [file.uri for item in inputs for file in item.files]
    assert len(files) == len(set(files)) == 4
    assert find_inputs([f"{tmp_path}/a.jpg"] * 2, note=said.append)[0][0].files == once[0].files[:1]
    assert said == []
