"""Tables that are built beside others, in steps: what they take over, and how the others go."""

from __future__ import annotations

import gc
import os
import ssl
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.settings.gateway import Config
from fastgw.downstream import Listener
from fastgw.exchange import FilterInstance, Route
from fastgw.filters import TYPES
from fastgw.filters.api import Env, Filter, Hooks, Phase
from fastgw.gateway.compiler import Plan, building, compile
from fastgw.gateway.tables import CompileError, Gateway, dismantling
from fastgw.routing.table import Steps, at_once
from fastgw.upstream.upstream import Upstream
from tests.support.certificates import Certificates
from tests.support.generations import load_document, plan_after
from tests.support.memory import SERVICE, probe
from tests.support.table import for_each


class Counted(Filter, name="counted", phase=Phase.AUTHENTICATE):
    """A filter that holds something."""

    number: int = 0

    def build(self, env: Env) -> Hooks:
        return Hooks(request=lambda exchange: None)


TYPES_HERE = {
    **TYPES,
    "counted": Counted,
    "early": probe("early", Phase.ADMIT, request=lambda exchange: None),
    "late": probe("late", Phase.CACHE, request=lambda exchange: None),
}
ROUTES = [
    {"name": "users", "hosts": ["a.test", "b.test"], "paths": ["/users/{id}", "/u"], "upstream": "u"},
    {"name": "files", "hosts": ["b.test"], "paths": ["/files/*"], "upstream": "u", "methods": ["GET"]},
    {"name": "own", "hosts": ["*.test"], "paths": ["~^/v[0-9]"], "respond": {"body": "own"}},
    {"name": "url", "upstream": "http://127.0.0.1:7", "query": {"a": "1"}},
    {"name": "filtered", "paths": ["/f"], "upstream": "u", "filters": {"counted": {"number": 1}}},
]


def loaded(routes: list[dict[str, Any]] = ROUTES, **settings: Any) -> Config:
    return load_document({**SERVICE, **settings, "routes": routes}, TYPES_HERE)


def changed(name: str, **settings: Any) -> list[dict[str, Any]]:
    """`ROUTES` with one of them changed."""
    return [{**route, **settings} if route["name"] == name else route for route in ROUTES]


def after(before: Config, base: Gateway, configuration: Config) -> Gateway:
    return at_once(building(plan_after(before, configuration), 1, base))


def rebuilt(configuration: Config, before: Config | None = None) -> tuple[Gateway, Gateway]:
    before = before or loaded()
    base = compile(before, 1)
    return base, after(before, base, configuration)


def routes_of(gateway: Gateway, listener: str = "main") -> dict[str, Any]:
    place = list(gateway.tables).index(listener)
    rules = {name: compiled.rules[place] for name, compiled in gateway.routes_by_name.items()}
    return {name: rule[0].route for name, rule in rules.items() if rule is not None}


def link(gateway: Gateway, route: str, name: str, listener: str = "main") -> FilterInstance:
    (found,) = (each for each in routes_of(gateway, listener)[route].chain.links if each.use.name == name)
    return found


def same_routes(one: Gateway, other: Gateway, listener: str = "main") -> set[str]:
    ours, theirs = routes_of(one, listener), routes_of(other, listener)
    return {name for name, route in ours.items() if theirs.get(name) is route}


EVERY = {str(route["name"]) for route in ROUTES}


# --- what is taken over


def test_an_equal_configuration_is_all_taken_over() -> None:
    base, new = rebuilt(loaded())
    assert same_routes(base, new) == EVERY
    assert new.tables["main"].router is base.tables["main"].router
    assert new.tables["main"].trusts is base.tables["main"].trusts
    assert new.listeners[0] is base.listeners[0]
    assert new.upstreams == base.upstreams
    assert list(new.upstreams) == ["u", "http://127.0.0.1:7"]


def test_a_route_that_changed_is_new_and_no_other() -> None:
    base, new = rebuilt(loaded(changed("files", methods=["GET", "PUT"])))
    assert same_routes(base, new) == EVERY - {"files"}


@for_each(
    ("routes", "same"),
    [
        (ROUTES[1:], EVERY - {"users"}),
        ([*ROUTES[::-1]], EVERY),
        ([{"name": "first", "respond": {}}, *ROUTES], EVERY),
        ([{**ROUTES[0], "name": "renamed"}, *ROUTES[1:]], EVERY - {"users"}),
        ([], set()),
    ],
)
def test_routes_keep_what_they_are_wherever_they_stand(routes: list[dict[str, Any]], same: set[str]) -> None:
    base, new = rebuilt(loaded(routes))
    assert same_routes(base, new) == same
    assert list(new.routes_by_name) == [route["name"] for route in routes]


