"""The usual shape of heads: a pattern that takes such a head apart at the few lines that do not go on.

A shortcut of `heads`, which reads with care what has another shape. A head of this one is accepted there too, and means
the same: its start line is in the plainest form, its lines are well-formed, and it has none of the fields that frame,
route or stay behind but those that the pattern names.
"""

import re
import sys
from collections.abc import Iterable
from string import ascii_letters
from typing import Final

from fastgw.http.grammar import TOKEN
from fastgw.http.http1.known_fields import SIGNS, spelled
from fastgw.http.path_normalization import IN_SEGMENT

# PERF: a group that is repeated and not gone back into costs least if it is repeated possessively, which CPython before
# 3.11.5 does wrong (gh-106052): 1.9 us for a request of 15 lines and 1,090 bytes, 2.7 if the repetition is in an atomic
# group (CPython 3.11.7, micro/framing).
_TAKEN: Final = b"(?:%b)%b+" if sys.version_info >= (3, 11, 5) else b"(?>(?:%b)%b)"

# A path that is in normal form, and read in one way by all servers: no dot segments, empty ones or parameters.
_PATH: Final = b"(?:%b/?+|/)" % (_TAKEN % (b"/" + IN_SEGMENT.replace(rb"\.", b"") + IN_SEGMENT + b"*+", b"+"))
# All that a value may have but tabs. PERF: two ranges are compared, three are looked up in a table: 800 instructions
# for 15 lines and 1,090 bytes (CPython 3.11, callgrind, micro/framing).
_VALUE: Final = rb"[\x20-\x7e\x80-\xff]"
_TARGET: Final = rb"((" + _PATH + rb')(?:\?([!"$-~]*+))?)'
_REQUEST_LINE: Final = b"(GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS) " + _TARGET + rb" HTTP/1\.1\r\n"
_STATUS_LINE: Final = rb"HTTP/1\.1 ([2-5][0-9][0-9]) (" + _VALUE + rb"*+)\r\n"
_HOST: Final = rb"[Hh]ost:[ \t]*+([!-~]++)\r\n"
_LENGTH: Final = rb"[Cc]ontent-[Ll]ength:[ \t]*+([0-9]{1,15}+)\r\n"
_CHUNKED: Final = rb"[Tt]ransfer-[Ee]ncoding:[ \t]*+chunked\r\n"
_CONNECTION: Final = rb"[Cc]onnection:[ \t]*+([A-Za-z-]++)\r\n"
_KEEP_ALIVE: Final = rb"[Kk]eep-[Aa]live:" + _VALUE + rb"*+\r\n"


def request_shape(
    most: int, known: frozenset[bytes], passed: frozenset[bytes], absent: Iterable[bytes]
) -> re.Pattern[bytes]:
    """A request in at most `most` field lines: with `Host`, and of the fields that are `known` those in `passed`.

    It has none of the fields in `absent` either, where a `*` at the end of a name stands for whatever follows.

    Groups: method, request target, its path, its query, lines, value of `Connection`, lines, value of `Host`, lines,
    value of `Connection`, lines, value of `Content-Length`, lines, value of `Connection`, lines. That `Connection`
    comes more than once is for the caller to see.
    """
    lines = _lines(known | frozenset(absent), passed, SIGNS, most - 3, 4)
    asked = lines + _TAKEN % (_CONNECTION + lines, b"?")
    return re.compile(_REQUEST_LINE + asked + _HOST + asked + _TAKEN % (_LENGTH + asked, b"?") + rb"\r\n")


def response_shape(most: int, known: frozenset[bytes], passed: frozenset[bytes]) -> re.Pattern[bytes]:
    """A response whose end is told, as `request_shape` has a request.

    Groups: status, reason, lines, value of `Connection`, lines, value of `Content-Length` (none: it is chunked), lines,
    value of `Connection`, lines.
    """
    lines = _lines(known, passed, "-", most - 4, 3)
    keep_alive = _TAKEN % (_KEEP_ALIVE, b"?")
    asked = lines + _TAKEN % (keep_alive + _CONNECTION + keep_alive + lines, b"?")
    return re.compile(_STATUS_LINE + asked + b"(?:" + _LENGTH + b"|" + _CHUNKED + b")" + asked + rb"\r\n")


def _lines(known: frozenset[bytes], passed: frozenset[bytes], hyphen: str, most: int, times: int) -> bytes:
    """A group of field lines that are none of the `known`, nor called like them but for their hyphens, or are `passed`.

    A head with one `Connection` has the group so many times, for `most` lines together.
    """
    if most < 0:
        return b"(?!)"
    # A passed name without a hyphen that could be another sign needs no look: no line called like it is refused.
    alone = {name for name in passed if hyphen == "-" or b"-" not in name}
    known, passed = known - alone, passed - alone
    # PERF: alternatives by the first letter, and each begins with a single one: most lines need no look ahead, and the
    # others are soon at theirs. 2.7 us for a request of 15 lines and 1,090 bytes; in an alternative for a letter in
    # both cases 3.7 (CPython 3.11, micro/framing).
    letters = sorted({name[:1] for name in known})
    others = bytes(letter for letter in ascii_letters.encode() if bytes([letter]).lower() not in letters)
    names = [TOKEN.replace(b"A-Za-z", others) + TOKEN + b"*+"]
    # Those that are passed as they are mostly spelled need no look ahead.
    names += [form for name in sorted(passed) for form in (name.title(), name)]
    letters.sort(key=b"sptuxc".find, reverse=True)  # what most lines begin with comes first
    for letter in [each.upper() for each in letters] + letters:
        taken = b"(?!%b)" % _named(passed, letter, "-") if _named(passed, letter, "-") else b""
        names.append(b"%b(?!%b%b)%b*+" % (letter, taken, _named(known, letter, hyphen), TOKEN))
    line = rb"(?:%b):%b*+\r\n" % (b"|".join(names), _VALUE)
    return b"(" + _TAKEN % (line, b"{0,%d}" % (most // times)) + b")"


def _named(names: Iterable[bytes], letter: bytes, hyphen: str) -> bytes:
    """Return the alternatives after the first letter in lines with those `names` that begin with it; nothing where none
    does.
    """
    endings = [name[1:].decode() for name in names if name[:1] == letter.lower()]
    whole = [f"{ending}:" for ending in endings if not ending.endswith("*")]
    begun = [ending[:-1] for ending in endings if ending.endswith("*")]
    return spelled(whole + begun, hyphen).encode() if endings else b""
