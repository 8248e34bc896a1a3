"""Values of strict JSON (RFC 8259): one meaning only. Duplicate names and bytes that are not UTF-8 are refused."""

import gc
from typing import Any, Final

import orjson

from fastgw.http.json.texts import check_text

MOST_INLINE: Final = 128 * 1024
"""Bytes that are parsed in the event loop; longer texts are parsed in a thread."""
MOST_CONTAINERS: Final = 16_000
"""Arrays and objects whose values are made in the event loop, strings with their marks among them.

PERF: 128 KiB with 65,000 arrays that are nested 100 levels deep take 6.5 ms, with 16,000 1.8 (CPython 3.11)."""
_LONG: Final = 4096


def parse_json(text: bytes) -> Any:
    """Return the value of a JSON text. Raises `InvalidJson`, also if it is nested deeper than 254 levels, as many
    as can be written again.

    No garbage is collected meanwhile: a value of JSON refers to none.
    PERF: 0.1 ms for 100 KB, without the check 0.08; 128 KiB of nested arrays take 3.3 ms, with collections 6.6
    (CPython 3.11).
    """
    text = check_text(text)
    if len(text) < _LONG or not gc.isenabled():  # only those who have disabled it enable it again
        return orjson.loads(text)
    gc.disable()
    try:
        return orjson.loads(text)
    finally:
        gc.enable()


def takes_long(text: bytes) -> bool:
    """Return whether making the value of a JSON text takes longer than the event loop may wait."""
    if len(text) > MOST_INLINE:
        return True
    return len(text) > MOST_CONTAINERS and text.count(b"[") + text.count(b"{") > MOST_CONTAINERS