def test_a_changed_upstream_is_new_with_its_routes() -> None:
    base, new = rebuilt(loaded(upstreams={"u": {"targets": [{"url": "http://127.0.0.1:10"}]}}))
    assert same_routes(base, new) == {"own", "url"}
    assert new.upstreams["u"] is not base.upstreams["u"]
    assert new.upstreams["http://127.0.0.1:7"] is base.upstreams["http://127.0.0.1:7"]
    assert routes_of(new)["users"].action.upstream is new.upstreams["u"]


def test_routes_share_what_is_equal() -> None:
    alike = [{"name": name, "paths": [f"/{name}"], "upstream": "u"} for name in "ab"]
    other = {"name": "c", "paths": ["/c"], "upstream": "u", "strip_prefix": "/c"}
    first, second, third = routes_of(compile(loaded([*alike, other]), 1)).values()
    assert first.action is second.action
    assert first.action is not third.action


def test_an_upstream_of_a_url_goes_with_its_last_route() -> None:
    _, new = rebuilt(loaded([route for route in ROUTES if route["name"] != "url"]))
    assert list(new.upstreams) == ["u"]


@pytest.mark.parametrize("level", ["gateway", "listener", "filter set", "upstream"])
def test_filters_around_a_route_make_it_new_and_those_that_stay_keep_what_they_hold(level: str) -> None:
    def with_number(number: int) -> Config:
        filters: dict[str, Any] = {"late": {}, "counted": {"number": number}}
        listener = {"address": "127.0.0.1:0", **({"filters": filters} if level == "listener" else {})}
        upstream = {**SERVICE["upstreams"]["u"], **({"filters": filters} if level == "upstream" else {})}  # type: ignore[index]
        return loaded(
            [{"name": "r", "upstream": "u", "use": ["set"]}, {"name": "other", "respond": {}}],
            filters=filters if level == "gateway" else {},
            filter_sets={"set": filters if level == "filter set" else {}},
            listeners={"main": listener},
            upstreams={"u": upstream},
        )

    base, new = rebuilt(with_number(2), with_number(1))
    assert same_routes(base, new) == (set() if level in ("gateway", "listener") else {"other"})
    assert link(new, "r", "late") is link(base, "r", "late")
    assert link(new, "r", "counted") is not link(base, "r", "counted")


def test_a_filter_outlives_a_change_of_its_route() -> None:
    base, new = rebuilt(loaded(changed("filtered", paths=["/g"])))
    assert "filtered" not in same_routes(base, new)
    assert link(new, "filtered", "counted") is link(base, "filtered", "counted")
    assert link(new, "filtered", "counted").use.settings.number == 1


def test_a_filter_that_moves_to_another_level_begins_anew() -> None:
    before = loaded([{"name": "r", "respond": {}, "filters": {"late": {}}}])
    base, new = rebuilt(loaded([{"name": "r", "respond": {}}], filters={"late": {}}), before)
    assert link(new, "r", "late") is not link(base, "r", "late")


def test_early_filters_of_a_listener_stay() -> None:
    before = loaded(filters={"early": {}})
    base, new = rebuilt(loaded(changed("users", paths=["/people"]), filters={"early": {}}), before)
    assert new.tables["main"].early is base.tables["main"].early
    base, new = rebuilt(loaded(filters={"early": {}, "request_id": {}}), before)
    old, both = base.tables["main"].early, new.tables["main"].early
    assert [each.use.name for each in both.links] == ["request_id", "early"]
    assert both.links[1] is old.links[0]
    assert same_routes(base, new) == set()
    assert link(new, "users", "early") is old.links[0]


TWO = {"main": {"address": "127.0.0.1:0"}, "other": {"address": "127.0.0.2:0"}}


def test_a_listener_is_the_same_under_its_name_and_address() -> None:
    before = loaded(listeners=TWO)
    base, new = rebuilt(loaded(listeners={"other": TWO["other"], "main": {"address": "127.0.0.3:0"}}), before)
    assert new.listeners[0] is base.listeners[1]
    assert new.listeners[1] not in base.listeners
    assert [listener.name for listener in new.listeners] == ["other", "main"]
    for name in TWO:
        assert same_routes(base, new, name) == EVERY


