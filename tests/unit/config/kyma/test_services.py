"""Kyma's documents: what becomes of Applications and Secrets, and of what is wrong in them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as run_with
from hypothesis import strategies as st
from msgspec.structs import replace

from fastgw.config import ConfigError, Loaded, effective, load, load_sources
from fastgw.config.base.value_types import parse_url
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.kyma.names import access_service, normalized, why_not_there
from fastgw.config.kyma.objects import ObjectFile
from fastgw.config.kyma.services import KymaService, services_in
from fastgw.config.settings.egress import EgressEntry, EgressRetries, EgressTimeouts, Kyma, KymaDefaults
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import ResponseLimits, UpstreamTls
from fastgw.config.sources.files import brought_forward, read_again
from fastgw.filters import TYPES
from fastgw.filters.policies.credentials.token_endpoint import _OURS
from fastgw.gateway.compiler import compile
from fastgw.runtime.reload.certificate_files import settled
from fastgw.runtime.reload.config_notes import new_among, notes_of
from tests.support.certificates import Certificates
from tests.support.kyma import Json, api, application, credentials, secret, service, stream
from tests.support.table import for_each

MAIN = 'version: 1\nlisteners:\n  plain: {address: "127.0.0.1:0"}\nproviders: {kyma: {directory: apps}}\n'
PLANTED = "planted-0123456789"


def read(*objects: Json, **settings: Any) -> tuple[dict[str, KymaService], dict[str, bytes], list[str]]:
    """The services by name, the derived files, and what is told."""
    derived: dict[str, bytes] = {}
    file = ObjectFile("/apps/a.json", json.dumps(objects).encode())
    found = services_in(file.objects, Kyma(directory="/apps", **settings), derived.__setitem__)
    told = [str(replace(each, file="", line=0, column=0)) for each in (*file.problems, *found.notes)]
    assert PLANTED not in "".join([*told, repr(found)])
    return {f"{each.app}/{each.name}": each for each in found.services}, derived, told


def only(*objects: Json, **settings: Any) -> tuple[EgressEntry, dict[str, bytes]]:
    services, derived, told = read(*objects, **settings)
    assert told == []
    ((_, found),) = services.items()
    assert found.settings.url is not None
    return found.settings, derived


def value(said: Any, derived: Mapping[str, bytes]) -> Any:
    """What stands in the file of a secret; of several, all."""
    if isinstance(said, tuple):
        return [value(each, derived) for each in said]
    return derived[said.file].decode() if said.file else said.value()


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("Orders API", "orders-api"),
        ("--Order_!@#$%s--", "order-s"),
        ("é", ""),
        ("A" * 60, "a" * 57),
        ("my-app-42", "my-app-42"),
    ],
)
def test_names_are_normalized_as_kyma_does(name: str, called: str) -> None:
    assert normalized(name) == called


def test_a_service_had_a_host_of_its_own() -> None:
    """With the name of its application cut so that a UUID has room in the label."""
    uuid = "4b2a5a3c-9a0e-4f5c-8f0a-0c7f4f9f2a11"
    assert access_service("my-app-42", uuid) == f"my-app-42-{uuid}"
    assert len(access_service("a" * 40, uuid)) == 63
    assert access_service("shop", "not a label") == ""


@for_each(
    "host",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "0x7f.1", "0x7f000001", "169.254.169.254", "224.0.0.1"),
        *("localhost", "localhost.", "a.localhost", "ip6-localhost", "ip6-loopback"),
        *("[::1]", "[::]", "[fe80::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[2002:7f00:1::1]"),
        *("[64:ff9b::a9fe:a9fe]", "[::7f00:1]"),
    ],
)
def test_documents_lead_nowhere_on_this_machine(host: str) -> None:
    said = application(service("orders", api(f"http://{host}:8080/")))
    services, _, told = read(said)
    assert services == {}
    assert ", which is not allowed in an Application" in told[0]
    services, _, told = read(said, allow_local=True)
    assert [*services] == ["shop/orders"]
    assert told == []


@pytest.mark.parametrize("host", ["10.0.0.1", "api.example", "192.168.1.1", "localhost.example", "[fd00::1]"])
def test_other_addresses_may_be_called(host: str) -> None:
    assert why_not_there(parse_url(f"http://{host}")) == ""


def test_an_api_without_credentials() -> None:
    settings, derived = only(application(service("orders", api())))
    assert str(settings.url) == "https://api.example/v2"
    assert (settings.credentials.type, settings.csrf, settings.unavailable) == ("none", None, None)
    assert settings.tls.verify
    assert derived == {}


def test_basic_is_a_username_and_a_password() -> None:
    settings, derived = only(
        application(service("orders", api(credentials=credentials("Basic")))),
        secret("secret", username="me", password=PLANTED, other="not asked for"),
    )
    shown = settings.credentials
    assert (shown.type, value(shown.username, derived), value(shown.password, derived)) == ("basic", "me", PLANTED)
    assert [*derived] == ["kyma://kyma-system/secret/username", "kyma://kyma-system/secret/password"]


def test_oauth_fetches_tokens_with_what_else_its_secret_has() -> None:
    """Fields and parameters beside the client's are for the token endpoint."""
    told = credentials("OAuth", authenticationUrl="https://idp.example/token?tenant=a")
    settings, derived = only(
        application(service("orders", api(credentials=told))),
        secret(
            "secret", clientId="me", clientSecret=PLANTED, headers='{"X-A": ["1", "2"]}', queryParameters='{"q":"3"}'
        ),
    )
    shown = settings.credentials
    assert shown.type == "oauth2"
    assert str(shown.token_url) == "https://idp.example/token?tenant=a"
    assert (value(shown.client_id, derived), value(shown.client_secret, derived)) == ("me", PLANTED)
    assert value(shown.token_headers["X-A"], derived) == ["1", "2"]
    assert value(shown.token_query["q"], derived) == ["3"]
    assert settings.request_parameters.headers == {}


def test_certificates_are_shown_to_the_api_or_to_the_token_endpoint(tmp_path: Path) -> None:
    certificate, key = (Path(each).read_text() for each in Certificates(tmp_path).issue("client"))
    pair = secret("secret", clientId="me", crt=certificate, key=key)
    settings, derived = only(application(service("orders", api(credentials=credentials("CertificateGen")))), pair)
    shown = settings.credentials
    assert shown.type == "certificate"
    assert (derived[str(shown.certificate)].decode(), derived[str(shown.key)].decode()) == (certificate, key)
    told = credentials("OAuthWithCert", authenticationUrl="https://idp.example/token")
    settings, derived = only(application(service("orders", api(credentials=told))), pair)
    shown = settings.credentials
    assert (shown.type, value(shown.client_id, derived)) == ("oauth2_mtls", "me")
    assert derived[str(shown.key)].decode() == key


