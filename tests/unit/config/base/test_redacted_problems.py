"""No error tells what is in a file that a setting names: not to `check`, not to the admin API, not to the log.

Each setting that names a file has a configuration here; the settings are looked up in the structs, so that a new one
cannot be forgotten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.config.decoding import decoder
from fastgw.config.settings.gateway import Config
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError
from tests.support.certificates import Certificates
from tests.support.commands import ended

PLANTED = "pl4nted"
SPELLINGS = (PLANTED, PLANTED.upper(), "cGw0bnRlZ", "4711471147114711")
CONTENTS = {
    "environment": f"HOME=/root\0TOKEN={PLANTED}\0",
    "line": f"{PLANTED}\n",
    "colon": f"{PLANTED}:{PLANTED}\n{PLANTED}:{PLANTED}\n",
    "control": f"{PLANTED}\x01\x7f{PLANTED}",
    "bytes": f"{PLANTED}\xff",
    "yaml mapping": f"{PLANTED}: {{{PLANTED}: [{PLANTED}, 4711471147114711]}}\n",
    "yaml list": f"- {PLANTED}\n- {{url: {PLANTED}, {PLANTED}: 1}}\n- 4711471147114711\n",
    "yaml alias": f"a: *{PLANTED}\n",
    "yaml repeated": f"{PLANTED}: 1\n{PLANTED}: 2\n",
    "yaml tag": f"!{PLANTED} {PLANTED}\n",
    "json": json.dumps(
        {PLANTED: PLANTED, "keys": [{"kty": PLANTED, PLANTED: PLANTED}], "consumers": [{"name": PLANTED}]}
    ),
    "json keys": json.dumps({"keys": [{"kty": "RSA", "n": PLANTED, "e": PLANTED, "kid": PLANTED, "alg": PLANTED}]}),
    "json half": f'{{"{PLANTED}": "{PLANTED}',
    "toml": f"{PLANTED} = {{{PLANTED} = 1, {PLANTED} = 2}}\n",
    "toml half": f"[{PLANTED}\n{PLANTED} = '{PLANTED}",
    "pem": f"-----BEGIN CERTIFICATE-----\n{PLANTED}cGw0bnRlZA==\n-----END CERTIFICATE-----\n",
    "pem key": f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY-----\n",
    "consumers": f"""
consumers:
  - {{name: {PLANTED}, groups: [{PLANTED}], key_auth: [{{key_sha256: {PLANTED}}}, {{key: {{file: {PLANTED}}}}}]}}
  - {{name: {PLANTED}, {PLANTED}: x, jwt: [{{issuer: {PLANTED}}}], certificates: [{{subject: {PLANTED}}}]}}
""",
    "targets": f"- {{url: 'http://{PLANTED}:99999'}}\n- '{PLANTED}://x'\n- {{url: 'http://a', weight: {PLANTED}}}\n",
    "kubeconfig": f"current-context: {PLANTED}\ncontexts: [{{name: x{PLANTED}}}]\n",
    "configuration": f"""
version: {PLANTED}
routes: [{{name: {PLANTED}, upstream: {PLANTED}1, methods: [{PLANTED}]}}, {{name: b, paths: ["~{PLANTED}("]}}]
upstreams: {{{PLANTED}2: {{targets: [{PLANTED}]}}}}
{PLANTED}: 1
""",
    "kyma": f"""
