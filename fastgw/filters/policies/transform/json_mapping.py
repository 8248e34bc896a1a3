"""JSON mapping: rules that select, rename, move and set values of a JSON body, compiled from the settings.

Order: `wrap`, `allow`, `deny`, `rename`, `move`, `default`, `set`, `group`. Values that no rule opens are spliced into
the result as they were written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

import orjson

from fastgw.filters.api import Exchange
from fastgw.filters.policies.transform.values import BodyValues, Maker, UnmappableBody, compile_value
from fastgw.http.json_projection import EACH, Projection
from fastgw.http.json_tree import Node, opened, rendered
from fastgw.http.strict_json import InvalidJson

if TYPE_CHECKING:
    from fastgw.filters.policies.transform.filter import JsonRules

Path: TypeAlias = tuple[str, ...]
Holder: TypeAlias = "dict[str, Node] | list[Node]"
Rule: TypeAlias = Callable[[Node, BodyValues], None]
JsonFunction: TypeAlias = Callable[[bytes, Exchange], bytes]
"""Function from a body to the body that replaces it. Raises `UnmappableBody`."""
MOST_MATCHES: Final = 5000
"""Maximum number of values that a path of `move`, `default` or `set` matches: each is opened in the event loop."""
_EVERYTHING: Final = Projection()


def steps_of(path: str) -> Path:
    """Return the steps of a dotted path. Raises `ValueError`."""
    steps = tuple(path.split("."))
    if "" in steps:
        raise ValueError(f'"{path}" has an empty step; expected a path such as order.items.*.sku')
    return steps


def compile_template(template: str) -> JsonFunction:
    """Return the function that builds a body from a template, which is JSON."""
    make = compile_value(orjson.loads(template), "template")

    def build(body: bytes, exchange: Exchange) -> bytes:
        made = make(BodyValues(_selected(body, _EVERYTHING), exchange))
        return b"null" if made is None else rendered(made)

    return build


def compile_mapping(rules: JsonRules) -> JsonFunction:
    """Return the function for these rules. Raises `ValueError`."""
    projection = Projection(
        map(steps_of, rules.allow),
        map(steps_of, rules.deny),
        {steps_of(path): name for path, name in rules.rename.items()},
    )
    later = list(_rules(rules))
    begin = b"" if rules.wrap is None else b"{" + orjson.dumps(rules.wrap) + b":"
    group_begin = b"" if rules.group is None else b"{" + orjson.dumps(rules.group) + b":"

    def apply(body: bytes, exchange: Exchange) -> bytes:
        selected = _wrapped(body, begin, projection) if begin else _selected(body, projection)
        if later:
            content = opened(selected)
            document = BodyValues(body, exchange)
            for rule in later:
                rule(content, document)
            selected = rendered(content)
        return group_begin + selected + b"}" if group_begin else selected

    return apply


def _selected(body: bytes, projection: Projection) -> bytes:
    try:
        return projection.apply(body)
    except InvalidJson as error:
        raise UnmappableBody(str(error)) from error


def _wrapped(body: bytes, begin: bytes, projection: Projection) -> bytes:
    """Return the selection of a body, which becomes an object with one member if it is an array."""
    text = body.lstrip(b" \t\r\n")
    if text[:1] == b"[":
        checked = _selected(body, _EVERYTHING)  # by itself, so that no text completes the object
        return _selected(begin + checked + b"}", projection)
    return _selected(body, projection)


def _rules(rules: JsonRules) -> Iterator[Rule]:
    for source, destination in rules.move.items():
        yield _move(steps_of(source), steps_of(destination))
    for path, value in rules.default.items():
        yield _assign(steps_of(path), compile_value(orjson.loads(value), f"default.{path}"), replaces=False)
    for path, value in rules.set.items():
        yield _assign(steps_of(path), compile_value(orjson.loads(value), f"set.{path}"), replaces=True)


def _move(source: Path, destination: Path) -> Rule:
    def move(content: Node, document: BodyValues) -> None:
        if isinstance(content, bytes):
            return
        moved = list(islice(_popped(content, source, ()), MOST_MATCHES + 1))
        if len(moved) > MOST_MATCHES:
            raise UnmappableBody(f"a path matches more than {MOST_MATCHES} values")
        for value, bound in reversed(moved):
            holder: Node = content
            left = iter(bound)
            steps = [next(left) if step == EACH else step for step in destination]
            for step in steps[:-1]:
                holder = _inner(holder, step, creates=True)
            if isinstance(holder, dict):
                holder[str(steps[-1])] = value

    return move


def _popped(holder: Holder, path: Path, bound: tuple[str | int, ...]) -> Iterator[tuple[Node, tuple[str | int, ...]]]:
    """Remove the values that a path matches, from the back, and yield each with what its `*` have matched."""
    step, rest = path[0], path[1:]
    keys: Sequence[str | int]
    if isinstance(holder, dict):
        keys = list(holder) if step == EACH else [step] if step in holder else []
    else:
        keys = range(len(holder)) if step == EACH else []
    if len(keys) > MOST_MATCHES:
        raise UnmappableBody(f"a path matches more than {MOST_MATCHES} values")
    for key in reversed(keys):
        matched = (*bound, key) if step == EACH else bound
        if not rest:
            yield holder.pop(key), matched  # type: ignore[arg-type]  # a name or an index, as the holder has
        elif not isinstance(inner := _inner(holder, key), bytes):
            yield from _popped(inner, rest, matched)


def _assign(path: Path, make: Maker, replaces: bool) -> Rule:
    *parent, last = path

    def assign(content: Node, document: BodyValues) -> None:
        value: Node | None = None
        for holder in _holders(content, parent, creates=True):
            if isinstance(holder, dict) and (replaces or last not in holder):
                value = make(document) if value is None else value
                if value is None:
                    return
                holder[last] = rendered(value)  # not one dictionary in several positions

    return assign


def _holders(content: Node, path: Sequence[str], creates: bool = False) -> list[Holder]:
    """Return the objects and arrays that a path matches, opened in their positions. `creates`: missing objects are
    added."""
    held: list[Holder] = [] if isinstance(content, bytes) else [content]
    for step in path:
        found: list[Holder] = []
        for holder in held:
            keys: Sequence[str | int] = (step,)
            if step == EACH:
                if len(holder) > MOST_MATCHES:
                    raise UnmappableBody(f"a path matches more than {MOST_MATCHES} values")
                keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            for key in keys:
                inner = _inner(holder, key, creates and step != EACH)
                if not isinstance(inner, bytes):
                    found.append(inner)
            if len(found) > MOST_MATCHES:
                raise UnmappableBody(f"a path matches more than {MOST_MATCHES} objects and arrays")
        held = found
    return held


def _inner(holder: Node, key: str | int, creates: bool = False) -> Node:
    """Return the value of a member or element, opened in its position; b"": there is none."""
    if isinstance(holder, dict) and isinstance(key, str):
        if key not in holder:
            if not creates:
                return b""
            holder[key] = {}
        inner = holder[key] = opened(holder[key])
        return inner
    if isinstance(holder, list) and isinstance(key, int) and key < len(holder):
        inner = holder[key] = opened(holder[key])
        return inner
    return b""
