"""MANO's file is read as it was published, and nothing else is."""

import io
import pickle
import pickletools
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.typing import NDArray

from model.errors import ModelError
from model.mano.asset import hand_model_from_arrays, load_mano, mend_left_shapedirs, mirrored
from model.mano.layer import ManoLayer
from model.mano.synthetic import synthetic_hand

RIGHT = synthetic_hand("right")
THE_SEVEN_NAMES = {
    "numpy.core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
    "__builtin__ set",
    "chumpy.ch Ch",
    "chumpy.reordering Select",
    "scipy.sparse.csc csc_matrix",
}


def test_the_published_pickle_loads_as_the_arrays_it_was_made_of() -> None:
    data = _published()
    names = {argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}
    assert names == THE_SEVEN_NAMES

    loaded = load_mano(data, "right")

    for field in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "faces", "hands_mean"):
        np.testing.assert_array_equal(getattr(loaded, field), getattr(RIGHT, field), err_msg=field)
    assert loaded.fingertip_vertices == (745, 317, 444, 556, 673)


def test_the_pickle_the_npz_and_the_rows_of_a_checkpoint_have_one_name() -> None:
    arrays = _arrays()
    npz = io.BytesIO()
    np.savez(npz, **arrays)
    checkpoint = {**arrays, "hands_components": arrays["hands_components"][:6].astype(np.float32)}
    names = {
        load_mano(_published(), "right").name,
        load_mano(npz.getvalue(), "right").name,
        hand_model_from_arrays(checkpoint, "right").name,
    }
    assert len(names) == 1
    assert len(names.pop()) == 64


def test_another_shape_direction_or_side_has_another_name() -> None:
    arrays = _arrays()
    changed = {**arrays, "shapedirs": arrays["shapedirs"] * -1}
    names = {
        hand_model_from_arrays(arrays, "right").name,
        hand_model_from_arrays(arrays, "left").name,
        hand_model_from_arrays(changed, "right").name,
    }
    assert len(names) == 3


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_saved_again_without_chumpy_loads(protocol: int) -> None:
    arrays = _arrays()
    arrays["J_regressor"] = scipy.sparse.csc_matrix(arrays["J_regressor"])
    loaded = load_mano(pickle.dumps(arrays, protocol=protocol), "right")
    np.testing.assert_array_equal(loaded.J_regressor, RIGHT.J_regressor)
    np.testing.assert_array_equal(loaded.posedirs, RIGHT.posedirs)


REDUCE_NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
HOSTILE = {
    "os.system": (b"\x80\x02cos\nsystem\nU\x04true\x85R.", "'os.system'"),
    "eval": (b"\x80\x02c__builtin__\neval\nU\x011\x85R.", "'__builtin__.eval'"),
    "a getattr chain": (
        b"\x80\x02c__builtin__\ngetattr\ncnumpy\nndarray\nU\x08__init__\x86R.",
        "'__builtin__.getattr'",
    ),
    "an attribute of an allowed name": (
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        "'numpy.ndarray.__init__'",
    ),
    "another name of an allowed module": (b"\x80\x02cnumpy\nload\nU\x01x\x85R.", "'numpy.load'"),
    "a global inside an array's state": (
        b"\x80\x02" + REDUCE_NDARRAY + b"(K\x01K\x01\x85cposix\nsystem\nU\x04true\x85RtbU\x01a.",
        "'posix.system'",
    ),
    "INST": (b"(U\x04trueios\nsystem\n.", "INST"),
    "OBJ": (b"(cos\nsystem\nU\x04trueo.", "OBJ"),
    "NEWOBJ_EX": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "NEWOBJ_EX"),
    "a persistent id": (b"Psomewhere\n.", "PERSID"),
    "a binary persistent id": (b"\x80\x02K\x01Q.", "BINPERSID"),
    "an extension code": (b"\x80\x02\x82\x01.", "EXT1"),
    "state set on a class": (b"\x80\x02cnumpy\ndtype\n}U\x08__call__U\x01xsb.", "does not load"),
    "attributes set on a class": (b"\x80\x02cnumpy\ndtype\nN}U\x03newK\x01s\x86b.", "does not load"),
    "a memo of 2^31 places": (b"\x80\x02]r\xff\xff\xff\x7f.", "memo 2147483647"),
    "a bomb of opcodes": (b"\x80\x02(" + b"}" * 30_000 + b"l.", "more than 20000 opcodes"),
    "tuples nested to overrun the stack": (b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"Ns.", "20000 opcodes"),
    "a billion laughs": (b"\x80\x02]q\x00(h\x00h\x00h\x00eq\x01(h\x01h\x01h\x01e.", "not a dictionary"),
    "bytes that are not there": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00.", "not a whole pickle"),
    "a frame that is not there": (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x10}.", "frame"),
    "a web page": (b"<!DOCTYPE html><html>Sign in</html>", "not a whole pickle"),
    "an empty file": (b"", "not a whole pickle"),
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_hostile_pickle_is_refused_with_what_was_found(trick: str) -> None:
    data, found = HOSTILE[trick]
    with pytest.raises(ModelError) as refusal:
        load_mano(data, "right")
    assert found in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_refusing_a_hostile_pickle_leaves_the_reader_as_it_was() -> None:
    for data, _ in HOSTILE.values():
        with pytest.raises(ModelError):
            load_mano(data, "right")
    np.testing.assert_array_equal(load_mano(_published(), "right").weights, RIGHT.weights)


