"""Program of the helper processes that transform bodies: large ones, and those for jq and JSONata."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from msgspec import Struct, msgpack

from fastgw.filters.policies.transform.compiled_change import compile_change
from fastgw.filters.policies.transform.filter import BodyChange
from fastgw.filters.policies.transform.json_mapping import JsonFunction
from fastgw.filters.policies.transform.values import IN_HELPER, NO_TEXT, UnmappableBody
from fastgw.helper_processes.program import Work

MOST_RESULT: Final = 16 * 1024**2
"""Maximum size of a result in bytes."""
CHANGED: Final = b"\0"
REFUSED: Final = b"\1"
"""First byte of a result: the new body follows, or the reasons why there is none (`refusal_in`)."""


class ChangeRequest(Struct, frozen=True, array_like=True):
    """A body to transform. `change`: settings, as `encoded_change` returns them. `variables`: texts of the variables;
    None: missing; False: not a text in UTF-8.
    """

    change: bytes
    body: bytes
    variables: dict[str, str | bool | None]


_decoder: Final = msgpack.Decoder(ChangeRequest)
_refusal_decoder: Final = msgpack.Decoder(tuple[str, str])


def encoded_change(change: BodyChange) -> bytes:
    """Return settings for a `ChangeRequest`."""
    of_both = BodyChange(**{name: getattr(change, name) for name in BodyChange.__struct_fields__})
    return msgpack.encode(of_both, enc_hook=dict)  # a mapping that is empty by default is read-only


def start(argument: bytes) -> Work:
    """Import the modules named in the argument, as far as they are installed: later no file can be opened."""
    for name in tuple(os.environ):  # Python sets LC_CTYPE; jq shows the environment
        del os.environ[name]
    codecs.lookup("utf-8-sig")  # the XML parser's
    for name in argument.decode().split():
        _import(name)
    return _run


def _import(name: str) -> None:
    try:
        __import__(name)
    except ModuleNotFoundError:
        return  # settings that need it do not compile


def _run(message: bytes) -> bytes:
    request = _decoder.decode(message)
    try:
        result = _compiled(request.change)(request.body, _variables(request))
    except UnmappableBody as error:
        return _refused(error)
    if len(result) > MOST_RESULT:
        return _refused(UnmappableBody("the result is too large"))
    return CHANGED + result


def _refused(error: UnmappableBody) -> bytes:
    return REFUSED + msgpack.encode((str(error), error.detail))


def refusal_in(result: bytes) -> UnmappableBody:
    """Return the exception in a result that begins with `REFUSED`."""
    return UnmappableBody(*_refusal_decoder.decode(result[1:]))


def _variables(request: ChangeRequest) -> Callable[[str], str | None]:
    def text(name: str) -> str | None:
        held = request.variables[name]
        if isinstance(held, bool):
            raise UnmappableBody(f"{{{name}}} is not a text in UTF-8", NO_TEXT)
        return held

    return text


@lru_cache(256)
def _compiled(change: bytes) -> JsonFunction:
    return compile_change(msgpack.decode(change, type=BodyChange), IN_HELPER)