def test_a_listener_comes_and_goes_and_the_routes_of_the_other_stay() -> None:
    one, two = loaded(), loaded(listeners=TWO)
    base, new = rebuilt(two, one)
    assert same_routes(base, new) == EVERY
    assert set(routes_of(new, "other")) == EVERY
    assert not set(map(id, routes_of(new).values())) & set(map(id, routes_of(new, "other").values()))
    last = after(two, new, one)
    assert same_routes(new, last) == EVERY
    assert last.tables["main"].router is base.tables["main"].router


def test_a_route_moves_to_another_listener() -> None:
    before = loaded(changed("own", listeners=["main"]), listeners=TWO)
    base, new = rebuilt(loaded(changed("own", listeners=["other"]), listeners=TWO), before)
    assert set(routes_of(base)) == set(routes_of(new, "other")) == EVERY
    assert set(routes_of(new)) == set(routes_of(base, "other")) == EVERY - {"own"}


def test_trust_is_judged_anew_only_when_it_changed() -> None:
    def trusting(network: str, **more: Any) -> Config:
        return loaded(listeners={"main": {"address": "127.0.0.1:0", "trusted_proxies": [network], **more}})

    base, new = rebuilt(trusting("10.0.0.0/8", filters={"request_id": {}}), trusting("10.0.0.0/8"))
    assert new.tables["main"].trusts is base.tables["main"].trusts
    base, new = rebuilt(trusting("10.0.0.0/9"), trusting("10.0.0.0/8"))
    assert not new.tables["main"].trusts("10.200.0.1")
    assert base.tables["main"].trusts("10.200.0.1")


def test_regular_expressions_that_stay_are_not_compiled_again() -> None:
    base, new = rebuilt(loaded([*ROUTES, {"name": "more", "hosts": ["*.test"], "paths": ["/m"], "respond": {}}]))
    first, second = (gateway.tables["main"].router._levels[0] for gateway in (base, new))
    assert second.tree is not first.tree
    assert first.automata
    assert list(map(id, second.automata.values())) == list(map(id, first.automata.values()))


# --- steps


class Asked:
    def __init__(self, path: bytes, host: bytes, query: bytes | None = None) -> None:
        self.path, self.host, self.query, self.method = path, host, query, b"GET"

    def values(self, name: bytes) -> list[bytes]:
        return []


QUESTIONS = [
    Asked(path, host, query)
    for path in (b"/users/1", b"/u", b"/files/a", b"/v1", b"/f", b"/people/1")
    for host in (b"a.test", b"b.test", b"c.test", b"elsewhere")
    for query in (None, b"a=1")
]


def answers(gateway: Gateway) -> list[str | None]:
    found = [gateway.tables["main"].router.find(each) for each in QUESTIONS]
    return [match and match[0].name for match in found]


def pieces(steps: Steps[Any]) -> int:
    """How many there are to the end."""
    return sum(1 for _ in steps)


def test_a_build_that_is_left_at_any_step_leaves_the_base_as_it_was() -> None:
    before, configuration = loaded(), loaded(changed("users", paths=["/people/{id}"]), filters={"late": {}})
    base = compile(before, 1)
    told, upstreams, routes, listeners = answers(base), dict(base.upstreams), list(base.routes), base.listeners
    count = pieces(building(plan_after(before, configuration), 1, base))
    assert count > 20
    for last in range(count):
        steps = building(plan_after(before, configuration), 1, base)
        for _ in range(last):
            next(steps)
        steps.close()
        assert answers(base) == told
        assert (base.upstreams, base.routes, base.listeners) == (upstreams, routes, listeners)
    new = after(before, base, configuration)
    assert answers(new) == answers(compile(configuration, 1)) != told


def test_a_route_that_stays_is_not_even_asked_for() -> None:
    before = loaded()
    base, asked = compile(before, 1), []
    configuration = loaded(changed("own", respond={"body": "other"}))

    def route(place: int) -> Any:
        asked.append(place)
        return configuration.routes[place]

    at_once(building(plan_after(before, configuration)._replace(route=route), 1, base))
    assert asked == [2]


