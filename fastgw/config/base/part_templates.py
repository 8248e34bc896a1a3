"""Syntax of the templates of composed parts: literals, and variables of the request and of earlier answers."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from fastgw.config.base.value_templates import is_known
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_PART: Final = re.compile(r"part\.([A-Za-z_][A-Za-z0-9_-]*)(?:\.(.+))?")
_ITEM: Final = re.compile(r"item(?:\.(.+))?")
_PARAMETER: Final = re.compile(r"(?:param\.)?([A-Za-z_][A-Za-z0-9_]*)")


class TemplateVariable(NamedTuple):
    """A variable in a template. `part`: name of the part whose answer it is in; `parameter`: name of a path
    parameter; "" = another variable. `path`: names and indexes in the answer or element.
    """

    name: str
    part: str = ""
    path: tuple[str, ...] = ()
    is_item: bool = False
    parameter: str = ""


Pieces: TypeAlias = tuple[bytes | TemplateVariable, ...]


def parse_pieces(text: str) -> Pieces:
    """Return the literals and variables of a text. Raises `ValueError`."""
    pieces: list[bytes | TemplateVariable] = []
    for match in _PIECE.finditer(text):
        piece, name = match[0], match[1]
        if name is not None:
            pieces.append(_variable(name))
        elif piece in "{}":
            raise ValueError(f'"{text}" has a single brace; expected {{{{ for a brace')
        else:
            pieces.append(piece[:1].encode() if piece in ("{{", "}}") else piece.encode())
    return tuple(pieces)


def parse_target(text: str) -> Pieces:
    """Return the pieces of a path with its query. Raises `ValueError`."""
    pieces = parse_pieces(text)
    target = b"".join(each if isinstance(each, bytes) else b"-" for each in pieces)
    if any(not 0x21 <= byte <= 0x7E for byte in target) or b"#" in target:
        raise ValueError(f'"{text}" has a character that no URL has; expected it percent-encoded')
    path = target.partition(b"?")[0]
    try:
        normal = normalize(path)
    except Malformed as malformed:
        raise ValueError(f'"{text}": {malformed.reason}; expected a path such as /users/{{id}}') from malformed
    if normal != path:
        raise ValueError(f'"{text}" is not in normal form; expected {normal.decode()}')
    return pieces


def parse_list(text: str) -> TemplateVariable:
    """Return the variable of `for_each`. Raises `ValueError`."""
    pieces = parse_pieces(text)
    if len(pieces) != 1 or isinstance(only := pieces[0], bytes) or not only.part:
        raise ValueError(f'"{text}" is no list of an earlier part; expected one such as {{part.orders.items}}')
    return only


def variables_in(pieces: Pieces) -> Iterator[TemplateVariable]:
    return (piece for piece in pieces if isinstance(piece, TemplateVariable))


def _variable(name: str) -> TemplateVariable:
    if (part := _PART.fullmatch(name)) is not None:
        return TemplateVariable(name, part[1], tuple(part[2].split(".")) if part[2] else ())
    if (item := _ITEM.fullmatch(name)) is not None:
        return TemplateVariable(name, "", tuple(item[1].split(".")) if item[1] else (), is_item=True)
    if is_known(name):
        return TemplateVariable(name)
    if (parameter := _PARAMETER.fullmatch(name)) is not None:
        return TemplateVariable(name, parameter=parameter[1])
    raise ValueError(f"unknown variable {{{name}}}; expected one such as {{id}}, {{query.page}} or {{part.user.id}}")
