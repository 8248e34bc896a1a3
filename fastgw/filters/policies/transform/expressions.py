"""jq and JSONata: expressions that build a body from another one. They run in helper processes only.

Rule 1: an expression has one result, or none (null). Rule 2: a number that the engine would change is refused, not
rounded. Rule 3: the text of an exception of an engine is not logged, because it has values of the body.
"""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from typing import Any, Final

import orjson

from fastgw.filters.policies.transform.json_mapping import JsonFunction
from fastgw.filters.policies.transform.values import FAILED, UnmappableBody, Variables
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.strict import parse_json

LONGEST_PROGRAM: Final = 10_000
"""Maximum number of characters of an expression."""
_LARGEST_INTEGER: Final = 2**53
"""Integers up to here are exact as a double (IEEE 754)."""
_EXACT_DIGITS: Final = 15
"""Decimal digits that a double keeps, unless it is subnormal (IEEE 754)."""


def compile_jq(text: str) -> JsonFunction:
    """Return the function for a jq expression. Raises `ValueError`."""
    try:
        import jq
    except ModuleNotFoundError as error:
        raise ValueError("the package jq is missing; pip install 'fastgw[jq]'") from error
    program = jq.compile(text)

    def evaluate(body: bytes, variables: Variables) -> bytes:
        exact_value(body)
        try:
            results = iter(program.input_text(body.decode()))
            first = next(results, None)
            if next(results, _NOTHING) is not _NOTHING:
                raise UnmappableBody(
                    "the jq expression has several results; expected one, such as [.items[].name]",
                    "an expression has several results",
                )
        except ValueError as error:
            raise _failure("jq", error) from error
        return _written("jq", first)

    return evaluate


def compile_jsonata(text: str) -> JsonFunction:
    """Return the function for a JSONata expression. Raises `ValueError`."""
    program = parse_jsonata(text)

    def evaluate(body: bytes, variables: Variables) -> bytes:
        value = exact_value(body)
        try:
            return _written("JSONata", program.evaluate(value))
        except UnmappableBody:
            raise
        except Exception as error:  # the edge of a library: it raises many types
            raise _failure("JSONata", error) from error

    return evaluate


def check_jsonata(text: str) -> None:
    """Raise `ValueError` for what is not an expression, with the position of the error.

    The library raises the interpreter's recursion limit, by which other parsers refuse what is nested too deeply: it is
    restored, because this process is no helper.
    """
    limit = sys.getrecursionlimit()
    try:
        parse_jsonata(text)
    finally:
        sys.setrecursionlimit(limit)


def parse_jsonata(text: str) -> Any:
    """Return the parsed expression. Raises `ValueError`, with the position of the error."""
    try:
        from jsonata.jexception import JException
        from jsonata.jsonata import Jsonata
    except ModuleNotFoundError as error:
        raise ValueError("the package jsonata-python is missing; pip install 'fastgw[jsonata]'") from error
    if "$eval" in text:
        raise ValueError("$eval would run data as an expression; expected an expression without it")
    try:
        return Jsonata(text)
    except JException as error:
        raise ValueError(f"not a JSONata expression: {error} (character {error.location})") from error
    except (IndexError, KeyError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a JSONata expression: {type(error).__name__}") from error


_NOTHING: Final = object()


def exact_value(text: bytes) -> Any:
    """Return the value of a JSON text whose numbers a double keeps. Raises `UnmappableBody`."""
    try:
        value = parse_json(text)
        json.loads(text, parse_int=_check_integer, parse_float=_check_number)
    except (InvalidJson, RecursionError) as error:
        raise UnmappableBody(str(error) or "nested too deeply") from error
    return value


def _check_integer(digits: str) -> None:
    if len(digits) > _EXACT_DIGITS and (len(digits) > _EXACT_DIGITS + 2 or abs(int(digits)) > _LARGEST_INTEGER):
        raise UnmappableBody("an integer is beyond 2^53, and would be rounded")


def _check_number(digits: str) -> None:
    mantissa = digits.lower().partition("e")[0].replace(".", "").lstrip("-0")
    if not mantissa:
        return
    value = float(digits)
    if len(mantissa) <= _EXACT_DIGITS and abs(value) >= sys.float_info.min:
        return
    if not value or Decimal(repr(value)) != Decimal(digits):
        raise UnmappableBody("a number is not exact as a double, and would be changed")


def _written(engine: str, value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # above all for an integer of more than 64 bits: engines make one of 1e22
        try:
            return orjson.dumps(_with_doubles(value))
        except (TypeError, OverflowError, RecursionError) as error:
            raise _failure(engine, error) from error


def _with_doubles(value: Any) -> Any:
    """Return a value with its integers of more than 64 bits as doubles, by which the engines calculate."""
    if isinstance(value, dict):
        return {name: _with_doubles(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_doubles(each) for each in value]
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


def _failure(engine: str, error: Exception) -> UnmappableBody:
    if isinstance(error, UnmappableBody):
        return error
    return UnmappableBody(f"the {engine} expression failed: {type(error).__name__}", FAILED)
