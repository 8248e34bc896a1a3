"""Files that are on no disk: what a watch has said of Kubernetes, and what Secrets hold, each value by itself.

Rule: they are held with the files of a configuration (`files.Disk`), so that they are checked, kept and taken as those
are. A derived file says nothing of its own: it is made anew whenever the documents are read that it comes from.
"""

from collections.abc import Mapping
from threading import Lock
from typing import Final
from urllib.parse import quote, unquote

KUBERNETES: Final = "kubernetes://"
DERIVED: Final = "kyma://"
NOTHING: Final = b"[]"
"""Content of a watch without an answer yet."""

_lock: Final = Lock()
_contents: Final[dict[str, tuple[int, bytes]]] = {}


def derived_name(namespace: str, secret: str, *keys: str) -> str:
    """The name of the file that has one value of a Secret; `keys` lead to it."""
    return DERIVED + "/".join(quote(each, safe="") for each in (namespace, secret, *keys))


def is_derived(name: str) -> bool:
    return name.startswith(DERIVED)


def secret_in(name: str) -> str:
    """The Secret, as `namespace/name`, that a derived file has a value of."""
    return "/".join(map(unquote, name.removeprefix(DERIVED).split("/")[:2]))


def watched_name(provider: str) -> str:
    """The name of the file that has what a watch knows: a JSON list of objects, each with `apiVersion` and `kind`."""
    return KUBERNETES + provider


def is_watched(name: str) -> bool:
    """Whether a file's name means what a watch says. It may well have said nothing yet."""
    return name.startswith(KUBERNETES)


def awaits(captured: Mapping[str, bytes]) -> bool:
    """Whether a watch has said nothing yet, not even before this process: that there is nothing is written otherwise.

    `captured`: the files of a configuration.
    """
    return any(is_watched(name) and content == NOTHING for name, content in captured.items())


def set_content(name: str, content: bytes) -> None:
    """Set the content of a virtual file; whoever reads the file from here on, in this process, reads this. From any
    thread.
    """
    with _lock:
        turn, before = _contents.get(name, (0, b""))
        if content != before:
            _contents[name] = turn + 1, content


def remember(name: str, content: bytes) -> None:
    """Set the content in force, for as long as the watch of this process has said nothing."""
    with _lock:
        _contents.setdefault(name, (0, content))


def content_of(name: str) -> bytes:
    """Return the last content from the watch, else what is in force, else nothing. It never waits."""
    return _contents.get(name, (0, NOTHING))[1]


def turn_of(name: str) -> int:
    """Another number as soon as something else was said."""
    return _contents.get(name, (0, NOTHING))[0]
