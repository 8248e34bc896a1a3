"""Settings of maps: tables of values, for `{map.NAME}` wherever a value is written."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import re2
from msgspec import Meta

from fastgw.config.base.problems import format_value
from fastgw.config.base.route_patterns import parse_regex, re2_options
from fastgw.config.base.settings_base import Settings
from fastgw.config.base.value_templates import PARAM_PREFIX, is_known, maps_in, names_in, parse_template
from fastgw.config.base.value_types import IN_TEXT, FieldValue, Notation, PlainValue, parse_field_value
from fastgw.config.base.variables import is_of_response, is_variable

FieldTemplate = Annotated[
    str,
    Notation(
        "a single-line string with variables such as {NAME}, and {{ for a brace",
        lambda text: parse_template(parse_field_value(text)),
        {"type": "string"},
    ),
]


_NAMED: Final = "expected a key such as ~^/old(?P<rest>/.*)$, whose group is {rest}"


class ValueMap(Settings):
    """Table of values: `{map.NAME}` is a value that depends on another one."""

    source: FieldTemplate
    """Value to look up, such as `{header.X-Plan}`, or `{response_header.X-Plan}` for a table that is used in
    responses. A missing value is looked up as an empty one. With a path parameter, the map is for routes that have it.
    """
    values: Annotated[Mapping[str, FieldValue], Meta(min_length=1, examples=["{gold: high}"])]
    """Result for each value: the value itself, exactly, or `~` and a regular expression (RE2), which matches anywhere
    unless anchored. An equal value takes precedence; regular expressions are tried in the order of the file. In the
    result of one with named groups, such as `~^/old(?P<rest>/.*)$`, `{rest}` stands for what the group has matched,
    which is empty if it has no part in the match. In a rewrite or redirect, what it has matched of the path is sent as
    it was received; what it has matched of other values is percent-encoded, with its slashes."""
    default: PlainValue = ""
    """Result for any other value. Empty = there is no value, as for a variable that is missing."""

    def __post_init__(self) -> None:
        for value in self.values:
            if value.startswith("~"):
                parse_regex(value[1:])
        if maps_in(self.source):
            raise ValueError("the `source` of a map is another map; expected other variables")

    def unknown_groups(self) -> Iterator[tuple[str, str, str]]:
        """Yield the keys whose results have a variable that is no group of theirs, with the error and the expected
        form.
        """
        for key, result in self.values.items():
            if not isinstance(result, str):
                continue  # it is reported already
            is_regex = key.startswith("~")
            groups = compile_key(key[1:]).groupindex if is_regex else {}
            for found in (_GROUP if is_regex else IN_TEXT).finditer(result):
                if found[1].encode() not in groups:
                    expected = f"expected {', '.join(f'{{{name.decode()}}}' for name in groups)}, or another key"
                    yield key, f"{found[0]} is no group of the key {format_value(key)}", expected if groups else _NAMED

    @property
    def has_constant_source(self) -> bool:
        """Whether it looks up the same value for all requests."""
        return not names_in(self.source)

    @property
    def reads_response(self) -> bool:
        """Whether it looks up a value that is known in responses only."""
        return any(map(is_of_response, names_in(self.source)))


_GROUP: Final = re.compile(r"\{([A-Za-z0-9_][^{}\s\"']*)\}")
"""A group in the result of a regular expression; other braces are literal."""


def compile_key(source: str) -> Any:
    """Return the compiled regular expression of a key, without its `~`. Keys of its `groupindex` are bytes."""
    return re2.compile(source.encode(), re2_options())


def result_pieces(result: str) -> list[str]:
    """Split the result of a regular expression: literals, and between them names of groups."""
    return _GROUP.split(result)


def needed_parameters(table: ValueMap) -> frozenset[str]:
    """Return the path parameters that a map looks up."""
    names = (name for name in names_in(table.source) if not is_known(name))
    return frozenset(name.removeprefix(PARAM_PREFIX) for name in names)


def constant_source(source: str) -> str:
    """Return the note on a source without variables."""
    meant = source if is_variable(source) else "NAME"
    return f"{format_value(source)} is a constant, so the result is always the same; a variable is written {{{meant}}}"


def is_whole(table: Any) -> bool:
    """Whether a map, and its source, could be decoded: rules skip settings that are reported already."""
    return isinstance(table, ValueMap) and isinstance(table.source, str)
