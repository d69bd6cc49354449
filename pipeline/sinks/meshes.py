"""Meshes as binary little-endian PLY, one per hand: in one tar per unit, or as files in a folder per unit."""

import io
import tarfile
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.records import Unit

_VERTEX = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
_FACE = np.dtype([("count", "u1"), ("corners", "<i4", (3,))])


def ply(vertices: NDArray[np.float32], faces: NDArray[np.int64], comments: Sequence[str]) -> bytes:
    """Returns a mesh as binary little-endian PLY; vertices [V, 3] in metres, faces [F, 3]."""
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {' '.join(text.split())}" for text in comments),
        f"element vertex {len(vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    corners = np.zeros(len(faces), _FACE)
    corners["count"], corners["corners"] = 3, faces
    points = np.ascontiguousarray(vertices, "<f4").view(_VERTEX)
    # An input's name may hold any character; PLY headers are ASCII.
    text = "\n".join(header).encode("ascii", "backslashreplace") + b"\n"
    return text + points.tobytes() + corners.tobytes()


def read_ply(data: bytes) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns vertices [V, 3] and faces [F, 3] of a mesh that `ply` wrote."""
    header, _, body = data.partition(b"end_header\n")
    sizes = [int(line.split()[2]) for line in header.splitlines() if line.startswith(b"element")]
    points = np.frombuffer(body, _VERTEX, sizes[0])
    corners = np.frombuffer(body, _FACE, sizes[1], points.nbytes)["corners"]
    return points.view("<f4").reshape(-1, 3), corners.astype(np.int64)


def read_mesh(output: str, path: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns the mesh that an annotation row names."""
    file, member, name = path.partition("#")
    data = storage.read(storage.join(output, file))
    if member:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            stream = archive.extractfile(name)
            data = stream.read() if stream else b""
    return read_ply(data)


def write_meshes(
    output: str,
    unit: Unit,
    hands: pa.Table,
    *,
    kind: str,
    faces: Mapping[str, NDArray[np.int64]],
    hand_model: str,
) -> list[str]:
    """Writes a unit's meshes (`kind` tar or ply) and returns each row's path inside the output.

    A tar's meshes are named `meshes/<unit-id>.tar#<member>`.
    """
    names, files = [], []
    vertices = np.asarray(hands.column("vertices").combine_chunks().flatten().flatten()).reshape(-1, 778, 3)
    for row, (side, instance) in enumerate(
        zip(hands.column("side").to_pylist(), hands.column("instance_id").to_pylist(), strict=True)
    ):
        # Members are numbered: names from inputs never choose a path.
        names.append(f"{row:06d}-{side}.ply")
        comments = [
            "units metre, wrist at 0, x right, y down, z away",
            f"side {side}",
            f"hand_model {hand_model}",
            f"instance_id {instance}",
        ]
        files.append(ply(vertices[row], faces[side], comments))
    if kind == "tar":
        storage.put(storage.join(output, "meshes", f"{unit.unit_id}.tar"), _tar(names, files))
        return [f"meshes/{unit.unit_id}.tar#{name}" for name in names]
    for name, data in zip(names, files, strict=True):
        storage.put(storage.join(output, "meshes", unit.unit_id, name), data)
    return [f"meshes/{unit.unit_id}/{name}" for name in names]


def _tar(names: Sequence[str], files: Sequence[bytes]) -> bytes:
    """Returns a tar whose bytes depend on names and contents alone."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in zip(names, files, strict=True):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()
