"""Storage that refuses (rights, places, credentials, room): one line, at once, which says what and where."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import ConfigError, StorageError
from pipeline.inputs import find_inputs
from tests.s3_faults import Service


@pytest.mark.parametrize(
    ("status", "code", "headers", "said"),
    [
        (403, "AccessDenied", {}, "permission denied"),
        (400, "ExpiredToken", {}, "credentials have expired"),
        (403, "InvalidAccessKeyId", {}, "access key is not known"),
        (403, "SignatureDoesNotMatch", {}, "secret key does not fit"),
        (301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}, "set AWS_REGION=eu-west-1"),
        (403, "RequestTimeTooSkewed", {}, "clock is wrong"),
        (400, "SomethingOfAnotherService", {}, "SomethingOfAnotherService: as the test has it"),
    ],
)
def test_a_place_that_refuses_is_said_at_once_in_one_line(
    s3: Service, status: int, code: str, headers: dict[str, str], said: str
) -> None:
    s3.faults.refusal = (status, code, headers)
    for request in (
        lambda: storage.stat(f"{s3.bucket}/x.tar"),
        lambda: list(storage.list_files(f"{s3.bucket}/x")),
        lambda: storage.require_writable(f"{s3.bucket}/out"),
        lambda: find_inputs([f"{s3.bucket}/*.tar"]),
    ):
        s3.faults.requests.clear()
        with pytest.raises(ConfigError, match=said) as caught:
            request()
        assert s3.bucket in str(caught.value)
        assert "\n" not in str(caught.value)
        assert s3.faults.requests.total() <= 4


def test_a_missing_bucket_is_named(s3: Service) -> None:
    for request in (
        lambda: find_inputs(["s3://not-there/x"]),
        lambda: find_inputs(["s3://not-there/*.tar"]),
        lambda: storage.require_writable("s3://not-there/out"),
        lambda: storage.read("s3://not-there/weights"),
    ):
        with pytest.raises(ConfigError, match="s3://not-there: there is no such bucket"):
            request()


def test_missing_credentials_and_an_unknown_profile_are_said(
    s3: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match="there are no AWS credentials; set AWS_PROFILE"):
        storage.stat(f"{s3.bucket}/x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match="nobody"):
        storage.stat(f"{s3.bucket}/x")


def test_an_endpoint_that_is_no_url_is_said(s3: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(ConfigError, match=r"Invalid endpoint: not a url.*AWS_ENDPOINT_URL"):
        storage.read(f"{s3.bucket}/x")


def test_settings_come_from_where_the_aws_tools_take_them(
    s3: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = LABKEY\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    storage.put(f"{s3.bucket}/x", b"x")
    for request in (lambda: storage.read(f"{s3.bucket}/x"), lambda: list(storage.list_files(s3.bucket))):
        request()
        headers = {name.lower(): value for name, value in s3.faults.headers.items()}
        assert "LABKEY/" in headers["authorization"]
        assert "/eu-central-1/s3/" in headers["authorization"]
        assert headers["x-amz-request-payer"] == "requester"
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")
    with pytest.raises(PermissionError, match=f"{s3.bucket}/x: permission denied"):
        storage.read(f"{s3.bucket}/x")
    assert "authorization" not in {name.lower() for name in s3.faults.headers}


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, repository: Path) -> None:
    code = (
        "import resource; from pipeline import storage\n"
        "from pipeline.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"try: storage.put({str(tmp_path / 'x')!r}, bytes(5000))\n"
        "except StorageError as error: print(error)"
    )
    child = [sys.executable, "-c", code]
    said = subprocess.run(child, cwd=repository, capture_output=True, text=True, check=True).stdout
    assert said == f"file://{tmp_path}/x: the limit on file sizes is reached, 5000 bytes cannot be written\n"
    assert list(tmp_path.iterdir()) == []