def test_a_certificate_with_another_key_is_not_used(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("one")[0], certificates.issue("two")[1]
    pair = secret("secret", crt=Path(certificate).read_text(), key=Path(key).read_text())
    services, derived, told = read(application(service("orders", api(credentials=credentials("CertificateGen")))), pair)
    why = "`key` of the Secret kyma-system/secret cannot be used: the private key does not match the certificate"
    assert services["shop/orders"].settings.unavailable == why
    assert derived == {}
    assert told == [
        "Secret/secret: data.key: cannot be used: the private key does not match the certificate",
        f"Application/shop: spec.services[0].entries[0].credentials.secretName: {why}: calls are answered 500",
    ]


def test_one_secret_may_be_for_several_services_and_for_parameters_too() -> None:
    both = api(
        "https://api.example?sap-client=100", credentials=credentials("Basic"), requestParametersSecretName="secret"
    )
    csrf = {"tokenEndpointURL": "https://api.example/csrf"}
    services, derived, told = read(
        application(service("orders", both), service("stock", api(credentials=credentials("Basic", csrfInfo=csrf)))),
        secret(
            "secret", username="me", password=PLANTED, headers='{"X-Tenant": ["t1"]}', queryParameters='{"a": ["b c"]}'
        ),
    )
    assert told == []
    orders, stock = services["shop/orders"].settings, services["shop/stock"].settings
    assert orders.credentials == stock.credentials
    assert value(orders.request_parameters.headers["X-Tenant"], derived) == ["t1"]
    query = {name: value(said, derived) for name, said in orders.request_parameters.query.items()}
    assert (query, orders.request_parameters.query_first) == ({"a": ["b c"]}, "sap-client=100")
    assert stock.csrf is not None
    assert str(stock.csrf.token_url) == "https://api.example/csrf"


def test_skip_verify_is_for_the_api_and_for_the_token_endpoint() -> None:
    told = credentials("OAuth", authenticationUrl="https://idp.example/token")
    said = secret("secret", clientId="me", clientSecret=PLANTED)
    services = service("orders", api(credentials=told)), service("plain", api("http://api.example"))
    found, _, _ = read(application(*services, skipVerify=True), said)
    assert not found["shop/orders"].settings.tls.verify
    assert not found["shop/orders"].settings.credentials.token_tls.verify
    assert found["shop/plain"].settings.tls.verify, "nothing is verified there, and nothing said about it"


def test_entries_with_names_are_called_by_them_and_events_are_not_called() -> None:
    entries = [{"type": "Events"}, api(name="Base Store"), api("https://b.example", name="cart")]
    services, _, told = read(application(service("commerce", *entries), service("news", {"type": "Events"})))
    assert told == []
    assert [*services] == ["shop/commerce"]
    commerce = services["shop/commerce"].settings
    assert {name: str(each.url) for name, each in commerce.entries.items()} == {
        "base-store": "https://api.example/v2",
        "cart": "https://b.example",
    }
    assert commerce.host == "shop-id-of-commerce"


def test_the_first_of_several_objects_of_one_name_counts() -> None:
    said = application(service("orders", api("https://first.example")))
    services, derived, told = read(
        said,
        application(service("other", api())),
        secret("secret", username="first", password="x"),
        secret("secret", username="second", password="x"),
        application(service("orders", api(credentials=credentials("Basic"))), name="two"),
    )
    assert str(services["shop/orders"].settings.url) == "https://first.example"
    assert derived["kyma://kyma-system/secret/username"] == b"first"
    assert [*services] == ["shop/orders", "two/orders"]
    assert [each.partition(": ")[2] for each in told] == [
        "metadata.name: already defined at /apps/a.json:1, which takes precedence; expected a unique name",
        "metadata.name: already defined at /apps/a.json:1, which takes precedence; expected a unique name",
    ]


def test_which_of_several_is_meant_is_not_guessed() -> None:
    """As in Kyma the APIs of all services of one name are taken together, and two that are called alike are none."""
    one, two = "https://one.example", "https://two.example"
    services, _, told = read(
        application(
            service("Orders", api(one)),
            service("orders!", api(two)),
            service("more", api(one, name="a"), api(two, name="A")),
            service("parts", api(one, name="a")),
            service("Parts", api(two, name="b")) | {"id": "other"},
            service("mixed", api(one), api(two, name="b")),
        )
    )
    several = 'Several APIs have this name: an entry without a name of the service "Orders", '
    orders = services["shop/orders"].settings.entries
    assert {name: each.ambiguous for name, each in orders.items()} == {
        "unnamed": f'{several}an entry without a name of the service "orders!".'
    }
    assert 'the entry "a" of the service "more", the entry "A"' in services["shop/more"].settings.entries["a"].ambiguous
    parts = services["shop/parts"].settings.entries
    assert {name: (str(each.url), each.host) for name, each in parts.items()} == {
        "a": (one, "shop-id-of-parts"),
        "b": (two, "shop-other"),
    }
    assert [*services["shop/mixed"].settings.entries] == ["unnamed", "b"]
    assert [each.partition(": ")[2].partition(":")[0] for each in told] == [
        "spec.services[1].entries[0]",
        "spec.services[2].entries[1]",
    ]
    assert all(each.endswith("calls of both are answered 400; expected another name") for each in told)


COMPASS: dict[str, Json] = {
    "OAuth": {
        "credentials": {
            "clientId": "me",
            "clientSecret": PLANTED,
            "tokenUrl": "https://idp.example/token",
            "requestParameters": {"headers": {"X-Zone": ["z1"]}, "queryParameters": {"resource": ["r"]}},
        },
        "csrfConfig": {"tokenUrl": "https://api.example/csrf"},
        "requestParameters": {"headers": {"X-Tenant": ["t1"]}, "queryParameters": {"limit": ["50"]}},
    },
    "BasicAuth": {"credentials": {"username": "me", "password": PLANTED}},
    "NoAuth": {"requestParameters": {"queryParameters": {"limit": ["50"]}}},
}


@pytest.mark.parametrize("kind", COMPASS)
@pytest.mark.parametrize("by_secret", [True, False])
def test_a_secret_of_the_older_compass_form(kind: str, by_secret: bool) -> None:
    """One JSON text; what the credentials are is said by the Secret, or by the Application."""
    types = {} if by_secret else {"type": {"BasicAuth": "Basic"}.get(kind, kind)}
    held = secret("secret", CONFIGURATION=json.dumps(COMPASS[kind]), CREDENTIALS_TYPE=kind if by_secret else "")
    found, derived = only(application(service("orders", api(credentials={"secretName": "secret", **types}))), held)
    shown, parameters = found.credentials, found.request_parameters
    if kind == "OAuth":
        assert (shown.type, str(shown.token_url)) == ("oauth2", "https://idp.example/token")
        assert (value(shown.client_id, derived), value(shown.client_secret, derived)) == ("me", PLANTED)
        assert shown.client_auth == "auto_raw"
        assert value(shown.token_headers["X-Zone"], derived) == ["z1"]
        assert value(shown.token_query["resource"], derived) == ["r"]
        assert value(parameters.headers["X-Tenant"], derived) == ["t1"]
        assert str(found.csrf.token_url) == "https://api.example/csrf"  # type: ignore[union-attr]
    elif kind == "BasicAuth":
        assert shown.type == "basic"
        assert (value(shown.username, derived), value(shown.password, derived)) == ("me", PLANTED)
    else:
        assert shown.type == "none"
    if kind != "BasicAuth":
        assert value(parameters.query["limit"], derived) == ["50"]


@pytest.mark.parametrize(
    ("configuration", "why"),
    [
        (f'{{"credentials": "{PLANTED}"', "is not valid JSON"),
        (f'["{PLANTED}"]', "is not a JSON object"),
        (f'{{"credentials": "{PLANTED}"}}', "has no object as `credentials`"),
        ('{"credentials": {"username": 5}}', "has no text as `credentials.username`"),
        (f'{{"credentials": {{"username": "{PLANTED}\\n"}}}}', "has a control character in `credentials.username`"),
        (f'{{"credentials": {{"username": "a:{PLANTED}"}}}}', "has a username with a colon (RFC 7617)"),
    ],
)
def test_what_is_wrong_with_one_is_told_without_it(configuration: str, why: str) -> None:
    app = application(service("orders", api(credentials=credentials("Basic"))))
    services, _, told = read(app, secret("secret", CONFIGURATION=configuration))
    settings = services["shop/orders"].settings
    assert settings.unavailable == f"`CONFIGURATION` of the Secret kyma-system/secret {why}"
    assert len(told) == 2


def test_what_the_documents_have_no_words_for_is_said_for_all() -> None:
    defaults = KymaDefaults(
        timeouts=EgressTimeouts(response_headers=5.0),
        retries=EgressRetries(body_bytes=10),
        tls=UpstreamTls(ca="/ca.pem", server_name="a.example"),
        tolerate=("bare_lf",),
        response_limits=ResponseLimits(header_count=200),
        use=("set",),
        filters={"response_urls": None},
    )
    told = credentials("OAuth", authenticationUrl="https://idp.example/token")
    services = service("orders", api(credentials=told)), service("plain", api("http://api.example"))
    held = secret("secret", clientId="me", clientSecret=PLANTED)
    found, _, _ = read(application(*services), held, defaults=defaults)
    orders, plain = found["shop/orders"].settings, found["shop/plain"].settings
    for each in orders, plain:
        assert (each.timeouts, each.retries) == (defaults.timeouts, defaults.retries)
        assert (each.tolerate, each.response_limits) == (defaults.tolerate, defaults.response_limits)
        assert (each.use, each.filters) == (defaults.use, defaults.filters)
    assert (orders.tls, plain.tls) == (defaults.tls, UpstreamTls())
    assert orders.credentials.token_tls == UpstreamTls(ca="/ca.pem")
    found, _, _ = read(application(*services, skipVerify=True), held, defaults=defaults)
    assert found["shop/orders"].settings.tls == replace(defaults.tls, verify=False)


@for_each(
    ("said", "why"),
    [
        (None, "the Secret kyma-system/secret is missing"),
        (secret("secret", namespace="other"), "the Secret kyma-system/secret is missing"),
        (secret("secret", username="me"), "the Secret kyma-system/secret has no `password`"),
        (secret("secret", username="me", password=""), "`password` of the Secret kyma-system/secret is empty"),
        (
            secret("secret", username=f"{PLANTED}:", password=PLANTED),
            "`username` of the Secret kyma-system/secret has a colon, which is not allowed in a username (RFC 7617)",
        ),
        (
            secret("secret", username="me", password=f"{PLANTED}\nX: y"),
            "`password` of the Secret kyma-system/secret has a control character",
        ),
        (
            secret("secret", username="me") | {"stringData": {"password": 12345678901}},
            "`password` of the Secret kyma-system/secret is not a string (quote it if it is a number)",
        ),
        (
            secret("secret") | {"data": {"username": "bWU=", "password": f"{PLANTED}!"}},
            "`password` of the Secret kyma-system/secret is not a base64 string",
        ),
        (
            secret("secret") | {"data": {"username": "bWU=", "password": "/w=="}},
            "`password` of the Secret kyma-system/secret is not UTF-8",
        ),
        (secret("secret") | {"data": [PLANTED]}, "the Secret kyma-system/secret has no object `data`"),
        (
            secret("secret", username="me", password="x" * 70_000),
            "`password` of the Secret kyma-system/secret has more than 64 KiB",
        ),
    ],
)
def test_a_secret_that_cannot_be_used_makes_its_services_fail_with_the_reason(said: Json | None, why: str) -> None:
    given = [] if said is None else [said]
    services, _, told = read(
        application(service("orders", api(credentials=credentials("Basic"))), service("stock", api())), *given
    )
    assert services["shop/orders"].settings.unavailable == why
    assert services["shop/stock"].settings.unavailable is None
    assert told[-1].endswith(f"credentials.secretName: {why}: calls are answered 500")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"headers": f"[{PLANTED}"}, "`headers` of the Secret kyma-system/secret is not valid JSON"),
        (
            {"headers": f'["{PLANTED}"]'},
            '`headers` of the Secret kyma-system/secret is not of the form {"name": ["value"]}',
        ),
        (
            {"queryParameters": f'{{"a": {{"b": "{PLANTED}"}}}}'},
            '`queryParameters` of the Secret kyma-system/secret is not of the form {"name": ["value"]}',
        ),
        (
            {"headers": f'{{"X-A": ["{PLANTED}\\r\\nX-B: c"]}}'},
            "`headers` of the Secret kyma-system/secret has an invalid header name or value",
        ),
        (
            {"headers": '{"X-A": ["1"], "x-a": ["2"]}'},
            "`headers` of the Secret kyma-system/secret has a duplicate header",
        ),
        ({"queryParameters": '{"a": [""]}'}, "`queryParameters` of the Secret kyma-system/secret has an empty value"),
        (
            {"queryParameters": '{"a": ["\\ud800"]}'},
            "`queryParameters` of the Secret kyma-system/secret is not valid JSON",
        ),
    ],
)
def test_parameters_that_cannot_be_used_make_the_services_fail(values: dict[str, str], why: str) -> None:
    said = application(service("orders", api(requestParametersSecretName="secret")))
    services, _, _ = read(said, secret("secret", **values))
    assert services["shop/orders"].settings.unavailable == why