apiVersion: applicationconnector.kyma-project.io/v1alpha1
kind: Application
metadata: {{name: "{PLANTED}!"}}
spec: {{services: [{{name: "{PLANTED}", entries: [{{type: {PLANTED}, targetUrl: "{PLANTED}"}}]}}]}}
""",
}
"""What a file may hold that is none of its kind, or nearly is one."""

HEAD: dict[str, Any] = {"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}, "admin": None, "status": None}
SECRET = {"file": "FILE"}
Said = dict[str, Any]


def route(**filters: Any) -> Said:
    return {"routes": [{"name": "r", "upstream": "http://127.0.0.1:9", "filters": filters}]}


def traces(**more: Any) -> Said:
    return {"telemetry": {"traces": more}}


def upstream(**more: Any) -> Said:
    return {"upstreams": {"u": {"targets": [{"url": "https://127.0.0.1:9"}], **more}}}


def credentials(kind: str, **more: Any) -> Said:
    service = {"url": "https://api.example/", "credentials": {"type": kind, **more}}
    return {"egress": {"listener": "main", "apps": {"a": {"s": service}}}}


OAUTH2 = {"token_url": "https://idp.example/token", "client_id": "a", "client_secret": "b"}
LOGIN = {"client_id": "a", "client_secret": "b"}


def oidc(**login: Any) -> Said:
    return route(oidc={"issuer": "https://idp.example", "login": {**LOGIN, **login}})


def acme(**more: Any) -> Said:
    issued = {"domains": ["a.example"]}
    listener = {"address": "127.0.0.1:0", "tls": {"certificates": [{"acme": issued}]}}
    issuer = {"directory": "https://acme.example/directory", "storage": ".", "agree": True}
    return {"listeners": {"main": listener}, "acme": {**issuer, **more}}


CA, PAIR = {"ca": "FILE"}, {"certificate": "CERTIFICATE", "key": "KEY"}
FORMATS = ("FILE.yaml", "FILE.json", "FILE.toml")


def vault(**auth: Any) -> Said:
    return {"vault": {"address": "http://127.0.0.1:9", "auth": auth}}


def registry(kind: str, **more: Any) -> Said:
    return {"providers": {kind: {"address": "http://127.0.0.1:9", **more}}}


def log_sink(kind: str, **more: Any) -> Said:
    index = {"index": "web"} if kind == "elasticsearch" else {}
    return {"access_logs": [{"sink": {kind: {"url": "https://logs.example/in", **index, **more}}}]}


KAFKA = {"brokers": ["kafka:9092"], "topic": "access"}
SINKS = {"HttpSink": "http", "LokiSink": "loki", "ElasticsearchSink": "elasticsearch", "OtlpSink": "otlp"}
SETTINGS: dict[str, list[Said]] = {
    "VaultAppRole.role_id": [vault(approle={"role_id": SECRET, "secret_id": "b"})],
    "VaultAppRole.secret_id": [vault(approle={"role_id": "a", "secret_id": SECRET})],
    "VaultAuth.token": [vault(token=SECRET)],
    "Consul.token": [registry("consul", token=SECRET)],
    "Nacos.password": [registry("nacos", username="a", password=SECRET)],
    "Eureka.password": [registry("eureka", username="a", password=SECRET)],
    **{f"{name}.token": [log_sink(kind, token=SECRET)] for name, kind in SINKS.items()},
    **{f"{name}.password": [log_sink(kind, username="a", password=SECRET)] for name, kind in SINKS.items()},
    **{f"{name}.ca": [log_sink(kind, ca="FILE")] for name, kind in SINKS.items()},
    **{f"{name}.certificate": [log_sink(kind, certificate="FILE", key="KEY")] for name, kind in SINKS.items()},
    **{f"{name}.key": [log_sink(kind, certificate="CERTIFICATE", key="FILE")] for name, kind in SINKS.items()},
    "KafkaSink.ca": [{"access_logs": [{"sink": {"kafka": {**KAFKA, "tls": True, "ca": "FILE"}}}]}],
    "KafkaSink.certificate": [
        {"access_logs": [{"sink": {"kafka": {**KAFKA, "tls": True, "certificate": "FILE", "key": "KEY"}}}]}
    ],
    "KafkaSink.key": [
        {"access_logs": [{"sink": {"kafka": {**KAFKA, "tls": True, "certificate": "CERTIFICATE", "key": "FILE"}}}]}
    ],
    "KafkaSasl.password": [
        {"access_logs": [{"sink": {"kafka": {**KAFKA, "sasl": {"username": "a", "password": SECRET}}}}]}
    ],
    "Acme.ca": [acme(ca="FILE")],
    "Acme.shared_secret": [acme(shared_secret=SECRET)],
    "AcmeAccountKey.key": [acme(external_account={"key_id": "a", "key": SECRET})],
    "AcmeIssuer.ca": [acme(fallback=[{"directory": "https://acme.internal/directory", "ca": "FILE"}])],
    "Admin.connections_token": [{"admin": {"address": "127.0.0.1:0", "token": "b", "connections_token": SECRET}}],
    "Admin.read_only_token": [{"admin": {"address": "127.0.0.1:0", "token": "b", "read_only_token": SECRET}}],
    "Admin.token": [{"admin": {"address": "127.0.0.1:0", "token": SECRET}}],
    "Basic.password": [route(credentials={"basic": {"username": "a", "password": SECRET}})],
    "Basic.username": [route(credentials={"basic": {"username": SECRET, "password": "a"}})],
    "BasicAuth.htpasswd": [route(basic_auth={"htpasswd": "FILE"})],
    "ClientAuth.ca": [
        {"listeners": {"m": {"address": "127.0.0.1:0", "tls": {"certificates": [PAIR], "client_auth": CA}}}}
    ],
    "ClientAuth.crl": [
        {
            "listeners": {
                "m": {
                    "address": "127.0.0.1:0",
                    "tls": {"certificates": [PAIR], "client_auth": {"ca": "CERTIFICATE", "crl": "FILE"}},
                }
            }
        }
    ],
    "ConsumerKey.key": [{"consumers": [{"name": "a", "key_auth": [{"key": SECRET}]}]}],
    "ConsumerPassword.password": [
        {"consumers": [{"name": "a", "basic_auth": [{"username": "a", "password": SECRET}]}]}
    ],
    "ConsumerSigningKey.key": [{"consumers": [{"name": "a", "hmac": [{"key_id": "a", "key": SECRET}]}]}],
    "Credentials.bearer": [route(credentials={"bearer": SECRET})],
    "Credentials.headers": [route(credentials={"headers": {"X-A": SECRET}})],
    "Edits.add": [route(headers={"request": {"add": {"X-A": SECRET}}})],
    "Edits.replace": [route(headers={"request": {"replace": {"X-A": SECRET}}})],
    "Edits.set_if_absent": [route(headers={"request": {"set_if_absent": {"X-A": SECRET}}})],
    "Edits.set": [route(headers={"request": {"set": {"X-A": SECRET}}})],
    "EgressCredentials.certificate": [credentials("certificate", certificate="FILE", key="KEY")],
    "EgressCredentials.key": [credentials("certificate", certificate="CERTIFICATE", key="FILE")],
    "EgressCredentials.client_id": [credentials("oauth2", **{**OAUTH2, "client_id": SECRET})],
    "EgressCredentials.client_secret": [credentials("oauth2", **{**OAUTH2, "client_secret": SECRET})],
    "EgressCredentials.client_key": [credentials("oauth2", **{**OAUTH2, "client_key": SECRET})],
    "EgressCredentials.headers": [credentials("headers", headers={"X-A": SECRET})],
    "EgressCredentials.password": [credentials("basic", username="a", password=SECRET)],
    "EgressCredentials.username": [credentials("basic", username=SECRET, password="a")],
    "EgressCredentials.token": [credentials("bearer", token=SECRET)],
    "EgressCredentials.second_level": [credentials("oauth2", **OAUTH2, second_level=SECRET)],
    "EgressCredentials.token_headers": [credentials("oauth2", **OAUTH2, token_headers={"X-A": SECRET})],
    "EgressCredentials.token_query": [credentials("oauth2", **OAUTH2, token_query={"a": SECRET})],
    "ErrorPage.file": [{"error_pages": {"404": {"file": "FILE"}}}],
    "Introspection.client_secret": [
        route(introspection={"url": "https://idp.example/i", "client_id": "a", "client_secret": SECRET})
    ],
    "Jwt.jwks_file": [route(jwt={"jwks_file": "FILE", "algorithms": ["RS256"]})],
    "Jwt.secret": [route(jwt={"secret": SECRET, "algorithms": ["HS256"]})],
    "KubernetesProvider.kubeconfig": [{"providers": {"kubernetes": {"kubeconfig": "FILE"}}}],
    "Kubernetes.kubeconfig": [{"providers": {"kyma": {"kubernetes": {"kubeconfig": "FILE"}}}, **credentials("none")}],
    "Login.client_key": [oidc(client_secret=None, client_key="FILE")],
    "Login.client_secret": [oidc(client_secret=SECRET)],
    "OAuth2.client_id": [route(credentials={"oauth2": {**OAUTH2, "client_id": SECRET}})],
    "OAuth2.client_key": [route(credentials={"oauth2": {**OAUTH2, "client_key": SECRET}})],
    "OAuth2.client_secret": [route(credentials={"oauth2": {**OAUTH2, "client_secret": SECRET}})],
    "OAuth2.second_level": [route(credentials={"oauth2": {**OAUTH2, "second_level": SECRET}})],
    "OAuth2.token_form": [route(credentials={"oauth2": {**OAUTH2, "token_form": {"a": SECRET}}})],
    "OAuth2.token_headers": [route(credentials={"oauth2": {**OAUTH2, "token_headers": {"X-A": SECRET}}})],
    "OAuth2.token_query": [route(credentials={"oauth2": {**OAUTH2, "token_query": {"a": SECRET}}})],
    "RequestParameters.headers": [route(request_parameters={"headers": {"X-A": [SECRET]}})],
    "RequestParameters.query": [route(request_parameters={"query": {"a": [SECRET]}})],
    "ServerCertificate.certificate": [
        {
            "listeners": {
                "m": {"address": "127.0.0.1:0", "tls": {"certificates": [{"certificate": "FILE", "key": "KEY"}]}}
            }
        }
    ],
    "ServerCertificate.key": [
        {
            "listeners": {
                "m": {
                    "address": "127.0.0.1:0",
                    "tls": {"certificates": [{"certificate": "CERTIFICATE", "key": "FILE"}]},
                }
            }
        }
    ],
    "Sessions.former_secrets": [oidc(session={"secret": "a" * 40, "former_secrets": [SECRET]})],
    "Sessions.secret": [oidc(session={"secret": SECRET})],
    "State.url": [{"state": {"url": SECRET}}],
    "Sticky.key": [upstream(load_balancing={"sticky": {"cookie": "a", "key": SECRET}})],
    "TargetsFile.file": [upstream(targets={"file": name}) for name in FORMATS],
    "OtlpExport.headers": [traces(otlp={"url": "http://127.0.0.1:4318", "headers": {"X-Key": SECRET}})],
    "OtlpMetrics.headers": [
        {"telemetry": {"metrics": {"otlp": {"url": "http://127.0.0.1:4318", "headers": {"X-Key": SECRET}}}}}
    ],
    "ZipkinExport.headers": [traces(zipkin={"url": "http://127.0.0.1:9411/", "headers": {"X-Key": SECRET}})],
    "UpstreamTls.ca": [upstream(tls=CA)],
    "UpstreamTls.certificate": [upstream(tls={"certificate": "FILE", "key": "KEY"})],
    "UpstreamTls.key": [upstream(tls={"certificate": "CERTIFICATE", "key": "FILE"})],
    # What is named by a pattern or a folder.
    "Config.consumer_files": [{"consumer_files": [name]} for name in FORMATS],
    "Kyma.directory": [{"providers": {"kyma": {"directory": "."}}, "egress": {"listener": "main"}}],
}
AWS = {"region": "r", "service": "s3", "access_key_id": "a", "secret_access_key": "b"}
for _name in ("access_key_id", "secret_access_key", "session_token"):
    SETTINGS[f"AwsSigV4.{_name}"] = [
        route(credentials={"aws_sigv4": {**AWS, _name: SECRET}}),
        credentials("aws_sigv4", aws={**AWS, _name: SECRET}),
    ]
SETTINGS["GcpIdToken.key"] = [route(credentials={"gcp_id_token": {"audience": "a", "key": SECRET}})]
SETTINGS["EgressCredentials.service_account_key"] = [
    credentials("gcp_id_token", audience="a", service_account_key=SECRET)
]
EXCHANGE = {"token_url": "https://sts.test/token", "subject_token": "a", "client_id": "b", "client_secret": "c"}
for _name in ("subject_token", "client_id", "client_secret"):
    SETTINGS[f"TokenExchange.{_name}"] = [route(credentials={"token_exchange": {**EXCHANGE, _name: SECRET}})]
SETTINGS["EgressCredentials.subject_token"] = [credentials("token_exchange", **{**EXCHANGE, "subject_token": SECRET})]
SETTINGS["ConsumerSubject.key"] = [
    {"consumers": [{"name": "a", "jwt": [{"key_id": "a", "algorithm": each, "key": SECRET}]}]}
    for each in ("HS256", "RS256", "ES256")
]
SETTINGS["Waf.rules_file"] = [route(waf={"rules_file": "FILE"})]
SETTINGS["NetworksSource.file"] = [route(ip={each: [{"file": "FILE"}]}) for each in ("allow_lists", "deny_lists")]
SETTINGS["GrpcTranscode.descriptors"] = [route(grpc_transcode={"descriptors": "FILE"})]
SETTINGS["BodySchema.schema"] = [route(validate={"body": {"schema": "FILE"}})]
SETTINGS["Schema.schema"] = [
    route(validate={each: {"schema": "FILE"}}) for each in ("query", "path", "headers", "cookies")
]
SETTINGS["Answers.second_level"] = SETTINGS["OAuth2.second_level"]
SETTINGS["Kyma.second_level"] = [
    {"providers": {"kyma": {"directory": ".", "second_level": SECRET}}, "egress": {"listener": "main"}}
]


def file_settings() -> Iterator[str]:
    """`Struct.field` of each setting whose value is the contents of a file."""
    met: set[type] = set()
    waiting: list[Any] = [decoder.Structure(each) for each in (Config, *TYPES.values())]
    while waiting:
        structure = waiting.pop()
        if structure.type in met:
            continue
        met.add(structure.type)
        for field in decoder.fields_of(structure.type).values():
            inside: list[Any] = [field.shape]
            while inside:
                match inside.pop():
                    case decoder.File(name=name) if name.readable:
                        yield f"{structure.type.__name__}.{field.name}"
                    case decoder.Hidden():
                        yield f"{structure.type.__name__}.{field.name}"
                    case decoder.Sequence(each=each):
                        inside.append(each)
                    case decoder.Table(key=key, each=each):
                        inside += [key, each]
                    case decoder.Either(shapes=several):
                        inside += several
                    case decoder.Structure() as below:
                        waiting.append(below)


GENERATED = {
    "OpenApiOperation.schemas": route(openapi={"operation": "{}", "schemas": "FILE"}),
    "OpenApiDocument.file": route(openapi_document={"file": "FILE", "content_type": "text/plain"}),
}
"""Files that only generated routes have: a configuration cannot name them."""


def test_every_setting_that_names_a_file_is_tried_here():
    assert {*file_settings()} - {*SETTINGS} == set()


@pytest.mark.parametrize("setting", GENERATED)
def test_a_file_on_the_disk_is_no_generated_one(tmp_path, written, setting):
    told = told_by_check(tmp_path, written(GENERATED[setting], PLANTED))
    assert "routes of `openapi` have this filter; it cannot be configured" in told
    assert PLANTED not in told


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return Certificates(tmp_path_factory.mktemp("pair")).issue("a.example")


@pytest.fixture(autouse=True)
def _few_trusted(monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]) -> None:
    """One certificate in place of the system's 140, which each upstream over TLS reads: that took half of the time."""
    monkeypatch.setenv("SSL_CERT_FILE", pair[0])


