"""The trained weights that come along with the package."""

from importlib import resources

NAMES = ("tiny",)


def read(name: str) -> bytes:
    """Return the weights file of that name, one of NAMES."""
    return resources.files("model").joinpath("trained", f"{name}.safetensors").read_bytes()
