"""Kyma's documents in a directory: what they say is served, also what they say by now, and no call is lost over it."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_reload import Reloadable
from tests.support.certificates import Certificates, server_tls
from tests.support.gateway import wait_until
from tests.support.kyma import Shown, api, application, credentials, put, secret, service, stream

TAKEN_S = 10.0
"""How long it may take until a change is taken, on a machine that is busy; otherwise it is below 2 s."""
FIRST, SECOND = "planted-first-0123456789", "planted-second-9876543210"


class Documents(Reloadable):
    """A gateway with a directory of documents, and APIs: a plain one, and one that wants to see a certificate."""

    def __init__(self, folder: Path, plain: Shown, secured: Shown, stock: Shown) -> None:
        self.apps = folder / "apps"
        self.apps.mkdir()
        self.plain, self.secured, self.stock = plain, secured, stock
        oauth = credentials("OAuth", "both", authenticationUrl=f"{plain.url}/token")
        orders = service("Orders API", api(f"{plain.url}/v2", requestParametersSecretName="both", credentials=oauth))
        shown = service("shown", api(secured.url, credentials=credentials("CertificateGen", "pair")))
        other = service("stock", api(stock.url))
        put(self.apps / "shop.yaml", stream(application(orders, shown, other, skipVerify=True)))
        self.put_both(FIRST)
        self._client = httpx.Client(timeout=30)
        config = {
            "workers": 1,
            "egress": {"listener": "main"},
            "providers": {"kyma": {"directory": "apps", "allow_local": True}},
            "access_logs": [{"sink": str(folder / "access.log")}],
        }
        super().__init__(config, folder)

    def stop(self) -> None:
        self._client.close()
        super().stop()

    def put_both(self, text: str) -> None:
        """For the client's secret, and for what is added to requests."""
        said = secret("both", clientId="me", clientSecret=text, headers=json.dumps({"X-Tenant": [text]}))
        put(self.apps / "both.yaml", stream(said))

    def put_pair(self, certificate: str, key: str) -> None:
        texts = Path(certificate).read_text(), Path(key).read_text()
        put(self.apps / "pair.yaml", stream(secret("pair", crt=texts[0], key=texts[1])))

    def get(self, path: str) -> httpx.Response:
        return self._client.get(f"{self.url()}{path}")

    def told(self, path: str) -> dict[str, Any]:
        told: dict[str, Any] = self.get(path).raise_for_status().json()
        return told


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Documents]:
    tls = server_tls(certificates.issue("127.0.0.1"), certificates.ca)
    folder = tmp_path_factory.mktemp("kyma")
    with Shown() as plain, Shown(tls) as secured, Shown() as stock:
        gateway = Documents(folder, plain, secured, stock)
        try:
            yield gateway
        finally:
            gateway.stop()