@pytest.fixture
def written(tmp_path: Path, pair: tuple[str, str]) -> Callable[[Said, str], str]:
    """A configuration with what it names in place, as JSON."""

    def write(said: Said, content: str) -> str:
        text = json.dumps({**HEAD, "routes": [{"name": "x", "respond": {"body": "ok"}}], **said})
        for suffix in ("", *(f".{each}" for each in ("yaml", "json", "toml"))):
            (tmp_path / f"FILE{suffix}").write_bytes(content.encode("latin-1"))
        return text.replace('"CERTIFICATE"', json.dumps(pair[0])).replace('"KEY"', json.dumps(pair[1]))

    return write


def told_by_check(folder: Path, text: str) -> str:
    (folder / "gw.json").write_text(text)
    told = ended("check", "gw.json", directory=folder)
    return str(told.stdout + told.stderr)


def told_to_the_api(folder: Path, text: str) -> str:
    """What there is to say of a document that was sent, as `runtime.reload.proposer` has it."""
    try:
        loaded = config.load_text(text.encode(), str(folder / "posted.json"), TYPES, ".json", trusted=False)
        try:
            compile(loaded.config, 1, loaded.captured)
        except CompileError as error:
            return "\n".join(map(str, error.problems(loaded, TYPES))) + str(error)
        return "\n".join(map(str, loaded.notes))
    except config.ConfigError as error:
        return "\n".join(map(str, error.problems))


