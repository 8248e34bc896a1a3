"""Values of multipart bodies (RFC 7578) for inspection: fields, file names and content types of parts.

Servers read multipart bodies leniently, each in another way. So the content of a part is only left out as that of a
file if every reader takes it for one, and a body that two readers divide differently is malformed.
"""

import re
from collections.abc import Sequence
from typing import Final

from fastgw.filters.policies.waf.content_type import CHARSETS, charset_of

_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{1,70}").fullmatch
_AFTER_DELIMITER: Final = re.compile(rb"[ \t]*(?:\r\n|\r?\Z)").match
"""Matches the rest of a delimiter's line, which the end of the inspected bytes may cut off."""
_AFTER_LAST: Final = re.compile(rb"-?(?:-[ \t\r\n]*)?").fullmatch
_BARE_LINE_BREAK: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)").search
_FOLDED: Final = re.compile(rb"\r\n(?=[ \t])").sub
_FILE: Final = re.compile(
    rb"""(?i)(?:form-data|attachment|file)((?:[ \t]*;[ \t]*[a-z]+[*]?=(?:"(?:[^"\\]|\\(?!"))*"|[^;"'\s\\]+))*)"""
).fullmatch
"""Matches a `Content-Disposition` that has one meaning: no escaped quotation mark, no other quoting."""
_DISPOSITION_PARAMETER: Final = re.compile(rb"""(?i);[ \t]*([a-z]+[*]?)=(?:"([^"]*)"|([^;"'\s\\]+))""").findall
_NAME: Final = re.compile(rb"""(?i)[; \t]name\*?=(?:"([^"]*)"|([^; \t\n]*))""").search
_FILE_NAME: Final = re.compile(rb"""(?i)[; \t]filename\*?=(?:"([^"]*)"|([^; \t\n]*))""").search
_IDENTITIES: Final = (b"7bit", b"8bit", b"binary")


def multipart_values(boundaries: Sequence[bytes], body: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return names and values, and whether the body is malformed. `boundaries`: those of the content type; `body`: may
    be cut off.
    """
    if len(boundaries) != 1 or not _BOUNDARY(boundaries[0]):
        return [], True
    pieces = (b"\r\n" + body).split(b"\n--" + boundaries[0])
    if len(pieces) < 2 or pieces[0].strip():
        return [], True
    arguments: list[tuple[bytes, bytes]] = []
    is_malformed = not pieces[0].endswith(b"\r") or b"\r--" + boundaries[0] in body
    for number, piece in enumerate(pieces[1:], 2):
        is_last = number == len(pieces)
        if is_last and _AFTER_LAST(piece):
            break
        line_end = _AFTER_DELIMITER(piece)
        if line_end is None or not (is_last or piece.endswith(b"\r")):
            is_malformed = True
        found, is_odd = _part_values(piece if line_end is None else piece[line_end.end() :], is_last)
        arguments += found
        is_malformed = is_malformed or is_odd
    return arguments, is_malformed


def _part_values(part: bytes, is_last: bool) -> tuple[list[tuple[bytes, bytes]], bool]:
    if part.startswith(b"\r\n"):
        return [(b"", part[2:].removesuffix(b"\r"))], False
    raw_head, separator, content = part.partition(b"\r\n\r\n")
    is_malformed = _BARE_LINE_BREAK(raw_head) is not None or not (separator or is_last)
    headers: dict[bytes, bytes] = {}
    for line in _FOLDED(b"", raw_head).split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.strip().lower()
        is_malformed = is_malformed or name in headers
        headers[name] = value.strip()
    disposition = headers.get(b"content-disposition", b"")
    kind = headers.get(b"content-type", b"")
    if (
        charset_of(kind) not in CHARSETS
        or headers.get(b"content-transfer-encoding", b"7bit").lower() not in _IDENTITIES
    ):
        is_malformed = True  # encoded: the text that the server reads is another one
    name_found, file_name = _NAME(disposition), _FILE_NAME(disposition)
    label = b"" if name_found is None else name_found[1] or name_found[2] or b""
    values: list[tuple[bytes, bytes]] = []
    if file_name is not None:
        values.append((label, b'filename="%b"' % (file_name[1] or file_name[2] or b"")))
    if is_malformed or not _is_file(disposition):
        values.append((label, content.removesuffix(b"\r")))
    if kind:
        values.append((label, kind))
    return values, is_malformed


def _is_file(disposition: bytes) -> bool:
    """Whether every reader takes a part for a file. An empty name is one of a field to some, `filename*` alone too."""
    found = _FILE(disposition)
    if found is None:
        return False
    parameters = _DISPOSITION_PARAMETER(found[1])
    names = [name.lower() for name, _, _ in parameters]
    if len(set(names)) < len(names):
        return False
    return any(name.lower() == b"filename" and (quoted or token) for name, quoted, token in parameters)
