"""Path templates: their grammar, and a table judged by a regular expression for each template."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.filters.policies.grpc_transcode.templates import (
    ANY,
    REST,
    PathTemplate,
    TemplateError,
    TemplateTable,
    parse_template,
)
from tests.support.table import for_each


@pytest.mark.parametrize(
    ("text", "segments", "verb", "variables"),
    [
        ("/v1/shelves", (b"v1", b"shelves"), b"", []),
        ("/v1/{shelf}", (b"v1", ANY), b"", [(("shelf",), 1, 2, True)]),
        ("/v1/{shelf=*}", (b"v1", ANY), b"", [(("shelf",), 1, 2, True)]),
        ("/v1/{name=shelves/*}", (b"v1", b"shelves", ANY), b"", [(("name",), 1, 3, False)]),
        ("/v1/{a.b=x/*/y}/*:move", (b"v1", b"x", ANY, b"y", ANY), b"move", [(("a", "b"), 1, 4, False)]),
        ("/v1/{name=**}", (b"v1", REST), b"", [(("name",), 1, None, False)]),
        ("/v1/{name=files/**}:read", (b"v1", b"files", REST), b"read", [(("name",), 1, None, False)]),
        ("/**", (REST,), b"", []),
        ("/%61%20b", (b"a%20b",), b"", []),
    ],
)
def test_templates_are_read_as_their_grammar_says(text, segments, verb, variables):
    template = parse_template(text)
    assert (template.segments, template.verb) == (segments, verb)
    assert [tuple(variable) for variable in template.variables] == variables


@for_each(
    ("text", "wrong"),
    [
        ("", "an empty template: expected `/` at character 1"),
        ("v1", "v1: expected `/` at character 1"),
        ("/", "/: expected a segment at character 2"),
        ("/v1/", "/v1/: expected a segment at character 5"),
        ("/v1//a", "/v1//a: expected a segment at character 5"),
        ("/{a=*", "/{a=*: expected `}` at character 6"),
        ("/{a=}", "/{a=}: expected a segment at character 5"),
        ("/{}", "/{}: expected the path of a field, such as shelf.name at character 3"),
        ("/{a={b}}", "/{a={b}}: a variable is within another one"),
        ("/{a}/{a}", "/{a}/{a}: the variable a occurs twice"),
        ("/**/a", "/**/a: `**` is not the last segment"),
        ("/{a=**}/{b=**}", "/{a=**}/{b=**}: `**` is not the last segment"),
        ("/a:", "/a:: expected a verb at character 4"),
        ("/a:b/c", "/a:b/c: expected the end of the template at character 5"),
        ("/a b", "/a b: expected the end of the template at character 3"),
        ("/a%zz", "/a%zz: expected the end of the template at character 3"),
        ("/***", "/***: expected the end of the template at character 4"),
        ("/a/..", "/a/..: The path has dot segments that lead above the root."),
        ("/a/.", "/a/.: no path has the segment ."),
        ("/%00", "/%00: The path has an escaped NUL or line end."),
    ],
)
def test_other_templates_are_refused_with_the_place(text, wrong):
    with pytest.raises(TemplateError) as refused:
        parse_template(text)
    assert str(refused.value) == wrong


def _table(*templates: str) -> TemplateTable[str]:
    table: TemplateTable[str] = TemplateTable()
    for text in templates:
        method, _, path = text.partition(" ")
        assert table.add(parse_template(path), method.encode(), text) is None
    return table


@for_each(
    ("request_line", "found"),
    [
        ("GET /v1/a/b", "GET /v1/a/b"),
        ("GET /v1/a/c", "GET /v1/a/*"),
        ("GET /v1/x/b", "GET /v1/*/b"),
        ("GET /v1/x/y", "GET /v1/**"),
        ("GET /v1", "GET /v1/**"),
        ("GET /v1/", "GET /v1/**"),
        ("GET /v1/a/", "GET /v1/**"),  # `*` is not empty
        ("GET /v1/a/b:read", "GET /v1/a/*:read"),
        ("GET /v1/q/r/s:read", "GET /v1/**:read"),
        ("GET /v1/a/b:other", "GET /v1/a/*"),  # no verb that any template has
        ("GET /v1/a/b%3Aread", "GET /v1/a/*"),  # an encoded colon is part of the segment
        ("HEAD /v1/a/b", "GET /v1/a/b"),
        ("POST /v1/a/b", "POST /v1/a/*"),  # the literal has no POST
        ("PURGE /any/thing", "* /any/thing"),
        ("GET /v2", None),
        ("GET /", None),
    ],
)
def test_the_most_specific_template_takes_a_path(request_line, found):
    table = _table(
        *("GET /v1/a/b", "GET /v1/a/*", "GET /v1/*/b", "GET /v1/**", "POST /v1/a/*"),
        *("GET /v1/a/*:read", "GET /v1/**:read", "* /any/thing"),
    )
    method, path = request_line.encode().split(b" ")
    match, allowed = table.find(path, method)
    assert (match and match.get(method)) == found
    assert not allowed


def test_a_path_without_the_method_tells_those_that_it_has():
    table = _table("GET /v1/a", "POST /v1/*", "DELETE /v1/**")
    assert table.find(b"/v1/a", b"PUT") == (None, {b"GET", b"POST", b"DELETE"})


def test_templates_for_the_same_paths_and_method_are_found():
    table = _table("GET /v1/{a}")
    assert table.add(parse_template("/v1/{b=*}"), b"GET", "other") == "GET /v1/{a}"
    assert table.add(parse_template("/v1/{b=*}"), b"PUT", "other") is None
    assert table.add(parse_template("/v1/{b=*}:x"), b"GET", "other") is None


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("/v1/{a}", b"/v1/x%2Fy%20z", ["x/y z"]),
        ("/v1/{a=x/*}", b"/v1/x/y%2Fz%20%C3%A4", ["x/y%2Fz ä"]),
        ("/v1/{a=**}", b"/v1/x/y%2Fz%3A", ["x/y%2Fz:"]),
        ("/v1/{a=**}", b"/v1", [""]),
        ("/v1/{a=**}:go", b"/v1/b/c:go", ["b/c"]),
        ("/{a}/x/{b}", b"/1/x/2%25", ["1", "2%"]),
        ("/v1/{a}", b"/v1/a+b", ["a+b"]),
    ],
)
def test_values_are_decoded_as_often_as_they_were_encoded(template, path, values):
    parsed = parse_template(template)
    table: TemplateTable[PathTemplate] = TemplateTable()
    table.add(parsed, b"GET", parsed)
    match, _ = table.find(path, b"GET")
    assert match is not None
    assert [variable.value_in(match.segments) for variable in parsed.variables] == values


def test_a_value_that_is_not_utf_8_raises():
    (variable,) = parse_template("/{a}").variables
    with pytest.raises(UnicodeDecodeError):
        variable.value_in([b"%FF"])


SEGMENTS = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4)
TEMPLATES = st.builds(
    lambda segments, rest, verb: "/" + "/".join([*segments, *(["**"] if rest else [])]) + verb,
    SEGMENTS,
    st.booleans(),
    st.sampled_from(["", "", ":a", ":go"]),
)
PATHS = st.builds(
    lambda segments, verb: ("/" + "/".join(segments) + verb).encode(),
    st.lists(st.sampled_from(["a", "b", "c", "", "a:b"]), min_size=1, max_size=6),
    st.sampled_from(["", "", ":a", ":go", ":"]),
)


def _rank(template: PathTemplate, path: bytes, verbs: set[bytes]) -> tuple[int, ...] | None:
    """How specific a template is for a path, lower is more so; None: it does not match."""
    pattern = b"".join({ANY: rb"/[^/]+", REST: rb"(?:/[^/]*)*"}.get(each, b"/" + each) for each in template.segments)
    head, colon, verb = path.rpartition(b":")
    has_verb = bool(colon) and b"/" not in verb and verb in verbs
    if template.verb:
        if not has_verb or verb != template.verb or not re.fullmatch(pattern, head):
            return None
    elif not re.fullmatch(pattern, path):
        return None
    kinds = [{ANY: 1, REST: 2}.get(each, 0) for each in template.segments]
    return (0 if template.verb else 1, *kinds, *([] if REST in template.segments else [-1]))


@given(st.lists(TEMPLATES, min_size=1, max_size=8), PATHS)
@example(["/a/**", "/a/*"], b"/a/")
def test_the_table_finds_what_regular_expressions_find(texts, path):
    templates = list({template.shape: template for template in map(parse_template, texts)}.values())
    table: TemplateTable[PathTemplate] = TemplateTable()
    for template in templates:
        table.add(template, b"GET", template)
    verbs = {template.verb for template in templates if template.verb}
    ranks = {rank: each for each in templates if (rank := _rank(each, path, verbs)) is not None}
    match, _ = table.find(path, b"GET")
    assert (match and match.get(b"GET")) == (ranks[min(ranks)] if ranks else None)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.booleans())
def test_what_a_client_encodes_is_what_the_field_is(value, single):
    """As google/api/http.proto says: all but unreserved characters are encoded; of several segments not the slash."""
    template = parse_template("/x/{a}" if single else "/x/{a=**}")
    path = b"/x/" + quote(value, safe="" if single else "/").encode()
    table: TemplateTable[PathTemplate] = TemplateTable()
    table.add(template, b"GET", template)
    match, _ = table.find(path, b"GET")
    assert match is not None
    assert template.variables[0].value_in(match.segments) == value
