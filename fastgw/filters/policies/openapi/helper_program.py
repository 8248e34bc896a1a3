"""Program of the helper processes that validate the costly bodies of an OpenAPI document's operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

import orjson
from msgspec import Struct, msgpack

from fastgw.filters.policies.openapi.bodies import OperationSchemas, TypedBody
from fastgw.helper_processes.program import Program, Work

DEADLINE_S: Final = 10.0
"""Seconds for a body, including its time in the queue; the start of the first process is not included
(`HelperPool.run_request`)."""


class OperationBody(Struct, frozen=True, array_like=True):
    """A body with its content type, and the JSON text of how bodies of this type are validated (`TypedBody`)."""

    plan: bytes
    content_type: bytes
    body: bytes


_decoder: Final = msgpack.Decoder(OperationBody)


def program_for(definitions: bytes) -> Program:
    """Return the program for a document. `definitions`: the JSON text of the schemas that its operations share."""
    return Program(
        name="openapi validate",
        module=__name__,
        argument=definitions,
        deadline_s=DEADLINE_S,
        kill_after_s=30.0,  # the first body may wait for the definitions to be compiled
        queue=16,
        memory_bytes=1024**3,
    )


def start(argument: bytes) -> Work:
    """Compile the definitions. Raises `ModuleNotFoundError`."""
    schemas = OperationSchemas(argument)
    _ = schemas.definitions

    @lru_cache(64)
    def body_of(plan: bytes) -> TypedBody:
        return TypedBody(orjson.loads(plan), schemas)

    return partial(_run, body_of)


def _run(body_of: Callable[[bytes], TypedBody], message: bytes) -> bytes:
    """Return the errors as a JSON array."""
    request = _decoder.decode(message)
    return orjson.dumps(body_of(request.plan).errors(request.body, request.content_type))