@pytest.mark.parametrize("count", [200, 3000])
def test_no_step_looks_at_all_routes(count: int) -> None:
    """As many times more steps as there are routes: what one does is bounded."""

    def routes(body: str) -> list[dict[str, Any]]:
        hosts = [["h.test"], ["*.w.test"], []]
        made = [{"hosts": hosts[number % 3], "paths": [f"/p{number}/*"]} for number in range(count)]
        made += [{"hosts": [f"h{number}.test"]} for number in range(count)]
        made[0]["methods"] = ["PUT"]
        conditions = (
            {"respond": {"body": body}} if number % 7 == 0 else {"upstream": "u"} for number in range(2 * count)
        )
        return [
            {"name": f"r{number}", **{key: value for key, value in each.items() if value}, **action}
            for number, (each, action) in enumerate(zip(made, conditions, strict=True))
        ]

    before, configuration = loaded(routes("a")), loaded(routes("b"))
    first = building(Plan.of(before), 1, None)
    assert pieces(first) > 2 * count
    base = compile(before, 1)
    assert pieces(building(plan_after(before, configuration), 1, base)) > count
    new = after(before, base, configuration)
    assert pieces(dismantling(base, new)) > count
    assert pieces(dismantling(new, compile(loaded([]), 1))) > 2 * count


# --- the end


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def routes_alive() -> int:
    return sum(type(each) is Route for each in gc.get_objects())


@for_each(
    "configuration",
    [
        loaded(),
        loaded([]),
        loaded(ROUTES[1:]),
        loaded(changed("users", paths=["/people/{id}/x"])),
        loaded(upstreams={"u": {"targets": [{"url": "http://127.0.0.1:10"}]}}, filters={"early": {}, "counted": {}}),
        loaded(listeners=TWO),
    ],
)
def test_what_is_dismantled_needs_no_collector_and_the_new_tables_go_on(configuration: Config) -> None:
    expected = answers(compile(configuration, 1))
    before = loaded()
    compile(before, 1)  # msgspec leaves a circle behind for each class that it looks at for the first time
    with no_collector():
        others = routes_alive()
        base = compile(before, 1)
        new = after(before, base, configuration)
        at_once(dismantling(base, new))
        table = weakref.ref(base)
        del base
        assert table() is None
        assert routes_alive() - others == sum(len(routes_of(new, name)) for name in new.tables)
        assert answers(new) == expected
        assert gc.collect() == 0
        at_once(dismantling(new, compile(loaded([]), 1)))
        del new
        assert routes_alive() == others
        assert gc.collect() == 0


def test_a_build_that_is_left_needs_no_collector() -> None:
    before = loaded()
    base = compile(before, 1)
    plan = plan_after(before, loaded(changed("users", paths=["/people/{id}"]), filters={"late": {}}))
    with no_collector():
        for last in (1, 5, 20):
            steps = building(plan, 1, base)
            for _ in range(last):
                next(steps)
            del steps
        assert gc.collect() == 0


def test_tables_that_a_request_still_waits_to_ask_are_in_use() -> None:
    base, _ = rebuilt(loaded())
    router = base.tables["main"].router
    router.await_request()
    assert base.in_use
    router.count_down_request(None)
    assert not base.in_use


# --- TLS


