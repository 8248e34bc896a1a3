"""Rejected head: stand-in for a request that could not be parsed, so that its rejection is answered and logged like any
other.
"""

import re
from typing import Final

from fastgw.http.field_names import READ_IN_REQUESTS
from fastgw.http.grammar import TOKEN
from fastgw.http.http1.parser import stand_in_head
from fastgw.http.messages import RequestHead

MOST: Final = 8192
"""Maximum bytes of the request that are inspected."""
_LINE: Final = re.compile(rb"([!-~]{1,32}) ([^ \r\n]*)")
_FIELD: Final = re.compile(rb"(?<=\n)(" + TOKEN + rb"++):([^\r\n]*+)")
_SHOWN: Final = bytes(code if code >= 32 and code != 127 else ord("?") for code in range(256))
"""Bytes of values by their code: controls, which no value may have, as a question mark."""
# Up to the last `@`: the end of the authority is unknown here, and a password may contain any character.
_USERINFO: Final = re.compile(rb"\A((?:[^/@]*:)?//|(?!/))[^ ]*@")


def rejected_head(received: bytes, version: int = 11) -> RequestHead:
    """Return the stand-in for the received bytes, which may be empty. It has what the log shows of them, and none of
    the fields that are processed (`READ_IN_REQUESTS`). `version`: HTTP version times ten.
    """
    raw = received[:MOST]
    line = _LINE.match(raw)
    method, target = line.groups() if line else (b"", b"")
    raw_path, asked, query = _USERINFO.sub(rb"\1***@", target).partition(b"?")
    lines = [
        b"%b:%b\r\n" % (field[1], field[2].translate(_SHOWN))
        for field in _FIELD.finditer(raw)
        if field[1].lower() not in READ_IN_REQUESTS
    ]
    return stand_in_head(method, b"", raw_path, query if asked else None, b"".join(lines), version)
