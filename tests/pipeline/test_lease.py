import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import lease
from pipeline.errors import ConfigError


def write(folder: Path, **changes: object) -> None:
    folder.mkdir(parents=True)
    holder = {"host": "elsewhere", "boot": "b", "pid": 1, "started": "1", "expires": time.time() + 60}
    (folder / "000007.json").write_text(json.dumps(holder | {"released": False} | changes))


def test_a_second_driver_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    with (
        lease.hold(str(tmp_path)),
        pytest.raises(ConfigError, match="is writing there"),
        lease.hold(str(tmp_path)),
    ):
        pass
    with lease.hold(str(tmp_path)):
        pass


def test_a_driver_on_another_machine_is_waited_for_until_its_lease_runs_out(tmp_path: Path) -> None:
    write(tmp_path / "a" / "lease")
    with pytest.raises(ConfigError, match="on elsewhere"), lease.hold(str(tmp_path / "a")):
        pass
    write(tmp_path / "b" / "lease", expires=time.time() - 1)
    with lease.hold(str(tmp_path / "b")):
        assert [path.name for path in (tmp_path / "b" / "lease").iterdir()] == ["000008.json"]


def test_a_dead_driver_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pipeline import lease\n"
        f"with lease.hold({str(tmp_path)!r}): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(lease.__file__).parents[1], check=False)
    assert killed.returncode == -9
    with lease.hold(str(tmp_path)):
        pass


def test_of_several_that_find_an_expired_lease_one_wins(tmp_path: Path) -> None:
    write(tmp_path / "lease", expires=time.time() - 1)
    code = (
        "import sys, time; from pipeline import lease; from pipeline.errors import ConfigError\n"
        "try:\n"
        f"    with lease.hold({str(tmp_path)!r}): print('won', flush=True); time.sleep(3)\n"
        "except ConfigError: print('lost')"
    )
    start = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        for _ in range(4)
    ]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in start)
    assert said == ["lost", "lost", "lost", "won"]


def test_a_driver_that_lost_its_lease_while_it_was_held_up_is_interrupted(tmp_path: Path) -> None:
    code = (
        "import signal, time; from pathlib import Path; from pipeline import lease\n"
        "from pipeline.errors import Interrupted\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"folder = Path({str(tmp_path)!r}) / 'lease'\n"
        "try:\n"
        f"    with lease.hold({str(tmp_path)!r}, lifetime_s=0.4):\n"
        "        (folder / '000002.json').write_text('{}')\n"
        "        time.sleep(20)\n"
        "except Interrupted as error:\n"
        "    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path.cwd(), capture_output=True, text=True, timeout=15, check=False
    )
    assert "another driver has taken it over" in done.stdout
    assert not json.loads((tmp_path / "lease" / "000001.json").read_text())["released"]


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    with lease.hold(str(tmp_path), lifetime_s=0.4):
        time.sleep(1.0)
        with pytest.raises(ConfigError), lease.hold(str(tmp_path)):
            pass