def test_a_command_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    command = f"touch {witness}".encode()
    with pytest.raises(ModelError):
        load_mano(b"\x80\x02cos\nsystem\nU" + bytes([len(command)]) + command + b"\x85R.", "right")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("key", "stored", "found"),
    [
        ("weights", np.full((778, 16), None), "'O8'"),
        ("weights", np.zeros((778, 16), [("a", "f8")]), "'V8'"),
        ("v_template", np.zeros((778, 4)), r"shape \(778, 4\)"),
        ("v_template", np.full((778, 3), np.nan), "finite"),
        ("weights", np.full((778, 16), 1.0), "sum to 1"),
        ("f", np.full((1538, 3), 778, np.uint32), "from 0 to 777"),
        ("f", [[0, 1, 2]], "no array"),
        ("posedirs", "text", "no array"),
    ],
)
def test_an_array_that_is_not_manos_is_named(key: str, stored: Any, found: str) -> None:
    with pytest.raises(ModelError, match=f"{key}.*{found}|{found}.*{key}"):
        load_mano(_published(**{key: stored}), "right")


@pytest.mark.parametrize("index", [-1, 778 * 3 * 20])
def test_a_selection_outside_its_source_is_refused(index: int) -> None:
    selection = _selected(_arrays()["shapedirs"])
    selection.__dict__["idxs"][7] = index
    with pytest.raises(ModelError, match="shapedirs has indices outside"):
        load_mano(_published(shapedirs=selection), "right")


@pytest.mark.parametrize(
    ("part", "place", "value"), [("indices", 0, 16), ("indices", 0, -1), ("indptr", 5, -9), ("indptr", -1, 1)]
)
def test_a_sparse_matrix_whose_parts_do_not_fit_is_refused(part: str, place: int, value: int) -> None:
    matrix = _compressed(_arrays()["J_regressor"])
    matrix.__dict__[part][place] = value
    with pytest.raises(ModelError, match="J_regressor"):
        load_mano(_published(J_regressor=matrix), "right")


@pytest.mark.parametrize(
    "shape", [b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"J\xff\xff\xff\xff"]
)
def test_an_array_of_impossible_size_is_refused_before_any_memory_is_taken(shape: bytes) -> None:
    dtype = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<tb"
    array = REDUCE_NDARRAY + b"(K\x01" + shape + b"K\x03\x86" + dtype + b"\x89U\x00tb"
    with pytest.raises(ModelError, match="v_template has a shape"):
        load_mano(b"\x80\x02}U\x0av_template" + array + b"s.", "right")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(kept: float) -> None:
    data = _published()
    with pytest.raises(ModelError, match="not a whole pickle"):
        load_mano(data[: int(len(data) * kept)], "right")


def test_an_npz_with_pickled_objects_is_refused() -> None:
    npz = io.BytesIO()
    np.savez(npz, **{**_arrays(), "weights": np.full((778, 16), None)})
    with pytest.raises(ModelError, match=r"npz does not load .*allow_pickle"):
        load_mano(npz.getvalue(), "right")


def test_a_file_that_is_or_unpacks_too_large_is_refused() -> None:
    with pytest.raises(ModelError, match="256 MiB"):
        load_mano(bytes(257 * 2**20), "right")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as members:
        members.writestr("posedirs.npy", bytes(257 * 2**20))
    with pytest.raises(ModelError, match="256 MiB"):
        load_mano(bomb.getvalue(), "right")


