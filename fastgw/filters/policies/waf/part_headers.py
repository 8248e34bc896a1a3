"""Values of the headers of a part of a multipart body, in each of the ways in which servers read them.

RFC 7578 has one `name` and one `filename`, in quotes. Servers also take extended values (RFC 8187), encoded words
(RFC 2047), escaped and single quotation marks, and of two parameters with one name the first or the last.
"""

import re
from binascii import Error, a2b_base64, a2b_qp
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from fastgw.filters.policies.waf.content_type import CHARSETS, DECODED_CHARSETS
from fastgw.filters.policies.waf.search_texts import decoded

_MOST_BYTES: Final = 4096
_MOST_NAMES: Final = 16
"""Maximum length, and mentions of a name, of a header that is read in all ways: thousands of names take milliseconds
for each KiB. More are malformed.
"""
_SIMPLE: Final = re.compile(
    rb"""(?i)[a-z-]+((?:[ \t]*;[ \t]*[a-z]+[*]?=(?:"(?:[^"\\]|\\(?!"))*"|[^;"'\s\\]+"""
    rb"""|(?<=[*]=)[a-z0-9_-]+'[a-z0-9-]*'[^;"'\s\\]*))*)[ \t]*;?"""
).fullmatch
"""Matches a `Content-Disposition` that has one meaning: no escaped quotation mark, no other quoting."""
_PARAMETER: Final = re.compile(rb"""(?i);[ \t]*([a-z]+[*]?)=(?:"([^"]*)"|([^;"'\s\\]+))""").findall
_NAME: Final = rb"""(?i)(?:^|[;,\s"'])((?:file)?name)((?:[*][0-9]*)*)[ \t]*=[ \t]*"""
_VALUE: Final = rb"""(?:"(%b)|'([^']+)|([^;"\s][^;]*))"""
"""A value without the quotation mark that ends it: to another server, it may begin the next parameter."""
_PLAIN_NAME: Final = re.compile(_NAME + _VALUE % rb'[^"]*')
_ESCAPED_NAMES: Final = re.compile(_NAME + _VALUE % rb'(?:[^"\\]|\\.)*', re.DOTALL).findall
_UNQUOTED_NAMES: Final = re.compile(_NAME + rb"""()()["']?([^;"'\s]*)""").findall
"""Finds names in quoted values, too, as servers do that take no account of quotation marks."""
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL).sub
_ENCODED_WORD: Final = re.compile(rb"=\?([^?\s]{1,40})\?([bBqQ])\?([^?\s]*)\?=(?:\s++(?==\?))?").sub
_EXTENDED: Final = re.compile(rb"([^']*)'[^']*'(.*)", re.DOTALL).fullmatch
_AS_IN_ASCII: Final = {0xA5: "\\", 0x203E: "~"}
"""Characters of JIS X 0201 in the place of ASCII characters, for which some servers take them."""


class Disposition(NamedTuple):
    """`Content-Disposition` of a part. `names` and `file_names`: all that a server may take for them."""

    label: bytes
    """Name by which a match may be excluded; b"": the server's may be another one."""
    names: list[bytes]
    file_names: list[bytes]
    text: bytes
    """The rest of the header, if servers may find other values in it."""
    is_malformed: bool
    is_file: bool
    """Whether every reader takes the part for a file. To some, an empty name or `filename*` alone is one of a field."""