def test_nobody_writes_the_fields_that_belong_to_a_connection_or_to_the_request_for_a_token() -> None:
    """A filter would refuse them when it is built, and with it all that was read."""
    told = credentials("OAuth", authenticationUrl="https://idp.example/token")
    for name in sorted(_OURS):
        said = secret("secret", clientId="me", clientSecret=PLANTED, headers=json.dumps({name.decode(): ["x"]}))
        services, _, _ = read(application(service("orders", api(credentials=told))), said)
        why = f"`headers` of the Secret kyma-system/secret has {name.decode()}, which is set by the gateway"
        assert services["shop/orders"].settings.unavailable == why
    said = secret("secret", headers='{"Keep-Alive": ["x"]}')
    services, _, _ = read(application(service("orders", api(requestParametersSecretName="secret"))), said)
    assert services["shop/orders"].settings.unavailable is not None


def test_a_csrf_token_is_asked_for_as_the_api_is(tmp_path: Path) -> None:
    certificate, key = (Path(each).read_text() for each in Certificates(tmp_path).issue("client"))
    shown = credentials("CertificateGen", csrfInfo={"tokenEndpointURL": "https://api.example/csrf"})
    said = application(service("orders", api(credentials=shown)), skipVerify=True)
    settings, _ = only(said, secret("secret", crt=certificate, key=key))
    assert settings.csrf is not None
    assert not settings.csrf.tls.verify
    assert settings.csrf.tls.certificate == settings.credentials.certificate
    shown["csrfInfo"] = {"tokenEndpointURL": "http://api.example/csrf"}
    settings, _ = only(said, secret("secret", crt=certificate, key=key))
    assert settings.csrf is not None
    assert settings.csrf.tls == UpstreamTls()


