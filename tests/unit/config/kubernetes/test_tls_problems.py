"""TLS of objects that cannot be used: one object is told, all others serve."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastgw.config import Remembered, load_text
from fastgw.config.kubernetes.provider import FILE
from fastgw.filters import TYPES
from fastgw.gateway import compiler
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError
from tests.support.certificates import Certificates
from tests.unit.config.kubernetes.loading import loaded
from tests.unit.config.test_kubernetes_translation import (
    a_gateway,
    a_route,
    a_service,
    an_object,
    the_class,
    translated,
)


def test_authorities_with_comments_in_any_language_are_used(tmp_path: Path) -> None:
    """As in bundles of operating systems. A text that is none is a problem of its own object."""
    text = "# F\u0151tan\u00fas\u00edtv\u00e1ny\n" + Path(Certificates(tmp_path).ca).read_text()
    maps = [
        an_object("ConfigMap", "ca", data={"ca.crt": text}),
        an_object("ConfigMap", "no", data={"ca.crt": "\u0151"}),
    ]

    def policy(name: str, service: str, ca: str) -> dict[str, Any]:
        authorities = {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": ca}], "hostname": "a.test"}
        spec = {"targetRefs": [{"group": "", "kind": "Service", "name": service}], "validation": authorities}
        return an_object("BackendTLSPolicy", name, spec)

    made = translated(
        the_class(),
        a_gateway(),
        a_service(),
        a_service("toys"),
        a_route("one"),
        a_route("two", {"backendRefs": [{"name": "toys", "port": 80}]}),
        maps,
        policy("one", "cart", "ca"),
        policy("two", "toys", "no"),
    )
    conditions = made.statuses["BackendTLSPolicy", "shop", "two"]["ancestors"][0]["conditions"]
    assert (conditions[0]["status"], conditions[0]["reason"]) == ("False", "NoValidCACertificate")
    assert text.encode() in loaded(made).captured.values()
    assert not loaded(made).refused_objects


@pytest.mark.parametrize("part", ["listeners", "upstreams"])
def test_what_only_the_compiler_finds_wrong_is_refused_alone(
    part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such as a certificate that the policy of OpenSSL does not allow."""
    certificate, key = (Path(each).read_text() for each in Certificates(tmp_path).issue("a.test"))
    files = {
        "kubernetes-object://shop/web/Secret/tls.crt": certificate,
        "kubernetes-object://shop/web/Secret/tls.key": key,
    }
    pair = dict(zip(("certificate", "key"), files, strict=True))
    listeners = {
        name: {"address": f"127.0.0.9:{port}", "tls": {"certificates": [pair]}} for name, port in (("a", 80), ("b", 81))
    }
    pieces = [
        {"object": f"Gateway/shop/{name}", "listeners": {name: each}, "files": files}
        for name, each in listeners.items()
    ]
    secure = {"targets": [{"url": "https://127.0.0.1:1"}]}
    pieces += [{"object": f"Service/shop/{name}", "upstreams": {name: secure}} for name in ("a", "b")]
    remembered = Remembered()

    def read() -> Any:
        text = b"version: 1\nadmin: null\nproviders: {kubernetes: {kubeconfig: kube}}\n"
        kube = b"current-context: a\ncontexts: [{name: a, context: {}}]\n"
        contents = {"/etc/kube": kube, FILE: msgspec.json.encode(pieces)}
        return load_text(text, "/etc/gw.yaml", TYPES, instead=contents, remembered=remembered)

    if part == "listeners":
        whole = compiler.server_contexts

        def refuse(name: str, *arguments: Any) -> Iterator[Any]:
            if name == "a":
                raise ssl.SSLError("ca md too weak")
            return whole(name, *arguments)

        monkeypatch.setattr(compiler, "server_contexts", refuse)
    else:
        upstreams = compiler.client_tls

        def refuse_http2(settings: Any, material: Any, protocols: tuple[str, ...]) -> Iterator[Any]:
            if protocols == ("h2",):
                raise ssl.SSLError("ca md too weak")
            return upstreams(settings, material, protocols)

        monkeypatch.setattr(compiler, "client_tls", refuse_http2)
        pieces[2]["upstreams"] = {"a": {**secure, "protocol": "http2"}}
    made = read()
    with pytest.raises(CompileError) as raised:
        compile(made.config, 1, made.captured)
    error = raised.value
    assert remembered.kubernetes.refuse([*error.unbuilt, *error.parts.items()])
    made = read()
    kind = "Gateway" if part == "listeners" else "Service"
    assert [*made.refused_objects] == [f"{kind}/shop/a"]
    assert sorted(made.config.listeners) == (["b"] if part == "listeners" else ["a", "b"])
    compile(made.config, 1, made.captured)


def test_an_error_in_a_setting_of_a_filter_has_its_path() -> None:
    schema = {"properties": {"a": {"type": "strin"}}}
    route = {
        "name": "r",
        "paths": ["/"],
        "upstream": "http://127.0.0.1:1",
        "filters": {"validate": {"body": {"inline": schema}}},
    }
    gateway = {"object": "Gateway/shop/g", "listeners": {"g": {"address": "127.0.0.9:80"}}}
    pieces = [gateway, {"object": "HTTPRoute/shop/r", "routes": [route]}]
    remembered = Remembered()

    def read() -> Any:
        text = b"version: 1\nadmin: null\nproviders: {kubernetes: {kubeconfig: kube}}\n"
        kube = b"current-context: a\ncontexts: [{name: a, context: {}}]\n"
        contents = {"/etc/kube": kube, FILE: msgspec.json.encode(pieces)}
        return load_text(text, "/etc/gw.yaml", TYPES, instead=contents, remembered=remembered)

    made = read()
    with pytest.raises(CompileError) as raised:
        compile(made.config, 1, made.captured)
    assert remembered.kubernetes.refuse(raised.value.unbuilt)
    (why,) = read().refused_objects.values()
    assert 'filters.validate.body.inline.properties.a.type: "strin": not valid JSON Schema: `type`' in why
