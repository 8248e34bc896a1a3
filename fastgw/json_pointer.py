"""JSON Pointers (RFC 6901)."""

from collections.abc import Iterable


def pointer_of(path: Iterable[str | int]) -> str:
    """Return the pointer to what these names and indexes lead to; "": the whole."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def unescaped(step: str) -> str:
    """Return the name that a part of a pointer, between two slashes, stands for."""
    return step.replace("~1", "/").replace("~0", "~")
