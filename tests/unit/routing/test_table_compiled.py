"""The compiled twin of the route table against its reference: the same matches, or it asks."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.config.base.route_patterns import parse_host, parse_path
from fastgw.http.http1.parser import parse_request
from fastgw.routing import table as routing
from fastgw.routing.table import Conditions, Router, at_once, rule_of
from tests.support.table import for_each
from tests.unit.routing.test_table import PATTERNS, REQUESTS, ROUTES, Request, Route, by_path, router


def same(table: Router, request: Request) -> bool:
    """Whether the twin did it alone; what it says must be what the reference says."""
    compiled, table.compiled = table.compiled, None
    try:
        expected = table.find(request)
    finally:
        table.compiled = compiled
    assert table.find(request) == expected
    answer = table.compiled.find(request)
    if answer is NotImplemented:
        return False
    assert answer == expected
    if answer is not None:
        assert type(answer) is type(expected)
        assert list(answer[1]) == list(expected[1])
        assert all(type(value) is bytes for value in answer[1].values())
    return True


# --- what it does alone, and where it asks

ORDINARY = router(
    Route("exact", ("/a/b", "/"), methods=("GET",)),
    Route("put", ("/a/b",), methods=("PUT",)),
    Route("prefix", ("/a/*", "/a/b/c/*", "/d//*")),
    Route("parameter", ("/u/{id}", "/u/{id}/x/{other}", "/u/me/{x}/y")),
    Route("rest", ("/r/{app}/{rest:path}", "/r/x/y/z")),
    Route("wildcard", ("/w/{x}", "/a/b"), hosts=("*.a.test", "*.test")),
    Route("host", ("/h", "/a/{x}"), hosts=("a.test", "b.a.test", "[::1]")),
)
PATHS = [
    b"/", b"//", b"/a", b"/a/", b"/a/b", b"/a/b/", b"/a/b/c", b"/a/b/c/d/e/f", b"/a/x", b"/d", b"/d/", b"/d//",
    b"/d//x", b"/u", b"/u/", b"/u/1", b"/u/1/", b"/u/1/x", b"/u/1/x/", b"/u/1/x/2", b"/u/1/x/2/3", b"/u/me",
    b"/u/me/x/y", b"/u/me/x/2", b"/u/me/x/z", b"/r", b"/r/a", b"/r/a/", b"/r/a/b", b"/r/a/b/c//d/", b"/r//b",
    b"/r/x/y/z", b"/r/x/y", b"/w/1", b"/w/", b"/h", b"/h/", b"/A/B", b"/a%2Fb", b"/a/b\0", b"/\xff\xfe",
    b"/u/" + b"x" * 9000, b"/" * 9000, b"/a/b/c/" + b"d/" * 9000, b"/r/a/" + b"/b" * 9000, b"/" + b"a" * 70_000,
]  # fmt: skip
HOSTS = [b"a.test", b"b.a.test", b"c.b.a.test", b".a.test", b"a.test.", b"test", b".test", b"x", b"", b".", b"." * 9000]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:20]))
def test_what_is_ordinary_needs_no_reference(path):
    for host in (*HOSTS, b"[::1]"):
        for method in (b"GET", b"HEAD", b"PUT", b"get", b"", b"X" * 9000):
            assert same(ORDINARY, Request(path, host=host, method=method))


@pytest.mark.parametrize("path", [b"*", b"", b"a/b", b"u/1"])
def test_what_is_no_path_is_for_the_reference(path):
    assert not same(ORDINARY, Request(path))


def test_another_spelling_of_an_address_is_for_the_reference():
    assert not same(ORDINARY, Request(b"/h", host=b"[0::1]"))


def test_conditions_and_regexes_are_for_the_reference_and_only_where_they_can_decide():
    table = router(
        Route("condition", ("/a",), methods=("POST",), headers=(("x", "1"),)),
        Route("all", ("/a", "/b")),
        Route("regex", ("~^/c",)),
        Route("query", query=(("q", "1"),)),
        Route("elsewhere", ("/*",), hosts=("z.test",)),
    )
    assert same(table, Request(b"/a"))
    assert same(table, Request(b"/b"))
    assert same(table, Request(b"/c", host=b"z.test"))
    assert not same(table, Request(b"/a", method=b"POST"))
    assert not same(table, Request(b"/a", method=b"POST", fields={b"x": b"1"}))
    assert not same(table, Request(b"/c"))
    assert not same(table, Request(b"/d", query=b"q=1"))


def test_text_with_parameters_is_for_the_reference_and_only_where_it_can_decide():
    table = by_path("/items/{id}:cancel", "/items/{id}", "/items/{id}/x", "/items/new", "/items/*", "/{a}", "/c/{d}")
    assert same(table, Request(b"/items/new"))
    assert same(table, Request(b"/items/"))
    assert same(table, Request(b"/b"))
    assert same(table, Request(b"/c/7"))
    assert not same(table, Request(b"/items/7:cancel"))
    assert not same(table, Request(b"/items/7"))
    assert not same(table, Request(b"/items/7/x"))


@for_each("depth", [1, 31, 32, 33, 100])
@for_each("last", ["{last}", "{last:path}", "*", "text"])
def test_patterns_at_the_depth_it_searches(depth, last):
    """A host with a pattern of more than 32 segments is left to the reference; the length of paths matters to none."""
    stem = "".join(f"/{{p{number}}}" if last.startswith("{") and number % 2 else "/s" for number in range(depth - 1))
    table = by_path(f"{stem}/{last}", "/short")
    searched = last == "text" or depth <= 32 + (last == "*")
    for length in (0, 1, depth - 1, depth, depth + 1, 2 * depth, 5000):
        for end in (b"", b"/", b"/text"):
            assert same(table, Request((b"/s" * length + end) or b"/")) is searched


def test_a_table_of_many_routes_is_the_same():
    hosts = ("one.test", "*.two.test", "[::2]")
    rules = [
        Conditions(hosts=tuple(map(parse_host, hosts[: number % 4])), paths=(parse_path(pattern.format(number)),))
        for number in range(3000)
        for pattern in (
            "/s{0}/x",
            "/s{0}/*",
            "/s{0}/{{id}}/v{0}",
            "/{0}/{{id}}/{{rest:path}}",
            "/same/{{id}}/v{0}/{{x}}",
        )
    ]
    table = Router([(conditions, number) for number, conditions in enumerate(rules)])
    for number in range(0, 3000, 7):
        for path in (
            "/s{0}/x",
            "/s{0}/y",
            "/s{0}/y/v{0}",
            "/s{0}/y/v1",
            "/{0}/a/b/c",
            "/same/q/v{0}/z",
            "/same/q/v{0}",
        ):
            for host in (b"one.test", b"x.two.test", b"[::2]", b"other"):
                assert same(table, Request(path.format(number).encode(), host=host))


@for_each("length", [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 250])
def test_texts_of_any_length_that_differ_in_one_byte_are_told_apart(length):
    text = "t" * length
    variants = {text, text + "u", *(text[:at] + "u" + text[at + 1 :] for at in range(length))}
    table = by_path(*(f"/{variant}/{{x}}" for variant in variants), *(f"/{variant}" for variant in variants))
    for variant in variants:
        for path in (f"/{variant}", f"/{variant}/1", f"/{variant}u/1", f"/{variant[1:]}/1"):
            assert same(table, Request(path.encode()))


@for_each("path", [path for path in PATHS if len(path) < 9000 and b"\0" not in path and path.isascii()])
def test_a_head_is_asked_what_its_attributes_say(path):
    """Of one that was scanned, host and method are not made."""
    for host in (b"a.test", b"A.test:80", b"b.a.test.", b"[::1]:80", b"x"):
        for method in (b"GET", b"HEAD", b"PUT"):
            for sent in (path, b"/%61/.." + path, b"/./a/%2E%2e" + path + b"?a=/b"):
                assert same(ORDINARY, parse_request(b"%b %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (method, sent, host)))


@pytest.mark.parametrize("wrong", [None, "text", bytearray(b"/a")])
def test_what_is_not_bytes_is_a_defect_of_the_caller(wrong):
    for place in range(3):
        with pytest.raises(TypeError):
            ORDINARY.compiled.find(Request(*(wrong if number == place else b"/a" for number in range(3))))


# --- on what nobody thought of

BYTES = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"/", b"a", b"b", b"ab", b"u", b"me", b"x", b"%2F", b"\0", b"."])).map(b"".join),
)


@settings(max_examples=400)
@given(st.lists(ROUTES, max_size=12), st.lists(REQUESTS, min_size=1, max_size=8))
def test_any_table_and_any_request(routes, requests):
    table = Router([(route.conditions, place) for place, route in enumerate(routes)])
    for request in requests:
        same(table, request)


@settings(max_examples=300)
@given(st.lists(PATTERNS, min_size=1, max_size=12, unique=True), st.lists(BYTES, max_size=8), BYTES)
@example(["/{x0}/a/b", "/a/{x0}/c", "/{x0}/{x1}/{r:path}", "/a/*"], [b"/a/a/b", b"/a/a/c", b"/a/a", b"/b/a/x/"], b"")
def test_any_bytes_as_path_and_host(patterns, paths, host):
    table = by_path(*patterns)
    for path in paths:
        same(table, Request(path))
        same(ORDINARY, Request(b"/" + path, host=host, method=path))


# --- and on tables that take the place of others


def answers(table, requests):
    return [table.find(request) for request in requests]


@settings(max_examples=300)
@given(
    st.lists(ROUTES, max_size=10),
    st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), ROUTES)), max_size=6),
    st.lists(REQUESTS, min_size=1, max_size=8),
    st.integers(0, 200),
)
def test_a_table_that_was_built_from_another_is_as_if_it_was_built_alone(routes, edits, requests, left_at):
    """Some routes change their place, go or are replaced; then the table before is taken apart."""
    rules = [at_once(rule_of(route.conditions, place)) for place, route in enumerate(routes)]
    base = at_once(Router.building(list(rules), None))
    before = answers(base, requests)
    for number, (place, route) in enumerate(edits):
        if route is None and place < len(rules):
            rules.insert(0, rules.pop(place))
        elif route is None:
            del rules[:1]
        else:
            rules[place : place + 1] = [at_once(rule_of(route.conditions, 100 + number))]
    left = Router.building(list(rules), base)
    for _, _ in zip(range(left_at), left, strict=False):
        pass
    table = at_once(Router.building(list(rules), base))
    assert answers(base, requests) == before
    alone = at_once(Router.building(list(rules), None))
    expected = answers(alone, requests)
    for request in requests:
        same(table, request)
    at_once(base.dismantling(table))
    assert answers(table, requests) == expected
    for request in requests:
        same(table, request)
        assert table.allowed_methods(request) == alone.allowed_methods(request)
        assert table.candidates(request) == alone.candidates(request)
    if base is not table:
        assert answers(base, requests) == [None] * len(requests)


def test_its_hash_table_grows_by_pieces_and_is_the_same_in_one_go():
    entries = [entry for number in range(5000) for entry in at_once(rule_of(conditions_of(f"/s{number}/x/*"), number))]
    by_pieces, at_a_go = routing._table.Tables({}), routing._table.Tables({})
    pieces = 0
    for tables in (by_pieces, at_a_go):
        assert tables.add_host(b"", False, -1) == 0
    for entry in entries:
        while by_pieces.widen():
            pieces += 1
        by_pieces.add(0, entry)
        at_a_go.add(0, entry)
    assert pieces > 10
    for tables in (by_pieces, at_a_go):
        while tables.seal():
            pass
        found = [tables.find(Request(f"/s{number}/x/y".encode()))[0] for number in range(5000)]
        assert found == list(range(5000))
        assert tables.find(Request(b"/s1/y")) is None
        while tables.release():
            assert tables.find(Request(b"/s1/x")) is NotImplemented
        assert tables.find(Request(b"/s1/x")) is NotImplemented
        assert not tables.release()


def conditions_of(path):
    return Conditions(paths=(parse_path(path),))


@pytest.mark.parametrize("left_at", [0, 1, 100])
def test_tables_that_are_left_unfinished_are_freed(left_at):
    tables = routing._table.Tables({})
    tables.add_host(b"h", False, -1)
    for number in range(left_at):
        tables.add(0, at_once(rule_of(conditions_of(f"/s{number}"), number))[0])
    while tables.release():
        pass


def test_what_is_added_out_of_order_is_refused():
    tables = routing._table.Tables({})
    with pytest.raises(ValueError, match="less specific"):
        tables.add_host(b"h", False, 0)
    with pytest.raises(ValueError, match="no such host"):
        tables.add(0, at_once(rule_of(conditions_of("/"), 1))[0])
