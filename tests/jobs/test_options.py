from pathlib import Path

import pytest

from jobs.annotate import Options
from jobs.cli import main
from jobs.options import parse
from pipeline.errors import ConfigError


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(
        "inputs: [a, b]\noutput: out\nbox-scale: 2\nvertices: true\nlimit: 7\nmeshes: tar\nactors: '1:4'\n"
    )
    options = parse(Options, "annotate", ["--config", str(config), "--limit", "3", "--output", "elsewhere"])
    assert options == Options(
        inputs=("a", "b"),
        output="elsewhere",
        box_scale=2.0,
        vertices=True,
        limit=3,
        meshes="tar",
        actors="1:4",
    )


def test_the_command_line_takes_back_a_switch_of_the_file(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("inputs: [a]\noutput: out\noverwrite: true\ntta: true\n")
    options = parse(Options, "annotate", ["--config", str(config), "--no-overwrite"])
    assert (options.overwrite, options.tta, options.vertices) == (False, True, False)


def test_everything_wrong_in_the_file_is_said_at_once(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("colour: red\nbatchsize: 3\nlimit: many\nmeshes: obj\nvertices: 1\ninputs: a\n")
    with pytest.raises(ConfigError) as caught:
        parse(Options, "annotate", ["--config", str(config)])
    for wrong in (
        "batchsize",
        "colour",
        "limit must be",
        "meshes must be",
        "vertices must be",
        "inputs must be",
    ):
        assert wrong in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "needs INPUTS, --output"),
        (["PHOTOS", "--output", "OUT", "--weight", "x"], "unrecognized arguments: --weight"),
        (["PHOTOS", "--output", "OUT"], "needs --weights"),
        (["PHOTOS", "--output", "OUT", "--weights", "random:0"], "needs --model"),
        (["PHOTOS", "--output", "OUT", "--weights", "random:x", "--model", "tiny"], "whole number"),
        (["PHOTOS", "--output", "OUT", "--weights", "nowhere.pt"], "no such file"),
        (["PHOTOS", "--output", "OUT", "--weights", "PHOTOS/a.jpg"], "--weights"),
        (["PHOTOS", "--output", "OUT", "--weights", "random:0", "--model", "huge"], "no model 'huge'"),
        (
            ["PHOTOS", "--output", "OUT", *"--weights random:0 --model tiny".split()],
            "carries no boxes; --boxes",
        ),
        (["PHOTOS", "--output", "OUT", *"--weights random:0 --model tiny --boxes whole".split()], "--side"),
        (["PHOTOS", "--output", "OUT", *"--weights random:0 --model tiny --boxes x.csv".split()], "x.csv"),
        (
            ["PHOTOS", "--output", "OUT", *"--weights random:0 --model tiny --mano nowhere.pkl".split()],
            "no such file",
        ),
        (
            ["PHOTOS", "--output", "OUT", *"--weights random:0 --model tiny --mano checkpoint".split()],
            "carry no MANO",
        ),
        (
            ["PHOTOS", "--output", "OUT", *"--weights random:0 --model tiny --unit-rows 0".split()],
            "at least 1",
        ),
        (
            ["PHOTOS", "--output", "OUT", *"--weights random:0 --model tiny --actors 3:1".split()],
            "MAX not under MIN",
        ),
        (
            ["nowhere", "--output", "OUT", *"--weights random:0 --model tiny".split()],
            "no such file or folder",
        ),
        (["EMPTY", "--output", "OUT", *"--weights random:0 --model tiny".split()], "nothing to read"),
        (
            ["PHOTOS", "--output", "PHOTOS/a.jpg/x", *"--weights random:0 --model tiny".split()],
            "cannot write",
        ),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"not an image")
    places = {"PHOTOS": tmp_path / "photos", "EMPTY": tmp_path / "empty", "OUT": tmp_path / "out"}
    for name, path in places.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    assert main(["annotate", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1
    assert says in lines[0]
    assert not (tmp_path / "out" / "annotations").exists()


def test_an_unknown_command_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anotate"]) == 2
    assert "annotate, train, " in capsys.readouterr().err


def test_help_says_what_must_be_given_and_what_else_holds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "what prepare or synthesize wrote (must be given)" in said
    assert "dealing them to folds (default: 0)" in said
    assert "default: None" not in said
    assert "default: False" not in said
