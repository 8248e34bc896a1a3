"""Program of the helper processes that validate large bodies."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import orjson
from msgspec import Struct, msgpack

from fastgw.filters.policies.content.body_validator import BodyValidator
from fastgw.filters.policies.content.schemas import read_schema
from fastgw.helper_processes.program import Work


class BodyToCheck(Struct, frozen=True, array_like=True):
    """A body and the JSON text of its schema."""

    schema: bytes
    body: bytes


_decoder: Final = msgpack.Decoder(BodyToCheck)


def start(argument: bytes) -> Work:
    """Import what validation needs. Raises `ModuleNotFoundError`."""
    import jsonschema_rs  # noqa: F401  # before no file can be opened any more

    return _run


def _run(message: bytes) -> bytes:
    """Return the errors as a JSON array."""
    request = _decoder.decode(message)
    return orjson.dumps(_compiled(request.schema).errors(request.body))


@lru_cache(64)
def _compiled(schema: bytes) -> BodyValidator:
    return BodyValidator(read_schema(schema), at_once=False)
