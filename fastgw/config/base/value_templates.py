"""Syntax of templates: text with values of a request, such as `{client_ip}` or `{claim.sub}`; `{{` is a brace."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from fastgw.config.base.problems import format_value, suggest
from fastgw.config.base.variables import CLAIM_PREFIXES, FIXED, MAP_PREFIX, RESPONSE_PREFIX, is_variable

PARAM_PREFIX: Final = "param."
_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_SIMILAR: Final = 0.7
"""Similarity of a name that is suggested in place of a path parameter. `id` is no misspelt `uuid`, which has 0.67."""
_PARAMETER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_template(text: str) -> str:
    """Return the text unchanged if it can be compiled. Raises `ValueError`."""
    template_pieces(text)
    return text


def template_pieces(text: str) -> tuple[tuple[bytes, str | None], ...]:
    """Return literals, each with None, and names of variables, each with b"". Raises `ValueError`."""
    pieces: list[tuple[bytes, str | None]] = []
    for match in _PIECE.finditer(text):
        piece, name = match[0], match[1]
        if name is not None:
            if not is_known(name) and not _PARAMETER.fullmatch(name.removeprefix(PARAM_PREFIX)):
                wrong = f'"{text}" has the unknown variable {{{name}}}'
                raise ValueError(f"{wrong}; expected a variable such as {{header.X-Tenant}}, or a path parameter")
            pieces.append((b"", name))
        elif piece in "{}":
            raise ValueError(f'"{text}" has a single brace')
        else:
            pieces.append((piece[:1].encode() if piece in ("{{", "}}") else piece.encode(), None))
    return tuple(pieces)


def names_in(text: str) -> tuple[str, ...]:
    """Return the names of the variables in the text."""
    return tuple(name for _, name in template_pieces(text) if name is not None)


def is_known(name: str) -> bool:
    """Whether a name stands for a variable or a map, unlike a path parameter."""
    return is_variable(name) or name.startswith(MAP_PREFIX)


def is_identity(text: str) -> bool:
    """Whether the text contains an identity of the client: consumer or claims."""
    return any(name.startswith(("consumer.", *CLAIM_PREFIXES)) for name in names_in(text))


def maps_in(text: str) -> tuple[str, ...]:
    """Return the names of the maps in the text."""
    return tuple(name.removeprefix(MAP_PREFIX) for name in names_in(text) if name.startswith(MAP_PREFIX))


def names_request(text: str) -> bool:
    """Whether the text contains the request id."""
    return "request_id" in names_in(text)


class KnownNames(NamedTuple):
    """Names of variables that the configuration defines, at one position: without `param.`."""

    names: frozenset[str]
    """Path parameters, and maps as `map.NAME`."""
    of_responses: frozenset[str] = frozenset()
    """Maps, as `map.NAME`, that look up a value of the response."""
    needed: Mapping[str, frozenset[str]] = MappingProxyType({})
    """Path parameters that maps look up, by `map.NAME`."""

    def with_parameters(self, parameters: frozenset[str]) -> "KnownNames":
        return self._replace(names=self.names | parameters)

    def problem_of(self, name: str, *, in_response: bool = False) -> tuple[str, str] | None:
        """Return the error about a variable, and the expected form; None: it can be used. `in_response`: whether it is
        used when there is a response.
        """
        name = name.removeprefix(PARAM_PREFIX)
        is_map = name.startswith(MAP_PREFIX)
        if not in_response and (name in self.of_responses or name.startswith(RESPONSE_PREFIX)):
            what = "looks up a value of the response" if is_map else "is a value of the response"
            return f"{{{name}}} {what}, which is not known yet", "expected a value of the request"
        missing = self.needed.get(name, frozenset()) - self.names
        if missing:
            wrong = f"{{{name}}} looks up {{{min(missing)}}}: no path of this route has such a parameter"
            return wrong, "expected paths that have it, or another map"
        if name in self.names or is_variable(name):
            return None
        if not is_map:
            wrong = f"unknown variable {{{name}}}: no path of this route has such a parameter"
            return wrong, suggest(name, [*FIXED, *self.names], similarity=_SIMILAR)
        known = [each.removeprefix(MAP_PREFIX) for each in self.names if each.startswith(MAP_PREFIX)]
        unknown = name.removeprefix(MAP_PREFIX)
        expected = suggest(unknown, known) if known else "expected a name of `maps`, which is empty"
        return f"unknown map {format_value(unknown)}", expected
