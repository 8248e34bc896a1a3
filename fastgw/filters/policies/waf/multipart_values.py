"""Values of multipart bodies (RFC 7578) for inspection: fields, file names and content types of parts.

Servers read multipart bodies leniently, each in another way. So the content of a part is only left out as that of a
file if every reader takes it for one, and a body that two readers divide differently is malformed.
"""

import re
from typing import Final

from fastgw.filters.policies.waf.content_type import CHARSETS, charset_of
from fastgw.filters.policies.waf.header_values import FILENAME
from fastgw.filters.policies.waf.part_headers import read_disposition, values_of_header
from fastgw.http.multipart import InvalidMultipart, boundary_of

_AFTER_DELIMITER: Final = re.compile(rb"[ \t]*(?:\r\n|\r?\Z)").match
"""Matches the rest of a delimiter's line, which the end of the inspected bytes may cut off."""
_AFTER_LAST: Final = re.compile(rb"-?(?:-[ \t\r\n]*)?").fullmatch
_BARE_LINE_BREAK: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)").search
_FOLDED: Final = re.compile(rb"\r\n(?=[ \t])").sub
_HEADER_NAME: Final = re.compile(rb"[!#-'*+.0-9A-Z^-z|~-]+").fullmatch
_IDENTITIES: Final = (b"7bit", b"8bit", b"binary")
_READ_ELSEWHERE: Final = (b"content-disposition", b"content-transfer-encoding")


def multipart_values(content_type: bytes, body: bytes) -> tuple[list[tuple[bytes, bytes]], bool, int]:
    """Return names and values, whether the body is malformed, and the number of its parts. `body`: may be cut off."""
    try:
        boundary = boundary_of(content_type)
    except InvalidMultipart:
        return [], True, 0
    pieces = (b"\r\n" + body).split(b"\n--" + boundary)
    if len(pieces) < 2 or pieces[0].strip():
        return [], True, 0
    arguments: list[tuple[bytes, bytes]] = []
    counted = 0
    is_malformed = not pieces[0].endswith(b"\r") or b"\r--" + boundary in body
    for number, piece in enumerate(pieces[1:], 2):
        is_last = number == len(pieces)
        if is_last and _AFTER_LAST(piece):
            break
        counted += 1  # its headers and the readings of its name are values, too, but no parameters of the client
        line_end = _AFTER_DELIMITER(piece)
        if line_end is None or not (is_last or piece.endswith(b"\r")):
            is_malformed = True
        found, is_odd = _part_values(piece if line_end is None else piece[line_end.end() :], is_last)
        arguments += found
        is_malformed = is_malformed or is_odd
    return arguments, is_malformed, counted


def _part_values(part: bytes, is_last: bool) -> tuple[list[tuple[bytes, bytes]], bool]:
    if part.startswith(b"\r\n"):
        return [(b"", part[2:].removesuffix(b"\r"))], False
    raw_head, separator, content = part.partition(b"\r\n\r\n")
    is_malformed = _BARE_LINE_BREAK(raw_head) is not None or not (separator or is_last)
    headers: dict[bytes, bytes] = {}
    lines = _FOLDED(b"", raw_head).split(b"\r\n")
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(b":")
        name, value, is_whole = name.lower(), value.strip(), separator or number < len(lines)
        if is_whole and not (colon and _HEADER_NAME(name)):
            is_malformed = True  # a header to some servers only
        is_malformed = is_malformed or name in headers
        headers[name] = value
        if is_whole and (
            (name == b"content-type" and charset_of(value) not in CHARSETS)
            or (name == b"content-transfer-encoding" and value.lower() not in _IDENTITIES)
        ):
            is_malformed = True  # encoded: the text that the server reads is another one
    kind = headers.get(b"content-type", b"")
    disposition = read_disposition(headers.get(b"content-disposition", b""))
    is_malformed = is_malformed or disposition.is_malformed
    label = disposition.label
    values = [(label, name) for name in disposition.names if name != label]
    for name in disposition.file_names:
        values.append((label, FILENAME % name.replace(b'"', b"")))
        if b'"' in name:
            values.append((label, name))
    if disposition.text:
        values.append((label, disposition.text))
    # a server that does not unfold lines may miss that it is a file; the parts of a multipart part are not one file
    if is_malformed or not disposition.is_file or raw_head != _FOLDED(b"", raw_head) or _is_multipart(kind):
        values.append((label, content.removesuffix(b"\r")))
    for name, value in headers.items():
        if name not in _READ_ELSEWHERE and value:
            texts, is_odd = values_of_header(value)
            is_malformed = is_malformed or is_odd
            values += [(label, text) for text in texts]
    if label == b"_charset_" and not _is_inspected(content, is_last):  # of all fields (RFC 7578 section 4.6)
        is_malformed = True
    return values, is_malformed


def _is_inspected(charset: bytes, may_be_cut: bool) -> bool:
    """Whether a charset is one whose text is inspected, or the beginning of one, if the inspected bytes end in it."""
    if not may_be_cut:
        return charset.strip().lower() in CHARSETS
    beginning = charset.partition(b"\r\n")[0].strip().lower()  # a delimiter may have begun
    return any(each.startswith(beginning) for each in CHARSETS)


def _is_multipart(content_type: bytes) -> bool:
    return content_type[:10].lower() == b"multipart/"
