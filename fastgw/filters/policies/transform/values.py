"""Values that a mapping or template computes: constants, `{variable}` of the request, `{{ expression }}` of the body.

Rule 1: a value is always encoded as JSON here; it never adds a member or an element. Rule 2: a text with a missing
value is missing as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Final, TypeAlias, final

import msgspec
import orjson

from fastgw.config.base.value_templates import is_known, parse_template
from fastgw.filters.api import Exchange
from fastgw.filters.authentication.templates import Unfit, decoded_value
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.strict import parse_json
from fastgw.http.json.texts import count_separators, opened
from fastgw.http.json.tree import Node, rendered, text_of

LONGEST_EXPRESSION: Final = 1000
"""Maximum number of characters of an expression."""
DEEPEST_EXPRESSION: Final = 16
"""Maximum depth of the syntax tree of an expression."""
LARGEST_VALUE: Final = 1024 * 1024
"""Maximum bytes of the result of an expression."""

_PIECE: Final = re.compile(r"\{\{(.+?)\}\}(?!\})|\{([^{}]*)\}|[{}]|[^{}]+", re.DOTALL)
_SPACE: Final = b" \t\r\n"
_INDEX_LENGTH: Final = 10
_PARAMETER: Final = re.compile(r"(?:param\.)?[A-Za-z_][A-Za-z0-9_]*").fullmatch


class UnmappableBody(ValueError):
    """A body cannot be mapped. The message is for the log, and has nothing of the body.

    `detail`: the reason for the client, without expressions and variables of the configuration; "": the message.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail or message


class CostlyBody(UnmappableBody):
    """A body takes too long for the event loop: it is left to a helper process. Whether it is valid is not known."""


FAILED: Final = "an expression failed"
"""Detail for an expression that fails for the values of a body."""
NO_TEXT: Final = "a value of the request is not a text in UTF-8"
"""Detail for a variable that JSON cannot hold."""
AT_ONCE: Final = 400
"""Maximum number of values of a body that are opened one by one in one turn of the event loop, about 8 us for each, or
of what takes as long."""
IN_STREAM: Final = 2000
"""Maximum number of such values in a line of NDJSON or an event, which no helper process transforms."""
IN_HELPER: Final = 1_000_000
"""Maximum number of such values in a helper process."""
MEMBERS: Final = 20
"""Members and elements of a body that are found in the time of a value that is opened: a text is opened or parsed
with all that it has."""
_STEPS: Final = 4
"""Steps of expressions in that time: visits of a part of an expression for one value.

PERF: 0.9 us for each of 260,000 steps, the four of each number in ``l[?@ == `5`]`` (CPython 3.11)."""
_MEMBERS_PER_STEP: Final = MEMBERS // _STEPS
"""Members or elements that are opened or written again in the time of a step.

PERF: 0.15 us for each of 64,000 numbers that are opened, 0.3 us for members of an object (CPython 3.11)."""
_PATH_STEPS: Final = 2
"""Steps that each path takes, without those of what it opens."""
_TOO_MANY_STEPS: Final = "values and expressions take too many steps"
_UNCOUNTED: Final = frozenset(("key_val_pair", "subexpression"))
"""Parts of expressions that take no step: their children do, which have all the work."""
_CALL_STEPS: Final = 2
"""Steps that the call of a function takes, without its arguments."""
_VALUES_PER_STEP: Final = 4
"""Values in the arguments of a function that take as long as a step: each takes 0.26 us in `sum`."""
_CHARACTERS_PER_STEP: Final = 16
"""Characters of the result of a function that take as long as a step: `to_string` writes a number in 0.15 us."""
Variables: TypeAlias = Callable[[str], "str | None"]
"""Function that returns the text of a variable of the request; None: it is missing. Raises `UnmappableBody`."""


_reader = lru_cache(1024)(decoded_value)


