"""The section `egress`: what is made of it, and where it is told what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw.config import ConfigError, Loaded, effective, load, load_sources
from fastgw.config.base.problems import Problem
from fastgw.config.base.value_types import parse_url
from fastgw.config.decoding.decoder import Reading
from fastgw.config.decoding.merge import Derived, merge
from fastgw.config.egress.expand import add_services, expand
from fastgw.config.settings.egress import EgressService
from fastgw.config.settings.gateway import Config, Route
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.config.sources.documents import Document, read_all
from fastgw.config.sources.files import Disk
from fastgw.config.validation.rules import names_are_known
from fastgw.diff import as_text, differences
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError
from fastgw.runtime.reload.config_notes import new_among, notes_of
from tests.support.certificates import Certificates

MAIN = 'version: 1\nlisteners:\n  plain: {address: "127.0.0.1:0"}\n'
API = "url: https://api.example/v2"
PLANTED = "planted-0123456789"
SECRETS = f"client_id: {PLANTED}, client_secret: {PLANTED}"


def loaded(folder: Path, text: str, types: Mapping[str, type] = TYPES, main: str = MAIN, **files: str) -> Loaded:
    for name, content in files.items():
        (folder / name).with_suffix(".yaml").write_text(content)
    (folder / "main.yaml").write_text(main + text)
    return load(str(folder / "main.yaml"), types)


def made(folder: Path, text: str, **more: Any) -> Config:
    return loaded(folder, text, **more).config


def untold(problem: Problem, folder: Path) -> str:
    """Without the folder and the column."""
    return str(replace(problem, column=0)).replace(f"{folder}/", "")


def problems(folder: Path, text: str, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        loaded(folder, text, **more)
    told = [untold(each, folder) for each in raised.value.problems]
    assert PLANTED not in "".join(told)
    return told


def notes(folder: Path, text: str, **more: Any) -> list[str]:
    return [untold(each, folder) for each in loaded(folder, text, **more).notes]


def routes(config: Config) -> dict[str, Route]:
    return {route.name: route for route in config.routes}


def egress(apps: str, more: str = "") -> str:
    return f"egress:\n{more}  apps:\n    shop:\n      orders: {{{apps}}}\n"


def test_a_service_becomes_an_upstream_and_a_route_of_its_name(tmp_path):
    config = made(tmp_path, egress(f"{API}, timeouts: {{connect: 3s}}"))
    upstream = config.upstreams["egress/shop/orders"]
    assert [str(target.url) for target in upstream.targets] == ["https://api.example/v2"]
    assert upstream.timeouts.connect == 3
    route = routes(config)["egress/shop/orders"]
    assert route.paths == ("/shop/orders/*",)
    assert route.upstream == "egress/shop/orders"
    assert route.strip_prefix == "/shop/orders"
    assert route.listeners == ("plain",)
    assert route.path.forward == "raw"
    assert route.forwarded == "pass"
    assert config.egress is not None
    assert config.egress.apps["shop"]["orders"].url == parse_url("https://api.example/v2")


def test_what_the_files_say_of_routes_comes_first(tmp_path):
    text = egress(API) + "routes: [{name: own, paths: [/shop/orders/x], respond: {status: 204}}]\n"
    assert [*routes(made(tmp_path, text))] == ["own", "egress/shop/orders", "egress"]


def test_entries_are_apis_by_name(tmp_path):
    service = "entries: {a: {url: http://a.example/x}, b: {url: http://b.example}}"
    config = made(tmp_path, egress(service, "  addressing: path_with_entry\n"))
    assert [*config.upstreams] == ["egress/shop/orders/a", "egress/shop/orders/b"]
    route = routes(config)["egress/shop/orders/a"]
    assert (route.paths, route.strip_prefix) == (("/shop/orders/a/*",), "/shop/orders/a")


def test_an_entry_alone_needs_no_name_in_the_path(tmp_path):
    config = made(tmp_path, egress("entries: {a: {url: http://a.example}}"))
    assert routes(config)["egress/shop/orders/a"].paths == ("/shop/orders/*",)


def test_of_several_entries_a_path_without_one_means_none(tmp_path):
    text = egress("entries: {a: {url: http://a.example}, b: {url: http://b.example}}")
    told = notes(tmp_path, text)
    assert told == ["main.yaml:7: egress.apps.shop.orders: it has several `entries`: `path` does not reach it"]
    assert [*routes(made(tmp_path, text))] == ["egress"]


@pytest.mark.parametrize(
    ("ways", "service", "told"),
    [
        (("path", "host"), "entries: {a: {url: http://a.example}, b: {url: http://b.example}}", "several"),
        (("path_with_entry", "path_with_entry"), API, "no"),
        (("path", "host", "path_with_entry"), "entries: {a: {url: http://a.example}, b: {url: http://b.example}}", ""),
        (("path_with_entry", "host"), API, ""),
    ],
)
def test_a_service_that_nobody_can_call_is_noted_once(tmp_path, ways, service, told):
    """Of several listeners one that reaches it will do."""
    names = "abc"[: len(ways)]
    main = "version: 1\nlisteners:\n" + "".join(f'  {name}: {{address: "127.0.0.1:0"}}\n' for name in names)
    addressings = ", ".join(f"{name}: {way}" for name, way in zip(names, ways, strict=True))
    found = notes(tmp_path, egress(service, f"  listeners: {{{addressings}}}\n"), main=main)
    assert [note.partition(": it has ")[2].partition(" `")[0] for note in found] == ([told] if told else [])


def test_what_all_else_is_answered_knows_services_that_need_the_name_of_an_entry(tmp_path):
    main = 'version: 1\nlisteners: {a: {address: "127.0.0.1:0"}, b: {address: "127.0.0.1:0"}}\n'
    service = "entries: {a: {url: http://a.example}, b: {url: http://b.example}}"
    config = made(tmp_path, egress(service, "  listeners: {a: path, b: host}\n"), main=main)
    several = {name: route.filters["unknown_service"].settings.several for name, route in routes(config).items()}
    assert several == {"egress/a": {"shop/orders": ("a", "b")}, "egress/b": {"shop-orders": ("a", "b")}}


def test_a_host_names_application_and_service(tmp_path):
    text = egress(API, "  addressing: host\n  domains: [in.cluster.local]\n")
    route = routes(made(tmp_path, text))["egress/shop/orders"]
    assert route.hosts == ("shop-orders", "shop-orders.in.cluster.local")
    assert route.paths == ("/*",)
    assert route.strip_prefix is None
    assert route.forwarded == "strip"


CREATED = {
    "none": ("", ()),
    "create": ("services: create", ("kyma-integration", "kyma-integration.svc", "kyma-integration.svc.cluster.local")),
    "another_cluster": (
        "services: create, services_namespace: apis, services_gateway: gw.egress.svc.corp.example",
        ("apis", "apis.svc", "apis.svc.corp.example"),
    ),
}


def test_names_of_services_that_are_created_are_hosts_in_the_cluster(tmp_path):
    """A listener has to serve them, which is noted otherwise."""
    cluster = "clusters: [{name: c, cluster: {server: http://127.0.0.1:1}}]\nusers: [{name: u, user: {}}]\n"
    context = "contexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\n"
    (tmp_path / "kubeconfig").write_text(cluster + context)
    for case, (said, domains) in CREATED.items():
        provider = f"providers: {{kyma: {{kubernetes: {{kubeconfig: kubeconfig}}, {said}}}}}\n"
        route = routes(made(tmp_path, provider + egress(API, "  addressing: host\n")))["egress/shop/orders"]
        expected = [f"shop-orders.{domain}" for domain in domains] if said else []
        assert route.hosts == ("shop-orders", *expected), case
        unserved = [note for note in notes(tmp_path, provider + egress(API)) if "providers.kyma.services" in note]
        assert [note.partition(": ")[2] for note in unserved] == (
            ["providers.kyma.services: no listener has `addressing: host`: calls of the Services are not served"]
            if said
            else []
        ), case
    for said in ("services: create", "services_namespace: a/b", "services_gateway: a/b"):
        assert problems(tmp_path, f"providers: {{kyma: {{directory: apps, {said}}}}}\n" + egress(API)), said


def test_a_host_that_could_mean_two_means_the_service_of_the_longer_application(tmp_path):
    text = (
        "egress:\n  addressing: host\n  apps:\n"
        "    my-app: {42-x: {url: http://short.example}}\n"
        "    my-app-42: {x: {url: http://long.example}, y: {url: http://other.example}}\n"
    )
    config = made(tmp_path, text)
    assert {name: route.hosts for name, route in routes(config).items() if route.upstream} == {
        "egress/my-app-42/x": ("my-app-42-x",),
        "egress/my-app-42/y": ("my-app-42-y",),
    }
    assert 'the host my-app-42-x means "x" of "my-app-42": no host routes to this service' in "".join(
        notes(tmp_path, text)
    )


def test_several_listeners_each_have_their_addressing(tmp_path):
    main = 'version: 1\nlisteners: {a: {address: "127.0.0.1:0"}, b: {address: "127.0.0.1:0"}}\n'
    config = made(tmp_path, egress(API, "  listeners: {a: path, b: host}\n"), main=main)
    assert {route.name: route.listeners for route in config.routes} == {
        "egress/shop/orders/a": ("a",),
        "egress/a": ("a",),
        "egress/shop/orders/b": ("b",),
        "egress/b": ("b",),
    }
    assert [*config.upstreams] == ["egress/shop/orders"]


def test_applications_of_several_files_add_up(tmp_path):
    config = made(
        tmp_path,
        "include: [team.yaml]\negress: {addressing: host}\n",
        team=egress(API) + "    else: {more: {url: http://more.example}}\n",
    )
    assert config.egress is not None
    assert config.egress.addressing == "host"
    assert {app: [*services] for app, services in config.egress.apps.items()} == {"shop": ["orders"], "else": ["more"]}


def test_one_thing_said_twice_is_told(tmp_path):
    told = problems(
        tmp_path,
        "include: [team.yaml]\n" + egress(API, "  addressing: host\n"),
        team=egress(API, "  addressing: path\n"),
    )
    assert told == [
        "team.yaml:2: egress.addressing: already defined at main.yaml:6; expected it once",
        "team.yaml:5: egress.apps.shop.orders: already defined at main.yaml:9; expected a unique name",
    ]


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a" * 254])
def test_a_name_says_what_may_stand_in_it(tmp_path, name):
    told = problems(tmp_path, f'egress: {{apps: {{"{name}": {{orders: {{{API}}}}}}}}}\n')
    assert len(told) == 1
    assert told[0].endswith(
        "; expected a name of at most 253 letters, digits, `_`, `-` and `.`, starting with a letter or digit"
    )


WRONG = {
    "a certificate that is none": (
        f"{API}, tls: {{ca: main.yaml}}",
        ":7: egress.apps.shop.orders.tls.ca: it contains no valid certificate; expected a PEM file",
    ),
    "half a certificate": (
        f"{API}, tls: {{certificate: main.yaml}}",
        ":7: egress.apps.shop.orders.tls.certificate: there is no `key`; expected both or neither",
    ),
    "a filter set that is not there": (
        f"{API}, use: [nope]",
        ':7: egress.apps.shop.orders.use[0]: unknown filter set "nope"; none is defined',
    ),
    "a filter that names nothing": (
        f"{API}, filters: {{mirror: {{upstream: nope}}}}",
        ':7: egress.apps.shop.orders.filters.mirror.upstream: unknown upstream "nope"; '
        'expected one of "egress/shop/orders"',
    ),
    "nothing to call": (
        "forwarded: pass",
        ":7: egress.apps.shop.orders: expected exactly one of `url` and `entries`",
    ),
    "credentials without what they need": (
        f"{API}, credentials: {{type: basic, username: {PLANTED}}}",
        ":7: egress.apps.shop.orders.credentials: no `password`; expected one for `type: basic`",
    ),
    "credentials of another type": (
        f"{API}, credentials: {{type: bearer, token: {PLANTED}, scopes: [a]}}",
        ":7: egress.apps.shop.orders.credentials: `scopes` has no effect with `type: bearer`; "
        "it is for oauth2 or oauth2_mtls or token_exchange",
    ),
    "a secret that is not needed": (
        f"{API}, credentials: {{type: oauth2, token_url: http://idp/t, {SECRETS}, client_auth: none}}",
        ":7: egress.apps.shop.orders.credentials: `client_secret` has no effect with `client_auth: none`",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_where_it_stands(tmp_path, name):
    said, expected = WRONG[name]
    assert f"main.yaml{expected}" in problems(tmp_path, egress(said), types=TYPES)


@pytest.mark.parametrize("part", ["query", "headers"])
def test_a_secret_in_the_place_of_many_is_not_shown(tmp_path: Path, part: str) -> None:
    (told,) = problems(tmp_path, egress(f"{API}, request_parameters: {{{part}: {PLANTED}}}"))
    assert f"request_parameters.{part}: a string; expected an object" in told


def test_the_same_text_again_without_the_files(tmp_path):
    """What a worker is started from, and a node that is told of its configuration."""
    first = loaded(tmp_path, egress(f"{API}, credentials: {{type: bearer, token: {{file: main.yaml}}}}"))
    assert load_sources(first.sources, first.captured, TYPES).config == first.config


OAUTH = f"type: oauth2, token_url: https://idp.example/t, {SECRETS}"


def shown(config: Config, route: str = "egress/shop/orders") -> Any:
    use = routes(config)[route].filters["credentials"]
    assert use is not None
    return use.settings


def test_credentials_become_a_filter(tmp_path):
    oauth2 = shown(made(tmp_path, egress(f"{API}, credentials: {{{OAUTH}, scopes: [a]}}"))).oauth2
    assert (str(oauth2.token_url), oauth2.scopes, oauth2.client_auth) == ("https://idp.example/t", ("a",), "auto")
    assert shown(made(tmp_path, egress(f"{API}, credentials: {{type: bearer, token: t}}"))).bearer == Secret(text="t")
    basic = "type: basic, username: u, password: p"
    assert shown(made(tmp_path, egress(f"{API}, credentials: {{{basic}}}"))).basic.username == Secret(text="u")
    headers = "type: headers, headers: {X-Key: k}"
    assert shown(made(tmp_path, egress(f"{API}, credentials: {{{headers}}}"))).headers["X-Key"] == Secret(text="k")


def test_a_token_of_the_application_s_own_may_be_sent_whatever_the_credentials_are(tmp_path):
    assert shown(made(tmp_path, egress(API))).access_token_header == "Access-Token"
    assert (
        "credentials"
        not in routes(made(tmp_path, egress(API, "  access_token_header: null\n")))["egress/shop/orders"].filters
    )


def test_parameters_go_to_the_api_and_where_asked_to_the_token_endpoint(tmp_path):
    parameters = "request_parameters: {headers: {X-Tenant: [t1]}, query: {client: '100'}}"
    text = f"{API}, credentials: {{{OAUTH}, token_headers: {{X-Tenant: own}}}}, {parameters}"
    config = made(tmp_path, egress(text))
    assert not shown(config).oauth2.token_query
    use = routes(config)["egress/shop/orders"].filters["request_parameters"]
    assert use is not None
    assert use.settings.query == {"client": Secret(text="100")}
    oauth2 = shown(made(tmp_path, egress(f"{text}, parameters_for_token: true"))).oauth2
    assert oauth2.token_query == {"client": Secret(text="100")}
    assert oauth2.token_headers == {"X-Tenant": Secret(text="own")}


def test_a_certificate_is_shown_to_the_api_or_to_the_token_endpoint(tmp_path):
    certificate, key = Certificates(tmp_path).issue("client")
    files = f"certificate: {certificate}, key: {key}"
    config = made(tmp_path, egress(f"{API}, credentials: {{type: certificate, {files}}}"))
    assert config.upstreams["egress/shop/orders"].tls.certificate == certificate
    mtls = f"type: oauth2_mtls, token_url: https://idp.example/t, client_id: c, {files}"
    config = made(tmp_path, egress(f"{API}, credentials: {{{mtls}}}"))
    assert config.upstreams["egress/shop/orders"].tls.certificate is None
    assert shown(config).oauth2.client_auth == "certificate"
    assert shown(config).oauth2.tls.key == key


def test_a_certificate_that_cannot_be_shown_is_the_trouble_of_its_service_alone(tmp_path):
    """It is noted where it is named, and calls are answered why; what else guards the service stays."""
    ours = Certificates(tmp_path)
    certificate, key = ours.issue("one")[0], ours.issue("two")[1]
    shown = f"{{type: certificate, certificate: {certificate}, key: {key}}}"
    text = f"{API}, credentials: {shown}, filters: {{key_auth: {{}}}}"
    read = loaded(tmp_path, egress(text) + "      other: {url: http://other.example}\n")
    why = f"{key}: the private key does not match the certificate"
    note = f"main.yaml:7: egress.apps.shop.orders.credentials.key: {why}: calls are answered 500"
    assert untold(read.notes[0], tmp_path) == note.replace(f"{tmp_path}/", "")
    filters = routes(read.config)["egress/shop/orders"].filters
    assert filters["egress_calls"].settings.unavailable == why
    assert "key_auth" in filters
    assert {key, certificate} <= set(read.captured), "they are watched"
    compile(read.config, 1, read.captured)


def test_who_hands_out_csrf_tokens_is_spoken_to_as_the_api(tmp_path):
    ours = Certificates(tmp_path)
    certificate, key = ours.issue("client")
    (tmp_path / "token").write_text("t")
    tls = f"tls: {{ca: {ours.ca}, server_name: api.internal}}"
    shows = f"credentials: {{type: certificate, certificate: {certificate}, key: {key}}}"

    def csrf_tls(url: str, more: str = "") -> UpstreamTls:
        text = egress(f"{API}, {tls}, {shows}, csrf: {{token_url: {url}{more}}}")
        held: UpstreamTls = shown(made(tmp_path, text)).csrf.tls
        return held

    of_api = UpstreamTls(ca=ours.ca, server_name="api.internal", certificate=certificate, key=key)
    assert csrf_tls("https://api.example/csrf") == of_api
    assert csrf_tls("https://tokens.example/csrf") == replace(of_api, server_name=None)
    assert csrf_tls("http://api.example/csrf") == UpstreamTls()
    assert csrf_tls("https://api.example/csrf", ", tls: {verify: false}") == UpstreamTls(verify=False)


def test_what_is_not_verified_is_noted(tmp_path):
    text = f"{API}, tls: {{verify: false}}, credentials: {{{OAUTH}, token_tls: {{verify: false}}}}"
    assert [each.partition(": ")[2].partition(":")[0] for each in notes(tmp_path, egress(text))] == [
        "egress.apps.shop.orders.tls.verify",
        "egress.apps.shop.orders.credentials.token_tls.verify",
    ]


@pytest.mark.parametrize("said", [f"redis://:{PLANTED}@h/xx", f"http://{PLANTED}", f"redis://h/-1?{PLANTED}"])
@pytest.mark.parametrize("form", ["text", "file"])
def test_a_redis_that_cannot_be_one_is_told_where_it_stands(tmp_path, said, form):
    (tmp_path / "redis").write_text(said)
    url = {"text": f'"{said}"', "file": f"{{file: {tmp_path}/redis}}"}[form]
    second = f"second_level: {url}"
    (tmp_path / "apps").mkdir()
    client = f"token_url: https://idp.example/t, {SECRETS}, {second}"
    text = (
        f"providers: {{kyma: {{directory: apps, {second}}}}}\n"
        f"filters: {{credentials: {{oauth2: {{{client}}}}}}}\n"
        + egress(f"{API}, credentials: {{type: oauth2, {client}}}")
    )
    told = problems(tmp_path, text)
    below, file = ("", "") if form == "text" else (".file", "redis: ")
    wrong = f"{file}not a URL such as redis://:password@host:6379/0; expected a Redis URL"
    assert told == [
        f"main.yaml:4: providers.kyma.second_level{below}: {wrong}",
        f"main.yaml:5: filters.credentials.oauth2.second_level{below}: {wrong}",
        f"main.yaml:9: egress.apps.shop.orders.credentials.second_level{below}: {wrong}",
    ]


@pytest.mark.parametrize("host", ["idp.example", "10.0.0.1", "localhost", "127.0.0.1"])
def test_credentials_that_go_over_a_network_in_clear_text_are_noted(tmp_path, host):
    """Once, however many listeners there are."""
    main = 'version: 1\nlisteners: {a: {address: "127.0.0.1:0"}, b: {address: "127.0.0.1:0"}}\n'
    oauth2 = (
        f"credentials: {{type: oauth2, token_url: http://{host}/t, {SECRETS}}}, csrf: {{token_url: http://{host}/c}}"
    )
    text = egress(f"{API}, {oauth2}", "  listeners: {a: path, b: host}\n")
    read = loaded(tmp_path, text, main=main)
    told = [untold(each, tmp_path) for each in notes_of(read, compile(read.config, 1, read.captured))]
    readable = "it is http: an attacker in between can read the credentials and the token"
    wanted = [f"main.yaml:7: egress.apps.shop.orders.{part}.token_url: {readable}" for part in ("credentials", "csrf")]
    assert told == ([] if host in ("localhost", "127.0.0.1") else wanted)


SPOILT = {
    "a username with a colon": ("type: basic, username: {file: said}, password: p", f"{PLANTED}:x", "has a colon"),
    "a password in two lines": (
        "type: basic, username: u, password: {file: said}",
        f"{PLANTED}\nx",
        "control character",
    ),
    ("a token of two words"): (
        "type: bearer, token: {file: said}",
        f"a {PLANTED}",
        "the `bearer` token has an invalid character",
    ),
    "a field in two lines": (
        "type: headers, headers: {X-Key: {file: said}}",
        f"{PLANTED}\nx",
        "not a single line",
    ),
    "a key that is none": (
        "type: oauth2, token_url: https://idp.example/t, client_id: c, client_auth: private_key_jwt, "
        "client_key: {file: said}",
        PLANTED,
        "`client_key` is not a PEM private key without a password",
    ),
    "a field of the request for a token": (
        "type: oauth2, token_url: https://idp.example/t, client_id: c, client_secret: s, "
        "token_headers: {X-Key: {file: said}}",
        f"{PLANTED}\nx",
        "has a control character",
    ),
    "a certificate for tokens": (
        "type: oauth2_mtls, token_url: https://idp.example/t, client_id: c, certificate: said, key: said",
        PLANTED,
        "it contains no valid certificate",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("listeners", ["", "  listeners: {a: path, b: host}\n"])
def test_a_service_whose_secret_cannot_be_used_fails_alone(tmp_path, name, listeners):
    """Its calls are answered with the file and why, once noted, and nothing of what is in it."""
    credentials, content, why = SPOILT[name]
    (tmp_path / "said").write_text(content)
    names = "ab" if listeners else "a"
    main = "version: 1\nlisteners:\n" + "".join(f'  {each}: {{address: "127.0.0.1:0"}}\n' for each in names)
    text = egress(f"{API}, credentials: {{{credentials}}}", listeners) + "      other: {url: http://other.example}\n"
    read = loaded(tmp_path, text, main=main)
    gateway = compile(read.config, 1, read.captured)
    ((_, unusable),) = gateway.unusable.items()
    assert why in unusable.why
    assert f"{tmp_path}/said" in unusable.why
    (note,) = notes_of(read, gateway)
    assert note.wrong == f"{unusable.why}: calls are answered 500"
    assert note.path == "egress.apps.shop.orders.credentials"
    assert PLANTED not in repr((unusable, note))


def test_a_secret_that_many_cannot_use_is_one_line_of_the_log(tmp_path):
    (tmp_path / "said").write_text(f"{PLANTED}:x")
    basic = f"{{{API}, credentials: {{type: basic, username: {{file: said}}, password: p}}}}"
    text = "egress:\n  apps:\n" + "".join(f"    shop-{number}: {{orders: {basic}}}\n" for number in range(40))
    read = loaded(tmp_path, text)
    found = notes_of(read, compile(read.config, 1, read.captured))
    assert len(found) == 40
    (line,) = new_among(found, ())
    assert line.path == "egress.apps.shop-0.orders.credentials"
    assert line.wrong.endswith(f"({tmp_path}/said): calls are answered 500 (and in 39 other places)")


def test_so_does_one_whose_parameters_cannot_be_sent(tmp_path):
    (tmp_path / "said").write_text(f"{PLANTED}\nx")
    read = loaded(tmp_path, egress(f"{API}, request_parameters: {{headers: {{X-Tenant: {{file: said}}}}}}"))
    (unusable,) = compile(read.config, 1, read.captured).unusable.values()
    assert unusable.why == f"the secret for X-Tenant is not a single line ({tmp_path}/said)"


def test_what_the_configuration_itself_says_wrong_is_refused(tmp_path):
    read = loaded(tmp_path, egress(f"{API}, credentials: {{type: basic, username: 'a:b', password: p}}"))
    with pytest.raises(CompileError, match="has a colon"):
        compile(read.config, 1, read.captured)


def test_filters_of_a_service_s_own_stand_beside_those_that_are_made(tmp_path):
    text = f"{API}, filters: {{headers: {{request: {{set: {{x: y}}}}}}, credentials: null, target_errors: null}}"
    filters = routes(made(tmp_path, egress(text)))["egress/shop/orders"].filters
    assert [*filters] == ["egress_calls", "response_urls", "headers"]


TWO = 'version: 1\nlisteners: {a: {address: "127.0.0.1:0"}, b: {address: "127.0.0.1:0"}}\n'
OF_LISTENERS = {
    "  listener: nope\n": 'main.yaml:4: egress.listener: unknown listener "nope"; expected one of "a", "b"',
    "  listeners: {nope: path}\n": 'main.yaml:4: egress.listeners.nope: unknown listener "nope"; '
    'expected one of "a", "b"',
    "": "main.yaml:3: egress: no listener for the applications' calls; "
    'expected `listener`, one of "a", "b"; or `listeners`, each with its addressing',
    "  listener: a\n  listeners: {b: host}\n": "main.yaml:4: egress: `listener` and `listeners` are mutually exclusive",
}


@pytest.mark.parametrize("said", OF_LISTENERS)
def test_listeners_are_known(tmp_path, said):
    assert problems(tmp_path, egress(API, said), main=TWO) == [OF_LISTENERS[said]]


def test_a_name_that_is_taken_is_told(tmp_path):
    text = egress(API) + "upstreams: {egress/shop/orders: {targets: [{url: http://own.example}]}}\n"
    told = problems(tmp_path, text)
    wrong = "main.yaml:8: upstreams.egress/shop/orders: egress generates one with this name, from main.yaml:7"
    assert told == [f"{wrong}; expected another name"]


def test_a_provider_adds_services_that_stand_elsewhere(tmp_path):
    (tmp_path / "main.yaml").write_text(MAIN + egress(API))
    (tmp_path / "other.yaml").write_text("spec:\n  services: [{name: orders}, {name: more}]\n")
    disk = Disk()
    found = read_all(str(tmp_path / "main.yaml"), lambda: disk.read(str(tmp_path / "main.yaml")), disk)
    merged = merge(found.documents, TYPES, disk)
    other = Document(str(tmp_path / "other.yaml"), lambda: disk.read(str(tmp_path / "other.yaml")))
    location = Derived(Reading(other, TYPES, disk), ("spec", "services", 1))
    add_services(
        merged, {"shop": {"more": (location, EgressService(url=parse_url("http://more.example"), use=("no",)))}}
    )
    assert expand(merged, TYPES) == []
    assert [*merged.config().upstreams] == ["egress/shop/orders", "egress/shop/more"]
    names_are_known(merged)
    told = [untold(each, tmp_path) for each in location.reading.problems]
    assert told == ['other.yaml:2: spec.services[1]: unknown filter set "no"; none is defined']
    add_services(merged, {"shop": {"orders": (location, EgressService(url=parse_url("http://more.example")))}})
    assert f"already defined at {tmp_path}/main.yaml:7" in str(location.reading.problems[-1])


def test_what_changes_is_told_as_what_is_made_of_it(tmp_path):
    old = loaded(tmp_path, egress(API))
    new = loaded(tmp_path, egress("url: https://api.example/v3") + "      more: {url: http://more.example}\n")
    assert as_text(differences(old, new)).splitlines() == [
        "upstream egress/shop/orders: target https://api.example/v2 removed",
        "upstream egress/shop/orders: target https://api.example/v3 added",
        "upstream egress/shop/more: added",
        "route egress/shop/more: added",
        "filter response_urls of route egress/shop/orders: url https://api.example/v2 removed",
        "filter response_urls of route egress/shop/orders: url https://api.example/v3 added",
        "filter credentials of route egress/shop/more: added",
        "filter egress_calls of route egress/shop/more: added",
        "filter response_urls of route egress/shop/more: added",
        "filter target_errors of route egress/shop/more: added",
    ]


def test_what_changes_of_a_service_is_told_once_and_not_for_each_listener(tmp_path):
    """What is different on one of them alone is told of that."""
    main = 'version: 1\nlisteners: {a: {address: "127.0.0.1:0"}, b: {address: "127.0.0.1:0"}}\n'

    def listening(apps: str, more: str = "") -> Loaded:
        text = "egress:\n  listeners: {a: path, b: path_with_entry}\n" + more + "  apps:\n    shop:\n" + apps
        return loaded(tmp_path, text, main=main)

    one = "      orders: {entries: {x: {url: http://a.example/%s}}}\n"
    old = listening(one % "1" + "      old: {url: http://old.example}\n")
    new = listening(one % "2", "  access_token_header: null\n")
    told = [line for line in as_text(differences(old, new)).splitlines() if not line.startswith("upstream ")]
    assert told == [
        "route egress/shop/old/a: removed",
        "filter credentials of route egress/shop/orders/x: removed",
        "filter credentials of route egress/shop/old/a: removed",
        "filter egress_calls of route egress/shop/old/a: removed",
        "filter response_urls of route egress/shop/old/a: removed",
        "filter target_errors of route egress/shop/old/a: removed",
        "filter response_urls of route egress/shop/orders/x: url http://a.example/1 removed",
        "filter response_urls of route egress/shop/orders/x: url http://a.example/2 added",
    ]


def test_the_effective_configuration_has_what_is_made(tmp_path):
    said = effective(made(tmp_path, egress(API)))
    assert [route["name"] for route in said["routes"]] == ["egress/shop/orders", "egress"]
    assert "egress" not in said
