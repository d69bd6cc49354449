"""Training on a cluster that loses a node."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from tests.training_runs import checkpointed, curve, ended, parent, start, training_workers, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.nodes, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head on which nothing runs but the driver, and two nodes."""
    # Sockets lie in it, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        started = Cluster()
        started.add_node(num_cpus=0, temp_dir=folder, include_dashboard=False)
        for _ in range(2):
            started.add_node(num_cpus=1)
        yield started
        started.shutdown()


def test_a_lost_node_costs_no_step_and_fewer_workers_go_on(
    tmp_path: Path, shards: Path, cluster: Cluster
) -> None:
    alone, output = str(tmp_path / "alone"), str(tmp_path / "out")
    undisturbed = start(str(shards), alone, "--log-steps", "1")
    options = ("--log-steps", "1", "--workers", "1:2", "--address", cluster.gcs_address)
    process = start(str(shards), output, *options)
    wait_for(lambda: checkpointed(output), process)
    node_of = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    lost = node_of[parent(training_workers(os.getpid())[0])]
    cluster.remove_node(lost, allow_graceful=False)
    status, said = ended(process)
    assert status == 0, said
    assert ended(undisturbed)[0] == 0
    # In the beginning another order of summing is all that differs; see the test of two workers.
    np.testing.assert_allclose(curve(output)[:2], curve(alone)[:2], rtol=5e-4)
    np.testing.assert_allclose(curve(output), curve(alone), rtol=5e-2)
