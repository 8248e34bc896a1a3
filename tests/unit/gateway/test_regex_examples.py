"""Examples of texts that regular expressions match, judged by RE2."""

from __future__ import annotations

import re2

from fastgw.config.base.route_patterns import re2_options
from fastgw.gateway.regex_examples import example_of
from tests.support.table import for_each


@for_each(
    ("regex", "example"),
    [
        ("^/api/v[0-9]+/admin", b"/api/v0/admin"),
        ("^/(admin|private)/", b"/admin/"),
        (r"\.php$", b".php"),
        ("^/u/(?P<id>[^/]+)(?:x|y)$", b"/u/xx"),
        ("(?i)^/Ab(?i:c)", b"/Abc"),
        (r"^/a{3}b?c*d+?e{2,}f{0}(gh){2}", b"/aaadeeghgh"),
        (r"^/[[:alpha:]]{2}\d\w\s", b"/xx0x "),
        (r"^/[^x0X_./~-]*[]a][^]x]", b"/a0"),
        (r"^/\x41\x{42}\Qx.y\E\.", b"/ABx.y."),
        ("a|b", b"a"),
        ("", b""),
    ],
)
def test_an_example_matches(regex: str, example: bytes) -> None:
    assert example_of(regex) == example
    assert re2.compile(regex.encode(), re2_options()).search(example)


def test_an_expression_without_a_known_example_has_another_text() -> None:
    assert example_of(r"^/\p{Greek}") == b"/"
    assert len(example_of("(a{1000}){1000}")) == 1000
