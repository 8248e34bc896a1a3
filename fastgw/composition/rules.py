"""Rules of a part: which members of its answer are used, and where they stand. Compiled from the settings.

Order: `is_collection`, `target`, then either `flatmap` or `allow` (or `deny`) and `mapping`, then `group`. The meanings
are KrakenD's. Each rule makes one text of another; only `flatmap` needs the values themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, TypeAlias

import orjson
from msgspec import Struct

from fastgw.config.settings.compose import FlatmapStep, Part
from fastgw.http.json.projection import Projection
from fastgw.http.json.texts import opened, value_at
from fastgw.http.json.tree import Node, Object, rendered

_TURN_NS: Final = 2_000_000
"""Maximum time in one turn of the event loop, in nanoseconds."""
_WORST_NS: Final = 25
"""Nanoseconds per byte for checking and merging an object of the shortest members, which takes longest: measured as 21
(CPython 3.11, micro/compose, "shortest members")."""
MOST_AT_ONCE: Final = _TURN_NS // _WORST_NS
"""Bytes that are processed in the event loop; longer texts in a thread."""
OF_VALUES: Final = 16
"""How many times as long work takes that makes values of a text: measured as 30 ms for 80 KB of the shortest elements,
written as XML (CPython 3.11)."""
_ALL: Final = "*"
_INDEX_LENGTH: Final = 10
Rule: TypeAlias = Callable[[Object], Object]
TextRule: TypeAlias = Callable[[bytes], bytes]


class Unusable(ValueError):
    """An answer that a part cannot use. The message has nothing of it."""


class AnswerRules(Struct, frozen=True, array_like=True):
    """The settings of a part for its answers, without `group`: as a helper process gets them. `wrap`: None = the answer
    is an object.
    """

    encoding: Literal["json", "string"]
    wrap: str | None
    target: str | None
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    mapping: dict[str, str]
    flatmap: tuple[FlatmapStep, ...]

    @classmethod
    def of(cls, part: Part) -> AnswerRules:
        wrap = part.wrap if part.is_collection else None
        return cls(part.encoding, wrap, part.target, part.allow, part.deny, dict(part.mapping), part.flatmap)


def shaping(settings: AnswerRules) -> TextRule:
    """Return the function that applies the rules to one checked answer; its result is an object. Raises `Unusable`."""
    wrap = None if settings.wrap is None else member_begin(settings.wrap)
    rules = tuple(_rules(settings))

    def shape(text: bytes) -> bytes:
        if wrap is not None:
            if text[:1] != b"[":
                raise Unusable("the answer is no array, and `is_collection` is set")
            text = wrap + text + b"}"
        elif text[:1] != b"{":
            raise Unusable("the answer is no object")
        for rule in rules:
            text = rule(text)
        return text

    return shape


def member_begin(name: str) -> bytes:
    """Return the beginning of an object with this only member."""
    return b"{" + orjson.dumps(name) + b":"


def member(name: str) -> Callable[[bytes], bytes]:
    """Return the function that makes an object with this only member of a value."""
    begin = member_begin(name)
    return lambda value: begin + value + b"}"


def flatmapping(steps: Sequence[FlatmapStep]) -> Rule:
    """Return the rule for these steps, in their order."""
    compiled = [_flatmap_step(step) for step in steps]

    def flatmap(content: Object) -> Object:
        for step in compiled:
            step(content)
        return content

    return flatmap


def _rules(settings: AnswerRules) -> Iterator[TextRule]:
    if settings.target is not None:
        target = tuple(settings.target.split("."))

        def object_at(text: bytes) -> bytes:
            found = value_at(text, target, True)
            return found if found is not None and found[:1] == b"{" else b"{}"

        yield object_at
    if settings.flatmap:
        yield _opening(flatmapping(settings.flatmap))
        return
    allow = [tuple(path.split(".")) for path in settings.allow]
    deny = [] if allow else [tuple(path.split(".")) for path in settings.deny]
    rename: dict[tuple[str, ...], str] = {(old,): new for old, new in settings.mapping.items()}
    if allow or deny or rename:
        yield Projection(allow, deny, rename, each=None).apply  # here `*` is a name like any other


def _opening(rule: Rule) -> TextRule:
    def apply(text: bytes) -> bytes:
        content = opened(text)
        assert isinstance(content, dict)
        return rendered(rule(content))

    return apply


# flatmap


def _flatmap_step(step: FlatmapStep) -> Callable[[Object], None]:
    paths = [path.split(".") for path in step.args]
    if step.type == "del":
        return lambda content: _delete_all(content, paths)
    source, destination = paths
    if step.type == "append":
        return lambda content: _append(content, source, destination)
    return lambda content: _move(content, source, destination)


def _delete_all(content: Object, paths: Sequence[Sequence[str]]) -> None:
    for path in paths:
        for holder, key, _ in _matches(content, path):
            _pop_node(holder, key)


def _append(content: Object, source: Sequence[str], destination: Sequence[str]) -> None:
    """Append the elements of an array to another one, which is created if it is missing; the first one is removed."""
    taken = _taken(content, source)
    if not taken:
        return
    elements = [each for *_, value in taken for each in _elements(value)]
    holder, last = _holder(content, destination, ()), destination[-1]
    if isinstance(holder, dict):
        holder[last] = [*_elements(holder[last]), *elements] if last in holder else elements
    elif isinstance(holder, list) and _is_index(last, holder):
        holder[int(last)] = [*_elements(holder[int(last)]), *elements]
    elif isinstance(holder, list) and last.isdecimal():
        holder.append(elements)
    else:
        for before, key, _, value in taken:
            _put_back(before, key, value)


def _elements(value: Node) -> list[Node]:
    held = opened(value)
    return held if isinstance(held, list) else [held]


def _move(content: Object, source: Sequence[str], destination: Sequence[str]) -> None:
    """Move values. Each `*` of the destination stands for what the `*` in the same position among those of the source
    has matched. In an array, values are appended, as KrakenD does. Values without a place there stay.
    """
    for before, key, stars, value in _taken(content, source):
        holder, last = _holder(content, destination, stars), destination[-1]
        if last == _ALL and stars:
            last = stars[destination.count(_ALL) - 1]
        if isinstance(holder, dict):
            holder[last] = value
        elif isinstance(holder, list) and last.isdecimal():
            holder.append(value)
        else:
            _put_back(before, key, value)


_Holder: TypeAlias = "Object | list[Node]"
_Found: TypeAlias = tuple[_Holder, str, tuple[str, ...]]
_Taken: TypeAlias = tuple[_Holder, str, tuple[str, ...], Node]


def _taken(content: Object, path: Sequence[str]) -> list[_Taken]:
    """Remove what a path matches, and return it in the order of the answer."""
    taken = [(holder, key, stars, _pop_node(holder, key)) for holder, key, stars in _matches(content, path)]
    taken.reverse()  # removed from the back
    return taken


def _put_back(holder: _Holder, key: str, value: Node) -> None:
    """Put back what `_taken` has removed, in the order in which it has returned it."""
    if isinstance(holder, dict):
        holder[key] = value
    else:
        holder.insert(int(key), value)


def _matches(content: Node, path: Sequence[str], stars: tuple[str, ...] = ()) -> list[_Found]:
    """Return what a path matches, from the back: the object or array, the name or index in it, and what each `*` has
    matched. Everything on the way is opened in index.
    """
    held = content
    step, *rest = path
    found: list[_Found] = []
    if isinstance(held, bytes):
        return found
    keys = list(held) if isinstance(held, dict) else [str(index) for index in range(len(held))]
    for key in reversed(keys):
        if step not in (_ALL, key):
            continue
        matched = (*stars, key) if step == _ALL else stars
        if rest:
            inner = _open_in(held, key)
            found += _matches(inner, rest, matched)
        else:
            found.append((held, key, matched))
    return found


def _open_in(holder: _Holder, key: str) -> Node:
    if isinstance(holder, dict):
        holder[key] = inner = opened(holder[key])
    else:
        holder[int(key)] = inner = opened(holder[int(key)])
    return inner


def _pop_node(holder: _Holder, key: str) -> Node:
    return holder.pop(key) if isinstance(holder, dict) else holder.pop(int(key))


def _holder(content: Object, path: Sequence[str], stars: Sequence[str]) -> Node:
    """Return the object or array in which the last step of a path stands; a plain value: there is none. Missing objects
    on the way are created.
    """
    held: Node = content
    left = list(stars)
    for step in path[:-1]:
        key = left.pop(0) if step == _ALL and left else step
        if isinstance(held, dict):
            held.setdefault(key, {})
            held = _open_in(held, key)
        elif isinstance(held, list) and _is_index(key, held):
            held = _open_in(held, key)
        else:
            return b""
    return held


def _is_index(step: str, held: list[Node]) -> bool:
    """Whether an array has an element with this index."""
    return len(step) < _INDEX_LENGTH and step.isdecimal() and int(step) < len(held)
