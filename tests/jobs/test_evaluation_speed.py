"""The comparison of evaluation with a plain loop: both must find the same."""

from pathlib import Path

import pytest

from jobs import evaluation_speed


@pytest.mark.ray
def test_the_command_the_batches_and_the_plain_loop_find_the_same_errors(tmp_path: Path) -> None:
    pairs = evaluation_speed.make_pairs()
    count = 2 * evaluation_speed.DIFFERENT
    shards, annotated = evaluation_speed.store(pairs, tmp_path, count)
    command = evaluation_speed.of_command(shards, annotated, tmp_path / "scores", None)
    batches, loop = evaluation_speed.of_batches(pairs, 1), evaluation_speed.of_loop(pairs, 1)
    assert (command.samples, batches.samples, loop.samples) == (count, 64, 64)
    assert len(loop.means) == 12
    assert 5 < loop.means["pa_mpjpe_mm"] < loop.means["mpjpe_mm"] < 100
    assert 0 < loop.means["pa_f5"] < 1
    for name, mean in loop.means.items():
        assert batches.means[name] == pytest.approx(mean, abs=1e-6), name
        # Labels are kept to a tenth of a micrometre.
        assert command.means[name] == pytest.approx(mean, abs=2e-4), name
