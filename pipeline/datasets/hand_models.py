"""The hand models that a benchmark's parameters refer to, and the shapes of left hands in terms of the right one."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from model.errors import ModelError
from model.mano.asset import HandModel, Side, load_mano, mend_left_shapedirs, mirrored
from model.mano.synthetic import synthetic_hand
from pipeline import storage
from pipeline.datasets.conventions import Floats
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class HandModels:
    """MANO of both sides as published; the left one is there where its file was.

    `name` is what labels call `hand_model`: our left hand is the mirrored right one, so both sides bear the right
    one's.
    """

    right: HandModel
    left: HandModel | None = None

    @property
    def name(self) -> str:
        return self.right.name

    def of(self, side: str) -> HandModel:
        """Returns the model in which a hand of this side was posed."""
        assert side == "right" or self.left is not None, "the left file is asked for when the job starts"
        return self.right if side == "right" or self.left is None else self.left

    def betas(self, side: str, betas: Floats) -> Floats:
        """Returns a hand's betas (10,) in terms of the right hand's model, or of its mirror image.

        The published left file has its shape directions wrong in x, and betas that were fitted with it describe
        another shape in the mirrored right model. They are fitted anew: the betas whose hand at rest, wrist on
        wrist, lies closest to the labelled one's (least squares over the 778 vertices).
        """
        if side == "right":
            return betas
        target = self._left_rest + self._left_directions @ betas - self._mirrored_rest
        return self._betas_of_rest @ target

    @cached_property
    def _left_rest(self) -> Floats:
        return _rest(self.of("left"))

    @cached_property
    def _left_directions(self) -> Floats:
        return _directions(self.of("left"))

    @cached_property
    def _mirrored_rest(self) -> Floats:
        return _rest(mirrored(self.right))

    @cached_property
    def _mirrored_directions(self) -> Floats:
        return _directions(mirrored(self.right))

    @cached_property
    def _betas_of_rest(self) -> Floats:
        return np.asarray(np.linalg.pinv(self._mirrored_directions), np.float64)


def load_hand_models(given: str) -> HandModels:
    """Reads --mano: a folder with MANO_RIGHT.pkl (and MANO_LEFT.pkl), one such file, or `synthetic`.

    Raises:
        ConfigError: there is no such file, or it is none of MANO's.
    """
    if given == "synthetic":
        return HandModels(synthetic_hand(), synthetic_hand("left"))
    if not storage.is_folder(given):
        right = _load(given, "right")
        if right is None:
            raise ConfigError(f"--mano {given}: no such file or folder")
        return HandModels(right)
    right = _load(storage.join(given, "MANO_RIGHT.pkl"), "right")
    if right is None:
        raise ConfigError(
            f"--mano {given}: there is no MANO_RIGHT.pkl; it and MANO_LEFT.pkl come from mano.is.tue.mpg.de"
        )
    left = _load(storage.join(given, "MANO_LEFT.pkl"), "left")
    if left is not None and np.array_equal(left.v_template, right.v_template):
        raise ConfigError(f"--mano {given}: MANO_LEFT.pkl holds the right hand")
    return HandModels(right, left)


def left_is_faulty(models: HandModels) -> bool:
    """Says whether the left file has the published sign fault of its shape directions."""
    left = models.of("left")
    return mend_left_shapedirs(left, models.right) is not left


def _load(uri: str, side: Side) -> HandModel | None:
    try:
        return load_mano(storage.read(uri), side)
    except FileNotFoundError:
        return None
    except ModelError as error:
        raise ConfigError(f"--mano {uri}: {error}") from error
    except OSError as error:
        raise ConfigError(f"--mano {uri}: cannot be read ({error})") from error


def _rest(model: HandModel) -> Floats:
    """(2334,) the hand of betas 0 at rest, its wrist at the origin."""
    template = model.v_template.astype(np.float64)
    rest: Floats = (template - model.J_regressor[0].astype(np.float64) @ template).ravel()
    return rest


def _directions(model: HandModel) -> Floats:
    """(2334, 10) how its vertices move with betas, its wrist at the origin."""
    directions = model.shapedirs.astype(np.float64)
    wrist = np.einsum("v,vak->ak", model.J_regressor[0].astype(np.float64), directions)
    moved: Floats = (directions - wrist).reshape(-1, 10)
    return moved
