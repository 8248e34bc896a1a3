"""Strict JSON (RFC 8259): one meaning only. Duplicate names and bytes that are not UTF-8 are refused.

Rule: numbers are compared and forwarded as they were written, so nothing here converts them.
"""

import json
from typing import Any, Final

MOST_INLINE: Final = 128 * 1024
"""Bytes that are parsed in the event loop; longer texts are parsed in a thread."""


class InvalidJson(ValueError):
    """A text is no JSON, or parsers may read it differently. The message has nothing of the text."""


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
        raise InvalidJson("duplicate names in an object")


def _no_constant(name: str) -> None:
    raise InvalidJson("NaN or Infinity")


# `len` in place of a conversion: digits are checked, and never become a number, which takes quadratic time.
_SCANNER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=len, parse_float=len, parse_constant=_no_constant, strict=True
)


def check_json(text: bytes) -> None:
    """Raise `InvalidJson` unless the text is one JSON value with unique names, nested less than about 1,000 levels."""
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
