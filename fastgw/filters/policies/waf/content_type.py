"""Parameters of content types for inspection, read leniently: of a request, and of a part of a multipart body."""

import re
from typing import Final

_PARAMETER: Final = re.compile(rb';[ \t]*([a-zA-Z0-9_*-]+)[ \t]*=[ \t]*(?:"([^"]*)"|([^;" \t]*))').findall
CHARSETS: Final = frozenset(
    (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1", b"iso-8859-15", b"windows-1252", b"latin1", b"")
)
"""Charsets whose text is inspected as it is."""
DECODED_CHARSETS: Final = {
    **{
        each: each.decode()
        for each in b"gb2312 gbk gb18030 big5 shift_jis euc-jp euc-kr iso-2022-jp koi8-r koi8-u".split()
    },
    **{b"windows-%d" % each: f"cp{each}" for each in (874, 932, 949, *range(1250, 1259)) if each != 1252},
    **{b"iso-8859-%d" % each: f"iso-8859-{each}" for each in range(2, 17) if each not in (12, 15)},
    b"ks_c_5601-1987": "cp949",
}
"""Charsets, with their codecs, from which names of parts are decoded. Each codec is the narrowest of the charset: what
it accepts, wider ones read alike. ISO-2022-KR, HZ and UTF-7 are missing: their readers differ.
"""


def parameters_of(content_type: bytes, wanted: bytes) -> list[bytes]:
    """Return the values of the parameters with this lower-case name."""
    return [quoted or token for name, quoted, token in _PARAMETER(content_type) if name.lower() == wanted]


def charset_of(content_type: bytes) -> bytes:
    """Return the declared charset in lower case; b"": none. Several that differ are joined: some readers take the
    first, others the last one.
    """
    return b",".join(dict.fromkeys(each.strip().lower() for each in parameters_of(content_type, b"charset")))
