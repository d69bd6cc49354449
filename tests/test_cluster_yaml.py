"""cluster.yaml holds: Ray accepts it, and what Ray would not notice is checked here."""

import copy
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

# Of Ray's schema, those that AWS knows.
PROVIDER_KEYS = {
    "type",
    "region",
    "availability_zone",
    "cache_stopped_nodes",
    "use_internal_ips",
    "security_group",
}
NODE_KEYS = {
    "InstanceType",
    "ImageId",
    "IamInstanceProfile",
    "BlockDeviceMappings",
    "InstanceMarketOptions",
    "KeyName",
    "SubnetIds",
    "SecurityGroupIds",
    "TagSpecifications",
}


def faults(config: dict[str, Any]) -> list[str]:
    """What is wrong with a cluster file although Ray validates it."""
    found = [f"provider.{key} is no key" for key in set(config["provider"]) - PROVIDER_KEYS]
    types: dict[str, Any] = config["available_node_types"]
    head = config.get("head_node_type")
    if head not in types:
        return [*found, "head_node_type names no node type"]
    if types[head]["resources"].get("CPU") != 0:
        found.append("tasks would land on the head")
    workers = {name: kind for name, kind in types.items() if name != head}
    for name, kind in types.items():
        node = kind["node_config"]
        found += [f"{name}: {key} is no key of an instance" for key in set(node) - NODE_KEYS]
        found += [f"{name} lacks {key}" for key in ("InstanceType", "ImageId") if key not in node]
        if not {"Name", "Arn"} & set(node.get("IamInstanceProfile", {})):
            found.append(f"{name} has no role to reach the storage with")
    for name, kind in workers.items():
        if kind.get("max_workers", 0) < 1 or kind.get("min_workers", 0) > kind["max_workers"]:
            found.append(f"{name} can never start")
    models = [kind for kind in workers.values() if kind["resources"].get("GPU")]
    if not models or len(models) == len(workers):
        found.append("there must be workers with GPUs and workers without")
    for kind in models:
        if kind["resources"]["CPU"] != 0:
            found.append("tasks would land on GPU workers")
        if kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") != "spot":
            found.append("GPU workers are not spot instances")
        if kind["min_workers"] != 0:
            found.append("GPU workers never go")
    return found


@pytest.fixture
def config(repository: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((repository / "cluster.yaml").read_text())
    return loaded


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))
    assert faults(config) == []


@pytest.mark.parametrize(
    ("breakage", "fault"),
    [
        (lambda c: c.pop("head_node_type"), "names no node type"),
        (lambda c: c.update(head_node_type="haed"), "names no node type"),
        (
            lambda c: c["provider"].update(availability_zones="us-west-2a"),
            "provider.availability_zones is no key",
        ),
        (lambda c: c["available_node_types"]["head"].update(resources={"CPU": 4}), "would land on the head"),
        (lambda c: c["available_node_types"]["infer"].update(resources={"CPU": 4}), "with GPUs"),
        (lambda c: c["available_node_types"]["infer"]["resources"].update(CPU=8), "on GPU workers"),
        (
            lambda c: c["available_node_types"]["infer"]["node_config"].update(InstanceMarketOptions={}),
            "not spot",
        ),
        (lambda c: c["available_node_types"]["infer"]["node_config"].update(Spot=True), "Spot is no key"),
        (lambda c: c["available_node_types"]["decode"]["node_config"].pop("IamInstanceProfile"), "no role"),
        (lambda c: c["available_node_types"]["decode"].update(max_workers=0), "never start"),
    ],
)
def test_what_ray_does_not_notice_is_noticed_here(config: dict[str, Any], breakage: Any, fault: str) -> None:
    config = copy.deepcopy(config)
    breakage(config)
    assert any(fault in found for found in faults(config)), faults(config)


def test_nodes_run_the_tested_versions(config: dict[str, Any], repository: Path, tmp_path: Path) -> None:
    constraints = (repository / "constraints.txt").read_text()
    ray_version = re.search(r"^ray==(.+)$", constraints, re.M)
    assert ray_version is not None
    images = re.findall(r"rayproject/ray:\S+", (repository / "cluster.yaml").read_text())
    assert len(images) == 2
    for image in images:
        assert image.startswith(f"rayproject/ray:{ray_version.group(1)}-py311-")
    home = tmp_path / "home"
    for target, source in config["file_mounts"].items():
        copied = home / Path(target).relative_to("/home/ray")
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text((repository / source).read_text())
    collect, install, *_ = (command.replace("/home/ray", str(home)) for command in config["setup_commands"])
    subprocess.run(["bash", "-ec", collect.replace("python", sys.executable, 1)], check=True)
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["detect"]]
    assert (home / "requirements.txt").read_text().splitlines() == wanted
    assert "--constraint handocc/constraints.txt --requirement requirements.txt" in install