def test_string_data_counts_before_data_and_base64_may_have_lines() -> None:
    said = secret("secret", username="wrong") | {"stringData": {"username": "me"}}
    said["data"]["password"] = base64.encodebytes(b"p" * 100).decode()
    settings, derived = only(application(service("orders", api(credentials=credentials("Basic")))), said)
    assert value(settings.credentials.username, derived) == "me"
    assert value(settings.credentials.password, derived) == "p" * 100


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            api("ftp://a"),
            'entries[0].targetUrl: "ftp://a" is not an http, https or unix URL; expected an http or https URL',
        ),
        (api("unix:/run/a.sock"), "entries[0].targetUrl: a unix socket, which is not allowed in an Application"),
        (api(f"https://me:{PLANTED}@a"), "entries[0].targetUrl: a URL that contains a user or password"),
        (api("https://a?b#c"), "entries[0].targetUrl: a fragment, or a query with invalid characters"),
        (api("https://a?b c"), "entries[0].targetUrl: a fragment, or a query with invalid characters"),
        ({"type": "API"}, "entries[0]: no `targetUrl`; expected one"),
        (api(5), "entries[0].targetUrl: 5; expected a string"),  # type: ignore[arg-type]
        ({"targetUrl": "https://a"}, "entries[0]: no `type`; expected one"),
        ({"type": "Api"}, 'entries[0].type: a string; expected "API" or "Events"'),
    ],
)
def test_what_is_wrong_with_one_entry_leaves_the_others(said: Json, told: str) -> None:
    services, _, notes = read(application(service("orders", said), service("stock", api())))
    assert [*services] == ["shop/stock"]
    (note,) = notes
    assert note.startswith(f"Application/shop: spec.services[0].{told}")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (api(credentials=credentials("basic")), 'entries[0].credentials.type: it is unknown; did you mean "Basic"?'),
        (api(credentials={"type": "Basic"}), "entries[0].credentials: no `secretName`; expected one"),
        (api(credentials=PLANTED), "entries[0].credentials: a string; expected an object"),
        (api(credentials=credentials("OAuth")), "entries[0].credentials: no `authenticationUrl`; expected one"),
        (
            api(credentials=credentials("OAuth", authenticationUrl="http://127.0.0.1/token")),
            (
                "entries[0].credentials.authenticationUrl: 127.0.0.1 is this machine, which is not allowed in an "
                "Application"
            ),
        ),
        (
            api(credentials=credentials("Basic", csrfInfo={"tokenEndpointURL": "http://[::1]/csrf"})),
            (
                "entries[0].credentials.csrfInfo.tokenEndpointURL: ::1 is this machine, which is not allowed in "
                "an Application"
            ),
        ),
        (
            api("http://a", credentials=credentials("CertificateGen")),
            "entries[0].credentials.type: a client certificate for an http URL; expected an https `targetUrl`",
        ),
    ],
)
def test_what_is_wrong_with_credentials_is_what_calls_are_answered(said: Json, told: str) -> None:
    """As in Kyma the service is there: 500, and with what."""
    services, _, notes = read(application(service("orders", said), service("stock", api())))
    assert [*services] == ["shop/orders", "shop/stock"]
    (note,) = notes
    assert note.startswith(f"Application/shop: spec.services[0].{told}")
    path = told.partition(": ")[0]
    why = services["shop/orders"].settings.unavailable
    assert why is not None
    assert why.startswith(f"spec.services[0].{path} of the Application shop cannot be used: ")
    assert ("it is unknown; expected one of Basic, OAuth, " in why) is ("did you mean" in told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"metadata": {}},
            ("Application: metadata.name: no name; expected a name of lower-case letters, digits, `-` and `.`"),
        ),
        (
            {"metadata": {"name": "A/B"}},
            (
                "Application: metadata.name: not a valid Application name; expected a name of lower-case "
                "letters, digits, `-` and `.`"
            ),
        ),
        ({"apiVersion": "applicationconnector.kyma-project.io/v2"}, "Application/shop: apiVersion: "),
        ({"spec": {"services": {}}}, "Application/shop: spec.services: an object; expected a list"),
        ({"spec": {"services": [5]}}, "Application/shop: spec.services[0]: 5; expected an object"),
        ({"spec": {"skipVerify": "yes"}}, "Application/shop: spec.skipVerify: a string; expected true or false"),
    ],
)
def test_what_is_wrong_with_one_application_leaves_the_others(change: Json, told: str) -> None:
    other = application(service("orders", api()), name="other")
    services, _, notes = read(application(service("orders", api())) | change, other)
    assert [*services] == ["other/orders"]
    assert notes[0].startswith(told)


# in a configuration


def write(folder: Path, **files: list[Json] | str) -> None:
    (folder / "apps").mkdir(exist_ok=True)
    for name, objects in files.items():
        text = objects if isinstance(objects, str) else stream(*objects)
        (folder / "apps" / f"{name}.yaml").write_text(text)


