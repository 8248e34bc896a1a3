"""The tree of the route table: any path, host and method, patterns of any depth, building and freeing in steps."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.config.base.route_patterns import parse_path
from fastgw.http.http1.parser import parse_request
from fastgw.routing.entry import RouteEntry
from fastgw.routing.regex_choices import automaton_of
from fastgw.routing.route_tree import RouteTree
from fastgw.routing.table import Conditions, Router, at_once, rule_of
from tests.support.match_order import Request, Route, expected, numbered
from tests.support.table import for_each
from tests.unit.routing.test_table import PATTERNS, REQUESTS, ROUTES

ORDINARY = (
    Route("exact", ("/a/b", "/"), methods=("GET",)),
    Route("put", ("/a/b",), methods=("PUT",)),
    Route("prefix", ("/a/*", "/a/b/c/*", "/d//*")),
    Route("parameter", ("/u/{id}", "/u/{id}/x/{other}", "/u/me/{x}/y")),
    Route("rest", ("/r/{app}/{rest:path}", "/r/x/y/z")),
    Route("mixed", ("/m/{id}:cancel", "/m/{name}.{kind}/{rest:path}", "/m/{a}.json", "/m/{a}.json/x")),
    Route("wildcard", ("/w/{x}", "/a/b"), hosts=("*.a.test", "*.test")),
    Route("host", ("/h", "/a/{x}"), hosts=("a.test", "b.a.test", "[::1]")),
)
TABLE = numbered(ORDINARY)
PATHS = [
    b"/", b"//", b"/a", b"/a/", b"/a/b", b"/a/b/", b"/a/b/c", b"/a/b/c/d/e/f", b"/a/x", b"/d", b"/d/", b"/d//",
    b"/d//x", b"/u", b"/u/", b"/u/1", b"/u/1/", b"/u/1/x", b"/u/1/x/", b"/u/1/x/2", b"/u/1/x/2/3", b"/u/me",
    b"/u/me/x/y", b"/u/me/x/2", b"/u/me/x/z", b"/r", b"/r/a", b"/r/a/", b"/r/a/b", b"/r/a/b/c//d/", b"/r//b",
    b"/r/x/y/z", b"/r/x/y", b"/m/1:cancel", b"/m/1:cancelled", b"/m/a.b.json", b"/m/a.json/x", b"/m/a.json/y",
    b"/m/.json", b"/w/1", b"/w/", b"/h", b"/h/", b"/A/B", b"/a%2Fb", b"/a/b\0", b"/\xff\xfe",
    b"/u/" + b"x" * 9000, b"/" * 9000, b"/a/b/c/" + b"d/" * 9000, b"/r/a/" + b"/b" * 9000, b"/" + b"a" * 70_000,
    b"*", b"", b"a/b", b"u/1",
]  # fmt: skip
HOSTS = [
    *(b"a.test", b"b.a.test", b"c.b.a.test", b".a.test", b"a.test.", b"test", b".test", b"x", b"", b"." * 9000, b"."),
    *(b"[::1]", b"[0::1]", b"[::2]", b"["),
]


def assert_as_expected(table: Router[int], routes: Sequence[Route], request: Request) -> None:
    match = table.find(request)
    assert match == expected(routes, request)
    assert match is None or all(type(value) is bytes for value in match[1].values())


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:20]))
def test_any_path_by_any_host_and_method(path):
    for host in HOSTS:
        for method in (b"GET", b"HEAD", b"PUT", b"get", b"", b"X" * 9000):
            assert_as_expected(TABLE, ORDINARY, Request(path, host=host, method=method))


@for_each("depth", [1, 31, 32, 33, 100])
@for_each("last", ["{last}", "{last:path}", "*", "text"])
def test_patterns_of_any_depth(depth, last):
    stem = "".join(f"/{{p{number}}}" if last.startswith("{") and number % 2 else "/s" for number in range(depth - 1))
    routes = (Route("deep", (f"{stem}/{last}",)), Route("short", ("/short",)))
    table = numbered(routes)
    for length in (0, 1, depth - 1, depth, depth + 1, 2 * depth, 5000):
        for end in (b"", b"/", b"/text"):
            assert_as_expected(table, routes, Request((b"/s" * length + end) or b"/"))


def test_a_table_of_many_routes():
    hosts = ("one.test", "*.two.test", "[::2]")
    patterns = ("/s{0}/x", "/s{0}/*", "/s{0}/{{id}}/v{0}", "/{0}/{{id}}/{{rest:path}}", "/same/{{id}}/v{0}/{{x}}")
    routes = [
        Route(pattern, (pattern.format(number),), hosts=hosts[: number % 4])
        for number in range(3000)
        for pattern in patterns
    ]
    table = numbered(routes)
    paths = ("/s{0}/x", "/s{0}/y", "/s{0}/y/v{0}", "/s{0}/y/v1", "/{0}/a/b/c", "/same/q/v{0}/z", "/same/q/v{0}")
    for number in range(0, 3000, 7):
        near = routes[5 * number : 5 * number + 5]  # no other route matches these paths
        for path in paths:
            for host in (b"one.test", b"x.two.test", b"[::2]", b"other"):
                request = Request(path.format(number).encode(), host=host)
                match, wanted = table.find(request), expected(near, request)
                assert match == (wanted and (wanted[0] + 5 * number, wanted[1]))


@for_each("length", [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 250])
def test_texts_of_any_length_that_differ_in_one_byte_are_told_apart(length):
    text = "t" * length
    variants = sorted({text, text + "u", *(text[:at] + "u" + text[at + 1 :] for at in range(length))})
    routes = [Route(variant, (path,)) for variant in variants for path in (f"/{variant}/{{x}}", f"/{variant}")]
    table = numbered(routes)
    for place, variant in enumerate(variants):
        assert table.find(Request(f"/{variant}/1".encode())) == (2 * place, {"x": b"1"})
        assert table.find(Request(f"/{variant}".encode())) == (2 * place + 1, {})
        for path in (f"/{variant}u/1", f"/{variant[1:]}/1"):
            known = path[1:-2] in variants
            assert (table.find(Request(path.encode())) is not None) is known


@for_each(
    "path", [each for each in PATHS if each[:1] == b"/" and len(each) < 9000 and b"\0" not in each and each.isascii()]
)
def test_a_head_is_asked_what_its_attributes_say(path):
    """Of one that was scanned, host and method are not made."""
    for host in (b"a.test", b"A.test:80", b"b.a.test.", b"[::1]:80", b"x"):
        for method in (b"GET", b"HEAD", b"PUT"):
            for sent in (path, b"/%61/.." + path, b"/./a/%2E%2e" + path + b"?a=/b"):
                head = parse_request(b"%b %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (method, sent, host))
                found = TABLE.find(head)
                assert found == expected(ORDINARY, Request(head.path, head.host, head.method))


@pytest.mark.parametrize("wrong", [None, "text", bytearray(b"/a")])
def test_what_is_not_bytes_is_a_defect_of_the_caller(wrong):
    for place in range(3):
        with pytest.raises(TypeError):
            TABLE.find(Request(*(wrong if number == place else b"/a" for number in range(3))))


def test_the_error_of_a_condition_is_the_callers():
    def fails(request: object) -> bool:
        raise LookupError("unknown")

    table = Router([(Conditions(paths=(parse_path("/a/{b}"),), others=(fails,)), 1), (Conditions(), 2)])
    assert table.find(Request(b"/")) == (2, {})
    for ask in (table.find, table.candidates, table.allowed_methods):
        with pytest.raises(LookupError):
            ask(Request(b"/a/1"))


# --- on what nobody thought of

BYTES = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"/", b"a", b"b", b"ab", b"u", b"me", b"x", b"%2F", b"\0", b"."])).map(b"".join),
)


@settings(max_examples=300)
@given(st.lists(PATTERNS, min_size=1, max_size=12, unique=True), st.lists(BYTES, max_size=8), BYTES)
@example(["/{x0}/a/b", "/a/{x0}/c", "/{x0}/{x1}/{r:path}", "/a/*"], [b"/a/a/b", b"/a/a/c", b"/a/a", b"/b/a/x/"], b"")
def test_any_bytes_as_path_and_host(patterns, paths, host):
    routes = [Route(pattern, (pattern,)) for pattern in patterns]
    table = numbered(routes)
    for path in paths:
        assert_as_expected(table, routes, Request(path))
        assert_as_expected(TABLE, ORDINARY, Request(b"/" + path, host=host, method=path))


# --- and on tables that take the place of others


@settings(max_examples=300)
@given(
    st.lists(ROUTES, max_size=10),
    st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), ROUTES)), max_size=6),
    st.lists(REQUESTS, min_size=1, max_size=8),
    st.integers(0, 200),
)
def test_a_table_that_was_built_from_another_is_as_if_it_was_built_alone(routes, edits, requests, left_at):
    """Some routes change their place, go or are replaced; then the table before is taken apart."""

    def answers(table: Router[Any]) -> list[Any]:
        return [(table.find(each), table.candidates(each), table.allowed_methods(each)) for each in requests]

    rules = [at_once(rule_of(route.conditions, place)) for place, route in enumerate(routes)]
    base: Router[int] = at_once(Router.building(list(rules), None))
    before = answers(base)
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
    assert answers(base) == before
    alone = answers(at_once(Router.building(list(rules), None)))
    assert answers(table) == alone
    at_once(base.dismantling(table))
    assert answers(table) == alone
    if base is not table:
        assert answers(base) == [(None, [], ())] * len(requests)


def entries_of(path: str, number: int) -> tuple[RouteEntry, ...]:
    return at_once(rule_of(Conditions(paths=(parse_path(path),)), number))


def finished(tree: RouteTree) -> RouteTree:
    for choices in tree.choices():
        choices.complete(at_once(automaton_of(choices.sources)))
    while tree.seal():
        pass
    return tree


def test_its_hash_table_grows_by_pieces_and_is_the_same_in_one_go():
    entries = [entry for number in range(5000) for entry in entries_of(f"/s{number}/x/*", number)]
    by_pieces, at_a_go = RouteTree(), RouteTree()
    pieces = 0
    for tree in (by_pieces, at_a_go):
        assert tree.add_host(b"", -1) == 0
    for entry in entries:
        while by_pieces.widen(len(entry.path.segments)):
            pieces += 1
        by_pieces.add(0, entry)
        at_a_go.add(0, entry)
    assert pieces > 10
    for tree in map(finished, (by_pieces, at_a_go)):
        found = [tree.entries(Request(f"/s{number}/x/y".encode())) for number in range(5000)]
        assert [[entry.route for entry, _ in entries] for entries in found] == [[number] for number in range(5000)]
        assert tree.entries(Request(b"/s1/y")) == []
        while tree.release():
            assert tree.entries(Request(b"/s1/x")) == []
        assert not tree.release()


@pytest.mark.parametrize("left_at", [0, 1, 100])
def test_trees_that_are_left_unfinished_are_freed(left_at):
    tree = RouteTree()
    tree.add_host(b"h", -1)
    for number in range(left_at):
        tree.add(0, entries_of(f"/s{number}/{{id}}:x", number)[0])
    while tree.release():
        pass


def test_what_is_added_out_of_order_is_refused():
    tree = RouteTree()
    with pytest.raises(ValueError, match="less specific"):
        tree.add_host(b"h", 0)
    with pytest.raises(ValueError, match="no such host"):
        tree.add(0, entries_of("/", 1)[0])
