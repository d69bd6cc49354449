"""A hand model: the arrays of MANO, of a published checkpoint, or of the procedural hand, read safely."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError
from model.mano.joints import FINGERTIP_VERTICES
from model.mano.unpickle import read_mano_pickle

Side = Literal["right", "left"]

_MAX_BYTES = 256 * 2**20  # the real files have 4 MB


@dataclass(frozen=True)
class HandModel:
    """MANO's arrays for one hand; float32, metres, in MANO's own frame.

    `name` is what every output file calls `hand_model`: `synthetic-v<N>`, or the sha256 of the arrays.
    """

    name: str
    side: Side
    v_template: NDArray[np.float32]  # (778, 3)
    shapedirs: NDArray[np.float32]  # (778, 3, 10)
    posedirs: NDArray[np.float32]  # (778, 3, 135)
    J_regressor: NDArray[np.float32]  # (16, 778)
    weights: NDArray[np.float32]  # (778, 16), rows sum to 1
    faces: NDArray[np.int64]  # (1538, 3)
    hands_mean: NDArray[np.float32]  # (45,) axis-angle
    hands_components: NDArray[np.float32]  # (K, 45); K = 45, or 6 in a published checkpoint
    fingertip_vertices: tuple[int, int, int, int, int]  # thumb, index, middle, ring, little


# MANO's own keys and shapes (MANO v1.2); None: any number of rows.
_SHAPES: dict[str, tuple[int | None, ...]] = {
    "v_template": (778, 3),
    "shapedirs": (778, 3, 10),
    "posedirs": (778, 3, 135),
    "J_regressor": (16, 778),
    "weights": (778, 16),
    "f": (1538, 3),
    "hands_mean": (45,),
    "hands_components": (None, 45),
}

_MIRROR = np.array([-1, 1, 1], np.float32)


def hand_model_from_arrays(arrays: Mapping[str, NDArray[Any]], side: Side) -> HandModel:
    """Check MANO's arrays under MANO's own keys, and name them by their content.

    The name is the sha256 over the side and the arrays, each as little-endian float32 (faces int64) in C
    order, in the order of `_SHAPES`. `hands_components` is left out: a checkpoint has six rows of it, and
    still holds the same hand as the file with 45. The fingertips are manopth's right-hand set on both
    sides, since our left hand is the mirrored right one. Raises ModelError when an array is missing, has
    another shape, or holds values that no hand model has.
    """
    checked = {key: _checked(key, arrays) for key in _SHAPES}
    digest = hashlib.sha256(side.encode())
    for key, array in checked.items():
        if key != "hands_components":
            digest.update(array.astype("<i8" if key == "f" else "<f4").tobytes())
    return HandModel(
        name=digest.hexdigest(),
        side=side,
        faces=checked.pop("f"),
        fingertip_vertices=FINGERTIP_VERTICES["manopth"],
        **checked,
    )


def load_mano(data: bytes, side: Side) -> HandModel:
    """Read MANO_RIGHT.pkl or MANO_LEFT.pkl or an .npz with the same keys; nothing in it is executed.

    A left file is returned as it is: see `mend_left_shapedirs`. Raises ModelError for any other file.
    """
    if len(data) > _MAX_BYTES:
        raise ModelError(
            f"hand model: the file has {len(data)} bytes; MANO's have 4 MB, and 256 MiB is the bound"
        )
    is_npz = data[:4] == b"PK\x03\x04"
    return hand_model_from_arrays(_read_npz(data) if is_npz else read_mano_pickle(data, _SHAPES), side)


def mend_left_shapedirs(left: HandModel, right: HandModel | None = None) -> HandModel:
    """Undo the known fault of the published MANO_LEFT.pkl: its shapedirs have the right hand's sign in x.

    With the right hand's model, the fault is that both agree in x (the test of InterHand2.6M and others;
    github.com/vchoutas/smplx, issue 48). Without it, the shape directions themselves are asked: when a
    sound hand grows, it grows along every axis, and under the fault x shrinks while y and z grow. A model
    that answers neither way raises ModelError.
    """
    assert left.side == "left", left.side
    if right is not None:
        faulty = bool(np.abs(left.shapedirs[:, 0] - right.shapedirs[:, 0]).sum() < 1)
    else:
        agreement = _growth_agreement(left)
        if abs(agreement) < 0.5:
            raise ModelError(
                "hand model: whether this left hand's shapedirs have the published sign fault cannot be told "
                f"(growth agreement {agreement:.2f} of -1 to 1); give the right hand's file too"
            )
        faulty = agreement < 0
    return _renamed(replace(left, shapedirs=left.shapedirs * _MIRROR[:, None])) if faulty else left


def mirrored(hand_model: HandModel) -> HandModel:
    """The mirror image (x to -x), exactly: what MANO_LEFT would be if it were made from the right hand.

    With the same betas and with every axis-angle (x, y, z) turned into (x, -y, -z), its vertices and joints
    are the mirror image of the original's. Its name is the original's with `-mirrored` behind it, and twice
    mirrored is the original again: the parameters of both belong to the one model.
    """
    # A rotation R is M R M in the mirror, so its entry (a, b) takes the signs of axes a and b.
    posedirs = hand_model.posedirs.reshape(778, 3, 15, 3, 3)
    posedirs = posedirs * _MIRROR[:, None, None, None] * _MIRROR[:, None] * _MIRROR
    axis_angle_signs = np.tile(-_MIRROR, 15)
    suffix = "-mirrored"
    name = hand_model.name
    return replace(
        hand_model,
        name=name.removesuffix(suffix) if name.endswith(suffix) else name + suffix,
        side="left" if hand_model.side == "right" else "right",
        v_template=hand_model.v_template * _MIRROR,
        shapedirs=hand_model.shapedirs * _MIRROR[:, None],
        posedirs=posedirs.reshape(778, 3, 135),
        faces=hand_model.faces[:, [0, 2, 1]],
        hands_mean=hand_model.hands_mean * axis_angle_signs,
        hands_components=hand_model.hands_components * axis_angle_signs,
    )


def _checked(key: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if key not in arrays:
        raise ModelError(f"hand model: no array {key!r}; a MANO file holds {', '.join(_SHAPES)}")
    array = np.asarray(arrays[key])
    shape = _SHAPES[key]
    if array.ndim != len(shape) or any(
        want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
    ):
        wanted = str(shape).replace("None", "K")
        raise ModelError(
            f"hand model: {key} has shape {array.shape}, and MANO's is {wanted}; is this a MANO file?"
        )
    if key == "f":
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= 778:
            raise ModelError(f"hand model: f ({array.dtype}) must be vertex numbers from 0 to 777")
        return np.ascontiguousarray(array, dtype=np.int64)
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype=np.float32) if array.dtype.kind == "f" else None
    if single is None or not np.isfinite(single).all():
        raise ModelError(
            f"hand model: {key} ({array.dtype}) must be finite real numbers; fetch the file again"
        )
    if key == "weights" and not np.allclose(single.sum(axis=1, dtype=np.float64), 1, atol=1e-3):
        raise ModelError("hand model: the rows of weights must sum to 1, as skinning weights do")
    return single


def _renamed(hand_model: HandModel) -> HandModel:
    """The same model under the name that its present arrays have."""
    arrays = {key: getattr(hand_model, "faces" if key == "f" else key) for key in _SHAPES}
    return hand_model_from_arrays(arrays, hand_model.side)


def _growth_agreement(hand_model: HandModel) -> float:
    """How far the shape directions grow the hand in x as they do in y and z: 1 alike, -1 the opposite."""
    centred = hand_model.v_template - hand_model.v_template.mean(axis=0)
    growth = np.einsum("vak,va->ak", hand_model.shapedirs, centred, dtype=np.float64)
    along_x, across = growth[0], growth[1] + growth[2]
    return float(along_x @ across / max(np.linalg.norm(along_x) * np.linalg.norm(across), 1e-30))


def _read_npz(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz, without pickles in it and without unpacking more than the bound."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            unpacked = sum(member.file_size for member in members.infolist())
        if unpacked > _MAX_BYTES:
            raise ModelError(f"hand model: the .npz unpacks to {unpacked} bytes, and 256 MiB is the bound")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in _SHAPES if key in arrays}
    except (
        ValueError,
        OSError,
        EOFError,
        MemoryError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"hand model: the .npz does not load ({error}); save it with plain arrays"
        ) from error