def load_all(folder: Path, main: str = MAIN) -> Loaded:
    (folder / "main.yaml").write_text(main)
    return load(str(folder / "main.yaml"), TYPES)


def reported(loaded: Loaded, folder: Path) -> list[str]:
    return [str(replace(each, column=0)).replace(f"{folder}/", "") for each in loaded.notes]


SHOP = [
    application(service("orders", api(credentials=credentials("Basic")))),
    secret("secret", username="me", password=PLANTED),
]


def test_documents_become_routes_and_upstreams(tmp_path: Path) -> None:
    write(tmp_path, shop=SHOP)
    loaded = load_all(tmp_path)
    assert loaded.notes == ()
    assert [*loaded.config.upstreams] == ["egress/shop/orders"]
    route = next(each for each in loaded.config.routes if each.name == "egress/shop/orders")
    assert route.paths == ("/shop/orders/*",)
    shown = route.filters["credentials"].settings.basic  # type: ignore[union-attr]
    assert shown.password == Secret(file="kyma://kyma-system/secret/password")
    assert loaded.captured["kyma://kyma-system/secret/password"] == PLANTED.encode()


ODD: list[Any] = [
    *(
        None,
        "",
        5,
        True,
        [],
        {},
        [[]],
        {"a": 1},
        "x",
        "é",
        "\x00",
        "a\nb",
        "*",
        "..",
        "a/b",
        "Host",
        "a" * 300,
        "%",
        "{x}",
    ),
    *("https://[", "http://a b", "//", "https://api.example/%zz", "https://api.example/../..", "https://a:99999"),
    *("https://api.example/{id}", "https://api.example/a%2Fb?x=%zz&y", "HTTPS://API.example.", "http://1.2.3.4:80/*"),
    *('{"Host": ["a"]}', '{"X_A": ["1"], "X-A": ["2"]}', '{"Cookie": ["a"], "Authorization": ["b"]}', '{"é": ["é"]}'),
]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from leaves(each, (*path, key))


def with_odd(objects: list[Json], changes: list[tuple[tuple[str | int, ...], Any]]) -> list[Json]:
    changed: Any = json.loads(json.dumps(objects))
    for path, odd in changes:
        held = changed
        try:
            for step in path[:-1]:
                held = held[step]
            held[path[-1]] = deepcopy(odd)  # one within itself could not be written
        except (KeyError, TypeError, IndexError):
            pass  # an odd value stands there by now
    return [each for each in changed if each is not None]


WHOLE = [
    application(
        service(
            "orders",
            api(
                "https://api.example/v2?a=b",
                name="Orders",
                requestParametersSecretName="secret",
                credentials=credentials(
                    "OAuth",
                    authenticationUrl="https://idp.example/token",
                    csrfInfo={"tokenEndpointURL": "https://api.example/csrf"},
                ),
            ),
        ),
        service("stock", api(credentials=credentials("Basic"))),
        skipVerify=True,
    ),
    secret("secret")
    | {
        "stringData": {
            "clientId": "me",
            "clientSecret": PLANTED,
            "username": "me",
            "password": PLANTED,
            "headers": '{"X-Tenant": ["t1"]}',
            "queryParameters": '{"a": ["b"]}',
        }
    },
]


@run_with(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from([*leaves(WHOLE)]), st.sampled_from(ODD)), max_size=3))
def test_no_document_makes_a_configuration_wrong(
    tmp_path: Path, changes: list[tuple[tuple[str | int, ...], Any]]
) -> None:
    """Whatever stands in it, the rest is loaded and every filter is built; and nothing shows a secret."""
    write(tmp_path, shop=with_odd(WHOLE, changes))
    egress = "egress: {listeners: {plain: path, entries: path_with_entry, hosts: host}}\n"
    more = '  entries: {address: "127.0.0.1:1"}\n  hosts: {address: "127.0.0.1:2"}\n'
    loaded = load_all(tmp_path, MAIN.replace("providers", f"{more}providers") + egress)
    compile(loaded.config, 1, loaded.captured)
    assert PLANTED not in "".join(map(str, loaded.notes))


def test_credentials_that_go_over_a_network_in_clear_text_are_noted_where_the_document_has_them(tmp_path: Path) -> None:
    csrf = {"tokenEndpointURL": "http://api.example/csrf"}
    told = credentials("OAuth", authenticationUrl="http://idp.example/token", csrfInfo=csrf)
    write(
        tmp_path,
        shop=[
            application(service("orders", api(credentials=told))),
            secret("secret", clientId="me", clientSecret=PLANTED),
        ],
    )
    found = [note.partition(": it is http: ")[0].rpartition(".")[2] for note in reported(load_all(tmp_path), tmp_path)]
    assert found == ["authenticationUrl", "tokenEndpointURL"]


def test_one_secret_of_many_services_is_one_line_of_the_log(tmp_path: Path) -> None:
    """`check` tells each place."""
    services = [service(f"orders-{n}", api(credentials=credentials("Basic"))) for n in range(50)]
    write(tmp_path, shop=[application(*services), secret("secret", username="me")])
    notes = load_all(tmp_path).notes
    why = "the Secret kyma-system/secret has no `password`: calls are answered 500"
    assert sum(note.wrong == why for note in notes) == 50
    assert [note.wrong for note in new_among(notes, ())] == [f"{why} (and in 49 other places)", "it has no `password`"]
    assert "services[0]" in new_among(notes, ())[0].path


def test_each_addressing_calls_a_service_as_kyma_does(tmp_path: Path) -> None:
    write(tmp_path, shop=[application(service("Orders API", api(name="Base Store")), name="my-app-42")])
    egress = "egress: {domains: [apps.svc], listeners: {plain: path, entries: path_with_entry, hosts: host}}\n"
    more = '  entries: {address: "127.0.0.1:1"}\n  hosts: {address: "127.0.0.1:2"}\n'
    routes = load_all(tmp_path, MAIN.replace("providers", f"{more}providers") + egress).config.routes
    called = {each.listeners[0]: each.paths for each in routes if each.upstream and not each.hosts}
    assert called == {"plain": ("/my-app-42/orders-api/*",), "entries": ("/my-app-42/orders-api/base-store/*",)}
    write(tmp_path, shop=[application(service("Orders API", api(), id="4b2a-5a3c"), name="my-app-42")])
    routes = load_all(tmp_path, MAIN + "egress: {addressing: host, domains: [apps.svc]}\n").config.routes
    (hosts,) = [each.hosts for each in routes if each.upstream]
    assert hosts == ("my-app-42-4b2a-5a3c", "my-app-42-4b2a-5a3c.apps.svc")


