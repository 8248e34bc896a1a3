"""Preference of media types."""

from fastgw.http.accept import parse_accept, weight_of
from tests.support.table import for_each


@for_each(
    ("values", "html", "json"),
    [
        ([], 0, 0),
        ([b""], 0, 0),
        ([b"*/*"], 1000, 1000),
        ([b"text/html"], 1000, 0),
        ([b"TEXT/HTML;Q=0.5"], 500, 0),
        ([b"text/*;q=0.3, text/html;q=0.7, */*;q=0.1"], 700, 100),
        ([b"text/html;level=1;q=0.4"], 400, 0),
        ([b"text/html;q=0, */*"], 0, 1000),
        ([b"text/html;q=0.5", b"application/json"], 500, 1000),
        ([b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"], 1000, 800),
        ([b"text/html;q=2, */*;q=0.5"], 1000, 500),  # no weight, so a parameter like any other
        ([b"text/html;q=0.1234"], 1000, 0),
        ([b"text, /html, text/, html;q=1"], 0, 0),
        ([b'text/html; a="b'], 1000, 0),
        ([b",,," * 5000], 0, 0),
    ],
)
def test_weights(values: list[bytes], html: int, json: int) -> None:
    weights = parse_accept(values)
    assert (weight_of(weights, b"text/html"), weight_of(weights, b"application/json")) == (html, json)
