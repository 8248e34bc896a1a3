"""Settings of maps: tables of values, for `{map.NAME}` wherever a value is written."""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from fastgw.config.base.problems import format_value
from fastgw.config.base.route_patterns import parse_regex
from fastgw.config.base.settings_base import Settings
from fastgw.config.base.value_templates import PARAM_PREFIX, is_known, maps_in, names_in, parse_template
from fastgw.config.base.value_types import Notation, PlainValue, parse_field_value
from fastgw.config.base.variables import is_of_response, is_variable

FieldTemplate = Annotated[
    str,
    Notation(
        "a single-line string with variables such as {NAME}, and {{ for a brace",
        lambda text: parse_template(parse_field_value(text)),
        {"type": "string"},
    ),
]


class ValueMap(Settings):
    """Table of values: `{map.NAME}` is a value that depends on another one."""

    source: FieldTemplate
    """Value to look up, such as `{header.X-Plan}`, or `{response_header.X-Plan}` for a table that is used in
    responses. A missing value is looked up as an empty one. With a path parameter, the map is for routes that have it.
    """
    values: Annotated[Mapping[str, PlainValue], Meta(min_length=1, examples=["{gold: high}"])]
    """Result for each value: the value itself, exactly, or `~` and a regular expression (RE2), which matches anywhere
    unless anchored. An equal value takes precedence; regular expressions are tried in the order of the file."""
    default: PlainValue = ""
    """Result for any other value. Empty = there is no value, as for a variable that is missing."""

    def __post_init__(self) -> None:
        for value in self.values:
            if value.startswith("~"):
                parse_regex(value[1:])
        if maps_in(self.source):
            raise ValueError("the `source` of a map is another map; expected other variables")

    @property
    def has_constant_source(self) -> bool:
        """Whether it looks up the same value for all requests."""
        return not names_in(self.source)

    @property
    def reads_response(self) -> bool:
        """Whether it looks up a value that is known in responses only."""
        return any(map(is_of_response, names_in(self.source)))


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
