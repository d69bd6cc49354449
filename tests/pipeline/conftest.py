"""What the tests of films share."""

from pathlib import Path

import pytest

from tests.films import RECIPES, encode


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of each kind of container and codec."""
    folder = tmp_path_factory.mktemp("films")
    for recipe in RECIPES:
        encode(folder, recipe)
    return folder
