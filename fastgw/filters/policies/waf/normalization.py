"""Normalization of text before rules are searched in it: attackers encode what rules look for.

Each step is linear, and the output is not longer than seven times the input, or three times without a comment of C in
it. The text is Latin-1: one byte is one character.
"""

import re
from collections.abc import Iterator
from html.entities import html5
from typing import Final

import re2

PLAIN: Final = re.compile(rb"[A-Za-z0-9_.,:=@~/ -]*").fullmatch
"""Matches text that normalization only turns into lower case: no escapes, and no character that has a meaning."""
SEPARATOR: Final = b"\0"
"""Separator of variants and values: `$` and `^` of rules match at it, and normalized text does not contain it."""
DECODINGS: Final = 2
"""How often percent-encoding is decoded. A third level is an anomaly that a rule reports."""

_UNICODE_PERCENT: Final = re.compile(rb"%[uU]([0-9a-fA-F]{4})").sub
_ESCAPES: Final = re.compile(
    rb"\\(?:x([0-9a-fA-F]{2})|u\{?0*([0-9a-fA-F]{2,4})\}?|U000([0-9a-fA-F]{5})|([0-7]{2,3})|"
    rb"0{0,4}([0-9a-fA-F]{2})(?=[ ;]))"
).sub
_ENTITY: Final = re.compile(rb"&(?:#0*([0-9]{1,7});?|#[xX]0*([0-9a-fA-F]{1,6});?|([A-Za-z][A-Za-z0-9]{1,15});?)").sub
_SPACES: Final = re.compile(rb"[\x00-\x20\x7f]+").sub
_SPECIAL_SPACE: Final = re.compile(rb"[\x00-\x1f\x7f]|  ").search
_LATIN_1_SPACES: Final = re.compile(
    rb"[\x85\xa0](?:(?<![\xc2-\xf4].)|(?<=[\xe0-\xf4].)(?![\x80-\xbf]))(?<![\xe0-\xf4][\x80-\xbf].)"
    rb"(?<![\xf0-\xf4][\x80-\xbf]{2}.)",
    re.DOTALL,
).sub
"""Replaces the spaces of Latin-1, but not the same bytes within a character of UTF-8: a space there would divide words
in Cyrillic, Greek, Arabic and East Asian text."""
# RE2, because searches for the end of each comment would be quadratic.
_COMMENTS: Final = re2.compile(rb"/\*(?:[^!*](?:[^*]|\*+[^*/])*)?\*+/").sub
_INNERMOST_COMMENTS: Final = re.compile(rb"/\*(?!!)[^*/]*+(?:(?:\*(?!/)|/(?!\*))[^*/]*+)*\*/").sub
"""Replaces comments without the beginning of another one in them: the outer beginning may be in a string."""
_LINE_COMMENTS: Final = re.compile(rb"(?:[ \n]?(?:#|--|(?<![:/])//)[^\n]*\n)+").sub
"""Replaces comments that end with their line. After a colon, `//` is a part of a URL."""
_UNICODE_SPACES: Final = re.compile(
    rb"\xe1\x9a\x80|\xe1\xa0\x8e|\xe2\x80[\x80-\x8b\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80|\xef\xbb\xbf"
).sub
"""Replaces what SQL Server and JavaScript take for white space."""
_OVERLONG_CHARACTER: Final = (
    rb"(?:[\xc0\xc1]|\xe0[\x80\x81]|\xf0\x80[\x80\x81]|\xf8\x80{2}[\x80\x81]|\xfc\x80{3}[\x80\x81])[\x80-\xbf]"
)
"""An ASCII character in more than one byte, up to the 6 of RFC 2279. Rules search for no others, and such as E0 82 are
parts of words in Shift_JIS and Windows-1251."""
_OVERLONG: Final = re.compile(_OVERLONG_CHARACTER).sub
IS_OVERLONG: Final = re.compile(_OVERLONG_CHARACTER).search
_FULL_WIDTH: Final = re.compile(rb"\xef(?:\xbc([\x81-\xbf])|\xbd([\x80-\x9e]))").sub
_QUOTING: Final = re.compile(rb"[\"'\\^]|\$\(\)|\$[@*!]").sub
_FIELD_SEPARATORS: Final = re.compile(rb"\$\{?ifs(?:%[^}]*|:[^}]*)?\}?(?:\$[0-9])?|[<>]\(\)").sub
_IS_QUOTED: Final = re.compile(rb"[\"'\\^]|\$").search
_SMART_QUOTES: Final = re.compile(rb"\xe2\x80(?:[\x98-\x9b]|[\x9c-\x9f])|\xca[\xb9\xbc]").sub
_ENTITIES: Final = {
    name.rstrip(";").lower().encode(): ord(text) for name, text in html5.items() if len(text) == 1 and ord(text) < 256
}


