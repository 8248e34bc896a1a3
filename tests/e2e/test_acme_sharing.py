"""Two gateways with one Redis: certificates are ordered once, whichever gateway the issuer connects to."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.e2e.test_acme import DEADLINE
from tests.support.acme_issuer import AcmeIssuer
from tests.support.gateway import Gateway, wait_until
from tests.support.redis_server import RedisServer
from tests.support.secured import Secured

NAMES = ("alpn.test", "http.test")
SECRET = "a secret that both of the gateways have"


class BalancedIssuer(AcmeIssuer):
    """Issuer that verifies at each gateway: behind a load balancer it may reach any."""

    gateways: tuple[Gateway, ...] = ()

    def verified(self, kind: str, name: str, token: str, thumbprint: str) -> None:
        assert self.located.wait(DEADLINE), "the gateways are not known"
        for each in self.gateways:
            self.tls, self.http = each.port("main"), each.port("plain")
            super().verified(kind, name, token, thumbprint)


def started(folder: Path, name: str, issuer: AcmeIssuer, redis: RedisServer) -> Gateway:
    own = folder / name
    own.mkdir()
    certificates = [{"domains": ["alpn.test"]}, {"domains": ["http.test"], "challenge": "http-01"}]
    acme = {"directory": issuer.directory, "ca": issuer.ca, "storage": str(own / "store"), "agree": True}
    config = {
        "workers": 2,
        "acme": {**acme, "shared_secret": SECRET},
        "state": {"url": redis.url},
        "listeners": {
            "main": {"address": "127.0.0.1:0", "tls": {"certificates": [{"acme": each} for each in certificates]}},
            "plain": {"address": "127.0.0.1:0"},
        },
        "routes": [{"name": "all", "respond": {"body": "served"}}],
    }
    return Gateway(config, own)


def serial(gateway: Gateway, issuer: AcmeIssuer, name: str) -> int:
    """Serial number of the verified certificate for this name; 0: there is none."""
    try:
        with Secured(gateway.address(), ssl.create_default_context(cafile=issuer.ca), name) as client:
            return client.serial
    except ssl.SSLCertVerificationError:
        return 0


def have_same(issuer: AcmeIssuer, *gateways: Gateway) -> bool:
    """Whether gateways have certificates, and the same ones."""
    serials = {tuple(serial(gateway, issuer, name) for name in NAMES) for gateway in gateways}
    return len(serials) == 1 and 0 not in serials.pop()


def test_gateways_order_once_and_another_goes_on_when_the_ordering_one_is_killed(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis, BalancedIssuer(tmp_path) as issuer:
        issuer.hold_finalize.clear()
        one = started(tmp_path, "one", issuer, redis)
        issuer.gateways = (one,)
        issuer.located.set()
        wait_until(lambda: finalized(issuer) == len(NAMES), "orders of the first one", DEADLINE)
        with started(tmp_path, "two", issuer, redis) as two:
            one.kill()
            issuer.located.clear()
            issuer.hold_finalize.set()
            with started(tmp_path, "three", issuer, redis) as three:
                # Either of them orders, and the issuer verifies at both of them.
                issuer.gateways = (two, three)
                issuer.located.set()
                wait_until(lambda: have_same(issuer, two, three), "the same certificates", DEADLINE)
                names = [each.names[0] for each in issuer.behaviour.orders]
                assert sorted(names) == sorted(NAMES * 2)
        assert issuer.problems == []


def finalized(issuer: AcmeIssuer) -> int:
    return sum(each.startswith("/finalize/") for each in issuer.requests)
