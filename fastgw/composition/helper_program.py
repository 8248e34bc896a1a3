"""Program of the helper process that makes values of long texts for compositions."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from msgspec import Struct, msgpack

from fastgw.composition.answers import UsedAnswer, use_body
from fastgw.composition.outputs import FORMS, Composed, write_response
from fastgw.composition.rules import AnswerRules, TextRule, flatmapping, shaping
from fastgw.config.settings.compose import FlatmapStep
from fastgw.helper_processes.program import MOST_BYTES, Work


class AnswerToUse(Struct, frozen=True, array_like=True, tag=True):
    """The body of an answer, and the `AnswerRules` of its part. Result: a `UsedAnswer`, or why it cannot be used."""

    rules: bytes
    body: bytes


class ResponseToWrite(Struct, frozen=True, array_like=True, tag=True):
    """A response, as for `outputs.write_response`. Result: a `Composed`, or what completes "the response is"."""

    contents: list[bytes]
    flatmap: tuple[FlatmapStep, ...]
    static: bytes | None
    form: str
    complete: bool
    most: int


_requests: Final = msgpack.Decoder(AnswerToUse | ResponseToWrite)


def start(argument: bytes) -> Work:
    """Return the function. `argument`: none."""
    return _run


def _run(message: bytes) -> bytes:
    request = _requests.decode(message)
    try:
        result = msgpack.encode(_use(request) if isinstance(request, AnswerToUse) else _write(request))
    except MemoryError:
        result = b""
    if 0 < len(result) <= MOST_BYTES:
        return result
    why = "too long to be processed"
    return msgpack.encode(f"the answer is {why}" if isinstance(request, AnswerToUse) else why)


def _use(request: AnswerToUse) -> UsedAnswer | str:
    return use_body(*_compiled(request.rules), request.body)


@lru_cache(64)
def _compiled(rules: bytes) -> tuple[AnswerRules, TextRule]:
    decoded = msgpack.decode(rules, type=AnswerRules)
    return decoded, shaping(decoded)


def _write(request: ResponseToWrite) -> Composed | str:
    flatmap = flatmapping(request.flatmap) if request.flatmap else None
    form = FORMS[request.form]
    return write_response(request.contents, flatmap, request.static, form, request.complete, request.most)
