"""Which certificate is told that a client gets, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastgw.acme.storage import CertificateState, state_file, write
from fastgw.config.settings.acme import Acme, AcmeCertificate, OnDemand
from fastgw.config.settings.gateway import ServerCertificate, ServerTls
from fastgw.config.sources.virtual_files import issued_in
from fastgw.downstream.tls.contexts import server_contexts
from fastgw.downstream.tls.presented import describe_certificate
from fastgw.routing.table import at_once
from tests.support.certificates import Certificates

DIRECTORY: Any = "https://issuer.test/d"
ASK: Any = "https://ask.test/may"
RENEW_DATE = 1_900_000_000.0


class World:
    """A listener with two certificates of files, and one by ACME that is stored as `store` does."""

    def __init__(self, folder: Path, *, on_demand: bool = True) -> None:
        self.folder, self.authority = folder, Certificates(folder)
        rule = OnDemand(allow=("*.shops.test",), ask=ASK)
        self.acme = Acme(directory=DIRECTORY, agree=True, storage=str(folder), on_demand=rule)
        self.by_acme = AcmeCertificate(domains=("acme.test",), storage=str(folder))
        self.files = [self.authority.issue("main.test", "*.main.test"), self.authority.issue("other.test", rsa=True)]
        issued = "".join(Path(each).read_text() for each in self.authority.issue("acme.test")).encode()
        pairs = [ServerCertificate(certificate=certificate, key=key) for certificate, key in self.files]
        pairs.append(ServerCertificate(acme=self.by_acme))
        tls = ServerTls(certificates=tuple(pairs), on_demand=on_demand)
        self.contexts = at_once(server_contexts("main", tls, {self.by_acme.file: issued}))

    def store(self, certificate: AcmeCertificate, *, content: bytes = b"", **state: Any) -> None:
        file, _ = issued_in(certificate.file)
        write(state_file(file), msgspec.json.encode(CertificateState(**state)))
        if content:
            write(Path(file), content)

    def told(self, host: str, why_not: str = "") -> str:
        return describe_certificate(self.contexts, self.acme, host, why_not)


def test_a_listed_certificate_is_told_by_its_file_or_its_issuer(tmp_path: Path) -> None:
    world = World(tmp_path)
    (main, _), (other, _) = world.files
    assert [world.told(host) for host in ("main.test", "A.MAIN.test.", "192.0.2.1", "::1")] == [main] * 4
    assert world.told("other.test") == other
    none = "none is issued yet, clients get a self-signed one that has expired"
    assert world.told("acme.test") == f"acme.test by ACME (tls-alpn-01): {none}"
    world.store(world.by_acme, error="it refuses")
    assert world.told("acme.test").endswith(f"{none}; the last order has failed: it refuses")
    world.store(world.by_acme, content=b"-", issuer="https://second.test/d", renew_date=RENEW_DATE)
    issued = "issued by https://second.test/d, renewed on 2030-03-17"
    assert world.told("acme.test") == f"acme.test by ACME (tls-alpn-01): {issued}"


@pytest.mark.parametrize(
    ("on_demand", "host", "why"),
    [
        (True, "a.elsewhere.test", " and `acme.on_demand.allow` does not match it"),
        (False, "a.shops.test", ""),
    ],
)
def test_a_name_without_a_certificate_gets_the_first_one(tmp_path: Path, on_demand: bool, host: str, why: str) -> None:
    world = World(tmp_path, on_demand=on_demand)
    assert world.told(host) == f"the first one, as none is for {host}{why}: {world.files[0][0]}"


def test_a_name_on_demand_is_told_with_its_order(tmp_path: Path) -> None:
    world = World(tmp_path)
    front = "a.shops.test on demand by ACME (tls-alpn-01): "
    ordered = f"{front}ordered from {DIRECTORY} when a client asks for it, if https://ask.test/may allows it"
    assert world.told("a.shops.test") == ordered
    refused = world.told("a.shops.test", "as its order has failed (7 s left)")
    end = "; the client is refused (unrecognized_name)"
    assert refused == f"{front}none is ordered now, as its order has failed (7 s left){end}"
    assert world.acme.on_demand is not None
    kept = world.acme.on_demand.certificate("a.shops.test", world.acme.storage)
    world.store(kept, content=b"-", issuer=str(DIRECTORY), error="it is busy")
    assert world.told("a.shops.test") == f"{front}issued by {DIRECTORY}; the last order has failed: it is busy"
