"""Sampled films: which frames `--every` and `--fps` take."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.sources.sampling import Sampling
from pipeline.sources.source import Extent
from tests.films import FRAMES, identity, read


@pytest.mark.parametrize("name", ["plain.mp4", "open.mkv", "variable.mkv", "reordered.avi"])
@pytest.mark.parametrize(
    "sampling", [Sampling(every=1), Sampling(every=5), Sampling(every=14), Sampling(fps=3)]
)
def test_sampled_frames_keep_their_index_time_and_pixels(films: Path, name: str, sampling: Sampling) -> None:
    whole = {sample.frame_index: identity(sample) for sample in read(films / name, 1000)}
    by_units = [read(films / name, rows, sampling) for rows in (2, 7, 1000)]
    for samples in by_units:
        assert [identity(sample) for sample in samples] == [whole[sample.frame_index] for sample in samples]
        assert [sample.frame_index for sample in samples] == [sample.frame_index for sample in by_units[0]]
    if sampling.every is not None:
        assert [sample.frame_index for sample in by_units[0]] == list(range(0, FRAMES, sampling.every))


def test_a_rate_takes_the_first_frame_at_or_after_each_tick() -> None:
    def taken(times: Sequence[float], fps: float) -> list[str]:
        keys = [str(number) for number in range(len(times))]
        return list(Sampling(fps=fps).of(Extent(keys, timestamps=times)).keys)

    assert taken([number / 25 for number in range(11)], 5) == ["0", "5", "10"]
    assert taken([number / 30 for number in range(31)], 10) == [str(number) for number in range(0, 31, 3)]
    assert taken([2.0, 2.4, 2.6, 4.1, 4.2], 1) == ["0", "3"]
    assert taken([0.0, 0.1, 0.2], 100) == ["0", "1", "2"]
    assert taken([7.5], 1) == ["0"]


@pytest.mark.parametrize(
    "sampling",
    [Sampling(every=0), Sampling(fps=0), Sampling(fps=float("nan")), Sampling(fps=-1), Sampling(2, 2.0)],
)
def test_a_sampling_that_takes_nothing_or_two_things_is_refused(sampling: Sampling) -> None:
    with pytest.raises(ConfigError, match=r"--(every|fps)"):
        sampling.check()