class Calling(threading.Thread):
    """Calls one path all the time, until it is left."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._left = threading.Event()
        self.answers: list[tuple[int, str]] = []

    def run(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._left.is_set():
                answer = client.get(self._url)
                self.answers.append((answer.status_code, answer.text))

    def __enter__(self) -> Calling:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self.join()


@pytest.mark.landing
def test_a_service_without_a_url_calls_that_of_its_secret_with_its_credentials(documents: Documents) -> None:
    said = {"credentials": {"username": "me", "password": "planted"}}
    keys = {"V1_TARGET_URL": f"{documents.plain.url}/v1", "CONFIGURATION": json.dumps(said)}
    held = secret("compass", CREDENTIALS_TYPE="BasicAuth", **keys)
    entry = {"type": "API", "name": "v1", "credentials": {"secretName": "compass"}}
    put(documents.apps / "compass.yaml", stream(application(service("orders", entry), name="compass"), held))
    wait_until(lambda: documents.get("/compass/orders/a").status_code != 404, "the service", 30)
    told = documents.told("/compass/orders/a?x=1")
    assert (told["path"], told["authorization"]) == ("/v1/a?x=1", f"Basic {b64encode(b'me:planted').decode()}")
    put(documents.apps / "compass.yaml", stream(application(service("orders", entry), name="compass")))
    wait_until(lambda: documents.get("/compass/orders/a").status_code == 500, "the reason", 30)
    assert "the Secret kyma-system/compass is missing" in documents.get("/compass/orders/a").text


@pytest.mark.landing
def test_a_service_is_called_by_its_normalized_name(documents: Documents) -> None:
    told = documents.told("/shop/orders-api/basesites/a%2Fb?x=1")
    assert (told["tenant"], told["authorization"]) == (FIRST, "Bearer token-6789")
    assert told["path"].startswith("/v2/basesites/a%2Fb?x=1")


@pytest.mark.landing
def test_a_rotated_secret_is_taken_without_a_lost_call_and_nothing_else_is_made_anew(documents: Documents) -> None:
    documents.told("/shop/stock/")
    connections = documents.stock.connections, documents.plain.connections
    with Calling(f"{documents.url()}/shop/orders-api/") as calling:
        wait_until(lambda: len(calling.answers) > 5, "calls")
        documents.put_both(SECOND)
        wait_until(lambda: SECOND in calling.answers[-1][1], "the other tenant", TAKEN_S)
    assert {status for status, _ in calling.answers} == {200}
    told = [json.loads(text) for _, text in calling.answers]
    shown = [(each["tenant"], each["authorization"]) for each in told]
    assert [*dict.fromkeys(shown)] == [(FIRST, "Bearer token-6789"), (SECOND, "Bearer token-3210")]
    assert shown == sorted(shown, key=shown.index), "never back again"
    documents.told("/shop/stock/")
    documents.stderr.wait_for(lambda line: b"workers, changed: the Secret kyma-system/" in line)
    assert documents.stock.connections == connections[0]
    assert documents.plain.connections <= connections[1] + 2, "for the calls and for a token: no pool is made anew"


def test_a_certificate_may_come_later_be_renewed_and_has_to_fit(
    documents: Documents, certificates: Certificates
) -> None:
    refused = documents.get("/shop/shown/")
    assert refused.status_code == 500
    assert "the Secret kyma-system/pair is missing" in refused.text
    one = certificates.issue("one.client", subject="one")
    two = certificates.issue("two.client", subject="two")
    documents.put_pair(*one)
    wait_until(lambda: documents.get("/shop/shown/").status_code == 200, "the certificate", TAKEN_S)
    assert documents.told("/shop/shown/")["subject"] == "one"
    with Calling(f"{documents.url()}/shop/shown/") as calling:
        wait_until(lambda: len(calling.answers) > 5, "calls")
        documents.put_pair(*two)
        wait_until(lambda: '"two"' in calling.answers[-1][1], "the other certificate", TAKEN_S)
    assert {status for status, _ in calling.answers} == {200}
    documents.put_pair(one[0], two[1])
    wait_until(lambda: documents.get("/shop/shown/").status_code == 500, "the refusal", TAKEN_S)
    assert "the private key does not match the certificate" in documents.get("/shop/shown/").text
    documents.stderr.wait_for(lambda line: b"the private key does not match the certificate" in line)


@pytest.mark.landing
def test_documents_come_and_go_and_a_wrong_one_harms_no_other(documents: Documents) -> None:
    file = documents.apps / "more.yaml"
    assert documents.get("/more/stock/").status_code == 404
    wrong = service("wrong", api("http://a", credentials=credentials("Basci")))
    text = stream(application(wrong, service("stock", api(documents.stock.url)), name="more"))
    put(file, text)
    wait_until(lambda: documents.get("/more/stock/").status_code == 200, "the new application", TAKEN_S)
    told = documents.stderr.wait_for(lambda line: b"did you mean" in line)
    assert b"more.yaml" in told
    assert (
        b'Application/more: spec.services[0].entries[0].credentials.type: it is unknown; did you mean "Basic"?' in told
    )
    put(file, text[:-20])
    documents.stderr.wait_for(lambda line: b"not valid YAML" in line and b"stay active" in line, TAKEN_S)
    assert documents.get("/more/stock/").status_code == 200

    def kept() -> list[str]:
        told = httpx.get(f"http://{documents.ready['admin']}/status", headers=documents.shown).json()
        return [each["file"] for each in told["kept_files"] if "not valid YAML" in each["why"]]

    wait_until(lambda: kept() == [str(file)], "the file to be told", TAKEN_S)
    file.unlink()
    wait_until(lambda: kept() == [], "it to be no more", TAKEN_S)
    wait_until(lambda: documents.get("/more/stock/").status_code == 404, "the application to be gone", TAKEN_S)
    assert documents.get("/shop/stock/").status_code == 200


def test_a_secret_that_cannot_be_shown_harms_no_other(documents: Documents) -> None:
    """A password in two lines: configuration is valid with the Secret itself."""

    def write(password: str) -> None:
        basic = service("basic", api(documents.plain.url, credentials=credentials("Basic", "basic")))
        said = application(basic, service("stock", api(documents.stock.url)), name="spoilt")
        put(documents.apps / "spoilt.yaml", stream(said, secret("basic", username="me", password=password)))

    def answered(status: int) -> None:
        wait_until(lambda: documents.get("/spoilt/basic/").status_code == status, f"{status}", TAKEN_S)
        assert documents.get("/spoilt/stock/").status_code == 200

    write(f"{FIRST}\n\n")
    answered(500)
    refused = documents.get("/spoilt/basic/").json()
    assert refused["type"] == "urn:fastgw:fault:service_misconfigured"
    assert refused["error"].endswith(" has a control character (the Secret kyma-system/basic)")
    documents.stderr.wait_for(lambda line: b"(the Secret kyma-system/basic)" in line)
    write(FIRST)
    answered(200)
    write(f"{SECOND}\n\n")
    answered(500)
    assert documents.told("/shop/orders-api/")
    assert FIRST not in documents.stderr.text()


def test_a_directory_that_is_away_takes_nothing_along(documents: Documents) -> None:
    away = documents.apps.with_name("away")
    documents.apps.rename(away)
    documents.stderr.wait_for(lambda line: b"no such directory" in line and b"stay active" in line, TAKEN_S)
    assert documents.get("/shop/stock/").status_code == 200
    put(away / "later.yaml", stream(application(service("stock", api(documents.stock.url)), name="later")))
    away.rename(documents.apps)
    wait_until(lambda: documents.get("/later/stock/").status_code == 200, "the directory", TAKEN_S)


def test_no_secret_is_told_anywhere(documents: Documents, certificates: Certificates) -> None:
    documents.put_pair(*certificates.issue("three.client"))
    admin = f"http://{documents.ready['admin']}"
    told = [httpx.post(f"{admin}/reload", headers=documents.shown).raise_for_status().text, documents.stderr.text()]
    for path in ("/status", "/routes", "/upstreams", "/config", "/metrics"):
        told.append(httpx.get(f"{admin}{path}", headers=documents.shown).raise_for_status().text)
    told.append((documents.file.parent / "access.log").read_text())
    assert "/shop/orders-api/" in told[-1]
    encoded = secret("x", a=FIRST, b=SECOND)["data"].values()
    for planted in (FIRST, SECOND, *encoded, "PRIVATE KEY", "BEGIN CERTIFICATE"):
        assert planted not in "".join(told)