def test_going_back_keeps_what_the_documents_say_now(tmp_path: Path) -> None:
    """Credentials of before may have been withdrawn."""
    write(tmp_path, shop=SHOP)
    before = load_all(tmp_path)
    write(
        tmp_path, shop=[SHOP[0], secret("secret", username="you", password="new")], more=[SHOP[0] | {"kind": "Other"}]
    )
    now = load_all(tmp_path)
    back = load_sources(before.sources, brought_forward(before.captured, now.captured), TYPES)
    assert back.captured == now.captured
    assert back.captured["kyma://kyma-system/secret/username"] == b"you"


def test_a_new_file_that_cannot_be_read_is_left_out_and_the_rest_is_taken(tmp_path: Path) -> None:
    write(tmp_path, shop=SHOP)
    before = load_all(tmp_path).captured
    new = tmp_path / "apps" / "new.yaml"
    new.symlink_to("nowhere")
    away = dict.fromkeys(before, "")
    now = read_again(before, away)
    assert now == before, "the pattern finds what it found"
    assert away[str(new)] == f"{new}: cannot be read: No such file or directory"
    with pytest.raises(SyntaxProblem, match="cannot be read"):
        read_again(before)


def test_no_secret_is_shown_anywhere(tmp_path: Path) -> None:
    write(tmp_path, shop=SHOP)
    loaded = load_all(tmp_path)
    shown = repr(loaded) + repr(loaded.config) + json.dumps(effective(loaded.config)) + repr(loaded.config.egress)
    assert PLANTED not in shown
    assert base64.b64encode(PLANTED.encode()).decode() not in shown


def test_what_was_captured_says_the_same_again_though_the_files_are_gone(tmp_path: Path) -> None:
    write(tmp_path, shop=SHOP)
    loaded = load_all(tmp_path)
    (tmp_path / "apps" / "shop.yaml").unlink()
    again = load_sources(loaded.sources, loaded.captured, TYPES)
    assert again.config == loaded.config
    assert again.captured == loaded.captured


def test_derived_files_are_those_of_the_documents_that_are_read(tmp_path: Path) -> None:
    """Whatever was derived before."""
    write(tmp_path, shop=SHOP)
    before = load_all(tmp_path).captured
    changed = {name: content.replace(b"bWU=", b"eW91") for name, content in before.items()}
    after = load_sources(load_all(tmp_path).sources, changed, TYPES).captured
    assert after["kyma://kyma-system/secret/username"] == b"you"
    without = {name: b"" if name.endswith("shop.yaml") else content for name, content in before.items()}
    assert not [name for name in load_sources(load_all(tmp_path).sources, without, TYPES).captured if "kyma://" in name]


def test_notes_tell_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, shop="apiVersion: v1\nkind: [\n", other=[application(service("orders", api("http://localhost")))])
    told = reported(load_all(tmp_path), tmp_path)
    assert told == [
        "apps/other.yaml:15: Application/shop: spec.services[0].entries[0].targetUrl: localhost is this machine, which"
        " is not allowed in an Application; expected another host, or `allow_local: true` with the provider",
        "apps/shop.yaml:3: not valid YAML: the file ends within brackets or braces; expected `]` or `}`"
        " for each `[` or `{`",
    ]


def test_a_certificate_that_is_not_verified_is_noted_once_for_an_application(tmp_path: Path) -> None:
    write(tmp_path, shop=[application(service("orders", api()), service("stock", api()), skipVerify=True)])
    told = reported(load_all(tmp_path), tmp_path)
    assert len(told) == 1
    assert told[0].startswith("apps/shop.yaml:")
    assert "spec.skipVerify: the API's certificate is not verified" in told[0]


def test_a_service_that_the_file_has_counts_before_one_of_a_document(tmp_path: Path) -> None:
    write(tmp_path, shop=SHOP)
    egress = "egress: {apps: {shop: {orders: {url: 'https://file.example'}}}}\n"
    loaded = load_all(tmp_path, MAIN + egress)
    assert str(loaded.config.upstreams["egress/shop/orders"].targets[0].url) == "https://file.example"
    (note,) = reported(loaded, tmp_path)
    assert note.startswith(
        'apps/shop.yaml:13: Application/shop: spec.services[0].entries[0]: "orders" of "shop" is at '
    )
    assert "main.yaml:5, which takes precedence" in note


def test_what_only_the_rules_find_wrong_refuses_that_service_alone(tmp_path: Path) -> None:
    """Here: the filter that shows credentials is not there, and for `stock` it is not needed."""
    write(
        tmp_path,
        shop=[application(service("orders", api(credentials=credentials("Basic"))), service("stock", api())), SHOP[1]],
    )
    (tmp_path / "main.yaml").write_text(MAIN + "egress: {access_token_header: null}\n")
    types = {name: kind for name, kind in TYPES.items() if name != "credentials"}
    loaded = load(str(tmp_path / "main.yaml"), types)
    assert [*loaded.config.upstreams] == ["egress/shop/stock"]
    assert ["credentials: unknown filter type" in each for each in reported(loaded, tmp_path)] == [True]


def test_a_directory_that_is_not_there_is_wrong_and_an_empty_one_is_noted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory"):
        load_all(tmp_path)
    (tmp_path / "apps").mkdir()
    (note,) = reported(load_all(tmp_path), tmp_path)
    assert "has no file with one of the endings .yaml, .yml, .json" in note


def test_a_file_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    write(tmp_path, shop=SHOP)
    (tmp_path / "apps" / "gone.yaml").symlink_to("nowhere")
    (note,) = reported(loaded := load_all(tmp_path), tmp_path)
    assert note == "apps/gone.yaml: cannot be read: No such file or directory"
    assert "egress/shop/orders" in loaded.config.upstreams
    assert load_sources(loaded.sources, loaded.captured, TYPES).config == loaded.config


@pytest.mark.parametrize("end", [-10, 0])
def test_a_file_that_is_half_written_stays_what_it_was(tmp_path: Path, end: int) -> None:
    write(tmp_path, shop=SHOP, other="kind: [\n")
    loaded = load_all(tmp_path)
    before = loaded.captured
    shop, other = (str(tmp_path / "apps" / f"{name}.yaml") for name in ("shop", "other"))
    now = {**before, shop: before[shop][:end], other: b"kind: [\n#"}
    taken, why = settled(loaded.config, before, now)
    assert taken[shop] == before[shop]
    assert [*why] == [shop], "nothing is lost of what was not whole before"
    assert why[shop].startswith(f"{shop}:")


def test_comments_alone_take_away_what_was_there(tmp_path: Path) -> None:
    write(tmp_path, shop=SHOP)
    loaded = load_all(tmp_path)
    shop = str(tmp_path / "apps" / "shop.yaml")
    taken, why = settled(loaded.config, loaded.captured, {**loaded.captured, shop: b"# moved away\n"})
    assert taken[shop] == b"# moved away\n"
    assert not why


