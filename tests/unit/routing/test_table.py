"""The route table, against its contract."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.routing.table import Router
from tests.support.match_order import Request, Route, allowed_methods, by_path, expected, in_order, numbered, router
from tests.support.table import for_each


def found(table: Router[str], request: Request) -> str | None:
    match = table.find(request)
    return match and match[0]


# --- paths


@for_each("path", [b"/files", b"/files/", b"/files/a", b"/files/a/b/", b"/files//a", b"/files/a%2Fb"])
def test_a_prefix_covers_its_elements(path):
    assert found(by_path("/files/*"), Request(path)) == "/files/*"


@for_each("path", [b"/filesx", b"/file", b"/", b"//files", b"/files%2Fa", b"/x/files", b"/FILES"])
def test_a_prefix_covers_nothing_else(path):
    assert found(by_path("/files/*"), Request(path)) is None


@pytest.mark.parametrize("path", [b"/", b"/a", b"//", b"/a/b/c/d/e/f"])
def test_the_prefix_of_all_covers_all(path):
    assert found(by_path("/*"), Request(path)) == "/*"


@for_each(
    ("pattern", "path", "params"),
    [
        ("/users/{id}", b"/users/7", {"id": b"7"}),
        ("/users/{id}", b"/users/a%2Fb%20c", {"id": b"a%2Fb%20c"}),
        ("/users/{id}/", b"/users/7/", {"id": b"7"}),
        ("/{a}/x/{b}", b"/1/x/2", {"a": b"1", "b": b"2"}),
        ("/apps/{app}/{rest:path}", b"/apps/shop/a/b//c/", {"app": b"shop", "rest": b"a/b//c/"}),
        ("/apps/{app}/{rest:path}", b"/apps/shop/", {"app": b"shop", "rest": b""}),
        ("/items/{id}:cancel", b"/items/a%2Fb:cancel", {"id": b"a%2Fb"}),
        ("/{name}.{kind}/{rest:path}", b"/a.b.json/c", {"name": b"a.b", "kind": b"json", "rest": b"c"}),
        ("/{rest:path}", b"/", {"rest": b""}),
        ("/{rest:path}", b"/a/b", {"rest": b"a/b"}),
    ],
)
def test_parameters_are_segments_of_the_normal_form_or_their_parts(pattern, path, params):
    match = by_path(pattern).find(Request(path))
    assert match is not None
    assert match == (pattern, params)


@for_each(
    ("pattern", "path"),
    [
        ("/users/{id}", b"/users/"),
        ("/users/{id}", b"/users"),
        ("/users/{id}", b"/users/7/"),
        ("/users/{id}", b"/users/7/8"),
        ("/users/{id}", b"/users/7/8/9"),
        ("/apps/{app}/{rest:path}", b"/apps/shop"),
        ("/apps/{app}/{rest:path}", b"/apps//x"),
        ("/items/{id}:cancel", b"/items/:cancel"),
        ("/items/{id}:cancel", b"/items/7:cancelled"),
        ("/items/{id}:cancel", b"/items/7:cancel/"),
        ("/{a}.json", b"/a-json"),
        ("/users", b"/users/"),
        ("/users/", b"/users"),
        ("~^/v[0-9]+/", b"/v1"),
        ("~^/v[0-9]+/", b"/x/v1/"),
    ],
)
def test_what_a_pattern_does_not_match(pattern, path):
    assert found(by_path(pattern), Request(path)) is None


@for_each(
    ("path", "pattern"),
    [
        (b"/users/me", "/users/me"),
        (b"/users/7", "/users/{id}"),
        (b"/users/7/x", "/users/{id}/{rest:path}"),
        (b"/users/me/x", "/users/me/{x}"),
        (b"/users/me/y/z", "/users/{id}/{rest:path}"),
        (b"/a/b/c", "/a/b/*"),
        (b"/a/c", "/a/*"),
        (b"/v1/x", "~^/v[0-9]+/"),
        (b"/v1/b", "~^/v[0-9]+/"),
        (b"/x/b", "~/b$"),
    ],
)
def test_exact_before_parameters_before_the_longest_prefix_before_regexes_in_file_order(path, pattern):
    regexes = ["~^/v[0-9]+/", "~/b$"]
    others = ["/a/*", "/a/b/*", "/users/*", "/users/{id}", "/users/{id}/{rest:path}", "/users/me", "/users/me/{x}"]
    assert found(by_path(*regexes, *others), Request(path)) == pattern
    assert found(by_path(*others[::-1], *regexes), Request(path)) == pattern


def test_a_route_without_paths_comes_after_all_others():
    table = router(Route("rest"), Route("regex", ("~x",)), Route("all", ("/y/*",)))
    assert [found(table, Request(path)) for path in (b"/x", b"/y/x", b"/z")] == ["regex", "all", "rest"]


# --- trailing slashes


@for_each(
    ("pattern", "matching", "others"),
    [
        ("/users/{id}", [b"/users/7", b"/users/7/"], [b"/users/", b"/users/7//", b"/users/7/x", b"/users//"]),
        ("/users/{id}/", [b"/users/7", b"/users/7/"], [b"/users", b"/users/7//"]),
        ("/a", [b"/a", b"/a/"], [b"/a//", b"/", b"/a/b"]),
        ("/a/", [b"/a", b"/a/"], [b"/a//", b"/"]),
        ("/", [b"/"], [b"//", b""]),
        ("/a/*", [b"/a", b"/a/", b"/a/b"], [b"/ab"]),
        ("/a/{rest:path}", [b"/a/", b"/a/b/"], [b"/a"]),
        ("~^/a$", [b"/a"], [b"/a/"]),
    ],
)
def test_a_trailing_slash_may_be_the_same(pattern, matching, others):
    table = router(Route("same", (pattern,), same_slash=True))
    assert [path for path in matching if found(table, Request(path)) != "same"] == []
    assert [path for path in others if found(table, Request(path))] == []


def test_the_parameters_are_the_same_with_the_slash():
    assert router(Route("same", ("/u/{id}/x/{n}",), same_slash=True)).find(Request(b"/u/7/x/8/")) == (
        "same",
        {"id": b"7", "n": b"8"},
    )


def test_who_has_written_a_path_goes_before_who_has_it_by_another_slash():
    """Wherever it stands, and whatever its conditions are; less specific ones come after both."""
    same = Route("same", ("/a", "/u/{id}"), headers=(("x", "1"),), same_slash=True)
    table = router(same, Route("own", ("/a/", "/u/{n}/")), Route("prefix", ("/a/*",)), Route("text", ("/u/me",)))
    held = {b"x": b"1"}
    assert found(table, Request(b"/a/", fields=held)) == found(table, Request(b"/u/7/", fields=held)) == "own"
    assert found(table, Request(b"/a", fields=held)) == found(table, Request(b"/u/7", fields=held)) == "same"
    assert found(table, Request(b"/u/me/", fields=held)) == "own"
    assert [(each.route, each.weakness) for each in table.candidates(Request(b"/a/", fields=held))] == [
        ("own", ""),
        ("same", "the other has this trailing slash as its own"),
        ("prefix", "shorter prefix"),
    ]


# --- hosts


@for_each(
    ("host", "route"),
    [
        (b"api.example.org", "api.example.org"),
        (b"b.example.org", "*.example.org"),
        (b"b.c.example.org", "*.example.org"),
        (b"x.api.example.org", "*.api.example.org"),
        (b"x.y.api.example.org", "*.api.example.org"),
        (b"example.org", "any"),
        (b"xexample.org", "any"),
        (b"", "any"),
        (b".example.org", "any"),
        (b"[::1]", "[::1]"),
        (b"[0:0::1]", "[::1]"),
        (b"[::2]", "any"),
        (b"[", "any"),
    ],
)
def test_exact_host_before_longest_wildcard_before_any(host, route):
    hosts = ["*.example.org", "api.example.org", "*.api.example.org", "[::1]"]
    table = router(Route("any"), *(Route(name, hosts=(name,)) for name in hosts))
    assert found(table, Request(b"/", host=host)) == route


def test_less_specific_hosts_answer_what_the_specific_one_has_no_route_for():
    table = router(Route("any", ("/a",)), Route("wildcard", ("/*",), ("*.test",)), Route("exact", ("~b",), ("a.test",)))
    assert found(table, Request(b"/b")) == "exact"
    assert found(table, Request(b"/a")) == "wildcard"
    assert found(table, Request(b"/a", host=b"other")) == "any"


# --- methods, headers, query


def test_get_answers_head_too():
    table = router(Route("get", ("/a",), methods=("GET",)), Route("head", ("/a",), methods=("HEAD",)))
    assert found(table, Request(b"/a", method=b"HEAD")) == "get"


def test_a_method_that_does_not_fit_passes_on_to_the_next_route():
    table = router(Route("post", ("/a",), methods=("POST",)), Route("all", ("/*",), methods=("GET",)))
    assert found(table, Request(b"/a")) == "all"
    assert found(table, Request(b"/a", method=b"POST")) == "post"
    assert found(table, Request(b"/a", method=b"PUT")) is None


def test_when_only_the_method_does_not_fit_the_methods_that_would_are_told():
    table = router(
        Route("post", ("/a",), methods=("POST",)),
        Route("all", ("/*",), methods=("GET", "POST")),
        Route("elsewhere", ("/b",), methods=("DELETE",)),
        Route("header", ("/a",), methods=("PATCH",), headers=(("x", "1"),)),
    )
    assert table.allowed_methods(Request(b"/a", method=b"PUT")) == (b"POST", b"GET", b"HEAD")
    assert by_path("/a").allowed_methods(Request(b"/b", method=b"PUT")) == ()


def test_more_header_and_query_conditions_go_before_fewer_and_then_the_order_of_the_file():
    table = router(
        Route("none", ("/a",)),
        Route("one", ("/a",), headers=(("X-Version", "2"),)),
        Route("same", ("/a",), query=(("debug", "1"),)),
        Route("two", ("/a",), headers=(("x-version", "2"),), query=(("debug", "1"),)),
    )
    both = {b"x-version": b"2"}
    assert found(table, Request(b"/a", query=b"debug=1", fields=both)) == "two"
    assert found(table, Request(b"/a", query=b"debug=2", fields=both)) == "one"
    assert found(table, Request(b"/a", query=b"debug=1")) == "same"
    assert found(table, Request(b"/a", fields={b"x-version": b"20"})) == "none"


@for_each(
    ("lines", "holds"),
    [
        ([b"1"], True),
        ([b"1", b"2"], True),
        ([b"2", b"1"], True),
        ([b"1", b"1"], True),
        ([b"2, 1"], True),
        ([b"2,1,3"], True),
        ([b" ,1\t,"], True),
        ([b"2", b"3 , 1"], True),
        ([], False),
        ([b""], False),
        ([b"2", b"3"], False),
        ([b"12"], False),
        ([b"2, 11"], False),
        ([b"1 2"], False),
        ([b"1;q=0"], False),
    ],
)
def test_a_header_condition_holds_if_any_line_or_member_of_a_list_satisfies_it(lines, holds):
    table = router(Route("guarded", ("/*",), headers=(("X-Version", "1"),)), Route("open", ("/*",)))
    request = Request(b"/", fields={b"x-version": lines})
    assert found(table, request) == ("guarded" if holds else "open")
    assert [each.route for each in table.candidates(request)] == (["guarded"] if holds else []) + ["open"]


@for_each(
    ("lines", "holds"),
    [
        ([b"text/html, */*"], True),
        ([b"text/html,*/*"], True),
        ([b"text/html", b"*/*"], True),
        ([b"*/*, text/html"], False),
        ([b"text/html"], False),
        ([b"text/html, */*", b"a/b"], True),  # the first line is all of it
        ([b"a/b, text/html, */*"], False),
    ],
)
def test_a_condition_that_is_a_list_is_the_whole_of_a_line_or_of_all_lines(lines, holds):
    table = router(Route("list", headers=(("Accept", "text/html, */*"),)))
    assert (found(table, Request(b"/", fields={b"accept": lines})) == "list") is holds


@for_each("name", ["User-Agent", "Cookie", "Date", "Authorization", "Referer"])
def test_headers_that_are_no_lists_are_not_split(name):
    table = router(Route("r", headers=((name, "b"),)))
    assert found(table, Request(b"/", fields={name.lower().encode(): [b"a, b"]})) is None
    assert found(table, Request(b"/", fields={name.lower().encode(): [b"a", b"b"]})) == "r"


@pytest.mark.parametrize("query", [b"debug=0&debug=1", b"debug=1&debug=0", b"%64ebug=%31&debug=0", b"x&debug=1&debug"])
def test_a_repeated_query_parameter_skips_no_route(query):
    table = router(Route("guarded", query=(("debug", "1"),)), Route("open"))
    assert found(table, Request(b"/", query=query)) == "guarded"


def test_regexes_keep_the_order_of_the_file_whatever_their_conditions():
    table = router(Route("first", ("~a",)), Route("second", ("~a",), headers=(("x", "1"),)))
    assert found(table, Request(b"/a", fields={b"x": b"1"})) == "first"


@pytest.mark.parametrize("query", [b"q=a+b", b"x=1&q=a%20b", b"q=1&q=%61+b&y", b"%71=a b"])
def test_a_query_condition_fits_any_occurrence_however_it_is_escaped(query):
    assert found(router(Route("q", query=(("q", "a b"),))), Request(b"/", query=query)) == "q"


@for_each("query", [None, b"", b"q", b"q=a", b"q=a+bc", b"xq=a+b", b"q=A+b", b"q=a%2Bb"])
def test_a_query_condition_fits_nothing_else(query):
    assert found(router(Route("q", query=(("q", "a b"),))), Request(b"/", query=query)) is None


@pytest.mark.parametrize(("query", "fits"), [(b"q", True), (b"q=", True), (b"x&q&y", True), (b"q=1", False)])
def test_an_empty_value_needs_no_equals_sign(query, fits):
    assert (found(router(Route("q", query=(("q", ""),))), Request(b"/", query=query)) == "q") is fits


# --- scale and cost


def test_a_set_of_regexes_that_outgrows_the_memory_of_re2_still_finds_them_all():
    table = by_path(*(f"~^/service{number}/.*/[a-z]+[0-9]{{1,9}}$" for number in range(6000)))
    for number in (0, 3456, 5999):
        assert (found(table, Request(b"/service%d/x/abc12" % number)) or "").startswith(f"~^/service{number}/")


def test_many_texts_with_parameters_in_one_place_are_one_automaton():
    table = by_path(*(f"/items/{{id}}:verb{number}" for number in range(3000)), "/items/{id}")
    for number in (0, 1234, 2999):
        assert found(table, Request(b"/items/7:verb%d" % number)) == f"/items/{{id}}:verb{number}"
    assert found(table, Request(b"/items/7:verb3000")) == "/items/{id}"


def test_long_paths_and_hosts_cost_look_ups_by_the_depth_of_the_patterns_only():
    table = router(Route("deep", ("/a/{b}/c",)), Route("prefix", ("/a/*",)), Route("host", ("/h",), ("*.x.test",)))
    assert found(table, Request(b"/a" + b"/" * 30_000, host=b"." * 30_000)) == "prefix"


def test_routes_without_parameters_share_what_says_that_there_are_none():
    table = by_path("/a/*", "/b")
    (one, params), (other, others_params) = table.find(Request(b"/a/1")), table.find(Request(b"/b"))
    assert (one, other, params) == ("/a/*", "/b", {})
    assert params is others_params


def test_a_pattern_may_be_as_deep_as_a_path_can_be():
    depth = 4000
    path = b"/" + b"/".join([b"a"] * depth)
    pattern = "".join(f"/{{p{number}}}" for number in range(depth))
    table = by_path(pattern, pattern + "/x", path.decode() + "/*")
    assert found(table, Request(path)) == pattern
    assert [candidate.route for candidate in table.candidates(Request(path + b"/x"))] == [
        pattern + "/x",
        path.decode() + "/*",
    ]


def test_routes_may_name_more_methods_than_a_machine_word_has_bits():
    table = router(*(Route(f"M{number}", ("/a",), methods=(f"M{number}",)) for number in range(100)))
    for number in (0, 63, 64, 99):
        assert found(table, Request(b"/a", method=b"M%d" % number)) == f"M{number}"
    assert found(table, Request(b"/a", method=b"M100")) is None


def test_a_table_without_routes_finds_nothing():
    assert router().find(Request(b"/")) is None


def test_the_asterisk_is_covered_by_the_prefix_of_all_and_by_routes_without_paths_only():
    table = router(Route("parameter", ("/{a}",)), Route("rest", ("/{a:path}",)), Route("any"))
    assert found(table, Request(b"*")) == "any"
    assert found(by_path("/*"), Request(b"*")) == "/*"


# --- explain


def test_candidates_tell_each_matching_route_once_in_order_and_why_it_came_later():
    table = router(
        Route("anywhere"),
        Route("regex", ("~u",)),
        Route("files", ("/users/*", "/*"), ("a.test",)),
        Route("user", ("/users/{id}",), ("a.test", "*.test")),
        Route("again", ("/users/{name}",), ("a.test",)),
        Route("rest", ("/users/{rest:path}",), ("a.test",)),
        Route("flagged", ("/users/{id}",), ("a.test",), headers=(("x", "1"),)),
        Route("post", ("/users/{id}",), methods=("POST",)),
    )
    told = table.candidates(Request(b"/users/7", fields={b"x": b"1"}))
    assert [(candidate.route, candidate.weakness) for candidate in told] == [
        ("flagged", ""),
        ("user", "fewer conditions on the request"),
        ("again", "fewer conditions on the request"),
        ("rest", "a parameter where the other has text"),
        ("files", "shorter prefix"),
        ("regex", "less specific host"),
        ("anywhere", "less specific host"),
    ]
    assert told[0].params == {"id": b"7"}
    assert told[1].host is not None
    assert told[1].host.text == "a.test"
    assert table.candidates(Request(b"/", method=b"PUT", host=b"b"))[0].path is None


def test_of_equally_much_text_with_parameters_conditions_and_the_file_decide() -> None:
    table = router(
        Route("ends", ("/t/{a}-y",), headers=(("x", "1"),)),
        Route("begins", ("/t/x-{a}",)),
        Route("ends too", ("/t/{b}-y",)),
        Route("below", ("/t/{a}-y/{b}",)),
        Route("text below", ("/t/x-{a}/c",)),
        Route("rest", ("/t/x-{a}/{r:path}",), headers=(("x", "1"),)),
        Route("mixed below", ("/t/x-{a}/c{b}",)),
    )

    def told(path: bytes, value: bytes) -> list[tuple[str, str]]:
        request = Request(path, fields={b"x": value})
        found = [(candidate.route, candidate.weakness) for candidate in table.candidates(request)]
        match = table.find(request)
        assert match is not None
        assert match[0] == found[0][0]
        return found

    assert told(b"/t/x-y", b"1") == [
        ("ends", ""),
        ("begins", "fewer conditions on the request"),
        ("ends too", "fewer conditions on the request"),
    ]
    assert told(b"/t/x-y", b"2") == [("begins", ""), ("ends too", "later in the file")]
    assert [name for name, _ in told(b"/t/x-y/c", b"1")] == ["text below", "below", "rest"]
    assert [name for name, _ in told(b"/t/x-y/cd", b"2")] == ["mixed below", "below"]
    assert [name for name, _ in told(b"/t/x-y/d/e", b"1")] == ["rest"]


# --- against the contract's sentence, read naively


MIXED = ["{x}b", "a{x}", "{x}b{x}"]
PATTERNS = st.one_of(
    st.lists(st.sampled_from(["a", "ab", "{x}", "", *MIXED]), min_size=1, max_size=4).map(
        lambda parts: "/" + "/".join(parts)
    ),
    st.lists(st.sampled_from(["a", "b", ""]), max_size=3).map(lambda parts: "/" + "/".join([*parts, "*"])),
    st.lists(st.sampled_from(["a", "b", "ab", "{x}", *MIXED]), max_size=3).map(
        lambda parts: "/" + "/".join([*parts, "{r:path}"])
    ),
    st.sampled_from(["~^/a", "~b$", "~a/.*b", "~/"]),
).map(lambda pattern: _distinct_names(pattern))
HOSTS = st.sampled_from(["a.test", "b.a.test", "*.test", "*.a.test", "*.b.a.test"])
ROUTES = st.builds(
    Route,
    name=st.just("r"),
    paths=st.lists(PATTERNS, max_size=2).map(tuple),
    hosts=st.lists(HOSTS, max_size=2).map(tuple),
    methods=st.lists(st.sampled_from(["GET", "POST", "HEAD"]), max_size=1).map(tuple),
    headers=st.lists(st.sampled_from([("x", "1"), ("y", "1")]), max_size=2, unique=True).map(tuple),
    query=st.lists(st.sampled_from([("q", "1"), ("q", "")]), max_size=1).map(tuple),
    same_slash=st.booleans(),
)
REQUESTS = st.builds(
    Request,
    path=st.lists(st.sampled_from(["a", "b", "c", "", "ab", "abb"]), min_size=1, max_size=5).map(
        lambda parts: ("/" + "/".join(parts)).encode()
    ),
    host=st.sampled_from([b"a.test", b"b.a.test", b"c.b.a.test", b"x.test", b"test", b""]),
    method=st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT"]),
    query=st.sampled_from([None, b"", b"q", b"q=1&q=", b"q=2"]),
    fields=st.dictionaries(st.sampled_from([b"x", b"y"]), st.sampled_from([b"1", b"2", b"2,1", [b"2", b"1"]])),
)


def _distinct_names(pattern: str) -> str:
    for number in range(pattern.count("{x}")):
        pattern = pattern.replace("{x}", f"{{x{number}}}", 1)
    return pattern


@settings(max_examples=400)
@given(st.lists(ROUTES, max_size=12), st.lists(REQUESTS, min_size=1, max_size=8))
def test_the_table_agrees_with_sorting_all_routes_by_the_match_order(routes, requests):
    table = numbered(routes)
    for request in requests:
        places = in_order(routes, request)
        assert [candidate.route for candidate in table.candidates(request)] == places
        assert table.find(request) == expected(routes, request)
        if not places:
            assert {method.decode() for method in table.allowed_methods(request)} == allowed_methods(routes, request)
