import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.fetch_detector import IN_WHEEL, Options, assemble, from_url, run
from pipeline.boxes.detect import MODELS_INSIDE
from pipeline.errors import ConfigError

CONTENT = b"a model" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/none":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 100 if self.path == "/cut" else None])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def wheel(folder: Path, **models: bytes) -> tuple[Path, dict[str, tuple[str, str]]]:
    """A wheel with models in the places of the real one, and what is expected of them."""
    path = folder / "mediapipe-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in models.items():
            packed.writestr(IN_WHEEL[f"{name}.tflite"][0], data)
    return path, {
        name: (IN_WHEEL[name][0], hashlib.sha256(name.encode()).hexdigest()) for name in MODELS_INSIDE
    }


def test_a_task_file_is_assembled_uncompressed_and_always_the_same(tmp_path: Path) -> None:
    path, expected = wheel(
        tmp_path,
        hand_detector=b"hand_detector.tflite",
        hand_landmarks_detector=b"hand_landmarks_detector.tflite",
    )
    task = assemble(path, expected)
    assert assemble(path, expected) == task
    (tmp_path / "m.task").write_bytes(task)
    with zipfile.ZipFile(tmp_path / "m.task") as packed:
        assert tuple(packed.namelist()) == MODELS_INSIDE
        assert {entry.compress_type for entry in packed.infolist()} == {zipfile.ZIP_STORED}
        assert packed.read("hand_detector.tflite") == b"hand_detector.tflite"


def test_a_model_with_another_checksum_is_refused(tmp_path: Path) -> None:
    path, expected = wheel(
        tmp_path, hand_detector=b"hand_detector.tflite", hand_landmarks_detector=b"another one"
    )
    with pytest.raises(ConfigError, match=r"hand_landmark_full\.tflite: its sha256 is"):
        assemble(path, expected)


def test_a_wheel_without_models_is_refused(tmp_path: Path) -> None:
    path, expected = wheel(tmp_path, hand_detector=b"hand_detector.tflite")
    with pytest.raises(ConfigError, match="holds no mediapipe/modules/hand_landmark"):
        assemble(path, expected)


def test_a_download_is_checked(server: str) -> None:
    assert from_url(f"{server}/model", SHA256) == CONTENT
    with pytest.raises(ConfigError, match="its sha256 is"):
        from_url(f"{server}/model", "0" * 64)


@pytest.mark.parametrize(
    ("path", "says"), [("/none", "answers 404"), ("/cut", "breaks off"), (":1/", "refused")]
)
def test_a_download_that_fails_is_an_os_error(server: str, path: str, says: str) -> None:
    address = server.rsplit(":", 1)[0] + path if path.startswith(":") else server + path
    with pytest.raises(OSError, match=says):
        from_url(address, SHA256)


@pytest.mark.slow
def test_the_package_brings_the_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Needs a package index; the checksums are those in the code."""
    try:
        assert run(Options(to=str(tmp_path / "m.task"), source="package")) == 0
    except ConfigError as error:
        pytest.skip(str(error))
    assert hashlib.sha256((tmp_path / "m.task").read_bytes()).hexdigest() in capsys.readouterr().out
    assert zipfile.ZipFile(tmp_path / "m.task").testzip() is None
