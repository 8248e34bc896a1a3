"""Templates of error pages: values are text, whatever they contain."""

import json

import pytest

from fastgw.http.error_templates import VALUES, html_template, json_template

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{title}\n\\u0022 \ud800"
VALUES_OF_FAULT = dict.fromkeys(VALUES, HOSTILE)


def test_values_are_escaped_in_html_and_not_read_again() -> None:
    page = html_template("<a title='{detail}'>{title}</a>").render(VALUES_OF_FAULT).decode()
    assert page.count("<") == page.count(">") == 2
    assert page.count("'") == 2
    assert "{title}" in page  # of a value: it is no placeholder


def test_values_are_escaped_in_json() -> None:
    values = VALUES_OF_FAULT | {"status": "404", "detail": HOSTILE.replace("\ud800", "")}
    document = json.loads(json_template('{"code": {status}, "text": "a {detail}"}').render(values))
    assert document == {"code": 404, "text": "a " + HOSTILE.replace("\ud800", "")}


def test_other_braces_are_text() -> None:
    text = "<style>b{color: red}</style>{ status }{unknown}{{status}}{"
    assert html_template(text).render(VALUES_OF_FAULT | {"status": "404"}).decode() == text.replace("{status}", "404")


@pytest.mark.parametrize("text", ["", "{detail}", '{"a": {detail}}', '{"a": "{detail}}', "<b>{status}</b>"])
def test_what_does_not_become_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        json_template(text)
