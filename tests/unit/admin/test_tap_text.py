"""What a tap prints cannot change the terminal, nor the direction in which it is read."""

from __future__ import annotations

from typing import Any

import msgspec

from fastgw.admin.tap_text import as_text
from fastgw.admin.tapped_request import TappedMessage, TappedRequest


def test_control_characters_and_text_directions_are_escaped() -> None:
    message = TappedMessage([("A", "\x1b[31m\x9b")], "a\u202eb\u2066\r\nc", 9, False, "")
    given: dict[str, Any] = dict.fromkeys(TappedRequest.__struct_fields__, "") | {
        "duration_s": 0.1,
        "status": 200,
        "upstream_s": None,
        "retries": 0,
        "request": msgspec.to_builtins(message),
        "response": msgspec.to_builtins(message),
        "dropped": 0,
    }
    lines = as_text(msgspec.convert(given, TappedRequest)).split("\n")
    assert r"> A: \x1b[31m\x9b" in lines
    assert lines[-2:] == [r"a\u202eb\u2066", "c"]
