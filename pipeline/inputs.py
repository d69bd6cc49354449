"""From what a person types to inputs: globs, braces, lists, folders, files."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.sources import SOURCES, source_of
from pipeline.sources.source import Input
from pipeline.storage import FileInfo

REQUESTS_AT_ONCE = 32
_RANGE = re.compile(r"\{([^{}]*)\}")
# What jobs write below their output.
_OWN = re.compile(
    r"(annotations|ledger|meshes|plan|lease|report|compaction|tracks)/|(job|summary|tracks)\.json$"
)
_WILDCARD = re.compile(r"[*?\[]")


def expand_braces(pattern: str) -> Iterator[str]:
    """Yields what `{00000..00099}` and `{a,b}` stand for, in order; a pattern without braces as it is."""
    pieces = _RANGE.split(pattern)
    choices = [_choices(piece) if number % 2 else [piece] for number, piece in enumerate(pieces)]
    for chosen in product(*choices):
        yield "".join(chosen)


def _choices(inside: str) -> list[str]:
    first, dots, last = inside.partition("..")
    if dots and first.isdigit() and last.isdigit():
        width = len(first) if first.startswith("0") else 0
        return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else ["{" + inside + "}"]


def expand(arguments: Sequence[str]) -> dict[str, FileInfo | None]:
    """Returns the URIs that the arguments name, each once, in order, with what a listing told of them.

    Raises:
        ConfigError: a list cannot be read, or a pattern matches nothing.
    """
    uris: dict[str, FileInfo | None] = {}
    for argument in arguments:
        if argument.startswith("@"):
            uris.update(expand(_listed(argument[1:])))
            continue
        literal = "{" not in argument or storage.stat(argument) is not None or storage.is_folder(argument)
        for pattern in [argument] if literal else expand_braces(argument):
            if _WILDCARD.search(pattern) and storage.stat(pattern) is None and not storage.is_folder(pattern):
                found = storage.glob(pattern)
                if not found:
                    raise ConfigError(f"{pattern}: nothing matches")
                uris.update(found)
            else:
                uris[storage.canonical(pattern)] = None
    return uris


def _listed(uri: str) -> list[str]:
    try:
        lines = storage.read(uri).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"@{uri}: cannot read the list ({error})") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def find_inputs(
    arguments: Sequence[str],
    *,
    output: str = "",
    note: Callable[[str], object] = lambda _: None,
    look_into_tables: bool = False,
) -> tuple[list[Input], list[str]]:
    """Returns the inputs that the arguments name, and the names of files that no source reads.

    What the job itself writes below `output` is no input, wherever the output is. A file that several arguments
    name is taken once, as the first of them names it; `note` is told of those in one line.

    look_into_tables: whether tables without images, found by a folder or a pattern beside inputs of other kinds, as
    img2dataset leaves one beside each shard, are files that no source reads. It costs their footers.

    Raises:
        ConfigError: an argument names nothing or what the job writes, or there is nothing to read at all.
    """
    single: dict[str, Input] = {}
    folders: dict[str, dict[str, FileInfo]] = {}
    passed_over: list[str] = []
    taken: set[str] = set()
    again: list[str] = []
    tables: list[str] = []
    named = expand(arguments)
    # Named one by one, or folders; the rest is what patterns found.
    unknown = {uri: None for uri, info in named.items() if info is None}
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        named.update(zip(unknown, pool.map(storage.stat, unknown), strict=True))
    for uri, info in named.items():
        if info is not None:
            root, files = uri.rsplit("/", 1)[0], [info]
            if source_of(storage.name_of(uri)) is None:
                raise ConfigError(f"{uri}: no source reads this kind of file; known are {_endings()}")
        elif storage.is_folder(uri):
            root, files = uri, list(storage.list_files(uri))
        else:
            raise ConfigError(f"{uri}: no such file or folder")
        place = storage.resolved(root)
        for file in files:
            if output and _OWN.match(_path_below(storage.resolved(output), root, place, file.uri)):
                if info is not None:
                    raise ConfigError(f"{uri}: is written by this very job; choose another --output")
                continue
            if file.uri in taken:
                again.append(file.uri)
                continue
            taken.add(file.uri)
            source = source_of(storage.name_of(file.uri))
            if source is None:
                passed_over.append(file.uri)
            elif source.one_object:
                name = storage.key_below(root, file.uri)
                single[file.uri] = Input(file.uri, source.name, (file,), name)
                if source.name == "parquet" and file.uri not in unknown:
                    tables.append(file.uri)
            else:
                folders.setdefault(root, {})[file.uri] = file
    if look_into_tables and (folders or any(item.source != "parquet" for item in single.values())):
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            for uri, is_bare in zip(tables, pool.map(_is_without_images, tables), strict=True):
                if is_bare:
                    del single[uri]
                    passed_over.append(uri)
    inputs = [Input(root, "images", tuple(files.values())) for root, files in folders.items()]
    inputs += single.values()
    if again:
        more = f" and {len(again) - 1} more files" if len(again) > 1 else ""
        note(f"note: {again[0]}{more} lie in more than one of the inputs; each is taken once")
    if not inputs:
        raise ConfigError(f"{', '.join(arguments)}: nothing to read there; known are {_endings()}")
    return inputs, passed_over


def _is_without_images(uri: str) -> bool:
    """Says whether a table can be read and has no column of images; a damaged one is an input that is damaged."""
    try:
        with storage.open_input(uri) as stream:
            return "image" not in pq.read_schema(stream).names
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError):
        return False


def labelled(inputs: Sequence[Input]) -> list[Input]:
    """Returns the shards among inputs, without the meshes that annotate wrote inside an output of pseudo-label."""
    return [
        item
        for item in inputs
        if item.source == "webdataset" and not item.name.startswith("predictions/meshes/")
    ]


def _path_below(output: str, root: str, place: str, uri: str) -> str:
    """Returns the path of a file below the output, empty when it lies elsewhere; `place` is the resolved root."""
    uri = place + uri.removeprefix(storage.canonical(root))
    return uri.removeprefix(output + "/") if uri.startswith(output + "/") else ""


def _endings() -> str:
    return " ".join(sorted(ending for source in SOURCES.values() for ending in source.endings))