def variable_text(exchange: Exchange, name: str) -> str | None:
    """Return the text of a variable of an exchange; None: it is missing. Raises `UnmappableBody`."""
    try:
        held = _reader(name)(exchange)
        return held.decode() if held else None
    except (Unfit, UnicodeDecodeError) as error:
        raise UnmappableBody(f"{{{name}}} is not a text in UTF-8", NO_TEXT) from error


@final
class BodyValues:
    """A body whose JSON is valid, and the variables of its request. Parsed once, and only if a value needs it."""

    __slots__ = ("_members", "_most", "_tree", "_value", "steps", "text", "variables")

    def __init__(self, text: bytes, variables: Variables, most: int) -> None:
        """`most`: maximum number of values that are opened one by one, or of what takes as long (`AT_ONCE`)."""
        self.text, self.variables, self._most = text, variables, most
        self._tree: dict[str, Node] = {"": text}
        self._members = 0  # of the values that are opened
        self._value: Any = self
        self.steps = most * _STEPS
        """Steps that are left for the values that paths open and for expressions."""

    def node_at(self, path: tuple[str, ...]) -> bytes | None:
        """Return the text of the value at a path, as it was written. Raises `CostlyBody`."""
        self.take_steps(_PATH_STEPS)
        if not path:
            return self.text.strip(_SPACE)
        holder: Any = self._tree
        key: str | int = ""
        for step in path:
            holder[key] = inner = self.open_node(holder[key])
            holder, key = inner, step
            if isinstance(holder, list) and len(step) < _INDEX_LENGTH and step.isdecimal() and int(step) < len(holder):
                key = int(step)
            elif not isinstance(holder, dict) or step not in holder:
                return None
        found: Node = holder[key]
        if isinstance(found, bytes):
            return found
        self.take_steps(self._members // _MEMBERS_PER_STEP)  # it was opened for a longer path
        return rendered(found)

    def open_node(self, node: Node) -> Node:
        """Return a node with its members or elements accessible, which take steps. Raises `CostlyBody`."""
        if not isinstance(node, bytes):
            return node
        found = opened(node)
        if not isinstance(found, bytes):
            self._members += len(found)
            self.take_steps(len(found) // _MEMBERS_PER_STEP)
        return found

    def take_steps(self, steps: int) -> None:
        """Raise `CostlyBody` if fewer steps are left."""
        self.steps -= steps
        if self.steps < 0:
            raise CostlyBody(_TOO_MANY_STEPS)

    @property
    def value(self) -> Any:
        """Parsed body. Raises `UnmappableBody`, also `CostlyBody`."""
        if self._value is self:
            check_members(self.text, self._most)
            try:
                self._value = parse_json(self.text)
            except InvalidJson as error:
                raise UnmappableBody(str(error)) from error
        return self._value

    def part(self, text: bytes) -> BodyValues:
        """Return a part of the body, whose values and expressions take the steps that are left."""
        part = BodyValues(text, self.variables, self._most)
        part.steps = self.steps
        return part


def check_members(text: bytes, most: int) -> None:
    """Raise `CostlyBody` for a text of which more is found than in the time of `most` values that are opened."""
    if len(text) > most * MEMBERS and count_separators(text) > most * MEMBERS:
        raise CostlyBody(f"the body has more than {most * MEMBERS} values")


Maker: TypeAlias = Callable[[BodyValues], "Node | None"]
"""Function that returns a value as JSON; None: it is missing. Raises `UnmappableBody`."""


def compile_value(value: Any, where: str) -> Maker:
    """Return the function for a value of the configuration, whose strings may have variables and expressions. `where`:
    name of the setting. Raises `ValueError`.
    """
    if isinstance(value, dict):
        members = [(name, compile_value(each, f"{where}.{name}")) for name, each in value.items()]
        if not any(map(_is_computed, _strings_in(value))):
            constant = msgspec.json.encode(value)  # orjson has no integers beyond 64 bits
            return lambda document: constant
        return lambda document: {name: _or_null(make(document)) for name, make in members}
    if isinstance(value, list):
        elements = [compile_value(each, f"{where}.{index}") for index, each in enumerate(value)]
        return lambda document: [_or_null(make(document)) for make in elements]
    if not isinstance(value, str):
        written = msgspec.json.encode(value)
        return lambda document: written
    try:
        return _compile_text(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def variables_in(value: Any) -> set[str]:
    """Return the names of the variables in a value of the configuration that `compile_value` takes."""
    return {match[2] for text in _strings_in(value) for match in _PIECE.finditer(text) if match[2] is not None}


def _strings_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _strings_in(each)]


def _is_computed(text: str) -> bool:
    return "{" in text or "}" in text


def _or_null(node: Node | None) -> Node:
    return b"null" if node is None else node


def _compile_text(text: str) -> Maker:
    if not _is_computed(text):
        constant = orjson.dumps(text)
        return lambda document: constant
    pieces: list[str | Callable[[BodyValues], Node | str | None]] = []
    for match in _PIECE.finditer(text):
        if match[1] is not None:
            pieces.append(compile_expression(match[1].strip()))
        elif match[2] is not None:
            pieces.append(_variable(match[2]))
        elif match[0] in "{}":
            raise ValueError(f'"{text}" has a single brace; expected a variable such as {{request_id}}, an expression '
                             "such as {{ name }}, or {{ '{' }} for a brace")  # fmt: skip
        else:
            pieces.append(match[0])
    if len(pieces) == 1 and not isinstance(only := pieces[0], str):
        make = only
        return lambda document: _encoded(make(document))

    def joined(document: BodyValues) -> Node | None:
        made = ""
        for piece in pieces:
            held = piece if isinstance(piece, str) else _plain(piece(document))
            if held is None:
                return None
            made += held
            if len(made) > LARGEST_VALUE:
                raise UnmappableBody("a computed text is too long")
        return orjson.dumps(made)

    return joined


def _encoded(held: Node | str | None) -> Node | None:
    return orjson.dumps(held) if isinstance(held, str) else held


def _plain(held: Node | str | None) -> str | None:
    """Return the text of a value for a position within a text; None: it is missing, or an object or array."""
    if held is None or isinstance(held, str):
        return held
    text = text_of(held)
    return None if text is None else text.decode()


def _variable(name: str) -> Callable[[BodyValues], str | None]:
    parse_template(f"{{{name}}}")
    if not is_known(name) and not _PARAMETER(name):
        raise ValueError(f"unknown variable {{{name}}}")
    _reader(name)
    return lambda document: document.variables(name)


def compile_expression(text: str) -> Callable[[BodyValues], Node | None]:
    """Return the function for a JMESPath expression, applied to the body as it was received. None: null.

    A plain path (`a.b[0]`) returns the value as it was written; other results are encoded here, with numbers as 64-bit
    integers or doubles. Raises `ValueError`.
    """
    try:
        import jmespath
        from jmespath.exceptions import JMESPathError
    except ModuleNotFoundError as error:
        raise ValueError("the package jmespath is missing; pip install 'fastgw[transform]'") from error
    if len(text) > LONGEST_EXPRESSION:
        raise ValueError(f"an expression of {len(text)} characters; expected at most {LONGEST_EXPRESSION}")
    try:
        compiled = jmespath.compile(text)
    except (JMESPathError, RecursionError) as error:
        reason = str(error).partition("\n")[0] if isinstance(error, JMESPathError) else "nested too deeply"
        raise ValueError(f'"{text}" is not a JMESPath expression: {reason}') from error
    if _depth(compiled.parsed) > DEEPEST_EXPRESSION:
        raise ValueError(f'"{text}" is nested too deeply; expected at most {DEEPEST_EXPRESSION} levels')
    unknown = _unknown_function(compiled.parsed)
    if unknown:
        raise ValueError(f'"{text}" calls the unknown function {unknown}()')
    path = _plain_path(compiled.parsed)
    if path is not None:
        steps = path
        return lambda document: _not_null(document.node_at(steps))

    interpreter = _interpreter_type()()

    def evaluate(document: BodyValues) -> Node | None:
        try:
            value = document.value
            interpreter.left = document.steps
            try:
                result = interpreter.visit(compiled.parsed, value)
            finally:
                document.steps = interpreter.left
            if result is None:
                return None
            made = orjson.dumps(result)
        except (JMESPathError, TypeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, UnmappableBody):
                raise
            # Without the exception's text, which has values of the body.
            raise UnmappableBody(f"the expression {text!r} failed: {type(error).__name__}", FAILED) from error
        if len(made) > LARGEST_VALUE:
            raise UnmappableBody(f"the result of the expression {text!r} is too large", "a result is too large")
        return made

    return evaluate


@cache
def _interpreter_type() -> Any:
    """Return the type of interpreters, whose comparisons of a number with a text are null, and which raise `CostlyBody`
    after so many steps as they have left.

    JMESPath defines null for what cannot be ordered; the package also orders texts, and raises `TypeError` for the two.
    """
    from jmespath.visitor import TreeInterpreter

    def null_if_unordered(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def compared(left: Any, right: Any) -> Any:
            try:
                return compare(left, right)
            except TypeError:
                return None

        return compared

    class Interpreter(TreeInterpreter):  # type: ignore[misc]  # of a package without types
        COMPARATOR_FUNC: Final = {
            name: null_if_unordered(compare) for name, compare in TreeInterpreter.COMPARATOR_FUNC.items()
        }
        left = 0

        def visit(self, node: dict[str, Any], value: Any) -> Any:
            kind = node["type"]
            if kind not in _UNCOUNTED:
                self._count(1)
            method = self._method_cache.get(kind)
            return super().visit(node, value) if method is None else method(node, value)

        def visit_function_expression(self, node: dict[str, Any], value: Any) -> Any:
            arguments = [self.visit(child, value) for child in node["children"]]
            held = sum(len(each) for each in arguments if isinstance(each, list | dict))
            self._count(_CALL_STEPS + held // _VALUES_PER_STEP)
            result = self._functions.call_function(node["value"], arguments)
            if isinstance(result, str):
                self._count(len(result) // _CHARACTERS_PER_STEP)
            return result

        def visit_flatten(self, node: dict[str, Any], value: Any) -> Any:
            result = super().visit_flatten(node, value)
            if result is not None:
                self._count(len(result))
            return result

        def _count(self, steps: int) -> None:
            self.left -= steps
            if self.left < 0:
                raise CostlyBody(_TOO_MANY_STEPS)

    return Interpreter


def _not_null(node: bytes | None) -> bytes | None:
    return None if node == b"null" else node


def _depth(parsed: dict[str, Any]) -> int:
    return 1 + max(map(_depth, _children(parsed)), default=0)


def _children(parsed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the expressions within one. The children of a slice are its bounds."""
    children: list[dict[str, Any]] = parsed["children"]
    return [] if parsed["type"] == "slice" else children


def _unknown_function(parsed: dict[str, Any]) -> str:
    """Return the name of a function that does not exist; "": there is none."""
    from jmespath.functions import Functions

    if parsed["type"] == "function_expression" and parsed["value"] not in Functions.FUNCTION_TABLE:
        return str(parsed["value"])
    return next(filter(None, map(_unknown_function, _children(parsed))), "")


def _plain_path(parsed: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the names and indexes of an expression that only selects one value; None: it does more."""
    kind = parsed["type"]
    if kind == "current" or kind == "identity":
        return ()
    if kind == "field":
        name = parsed["value"]
        return None if name.isdecimal() else (name,)  # which an index of an array would match, too
    if kind == "index":
        return None if parsed["value"] < 0 else (str(parsed["value"]),)
    if kind not in ("subexpression", "index_expression"):
        return None
    steps: tuple[str, ...] = ()
    for child in parsed["children"]:
        path = _plain_path(child)
        if path is None:
            return None
        steps += path
    return steps
