"""Strict JSON (RFC 8259): one meaning only. Duplicate names and bytes that are not UTF-8 are refused."""

import gc
import json
from typing import Any, Final

import orjson

MOST_INLINE: Final = 128 * 1024
"""Bytes that are parsed in the event loop; longer texts are parsed in a thread."""
MOST_CONTAINERS: Final = 16_000
"""Arrays and objects whose values are made in the event loop, strings with their marks among them.

PERF: 128 KiB with 65,000 arrays that are nested 100 levels deep take 6.5 ms, with 16,000 1.8 (CPython 3.11)."""
_TOO_LARGE: Final = "a number is too large for a double"
_INFINITY: Final = "number is infinity"
"""Beginning of orjson's message for such a number."""
_QUOTE: Final = b'"'
_LONG: Final = 4096


class InvalidJson(ValueError):
    """A text is no JSON, or parsers may read it differently. The message has nothing of the text."""


def parse_json(text: bytes) -> Any:
    """Return the value of a JSON text. Raises `InvalidJson`, also if it is nested deeper than 254 levels, as many
    as can be written again.

    Parsers keep one of several members with the same name, so the text has more quotation marks than what is left.
    PERF: 0.13 ms for 100 KB; a function for each object takes 1 to 4 (CPython 3.11).
    """
    try:
        value = _loaded(text)
    except ValueError as error:
        raise InvalidJson(_TOO_LARGE if str(error).startswith(_INFINITY) else "not JSON in UTF-8") from None
    try:
        written = orjson.dumps(value)
    except TypeError:  # orjson reads 1,024 levels
        raise InvalidJson("nested too deeply") from None
    if b"\\u0022" in text:  # an escaped quotation mark that is not written as one
        check_json_in_steps(text)
    elif _quotes_in(text) != _quotes_in(written):
        raise InvalidJson("duplicate names in an object")
    return value


def takes_long(text: bytes) -> bool:
    """Return whether making the value of a JSON text takes longer than the event loop may wait."""
    if len(text) > MOST_INLINE:
        return True
    return len(text) > MOST_CONTAINERS and text.count(b"[") + text.count(b"{") > MOST_CONTAINERS


def _loaded(text: bytes) -> Any:
    """Return the value of a text. No garbage is collected meanwhile: a value of JSON refers to none.

    PERF: 128 KiB of nested arrays take 3.3 ms, with collections 6.6 (CPython 3.11).
    """
    if len(text) < _LONG or not gc.isenabled():  # only those who have disabled it enable it again
        return orjson.loads(text)
    gc.disable()
    try:
        return orjson.loads(text)
    finally:
        gc.enable()


def _quotes_in(text: bytes) -> int:
    # PERF: 2.0 us for 1 KB with 280 of them, `count` 3.4 (CPython 3.11).
    return len(text) - len(text.translate(None, _QUOTE))


def check_json(text: bytes) -> None:
    """Raise `InvalidJson` for a text that `parse_json` refuses. Long texts are checked in steps, for a thread."""
    if len(text) <= MOST_INLINE:
        parse_json(text)
    else:
        check_json_in_steps(text)


def check_json_in_steps(text: bytes) -> None:
    """Check a text in steps, between which the interpreter gives other threads their turns. Levels: as many as its
    stack allows, 920 with CPython 3.11 and 65,000 with 3.14.
    """
    try:
        _SCANNER.decode(text.decode())
    except InvalidJson:
        raise
    except UnicodeDecodeError:
        raise InvalidJson("not UTF-8") from None
    except ValueError:
        raise InvalidJson("not JSON") from None
    except RecursionError:
        raise InvalidJson("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
        raise InvalidJson("duplicate names in an object")


def _no_constant(name: str) -> None:
    raise InvalidJson("NaN or Infinity")


# `len` in place of a conversion: digits are checked and never become a number, in quadratic time for long ones.
_SCANNER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=len, parse_float=len, parse_constant=_no_constant, strict=True
)