def test_the_planted_is_found_where_it_is_told(tmp_path: Path) -> None:
    """Or the others could not fail."""
    assert PLANTED in told_by_check(tmp_path, json.dumps({**HEAD, PLANTED: 1}))


@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_of_it_is_told(tmp_path, written, setting):
    found = {}
    for said in SETTINGS[setting]:
        for name, content in CONTENTS.items():
            text = written(said, content)
            told = told_by_check(tmp_path, text) + told_to_the_api(tmp_path, text)
            if "a defect" in told or any(each.lower() in told.lower() for each in SPELLINGS):
                found[name] = told
    assert found == {}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_file_is_read(tmp_path, written, setting):
    """Or nothing would be tested: without it that is told; in a folder the configuration itself is what is found."""
    for said in SETTINGS[setting]:
        text = written(said, "")
        for each in tmp_path.glob("FILE*"):
            each.unlink()
        told = told_by_check(tmp_path, text)
        assert re.search(r"FILE|directory|no file|no `apiVersion`", told), told


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("name", FORMATS)
def test_nor_of_what_a_document_that_was_sent_includes(tmp_path, written, name, content):
    text = written({"include": [name]}, content)
    told = told_to_the_api(tmp_path, text)
    assert not [each for each in SPELLINGS if each.lower() in told.lower()], told


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("name", FORMATS[:2])
def test_nor_of_an_openapi_document_that_it_names(tmp_path, written, name, content):
    routes = {"routes": [{"openapi": {"file": name, "upstream": "http://127.0.0.1:9"}}]}
    told = told_to_the_api(tmp_path, written(routes, content))
    assert told
    assert not [each for each in SPELLINGS if each.lower() in told.lower()], told


def test_a_document_that_was_sent_is_quoted_to_its_sender(tmp_path):
    assert PLANTED in told_to_the_api(tmp_path, json.dumps({**HEAD, PLANTED: 1}))


def test_line_and_what_was_expected_are_told(tmp_path):
    (tmp_path / "FILE.yaml").write_text("consumers:\n  - {name: [pl4nted], groups: [x]}\n  - {pl4nted: 1}\n")
    lines = told_by_check(tmp_path, json.dumps({**HEAD, "consumer_files": ["FILE.yaml"]})).splitlines()
    assert f"{tmp_path}/FILE.yaml:2:12: consumers[0].name: a list; expected " in lines[0] + lines[1]
    assert f'{tmp_path}/FILE.yaml:3:6: consumers[1]["…"]: unknown key; ' in "\n".join(lines)