class Secure:
    """An upstream that is spoken to with a client certificate, and its files as a configuration captures them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Certificates(folder)
        self.ca = self.authority.ca
        self.certificate, self.key = self.authority.issue("client.test")

    def captured(self) -> dict[str, bytes]:
        return {path: Path(path).read_bytes() for path in (self.ca, self.certificate, self.key)}

    def document(self, **tls: Any) -> dict[str, Any]:
        settings = {"ca": self.ca, "certificate": self.certificate, "key": self.key, **tls}
        return {"u": {"targets": [{"url": "https://127.0.0.1:9"}], "tls": settings}}


@pytest.fixture
def secure(tmp_path: Path) -> Secure:
    return Secure(tmp_path)


def context_of(upstream: Upstream) -> ssl.SSLContext:
    """That its targets share."""
    tls = upstream.targets[0].tls
    assert tls is not None
    return tls.context


def test_tls_is_made_of_the_bytes_that_were_captured(secure: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration, files = loaded(upstreams=secure.document()), secure.captured()
    for path in files:
        Path(path).unlink()
    opened = []
    monkeypatch.setattr(
        os, "memfd_create", lambda *said, real=os.memfd_create: opened.append(real(*said)) or opened[-1]
    )
    base = at_once(building(Plan.of(configuration)._replace(files=files), 1, None))
    (target,) = base.upstreams["u"].targets
    assert target.tls is not None
    assert len(target.tls.context.get_ca_certs()) == 1
    assert len(opened) == 3
    for fd in opened:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_an_upstream_is_the_same_while_the_bytes_of_its_files_are(secure: Secure) -> None:
    configuration, files = loaded(upstreams=secure.document()), secure.captured()
    base = at_once(building(Plan.of(configuration)._replace(files=files), 1, None))

    def built(files: Mapping[str, bytes], configuration: Config = configuration, before: Config = configuration) -> Any:
        return at_once(building(plan_after(before, configuration, files), 1, base)).upstreams["u"]

    assert built(files) is base.upstreams["u"]
    certificate, key = secure.authority.issue("other.test")
    renewed = {**files, secure.certificate: Path(certificate).read_bytes(), secure.key: Path(key).read_bytes()}
    assert built(renewed) is not base.upstreams["u"]
    assert context_of(built(renewed)) is not context_of(base.upstreams["u"])
    more_patient = secure.document()
    more_patient["u"]["timeouts"] = {"idle": "1s"}
    changed = built(files, loaded(upstreams=more_patient))
    assert changed is not base.upstreams["u"]
    assert context_of(changed) is context_of(base.upstreams["u"])


def test_upstreams_that_trust_alike_share_their_tls() -> None:
    urls = [f"https://127.0.0.1:{port}" for port in (1, 2)]
    routes = [{"name": url, "hosts": [f"h{place}.test"], "upstream": url} for place, url in enumerate(urls)]
    before = loaded(routes)
    base = compile(before, 1)
    one, two = (context_of(base.upstreams[url]) for url in urls)
    assert one is two
    new = after(before, base, loaded(routes[:1]))
    third = after(loaded(routes[:1]), new, before)
    assert context_of(third.upstreams[urls[1]]) is one


def test_the_systems_certificates_are_trusted_as_openssl_would(monkeypatch: pytest.MonkeyPatch, secure: Secure) -> None:
    other, _ = secure.authority.issue("other.test")
    bundle = Path(secure.ca).with_name("bundle.pem")
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    bundle.write_text(f"some words\n{Path(secure.ca).read_text()}\n{broken}{Path(other).read_text()}")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    configuration = loaded(upstreams={"u": {"targets": [{"url": "https://127.0.0.1:9"}]}})
    made = context_of(compile(configuration, 1).upstreams["u"])
    assert made is not None
    assert made.cert_store_stats()["x509"] == 2
    assert made.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("which", "content", "reason"),
    [("certificate", b"no certificate", "PEM"), ("ca", b"none", ""), ("key", b"", ""), ("key", "other", "mismatch")],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place(
    secure: Secure, which: str, content: bytes | str, reason: str
) -> None:
    files = secure.captured()
    if content == "other":
        content = Path(secure.authority.issue("other.test")[1]).read_bytes()
    files[getattr(secure, which)] = content  # type: ignore[assignment]
    plan = Plan.of(loaded(upstreams=secure.document()))._replace(files=files)
    with pytest.raises(CompileError, match=rf"^upstreams\.u\.tls: .*{reason}"):
        at_once(building(plan, 1, None))


def test_a_file_that_has_gone_is_told_with_its_place(secure: Secure) -> None:
    configuration = loaded(upstreams=secure.document())
    Path(secure.ca).unlink()
    with pytest.raises(CompileError, match=r"^upstreams\.u\.tls: No such file or directory"):
        compile(configuration, 1)


def test_listeners_are_compiled_with_what_they_serve_by() -> None:
    gateway = compile(loaded(listeners=TWO), 1)
    for listener in gateway.listeners:
        assert type(listener) is Listener
        assert listener.router is gateway.tables[listener.name].router


def test_what_counts_where_nodes_share_it_is_built_anew_when_that_changes_and_nothing_else_is() -> None:
    hour = {"type": "rate_limit", "limit": 5, "window": "1h"}
    routes = [{**ROUTES[0], "filters": {"shared": hour, "own": {**hour, "scope": "node"}}}]
    held: list[Mapping[str, FilterInstance]] = []
    states = [None, {"url": "redis://a.test"}, {"url": "redis://a.test"}, {"url": "redis://b.test"}, None]
    configuration = loaded(routes)
    gateway = compile(configuration, 1)
    for state in states:
        after = loaded(routes, state=state)
        gateway = at_once(building(plan_after(configuration, after), 1, gateway))
        configuration = after
        links = gateway.routes[0].rules[0][0].route.links  # type: ignore[index]
        held.append({link.use.name: link for link in links})
    same = [before["shared"] is now["shared"] for before, now in pairwise(held)]
    assert same == [False, True, False, False]
    assert len({id(links["own"]) for links in held}) == 1
