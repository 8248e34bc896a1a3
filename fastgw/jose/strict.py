"""Strict decoding for JOSE: base64url without padding, and JSON objects. Every value has exactly one valid encoding."""

import json
import re
from base64 import urlsafe_b64decode
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 32
"""Maximum nesting depth of objects and lists. Typical tokens have up to five."""

_IS_BASE64URL: Final = re.compile(rb"[A-Za-z0-9_-]*").fullmatch
# If the length is not a multiple of four characters, 4 or 2 spare bits of the last one must be zero.
_LAST_OF_2: Final = frozenset(b"AQgw")
_LAST_OF_3: Final = frozenset(b"AEIMQUYcgkosw048")
_STRING_OR_BRACKET: Final = re.compile(r'"(?>(?:[^"\\]|\\.)*)"|[\[\]{}]')


class TokenRefused(Exception):
    """A rejected token. The text has the reason for the client, and nothing of the token."""


def unencoded(text: bytes, what: str) -> bytes:
    """Decode base64url (RFC 7515 section 2, RFC 4648 section 3.5).

    Padding, white space and non-zero spare bits are rejected, so the encoding of any bytes is unique.
    """
    if _IS_BASE64URL(text) is None:
        raise TokenRefused(f"{what} is not base64url")
    over = len(text) % 4
    if over == 1 or (over == 2 and text[-1] not in _LAST_OF_2) or (over == 3 and text[-1] not in _LAST_OF_3):
        raise TokenRefused(f"{what} is not valid base64url: its length is wrong")
    return urlsafe_b64decode(text + b"=" * (-len(text) % 4))


def members(raw: bytes, what: str) -> dict[str, Any]:
    """Decode a JSON object (RFC 8259, in UTF-8) without duplicate names at any depth.

    Numbers are finite, strings have no lone surrogates, and nesting is at most `MAX_DEPTH`.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise TokenRefused(f"{what} is not UTF-8") from None  # the cause would show the token
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise TokenRefused(f"{what} is nested too deeply")
    try:
        orjson.loads(raw)  # strict, except for duplicate names
        found = _DECODER.decode(text)
    except _Repeated:
        raise TokenRefused(f"{what} has a duplicate member") from None
    except ValueError:
        raise TokenRefused(f"{what} is not valid JSON") from None
    if not isinstance(found, dict):
        raise TokenRefused(f"{what} is not a JSON object")
    return found


class _Repeated(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        raise _Repeated
    return held


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object)


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        if token[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in "]}":
            depth -= 1
    return deepest