def test_a_mirrored_hand_is_the_mirror_image_in_every_pose() -> None:
    left = mirrored(RIGHT)
    generator = torch.Generator().manual_seed(3)
    rotations = _rotations(generator)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    betas = torch.randn(4, 10, generator=generator, dtype=torch.float64)

    original = ManoLayer(RIGHT, torch.float64)(rotations, betas)
    image = ManoLayer(left, torch.float64)(mirror @ rotations @ mirror, betas)

    torch.testing.assert_close(image.vertices_BV3, original.vertices_BV3 @ mirror, rtol=0, atol=1e-12)
    torch.testing.assert_close(image.joints_B21x3, original.joints_B21x3 @ mirror, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(left.hands_mean[:3], RIGHT.hands_mean[:3] * [1, -1, -1])
    assert _volume(left) == pytest.approx(_volume(RIGHT))


def test_a_hand_mirrored_twice_is_itself() -> None:
    again = mirrored(mirrored(RIGHT))
    assert (again.name, again.side) == (RIGHT.name, "right")
    np.testing.assert_array_equal(again.posedirs, RIGHT.posedirs)
    assert mirrored(RIGHT).name == f"{RIGHT.name}-mirrored"


@pytest.mark.parametrize("right", [RIGHT, None])
def test_the_sign_fault_of_the_published_left_hand_is_mended_once(right: Any) -> None:
    sound = mirrored(RIGHT)
    faulty = replace(sound, shapedirs=sound.shapedirs * np.array([-1, 1, 1], np.float32)[:, None])
    mended = mend_left_shapedirs(faulty, right)
    np.testing.assert_array_equal(mended.shapedirs, sound.shapedirs)
    assert mended.name != faulty.name
    assert mend_left_shapedirs(mended, right) is mended


def test_a_left_hand_whose_signs_say_nothing_asks_for_the_right_one() -> None:
    noise = np.random.default_rng(0).normal(size=(778, 3, 10)).astype(np.float32)
    noise[:, 1:] = 0
    with pytest.raises(ModelError, match="give the right hand's file too"):
        mend_left_shapedirs(replace(mirrored(RIGHT), shapedirs=noise))


def _arrays() -> dict[str, Any]:
    """The procedural hand under MANO's keys, in MANO's types."""
    return {
        "v_template": RIGHT.v_template.astype(np.float64),
        "shapedirs": RIGHT.shapedirs.astype(np.float64),
        "posedirs": RIGHT.posedirs.astype(np.float64),
        "J_regressor": RIGHT.J_regressor.astype(np.float64),
        "weights": RIGHT.weights.astype(np.float64),
        "f": RIGHT.faces.astype(np.uint32),
        "hands_mean": RIGHT.hands_mean.astype(np.float64),
        "hands_components": RIGHT.hands_components.astype(np.float64),
    }


def _published(**changed: Any) -> bytes:
    """A file in the published form: Python 2, protocol 2, chumpy and scipy objects, unneeded entries."""
    arrays = _arrays()
    content: dict[str, Any] = {
        **arrays,
        "shapedirs": _selected(arrays["shapedirs"]),
        "J_regressor": _compressed(arrays["J_regressor"]),
        "kintree_table": np.zeros((2, 16), np.uint32),
        "bs_style": "lbs",
        **changed,
    }
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


class _Python2Pickler(pickle._Pickler):
    """Writes strings, bytes and names the way Python 2 with its numpy did."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def _save_string(self, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = {"builtins": "__builtin__", "numpy._core.multiarray": "numpy.core.multiarray"}
        where = module.get(obj.__module__, obj.__module__)
        self.write(pickle.GLOBAL + f"{where}\n{name or obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = _save_string
    dispatch[type] = save_global


class Ch:
    """Stands for chumpy's class of this name in a written file."""


class Select(Ch):
    """Stands for chumpy's class of this name in a written file."""


class csc_matrix:  # noqa: N801
    """Stands for scipy's class of this name in a written file."""


Ch.__module__ = "chumpy.ch"
Select.__module__ = "chumpy.reordering"
csc_matrix.__module__ = "scipy.sparse.csc"


def _selected(values: NDArray[Any]) -> Any:
    """The values as the first ten columns of twenty, in chumpy's form."""
    source, selection = Ch(), Select()
    wide = np.concatenate([values, values + 1], axis=-1)
    idxs = np.arange(wide.size).reshape(wide.shape)[..., : values.shape[-1]].ravel()
    source.__dict__.update(x=wide, _dirty_vars=set())
    selection.__dict__.update(a=source, idxs=idxs, preferred_shape=values.shape)
    return selection


def _compressed(values: NDArray[Any]) -> Any:
    """The values in the form that scipy gave its sparse matrices."""
    columns, matrix = scipy.sparse.csc_matrix(values), csc_matrix()
    matrix.__dict__.update(
        data=columns.data, indices=columns.indices, indptr=columns.indptr, _shape=values.shape, maxprint=50
    )
    return matrix


def _rotations(generator: torch.Generator) -> torch.Tensor:
    square = torch.randn(4, 16, 3, 3, generator=generator, dtype=torch.float64)
    orthogonal: torch.Tensor = torch.linalg.qr(square).Q
    return orthogonal * torch.linalg.det(orthogonal)[..., None, None]


def _volume(hand_model: Any) -> float:
    """The signed volume under the faces: positive where they look outwards."""
    corners = (hand_model.v_template - hand_model.v_template.mean(axis=0))[hand_model.faces]
    return float(np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])))
