"""Validation of JSON bodies: by compiled checks of their text where the schema allows it, else by the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import orjson

from fastgw.compiled import twin
from fastgw.filters.policies.content.schema_plan import plan_of
from fastgw.filters.policies.content.schemas import (
    ALL_ERRORS_BYTES,
    MOST_ERRORS,
    body_errors,
    compile_schema,
    errors_of,
    expected_text,
)

Errors = list[dict[str, str]]

_compiled: Any = twin("fastgw.filters.policies.content._schema_checks")


@final
class BodyValidator:
    """Validator of the bodies of one schema."""

    __slots__ = ("_checks", "reference")

    def __init__(self, schema: Any) -> None:
        """Raises `UnusableSchema`."""
        self.reference = compile_schema(schema)
        """Validator of values."""
        self._checks: Any = None
        plan = None if _compiled is None else plan_of(schema, expected_text)
        if plan is not None:
            self._checks = _compiled.CompiledChecks(plan, _reference_for)

    def errors(self, payload: bytes) -> Errors:
        """Return the first errors of a body: [] if it conforms.

        PERF: 4 us for 1 KB that conforms, the reference 23; 0.3 ms for 100 KB, 3.4 (CPython 3.11, micro/validation).
        """
        if self._checks is not None:
            most = MOST_ERRORS if len(payload) <= ALL_ERRORS_BYTES else 1
            found: Errors | None = self._checks.errors(payload, most)
            if found is not None:
                return found
        return body_errors(self.reference, payload)


def _reference_for(schema: Any) -> Callable[[bytes], Errors]:
    """Return the function that returns the errors of a value by a part of a schema."""
    validator = compile_schema(schema)
    is_valid = validator.is_valid

    def check(text: bytes) -> Errors:
        value = orjson.loads(text)
        return [] if is_valid(value) else errors_of(validator, value, "body", len(text))

    return check