def test_notes_are_told_with_those_of_filters(tmp_path: Path) -> None:
    write(tmp_path, shop=[application(service("orders", api("http://localhost")))])
    loaded = load_all(tmp_path)
    assert len(notes_of(loaded, compile(loaded.config, 1, loaded.captured))) == 1


URLS_IN_SECRETS = {
    "by_name": ({"name": "Orders v1"}, {"ORDERS_V1": "https://a.example/v1"}, "https://a.example/v1"),
    "with_hyphens": ({"name": "orders-v1"}, {"ORDERS-V1": "https://a.example\n"}, "https://a.example"),
    "by_name_and_id": ({"name": "v1", "id": "4b-2a"}, {"V1": "https://b.example", "V1_4B_2A": "https://a.example"},
                       "https://a.example"),
    "the_application_first": ({"name": "v1", "targetUrl": "https://c.example"}, {"V1": "https://a.example"},
                              "https://c.example"),
    "none": ({"name": "Orders v1"}, {"V2": "https://a.example"},
             "the Secret kyma-system/secret has no `ORDERS_V1_TARGET_URL`"),
    "no_secret": ({"name": "v1"}, None, "the Secret kyma-system/secret is missing"),
    "two": ({"name": "v-1"}, {"V_1": "https://a.example", "V1": "https://a.example"},
            "`V_1_TARGET_URL` of the Secret kyma-system/secret means the same API as `V1_TARGET_URL`"),
    "no_url": ({"name": "v1"}, {"V1": f"ftp://{PLANTED}"}, "not an http or https URL without"),
    "a_user": ({"name": "v1"}, {"V1": f"https://me:{PLANTED}@a.example"}, "not an http or https URL without"),
    "a_query": ({"name": "v1"}, {"V1": f"https://a.example/?key={PLANTED}"}, "not an http or https URL without"),
    "a_socket": ({"name": "v1"}, {"V1": f"unix:/{PLANTED}"}, "names this machine"),
    "this_machine": ({"name": "v1"}, {"V1": f"http://localhost/{PLANTED}"}, "names this machine"),
}  # fmt: skip


@for_each(("case", "said", "urls", "expected"), [(case, *row) for case, row in URLS_IN_SECRETS.items()])
def test_an_api_without_a_url_has_that_of_its_secret(case: str, said: Json, urls: Json | None, expected: str) -> None:
    """What is wrong with the value is told without it, and calls are answered 500."""
    entry = {**api(credentials={"secretName": "secret"}), "targetUrl": None, **said}
    keys = {f"{name}_TARGET_URL": url for name, url in (urls or {}).items()}
    held = secret("secret", CONFIGURATION=json.dumps(COMPASS["BasicAuth"]), CREDENTIALS_TYPE="BasicAuth", **keys)
    services, _, told = read(application(service("orders", entry)), *([] if urls is None else [held]))
    ((_, found),) = services["shop/orders"].settings.entries.items()
    if expected.startswith("https://"):
        assert (str(found.url), found.credentials.type, found.unavailable, told) == (expected, "basic", None, [])
    else:
        assert expected in (found.unavailable or "")
        assert told
        assert PLANTED not in f"{found} {told}"


def test_an_application_says_what_a_secret_of_the_compass_form_said_alone() -> None:
    """The example of docs/guides/kyma.md: one Secret for all APIs, whose `{API}_TARGET_URL` alone make no service."""
    manual = (Path(__file__).parents[4] / "docs" / "guides" / "kyma.md").read_text()
    (example,) = re.findall(r"```yaml\n(apiVersion: .*?)```", manual, re.DOTALL)
    held = secret(
        "orders-secret",
        V1_TARGET_URL="https://api.example/v1",
        V2_TARGET_URL="https://other.example/v2",
        CONFIGURATION=json.dumps(COMPASS["OAuth"]),
        CREDENTIALS_TYPE="OAuth",
    )
    derived: dict[str, bytes] = {}
    objects = [
        *ObjectFile("/a.yaml", example.encode()).objects,
        *ObjectFile("/b.json", json.dumps([held]).encode()).objects,
    ]
    found = services_in(objects, Kyma(directory="/apps"), derived.__setitem__)
    assert found.notes == []
    ((app, name, settings),) = [(each.app, each.name, each.settings) for each in found.services]
    assert (app, name) == ("shop", "orders")
    entry = settings.entries["v1"]
    assert (str(entry.url), entry.credentials.type) == ("https://api.example/v1", "oauth2")
    assert value(entry.request_parameters.headers["X-Tenant"], derived) == ["t1"]
    alone = services_in(objects[1:], Kyma(directory="/apps"), derived.__setitem__)
    assert (alone.services, alone.notes) == ([], [])


def alone(kind: str, configuration: Json | None, **keys: str) -> Json:
    """A Secret `orders` that needs no Application."""
    said = {} if configuration is None else {"CONFIGURATION": json.dumps(configuration)}
    return secret("orders", **({"CREDENTIALS_TYPE": kind} if kind else {}), **said, **keys)


SECRETS_ALONE = {
    "OAuth": (alone("OAuth", COMPASS["OAuth"], V1_TARGET_URL="https://a.example/v1"), "oauth2"),
    "BasicAuth": (alone("BasicAuth", COMPASS["BasicAuth"], V1_TARGET_URL="https://a.example/v1"), "basic"),
    "NoAuth": (alone("NoAuth", COMPASS["NoAuth"], V1_TARGET_URL="https://a.example/v1"), "none"),
    "nothing else": (alone("", None, V1_TARGET_URL="https://a.example/v1"), "none"),
    "no configuration": (
        alone("OAuth", None, V1_TARGET_URL="https://a.example/v1"),
        "`CONFIGURATION` of the Secret kyma-system/orders has no text as `credentials.tokenUrl`",
    ),
    "unknown type": (
        alone(PLANTED, {}, V1_TARGET_URL="https://a.example/v1"),
        "`CREDENTIALS_TYPE` of the Secret kyma-system/orders is unknown; expected one of OAuth, OAuthWithCert, "
        "BasicAuth, Certificate, NoAuth",
    ),
    "token URL": (
        alone("OAuth", {"credentials": {"tokenUrl": PLANTED}}, V1_TARGET_URL="https://a.example/v1"),
        "`CONFIGURATION` of the Secret kyma-system/orders has no http or https URL as `credentials.tokenUrl`",
    ),
    "local CSRF URL": (
        alone("NoAuth", {"csrfConfig": {"tokenUrl": f"http://[::1]/{PLANTED}"}}, V1_TARGET_URL="https://a.example/v1"),
        "`CONFIGURATION` of the Secret kyma-system/orders has a `csrfConfig.tokenUrl` that names this machine or its "
        "link-local network; expected another host, or `allow_local: true`",
    ),
    "another kind of object": (
        alone("NoAuth", {}, V1_TARGET_URL="https://a.example/v1") | {"stringData": 5},
        "the Secret kyma-system/orders has no object `stringData`",
    ),
    "no URL": (
        alone("NoAuth", {}, V1_TARGET_URL=PLANTED),
        "`V1_TARGET_URL` of the Secret kyma-system/orders is not an http or https URL without a query",
    ),
    "certificate for http": (
        alone("Certificate", {"credentials": {}}, V1_TARGET_URL="http://a.example/v1"),
        "`CONFIGURATION` of the Secret kyma-system/orders has a client certificate for an http URL",
    ),
    "certificate in no base64": (
        alone("Certificate", {"credentials": {"certificate": PLANTED}}, V1_TARGET_URL="https://a.example/v1"),
        "`CONFIGURATION` of the Secret kyma-system/orders has no base64 as `credentials.certificate`",
    ),
}


