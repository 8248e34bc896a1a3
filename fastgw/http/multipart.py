"""Multipart bodies (RFC 2046, RFC 7578), with bounds.

Parts are found by their boundary, and read strictly: what two readers could read in two ways is refused.
"""

import re
from collections.abc import Mapping
from typing import Final

_MOST_PARTS: Final = 200
_MOST_HEADERS: Final = 4096
"""Bytes of the headers of a part."""
_BOUNDARY: Final = re.compile(
    rb'(?:^|;)[ \t]*boundary=(?:"([^"\\]{1,70})"|([^;," \t]{1,70}))[ \t]*(?=;|$)', re.IGNORECASE
)
_MENTION: Final = re.compile(rb"(?:^|[;\s,])boundary[*0-9]*+\s*+=", re.IGNORECASE)
"""A parameter that is the boundary to some readers, such as `boundary*0` (RFC 2231)."""
_BOUNDARY_TEXT: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_DISPOSITION: Final = re.compile(
    rb'form-data((?:[ \t]*;[ \t]*[a-z*]+=(?:"(?:[^"\\\r\n]|\\.)*"|[^;"\s]+))*)[ \t]*', re.I
)
_PARAMETER: Final = re.compile(rb';[ \t]*([a-z*]+)=(?:"((?:[^"\\\r\n]|\\.)*)"|([^;"\s]+))', re.IGNORECASE)
_MENTIONED_NAME: Final = re.compile(rb"""[;\s"'](?:file)?name[*0-9]*+\s*+=""", re.IGNORECASE)
"""A name to readers that do not know quoted or escaped text."""


class InvalidMultipart(ValueError):
    """A body that is not multipart, or not unambiguously. The text says what is expected."""


def boundary_of(content_type: bytes) -> bytes:
    """Return the boundary of a multipart content type (RFC 2046 section 5.1.1). Raises `InvalidMultipart`."""
    kind, _, parameters = content_type.partition(b";")
    found = _BOUNDARY.search(parameters)
    boundary = b"" if found is None else found[1] or found[2]
    if (
        found is None
        or _BOUNDARY_TEXT.fullmatch(boundary) is None
        or b"boundary" in kind.lower()
        or b"boundary" in parameters[: found.start()].lower()  # which PHP takes for it
        or _MENTION.search(parameters, found.end())
    ):
        raise InvalidMultipart("expected a boundary")
    return bytes(boundary)


def parts_of(payload: bytes, boundary: bytes) -> list[tuple[dict[bytes, bytes], bytes]]:
    """Return the parts of a multipart body: headers in lower case, and content. Raises `InvalidMultipart`."""
    begin = b"--" + boundary
    pieces = (b"\r\n" + payload).split(b"\r\n" + begin, _MOST_PARTS + 2)
    if len(pieces) > _MOST_PARTS + 2:
        raise InvalidMultipart(f"expected at most {_MOST_PARTS} parts")
    if any(b"\n" + begin in piece or b"\r" + begin in piece for piece in pieces):  # a line of it to some readers
        raise InvalidMultipart("expected CR and LF before each boundary")
    if len(pieces) < 2 or pieces[0].strip(b"\r\n"):
        raise InvalidMultipart("expected parts with the boundary")
    if not pieces[-1].startswith(b"--") or pieces[-1][2:].strip(b" \t\r\n"):
        raise InvalidMultipart("expected the last boundary, and nothing after it")
    return [_part_of(piece) for piece in pieces[1:-1]]


def _part_of(piece: bytes) -> tuple[dict[bytes, bytes], bytes]:
    start = piece.lstrip(b" \t")
    if not start.startswith(b"\r\n"):
        raise InvalidMultipart("expected a line break after the boundary")
    head, mark, content = start.partition(b"\r\n\r\n")
    if not mark or len(head) > _MOST_HEADERS:
        raise InvalidMultipart("expected headers, and an empty line, in each part")
    headers: dict[bytes, bytes] = {}
    for line in head[2:].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.lower()
        if b"\r" in line or b"\n" in line:
            raise InvalidMultipart("expected header lines that end with CR and LF")
        if not colon or not name or name != name.strip() or name in headers:
            raise InvalidMultipart("expected each header of a part once")
        headers[name] = value.strip(b" \t")
    if b"content-transfer-encoding" in headers and headers[b"content-transfer-encoding"].lower() not in (
        b"7bit",
        b"8bit",
        b"binary",
    ):
        raise InvalidMultipart("expected parts without a transfer encoding")
    return headers, content


def names_of(headers: Mapping[bytes, bytes]) -> tuple[bytes, bytes | None]:
    """Return the name of a part, and that of its file; None: it is no file. Raises `InvalidMultipart`."""
    disposition = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    parameters = _PARAMETER.findall(disposition[1]) if disposition is not None else []
    names = [quoted or token for key, quoted, token in parameters if key.lower() == b"name"]
    mentioned = len(_MENTIONED_NAME.findall(headers.get(b"content-disposition", b"")))
    if len(names) != 1 or any(key.lower() == b"name*" for key, _, _ in parameters):
        raise InvalidMultipart("expected each part to have one name")
    files = [quoted or token for key, quoted, token in parameters if key.lower() == b"filename"]
    if len(files) > 1 or any(key.lower() == b"filename*" for key, _, _ in parameters):  # RFC 7578 section 4.2
        raise InvalidMultipart("expected each part to have at most one filename, and no filename*")
    if mentioned > len(names) + len(files):
        raise InvalidMultipart("expected no further names in quotes")
    return _unescaped(names[0]), _unescaped(files[0]) if files else None


def _unescaped(text: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", text)
