"""From what a person types to inputs: globs, braces, lists, folders, files."""

import re
from collections.abc import Iterator, Sequence
from itertools import product

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.sources import SOURCES, source_of
from pipeline.sources.source import Input
from pipeline.storage import FileInfo

_RANGE = re.compile(r"\{([^{}]*)\}")
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


def expand(arguments: Sequence[str]) -> list[str]:
    """Returns the URIs that the arguments name, each once, in order.

    Raises:
        ConfigError: a list cannot be read, or a pattern matches nothing.
    """
    uris: dict[str, None] = {}
    for argument in arguments:
        if argument.startswith("@"):
            uris.update(dict.fromkeys(expand(_listed(argument[1:]))))
            continue
        for pattern in expand_braces(argument) if storage.stat(argument) is None else [argument]:
            if _WILDCARD.search(pattern) and storage.stat(pattern) is None and not storage.is_folder(pattern):
                found = storage.glob(pattern)
                if not found:
                    raise ConfigError(f"{pattern}: nothing matches")
                uris.update(dict.fromkeys(found))
            else:
                uris[storage.canonical(pattern)] = None
    return list(uris)


def _listed(uri: str) -> list[str]:
    try:
        lines = storage.read(uri).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"@{uri}: cannot read the list ({error})") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def find_inputs(arguments: Sequence[str], *, output: str = "") -> tuple[list[Input], list[str]]:
    """Returns the inputs that the arguments name, and the names of files that no source reads.

    What lies below the job's own `output` is no input, wherever the output is.

    Raises:
        ConfigError: an argument names nothing, or there is nothing to read at all.
    """
    single: dict[str, Input] = {}
    folders: dict[str, dict[str, FileInfo]] = {}
    passed_over: list[str] = []
    for uri in expand(arguments):
        info = storage.stat(uri)
        if info is not None:
            root, files = uri.rsplit("/", 1)[0], [info]
            if source_of(storage.name_of(uri)) is None:
                raise ConfigError(f"{uri}: no source reads this kind of file; known are {_endings()}")
        elif storage.is_folder(uri):
            root, files = uri, list(storage.list_files(uri))
        else:
            raise ConfigError(f"{uri}: no such file or folder")
        for file in files:
            if output and file.uri.startswith(storage.canonical(output) + "/"):
                continue
            source = source_of(storage.name_of(file.uri))
            if source is None:
                passed_over.append(file.uri)
            elif source.one_object:
                single[file.uri] = Input(file.uri, source.name, (file,))
            else:
                folders.setdefault(root, {})[file.uri] = file
    inputs = [Input(root, "images", tuple(files.values())) for root, files in folders.items()]
    inputs += single.values()
    if not inputs:
        raise ConfigError(f"{', '.join(arguments)}: nothing to read there; known are {_endings()}")
    return inputs, passed_over


def _endings() -> str:
    return " ".join(sorted(ending for source in SOURCES.values() for ending in source.endings))