@for_each(("case", "held", "expected"), [(case, *row) for case, row in SECRETS_ALONE.items()])
def test_an_api_of_a_secret_without_an_application(case: str, held: Json, expected: str) -> None:
    """What is wrong with it is told without the value, and calls are answered 500."""
    services, _, told = read(held, secrets=["orders"])
    ((name, found),) = services.items()
    assert name == "orders/V1"
    if " " not in expected:
        shown = found.settings
        assert (str(shown.url), shown.credentials.type, told) == ("https://a.example/v1", expected, [])
    else:
        assert found.settings.unavailable == expected
        assert len(told) == 1
        assert re.match(r"Secret/orders: (data\.|stringData: )", told[0])


@pytest.mark.parametrize("kind", ["Certificate", "OAuthWithCert"])
def test_certificates_of_a_secret_alone_are_base64_in_its_configuration(kind: str, tmp_path: Path) -> None:
    pem = [Path(file).read_bytes() for file in Certificates(tmp_path).issue("client")]
    said = dict(zip(("certificate", "privateKey"), (base64.b64encode(each).decode() for each in pem), strict=True))
    said |= {"clientId": "me", "tokenUrl": "https://idp.example/token"}
    held = alone(kind, {"credentials": said}, V1_TARGET_URL="https://a.example", V2_TARGET_URL="https://b.example")
    services, derived, told = read(held, secrets=["orders"])
    assert ([*services], told) == (["orders/V1", "orders/V2"], [])
    for each in services.values():
        shown = each.settings.credentials
        assert shown.type == {"Certificate": "certificate", "OAuthWithCert": "oauth2_mtls"}[kind]
        assert [derived[str(file)] for file in (shown.certificate, shown.key)] == pem
    other = Path(Certificates(tmp_path).issue("other")[1]).read_bytes()
    said["privateKey"] = base64.b64encode(other).decode()
    services, derived, _ = read(
        alone(kind, {"credentials": said}, V1_TARGET_URL="https://a.example"), secrets=["orders"]
    )
    assert services["orders/V1"].settings.unavailable == (
        "`CONFIGURATION` of the Secret kyma-system/orders cannot be used: "
        "the private key does not match the certificate"
    )


COMPASS_MAIN = """\
version: 1
listeners:
  apps: {address: "127.0.0.1:0"}
  secrets: {address: "127.0.0.1:0"}
egress: {listeners: {apps: path, secrets: secret}}
providers: {kyma: {directory: apps, secrets: [orders, stock]}}
"""


def test_only_listed_secrets_are_served_and_only_where_it_is_said(tmp_path: Path) -> None:
    """An Application may have the name of a Secret; the names of APIs may be called in lower case, as in Kyma."""
    keys = {"V1_TARGET_URL": "https://a.example/v1", "_X_TARGET_URL": "https://a.example", "v2_TARGET_URL": "https://b"}
    others = [secret("other", V1_TARGET_URL="https://a.example"), application(service("v1", api()), name="orders")]
    write(tmp_path, orders=[alone("BasicAuth", COMPASS["BasicAuth"], **keys), *others])
    loaded = load_all(tmp_path, COMPASS_MAIN)
    assert {(route.name, *route.paths, route.upstream) for route in loaded.config.routes if route.upstream} == {
        ("egress/orders/v1/apps", "/orders/v1/*", "egress/orders/v1"),
        ("egress/orders/V1/secrets", "/secret/orders/api/V1/*", "egress/orders/V1"),
        ("egress/orders/v1/secrets", "/secret/orders/api/v1/*", "egress/orders/V1"),
    }
    wrong = "not a name of an API: nothing is served; expected upper-case letters, digits and `_`"
    assert reported(loaded, tmp_path) == [
        "main.yaml:6: providers.kyma.secrets[1]: the Secret kyma-system/stock is missing: "
        "calls of its APIs are answered 404",
        f"apps/orders.yaml:12: Secret/orders: data._X_TARGET_URL: {wrong}",
        f"apps/orders.yaml:13: Secret/orders: data.v2_TARGET_URL: {wrong}",
    ]
    told = [use.settings for route in loaded.config.routes if (use := route.filters.get("unknown_service"))]
    assert [(each.addressing, each.apps) for each in told] == [
        ("path", ("orders",)),
        ("secret", ("orders",)),
    ]
    (tmp_path / "apps" / "orders.yaml").write_text(stream(secret("orders"), secret("stock", V1_TARGET_URL="https://a")))
    loaded = load_all(tmp_path, MAIN.replace("apps}", "apps, secrets: [orders, stock]}"))
    assert [each.partition(": ")[2] for each in reported(loaded, tmp_path)] == [
        "Secret/orders: no `{API}_TARGET_URL`: nothing is served; expected one",
        "Secret/stock: data.V1_TARGET_URL: it has no Application: `path` does not reach it",
    ]


def test_a_service_of_an_application_takes_precedence_over_an_api_of_a_secret(tmp_path: Path) -> None:
    """Both are `orders/2024`: the name of an API may be a number."""
    held = secret("orders", **{"2024_TARGET_URL": "https://a.example"})
    write(tmp_path, orders=[held, application(service("2024", api()), name="orders")])
    loaded = load_all(tmp_path, COMPASS_MAIN.replace(", stock", ""))
    assert [(*route.paths, route.upstream) for route in loaded.config.routes if route.upstream] == [
        ("/orders/2024/*", "egress/orders/2024")
    ]
    assert reported(loaded, tmp_path) == [
        'apps/orders.yaml:9: Secret/orders: data.2024_TARGET_URL: "2024" of "orders" is at apps/orders.yaml:25, which '
        "takes precedence; expected another name"
    ]
