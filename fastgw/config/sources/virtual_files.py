"""Virtual files, which are on no disk: the content of Kubernetes watches, single values of Secrets, and what is made of
OpenAPI documents and lists of networks; and certificates obtained by ACME, which are on the disk once they are issued.

Rule: they are stored with the files of a configuration (`files.Disk`), so validation, caching and reload treat them
alike. A derived file is computed again whenever its source documents are read.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from threading import Lock
from typing import Final
from urllib.parse import quote, unquote

KUBERNETES: Final = "kubernetes://"
DERIVED: Final = "kyma://"
OPENAPI: Final = "openapi://"
NETWORKS: Final = "networks://"
OF_CLUSTER: Final = "kubernetes-object://"
ISSUED: Final = "acme://"
NOTHING: Final = b"[]"
"""Content of a watch without any result yet."""

_lock: Final = Lock()
_contents: Final[dict[str, tuple[int, bytes]]] = {}


def derived_name(namespace: str, secret: str, *keys: str) -> str:
    """Return the name of the file with one value of a Secret; `keys`: path of the value."""
    return DERIVED + "/".join(quote(each, safe="") for each in (namespace, secret, *keys))


def openapi_name(file: str, entry: str, kind: str) -> str:
    """Return the name of the file that is made of an OpenAPI document for an entry of the routes."""
    return f"{OPENAPI}{quote(file)}/{quote(entry, safe='')}/{kind}"


def networks_name(file: str) -> str:
    """Return the name of the file with the packed form of a list of networks."""
    return NETWORKS + quote(file)


def cluster_name(kind: str, namespace: str, name: str, key: str) -> str:
    """Return the name of the file with one value of a Secret or ConfigMap of the Kubernetes provider."""
    return OF_CLUSTER + "/".join(quote(each, safe="") for each in (namespace, name, kind, key))


def issued_name(storage: str, domains: Collection[str], kind: str) -> str:
    """Return the name of the file with a certificate obtained by ACME, and its key. `kind`: of the key."""
    identity = sha256(" ".join([kind, *sorted(domains)]).encode()).hexdigest()[:12]
    stem = re.sub(r"[^a-z0-9.-]", "_", next(iter(domains)))[:80]
    return f"{ISSUED}{os.path.join(storage, 'certificates', f'{stem}-{identity}.pem')}?{','.join(domains)}"


def is_issued(name: str) -> bool:
    """Whether a file is a certificate obtained by ACME. While the disk has none, its content is a placeholder."""
    return name.startswith(ISSUED)


def issued_in(name: str) -> tuple[str, list[str]]:
    """Return the file on the disk with a certificate obtained by ACME, and the names of the certificate."""
    file, _, domains = name.removeprefix(ISSUED).rpartition("?")
    return file, domains.split(",")


def is_derived(name: str) -> bool:
    return name.startswith((DERIVED, OPENAPI, OF_CLUSTER, NETWORKS))


def check_derived(name: str) -> None:
    """Check the file of a filter that only generated routes have. Raises `ValueError` for a file on the disk."""
    if not is_derived(name):
        raise ValueError("routes of `openapi` have this filter; it cannot be configured")


def is_secret(name: str) -> bool:
    """Whether a derived file has a value of a Secret."""
    return name.startswith((DERIVED, OF_CLUSTER))


def secret_in(name: str) -> str:
    """Return the Secret, as `namespace/name`, that a derived file belongs to."""
    return "/".join(map(unquote, name.removeprefix(DERIVED).removeprefix(OF_CLUSTER).split("/")[:2]))


def watched_name(provider: str) -> str:
    """Return the name of the file with a watch's content: a JSON list of objects, each with `apiVersion` and `kind`."""
    return KUBERNETES + provider


def is_watched(name: str) -> bool:
    """Whether a file's name is that of a watch, with or without content."""
    return name.startswith(KUBERNETES)


def awaits(captured: Mapping[str, bytes]) -> bool:
    """Whether a watch has no result yet, not even from an earlier process. An empty result is a result.

    `captured`: the files of a configuration.
    """
    return any(is_watched(name) and content == NOTHING for name, content in captured.items())


def set_content(name: str, content: bytes) -> bool:
    """Set the content of a virtual file for all later readers in this process. Returns whether it is another one.
    Thread-safe.
    """
    with _lock:
        turn, before = _contents.get(name, (0, b""))
        if content != before:
            _contents[name] = turn + 1, content
        return content != before


def begin_with(contents: Mapping[str, bytes]) -> None:
    """Forget all contents, and set those in force: they are used until the watches of this process have a result.

    A forked process has a copy of its parent's contents, which may be much older than those in force.
    """
    with _lock:
        _contents.clear()
        _contents.update((name, (0, content)) for name, content in contents.items())


def forget(is_past: Callable[[str], bool]) -> None:
    """Forget the contents of these files, which no source keeps current any more."""
    with _lock:
        for name in [*filter(is_past, _contents)]:
            del _contents[name]


def remember(name: str, content: bytes) -> None:
    """Set the content of a file that has none yet."""
    with _lock:
        _contents.setdefault(name, (0, content))


def known_content(name: str) -> bytes | None:
    """Return the content in force; None: there is none."""
    return _contents[name][1] if name in _contents else None


def content_of(name: str) -> bytes:
    """Return the watch's last content, else the content in force, else `NOTHING`. Never waits."""
    return _contents.get(name, (0, NOTHING))[1]


def turn_of(name: str) -> int:
    """Return a number that changes with the content."""
    return _contents.get(name, (0, NOTHING))[0]
