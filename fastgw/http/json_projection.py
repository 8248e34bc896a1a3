"""JSON projection: the part of a JSON text that dotted paths allow, with every kept byte as it was written.

The whole text is checked as in `strict_json`, also what is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias, cast

from fastgw.http.json_tree import Node, opened, rendered
from fastgw.http.strict_json import InvalidJson, parse_json

EACH: Final = "*"
"""Step of a path for each element of an array, and each member of an object."""
PathTree: TypeAlias = "dict[str, PathTree | None]"
"""Paths by their first step; None: the path ends, and covers everything below."""
_ABSENT: Final[PathTree] = {}


def tree_of(paths: Iterable[tuple[str, ...]]) -> PathTree:
    """Return paths as a tree. The subtree of every name has the paths of the `*` beside it, too."""
    root: PathTree = {}
    for path in sorted(paths, key=len):
        node: PathTree | None = root
        for step in path[:-1]:
            assert node is not None
            node = node.setdefault(step, {})
            if node is None:
                break  # covered by a shorter path
        else:
            assert node is not None
            if node.get(path[-1], _ABSENT) is not None:
                node[path[-1]] = None
    return cast(PathTree, _with_each(root))


def project(text: bytes, allow: PathTree | None, deny: PathTree) -> bytes:
    """Return the text without the members that `allow` does not cover (None: it covers all) and without those that
    `deny` covers. Raises `InvalidJson`, also for a text that is neither an object nor an array.

    An object or array of which nothing is allowed is left out of the object around it, as is a value that a path cannot
    go into; elements that it can go into stay in their array, at least empty.
    """
    parse_json(text)
    text = text.strip(b" \t\r\n")
    if text[:1] not in (b"{", b"["):
        raise InvalidJson("neither an object nor an array")
    if allow is None and not deny:
        return text
    kept = _kept(text, allow, deny)
    return rendered(kept if kept is not None else [] if text[:1] == b"[" else {})


def _kept(node: Node, allow: PathTree | None, deny: PathTree) -> Node | None:
    if allow is None and not deny:
        return node
    held = opened(node)
    if isinstance(held, bytes):
        return held if allow is None else None
    if isinstance(held, dict):
        members: dict[str, Node] = {}
        for name, inner in held.items():
            below = None if allow is None else allow.get(name, allow.get(EACH, _ABSENT))
            hidden = deny.get(name, deny.get(EACH, _ABSENT))
            if below is _ABSENT or hidden is None:
                continue
            chosen = _kept(inner, below, hidden)
            if chosen is not None and (below is None or chosen not in ({}, [])):
                members[name] = chosen
        return members
    below = None if allow is None else allow.get(EACH, _ABSENT)
    hidden = deny.get(EACH, _ABSENT)
    if below is _ABSENT:
        return None
    if hidden is None:
        return []
    kept = (_kept(inner, below, hidden) for inner in held)
    return [each for each in kept if each is not None]


def _with_each(node: PathTree | None) -> PathTree | None:
    if node is None:
        return None
    each = node.get(EACH, _ABSENT)
    if each is not _ABSENT:
        node = {name: inner if name == EACH else _merged(inner, each) for name, inner in node.items()}
    return {name: _with_each(inner) for name, inner in node.items()}


def _merged(one: Mapping[str, PathTree | None] | None, other: Mapping[str, PathTree | None] | None) -> PathTree | None:
    if one is None or other is None:
        return None
    merged = dict(one)
    for name, inner in other.items():
        merged[name] = _merged(merged[name], inner) if name in merged else inner
    return merged