def read_disposition(disposition: bytes) -> Disposition:
    """Return the readings of a `Content-Disposition`."""
    if len(disposition) > _MOST_BYTES or disposition.lower().count(b"name") > _MOST_NAMES:
        return Disposition(b"", [], [], disposition, is_malformed=True, is_file=False)
    simple = _SIMPLE(disposition)
    readings = [_PLAIN_NAME.findall(disposition)]
    if not simple:
        readings.append(_ESCAPED_NAMES(disposition))
    unquoted = _UNQUOTED_NAMES(disposition)
    if len(unquoted) > len(readings[0]):
        readings.append(unquoted)
    held: dict[bytes, dict[bytes, None]] = {b"name": {}, b"filename": {}}
    labels: set[bytes] = set()
    is_malformed = False
    for number, found in enumerate(readings):
        # two of one name, and a name in pieces (RFC 2231 section 3), are another one to each server
        keys = [(key.lower(), extension) for key, extension, *_ in found]
        if number < 2 - bool(simple):
            is_malformed = is_malformed or len(set(keys)) < len(keys)
        is_malformed = is_malformed or any(extension not in (b"", b"*") for _, extension in keys)
        for (key, extension), (_, _, *values) in zip(keys, found, strict=True):
            text = b"".join(values).rstrip()
            extended = _EXTENDED(text) if extension else None
            if extended is not None:
                charset, text = extended[1].strip().lower(), extended[2]
                if charset not in CHARSETS:
                    held[key][text] = None
                    # ISO-2022-JP has ASCII bytes in its characters, which are text to a server that takes all for UTF-8
                    name = None if b"2022" in charset else _from_charset(charset, unquote_to_bytes(text))
                    is_malformed = is_malformed or name is None
                    text = text if name is None else name
            unescaped = text if simple else _ESCAPE(rb"\1", text)
            if key == b"name":
                labels.add(unescaped)
            for each in dict.fromkeys((text, unescaped)):
                texts, is_odd = values_of_header(each)
                is_malformed = is_malformed or is_odd
                held[key].update(dict.fromkeys(texts))
    text = b"" if simple else b" ".join(_PLAIN_NAME.sub(b" ", disposition).translate(None, b"\"';").split())
    text = decoded(text, plus=False)
    is_file = simple is not None and _is_file(simple)
    label = labels.pop() if len(labels) == 1 else b""
    return Disposition(label, [*held[b"name"]], [*held[b"filename"]], text, is_malformed, is_file)


def values_of_header(text: bytes) -> tuple[list[bytes], bool]:
    """Return a header or a value in it, also as servers read it that decode it, and whether it is in an encoding of
    which these are no readings.
    """
    if len(text) > _MOST_BYTES:
        return [text], True
    texts = {text: None}
    others: set[bytes] = set()
    if b"=?" in text:
        # not also the bytes of charsets that are decoded: in ASCII, a quarter of Japanese names looks like an attack
        texts[_ENCODED_WORD(lambda found: _word_of_charset(found, others), text)] = None
    if b"%" in text:
        texts[decoded(text, plus=False)] = None
    return [*texts], bool(others)


def _is_file(simple: re.Match[bytes]) -> bool:
    kind = simple[0].partition(b";")[0].strip().lower()
    parameters = _PARAMETER(simple[1])
    names = [name.lower() for name, _, _ in parameters]
    if kind not in (b"form-data", b"attachment", b"file") or len(set(names)) < len(names):
        return False
    return any(name.lower() == b"filename" and (quoted or token) for name, quoted, token in parameters)


def _decoded_word(found: re.Match[bytes]) -> bytes:
    try:
        return a2b_qp(found[3], header=True) if found[2] in b"qQ" else a2b_base64(found[3])
    except Error:
        return found[0]


def _word_of_charset(found: re.Match[bytes], others: set[bytes]) -> bytes:
    """Return an encoded word in UTF-8, or as it is. `others`: gets its charset, if it cannot be decoded."""
    charset, word = found[1].partition(b"*")[0].lower(), _decoded_word(found)
    if charset in CHARSETS:
        return word
    text = _from_charset(charset, word)
    if text is None:
        others.add(charset)
        return word
    return text


def _from_charset(charset: bytes, text: bytes) -> bytes | None:
    """Return a text in UTF-8. None: its readers may differ, because of the charset or of bytes that are none of it."""
    codec = DECODED_CHARSETS.get(charset)
    if codec is None:
        return None
    try:
        # with an ASCII character behind it, which must be one there, too: in ISO-2022-JP, the end may be in another set
        return (text + b"<").decode(codec)[:-1].translate(_AS_IN_ASCII).encode()
    except UnicodeError:
        return None
