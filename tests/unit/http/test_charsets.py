"""Charsets of bodies that are checked as UTF-8."""

from __future__ import annotations

import pytest

from fastgw.http.charsets import is_utf8
from tests.support.table import for_each


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "application/json;charset=utf-8",
        'application/json; profile=x; Charset="UTF8"; v=1',
        "text/plain; charset = us-ascii ; x=y",
        "text/plain; charset=utf-8; charset=utf-8",
        'application/soap+xml; charset=utf-8; action="urn:GetCharset"',
        'application/soap+xml; action="http://a/charset?x=y" ; charset="utf-8"',
    ],
)
def test_utf8(content_type: str) -> None:
    assert is_utf8(content_type.encode())


@for_each(
    "parameters",
    [
        "charset=utf-7",
        'charset="utf-7"',
        "charset=utf-8; charset=utf-7",
        "charset=utf-8-sig",
        "charset='utf-8'",
        'charset="utf-8; x"',
        "charset*=utf-8''utf-7",
        "charset",
        "x=y, charset=utf-7",
        'x="; charset=utf-8"; charset=utf-16',
        'x="charset"; charset=utf-7',
        'x="a, charset=utf-7"',
        'x="charset*=utf-7"',
        'x="charset"=utf-7',
        'x="charset',
        'x="\\"charset"',
        'charset="charset"',
    ],
)
def test_another_charset_or_two_meanings(parameters: str) -> None:
    assert not is_utf8(f"application/json; {parameters}".encode())
