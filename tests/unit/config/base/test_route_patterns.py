"""The syntax of hosts, paths and templates: what is read how, and what is refused in words for people."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config.base.route_patterns import (
    HostPattern,
    MixedSegment,
    Parameter,
    PathKind,
    parse_host,
    parse_path,
    parse_plain_path,
    parse_redirect,
    parse_rewrite,
    parse_strip_prefix,
)
from fastgw.http.path_normalization import normalize
from tests.support.table import for_each

# --- paths


@for_each(
    ("text", "kind", "segments"),
    [
        ("/", PathKind.EXACT, (b"",)),
        ("/users", PathKind.EXACT, (b"users",)),
        ("/users/", PathKind.EXACT, (b"users", b"")),
        ("/%7euser/a%2fb", PathKind.EXACT, (b"~user", b"a%2Fb")),
        ("/größe", PathKind.EXACT, (b"gr%C3%B6%C3%9Fe",)),
        ("/a b|c", PathKind.EXACT, (b"a%20b%7Cc",)),
        ("/*", PathKind.PREFIX, ()),
        ("/files/*", PathKind.PREFIX, (b"files",)),
        ("/users/{id}", PathKind.PARAMETERS, (b"users", Parameter("id"))),
        ("/apps/{app}/{rest:path}", PathKind.PARAMETERS, (b"apps", Parameter("app"), Parameter("rest", rest=True))),
    ],
)
def test_a_path_is_read_into_segments_in_normal_form(text, kind, segments):
    pattern = parse_path(text)
    assert (pattern.text, pattern.kind, pattern.segments) == (text, kind, segments)


@pytest.mark.parametrize(("text", "literal"), [("/", b"/"), ("/a/", b"/a/"), ("/files/*", b"/files"), ("/*", b"")])
def test_the_literal_of_a_pattern_is_its_path_or_what_its_prefix_stands_for(text, literal):
    assert parse_path(text).literal == literal


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("{id}:cancel", MixedSegment(b"{id}:cancel", ("id",), b"^(?P<id>[^/]+):cancel$", b"{}:cancel")),
        (
            "v%31ü{a}.{b}",
            MixedSegment(b"v1%C3%BC{a}.{b}", ("a", "b"), b"^v1%C3%BC(?P<a>[^/]+)\\.(?P<b>[^/]+)$", b"v1%C3%BC{}.{}"),
        ),
    ],
)
def test_a_parameter_may_be_a_part_of_a_segment(text, segment):
    pattern = parse_path(f"/items/{text}/x")
    assert (pattern.kind, pattern.segments) == (PathKind.PARAMETERS, (b"items", segment, b"x"))
    assert pattern.names == frozenset(segment.names)


def test_a_regex_is_kept_as_written():
    pattern = parse_path("~^/v[0-9]+/")
    assert (pattern.kind, pattern.regex, pattern.segments) == (PathKind.REGEX, b"^/v[0-9]+/", ())


@for_each(
    "text",
    [
        "",
        "users",
        "*",
        "http://a/b",
        "/a/../b",
        "/..",
        "/a/.",
        "/./a",
        "/a/%2e%2e/b",
        "/a/..;/b",
        "/a%2f..",
        "/a\\b",
        "/a%",
        "/a%0",
        "/a%00",
        "/..%5cb",
        "/%252e",
        "/a?b",
        "/a#b",
        "/a\n",
        "/a*",
        "/*/a",
        "/a/**",
        "/{",
        "/a}",
        "/{}",
        "/{id:path}x",
        "/x{id",
        "/x{id}}",
        "/{id}*",
        "/{id}%2",
        "/{id}x{id}",
        "/{1}",
        "/{a-b}",
        "/{a:int}",
        "/{a}/{a}",
        "/{a:path}/b",
        "/{a}/*",
        "/{a:path}/*",
        "~",
        "~(",
        "~a(?=b)",
        "~(a)\\1",
        "~é",
    ],
)
def test_a_path_that_is_wrong_or_can_never_match_is_refused_with_what_was_expected(text):
    with pytest.raises(ValueError, match="expected "):
        parse_path(text)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("/n/{a}?x/b", "'{a}?x' cannot match any request (The path has an invalid character)"),
        ("/n/ü%2{a}", "'ü%2{a}' cannot match any request (The path has an invalid percent-encoding)"),
        ("/n/a?b", "'a?b' cannot match any request (The path has an invalid character)"),
    ],
)
def test_a_segment_that_is_wrong_is_quoted_as_written(text, quoted):
    with pytest.raises(ValueError, match=f"^{re.escape(quoted)}; expected "):
        parse_path(text)


@for_each("parse", [parse_plain_path, parse_strip_prefix, parse_rewrite])
@for_each(
    ("text", "reason"),
    [
        ("/x y#z", "The path has an invalid character"),
        ("/a/b#c", "The path has an invalid character"),
        ("/a%zz/b", "The path has an invalid percent-encoding"),
        ("/a/../b", "dot segments are resolved"),
    ],
)
def test_a_path_that_is_sent_and_matches_nothing_is_quoted_as_a_whole(parse, text, reason):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{text!r} is not a valid path ({reason}); expected ')}"):
        parse(text)


@given(st.text(alphabet="ab./%2eF5c;~ü |", max_size=8))
def test_the_literal_of_an_exact_path_is_a_normal_form(text):
    try:
        pattern = parse_path("/" + text)
    except ValueError:
        return
    assert normalize(pattern.literal) == pattern.literal


# --- hosts


@pytest.mark.parametrize(
    ("text", "name", "wildcard"),
    [
        ("api.example.com", b"api.example.com", False),
        ("API.Example.com.", b"api.example.com", False),
        ("localhost", b"localhost", False),
        ("my_service", b"my_service", False),
        ("192.0.2.1", b"192.0.2.1", False),
        ("xn--bcher-kva.example", b"xn--bcher-kva.example", False),
        ("*.example.org", b".example.org", True),
        ("*.ORG", b".org", True),
        ("[2001:DB8:0::1]", b"[2001:db8::1]", False),
    ],
)
def test_a_host_is_read_without_case_and_trailing_dot(text, name, wildcard):
    assert parse_host(text) == HostPattern(text, name, wildcard)


@for_each(
    "text",
    [
        "",
        ".",
        "*",
        "*.",
        "a..b",
        ".a",
        "-a",
        "a-",
        "a b",
        "a.*",
        "*a.b",
        "a.*.b",
        "*.*.a",
        "bücher.example",
        "a" * 64,
        "a." * 127 + "a",
        "a:80",
        "http://a",
        "a/b",
        "u@a",
        "::1",
        "[::1]:80",
        "[::1",
        "[::g]",
        "[fe80::1%eth0]",
        "[]",
    ],
)
def test_a_host_that_no_request_can_have_is_refused_with_what_was_expected(text):
    with pytest.raises(ValueError, match="expected "):
        parse_host(text)


# --- what becomes of paths


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("/api", b"/api"),
        ("/api/", b"/api"),
        ("/%61/b", b"/a/b"),
        ("/a*b", b"/a*b"),
        ("/*/b", b"/*/b"),
        ("/a%7Bb", b"/a%7Bb"),
    ],
)
def test_a_prefix_to_strip_is_a_normal_path_without_a_slash_at_its_end(text, prefix):
    assert parse_strip_prefix(text) == prefix


@pytest.mark.parametrize("text", ["", "/", "api", "/api/*", "/{a}", "/a{b}", "~a", "~/a", "/a/../b"])
def test_a_prefix_to_strip_is_no_pattern(text):
    with pytest.raises(ValueError, match="expected "):
        parse_strip_prefix(text)


VALUES = {"id": b"7", "rest": b"a/b%2F", "slashed": b"/evil.example", "empty": b""}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("/internal", b"/internal"),
        ("/internal/{id}", b"/internal/7"),
        ("/{id}/{rest}", b"/7/a/b%2F"),
        ("/user-{id}.html", b"/user-7.html"),
        ("/größe/%7e{id}", b"/gr%C3%B6%C3%9Fe/~7"),
        ("/{slashed}", b"/evil.example"),
        ("/a/{slashed}", b"/a//evil.example"),
        ("/{empty}", b"/"),
        ("/{id}.{rest}", b"/7.a/b%2F"),
        ("/.{id}", b"/.7"),
        ("/{id}./x", b"/7./x"),
    ],
)
def test_a_rewrite_fills_in_parameters(text, expanded):
    assert parse_rewrite(text).expand(VALUES) == expanded


@for_each(
    "text",
    [
        "",
        "internal",
        "//a",
        "http://a/b",
        "/a/../b",
        "/a/../{id}",
        "/{a}/%2e/{b}",
        "/a?b={id}",
        "/{",
        "/{}",
        "/{id:path}",
        "/a}",
        "/%{id}",
        "/a\\b",
    ],
)
def test_a_rewrite_that_could_leave_the_normal_form_is_refused(text):
    with pytest.raises(ValueError, match="expected "):
        parse_rewrite(text)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("/x?a=1", "'/x?a=1' has a query; expected the path alone, and the filter `query_parameters`"),
        ("/new/{1}", "'/new/{1}' has '{1}'; expected the name of a path parameter, such as {rest}"),
    ],
)
def test_a_rewrite_is_sent_and_matches_nothing(text, wrong):
    with pytest.raises(ValueError, match=f"^{re.escape(wrong)}"):
        parse_rewrite(text)


@given(
    st.lists(st.sampled_from(["a", ".", "..", ";", "%2e", "%2F", "/", "{id}", "{rest}"]), max_size=6),
    st.sampled_from([b"7", b".a", b"a.", b"...", b"a;", b";", b"a%2F.b"]),
    st.sampled_from([b"", b"/", b"a", b"a/", b"/a", b"a//b", b"..."]),
)
def test_what_a_rewrite_expands_to_is_in_normal_form_unless_it_has_to_be_judged(pieces, segment, rest):
    try:
        template = parse_rewrite("/" + "".join(pieces))
    except ValueError:
        return
    if template.can_complete:
        return
    path = template.expand({"id": segment, "rest": rest})
    assert normalize(path) == path


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("/new/{id}?from=old#top", b"/new/7?from=old#top"),
        ("https://new.example", b"https://new.example"),
        ("HTTPS://new.example:8443/{rest}?id={id}", b"HTTPS://new.example:8443/a/b%2F?id=7"),
        ("https://[::1]/{id}", b"https://[::1]/7"),
        ("https://new.example?x={id}", b"https://new.example?x=7"),
        ("/{slashed}", b"/evil.example"),
    ],
)
def test_a_redirect_fills_in_parameters(text, expanded):
    assert parse_redirect(text).expand(VALUES) == expanded


@for_each(
    "text",
    [
        "",
        "new",
        "//evil.example/",
        "ftp://a/b",
        "javascript:alert(1)",
        "https://",
        "https:///a",
        "https://{id}/a",
        "https://a.example{rest}",
        "https://{id}.example/",
        "/a b",
        "/a\r\nSet-Cookie: x",
        "/\\evil",
        "/ü",
        "/{",
        "/a}",
        "/100%",
        "/%2{id}",
    ],
)
def test_a_redirect_to_where_only_the_client_knows_is_refused(text):
    with pytest.raises(ValueError, match="expected "):
        parse_redirect(text)


@pytest.mark.parametrize("text", ["https://{id}/a", "https://a.example{path}", "https://{id}.example/"])
def test_a_redirect_with_a_parameter_in_its_host_is_refused_with_a_url_that_is_valid(text):
    """Also `{path}`, which begins with a slash: others would make another host of this one."""
    with pytest.raises(ValueError, match="has a parameter in the host; expected") as caught:
        parse_redirect(text)
    advised = str(caught.value).rpartition(" ")[2]
    assert parse_redirect(advised).parameters == ("path",)


def test_a_template_tells_its_parameters():
    assert parse_rewrite("/{a}/x/{b}").parameters == ("a", "b")