def normalized(text: bytes) -> bytes:
    """Return decoded text as rules expect it. Variants follow, each after `SEPARATOR`, if they differ: without the
    quoting of a shell, without comments that end with their line, and with what `/*` and `*/` enclose.
    """
    if PLAIN(text) and b"  " not in text:
        return text.lower()
    if not text.isascii():
        text = _SMART_QUOTES(b"'", _FULL_WIDTH(_of_full_width, _OVERLONG(_of_overlong, text)))
    if b"&" in text:
        text = _ENTITY(_of_entity, text)
    if b"\\" in text:
        text = _ESCAPES(_of_escape, text)
    text = text.lower()
    uncommented = _COMMENTS(b" ", text) if b"/*" in text else text
    bare = _spaced(uncommented)
    variants = [bare]
    if _IS_QUOTED(bare):
        unquoted = _FIELD_SEPARATORS(b" ", bare) if b"$" in bare or b"()" in bare else bare
        variants.append(_QUOTING(b"", unquoted))
    if b"\n" in bare:
        variants.append(_without_line_comments(bare))
    if uncommented != text:
        variants += _with_comments(_spaced(text))
    return bare if len(variants) == 1 else SEPARATOR.join(dict.fromkeys(variants))


def _spaced(text: bytes) -> bytes:
    if not text.isascii():
        text = _LATIN_1_SPACES(b" ", text.replace(b"\xc2\xa0", b" ").replace(b"\xc2\x85", b" "))
        text = _UNICODE_SPACES(b" ", text)
    if _SPECIAL_SPACE(text):
        text = _SPACES(_of_space, text.replace(b"\0", b""))
    return text


def _without_line_comments(text: bytes) -> bytes:
    end = text.rfind(b"\n") + 1  # behind it, searches for the end of each comment would be quadratic
    if end and (b"#" in text or b"--" in text or b"//" in text):
        return _LINE_COMMENTS(b"\n", text[:end]) + text[end:]
    return text


def _with_comments(text: bytes) -> Iterator[bytes]:
    """Yield the variants of a text with what `/*` and `*/` enclose: in a string, or in a comment that ends with its
    line, they begin and end no comment.
    """
    kept = [text]
    without_lines = _without_line_comments(text)
    if without_lines != text:
        kept.append(without_lines)
        yield _spaced(_COMMENTS(b" ", without_lines))
    if text.count(b"/*") > 1:
        kept.append(_INNERMOST_COMMENTS(b" ", text))
    for each in kept:
        yield _spaced(each.replace(b"/*", b" ").replace(b"*/", b" "))


def unicode_decoded(text: bytes) -> bytes:
    """Return the text without percent-encoding of Unicode (`%u0041`)."""
    return _UNICODE_PERCENT(_of_hex, text)


def _of_hex(found: re.Match[bytes]) -> bytes:
    return _character(int(found[1], 16))


def _of_escape(found: re.Match[bytes]) -> bytes:
    if found[4] is not None:
        return _character(int(found[4], 8))
    return _character(int(found[1] or found[2] or found[3] or found[5], 16))


def _of_entity(found: re.Match[bytes]) -> bytes:
    if found[3] is None:
        return _character(int(found[1]) if found[1] else int(found[2], 16))
    code = _ENTITIES.get(found[3].lower())
    return found[0] if code is None else _character(code)


def _of_space(found: re.Match[bytes]) -> bytes:
    return b"\n" if b"\n" in found[0] or b"\r" in found[0] else b" "


def _of_overlong(found: re.Match[bytes]) -> bytes:
    lead, *continuation = found[0]
    code = lead & 0x3F >> len(continuation)
    for byte in continuation:
        code = code << 6 | byte & 0x3F
    return _character(code)


def _of_full_width(found: re.Match[bytes]) -> bytes:
    return bytes((found[1][0] - 0x60,)) if found[1] else bytes((found[2][0] - 0x20,))


def _character(code: int) -> bytes:
    """Return a character in Latin-1, or in UTF-8 beyond it."""
    if 0xFF01 <= code <= 0xFF5E:  # full width
        code -= 0xFEE0
    if code < 256:
        return bytes((code,))
    return chr(code).encode(errors="replace") if code < 0x110000 else b"?"
