"""certificate_auth: authenticate consumers by their TLS client certificate."""

from collections.abc import Iterable
from typing import Final, final

from fastgw.config.base.value_types import Realm
from fastgw.consumers.index import Roster
from fastgw.filters.api import Consumer, Env, Exchange, Fault, Filter, Hooks, Outcome, Phase, WarningContext
from fastgw.filters.api.warning_context import CONSUMERS, ClientIdentity
from fastgw.filters.policies.key_auth import explain_consumer
from fastgw.net.client_certificate import ClientCertificate

REMEMBERED: Final = 8192
"""Maximum number of certificates whose consumers are cached."""


class CertificateAuth(Filter, name="certificate_auth", phase=Phase.AUTHENTICATE):
    """Authenticate the consumer with a TLS client certificate (mTLS): one in its `certificates`.

    The listener requests and verifies the certificate with `tls.client_auth`. The fingerprint takes precedence over the
    alternative names, and these over the subject; if names of different consumers match, none of them does. A client
    without a certificate, or with one of no consumer, is answered 401.
    """

    realm: Realm = "fastgw"
    """Realm in `WWW-Authenticate: ClientCertificate`. This scheme is fastgw's own, as none is registered for
    certificates."""

    def warnings(self, context: WarningContext) -> Iterable[str]:
        yield from context.no_consumer_with("certificates")
        if context.positions and not (context.client_certificates or context.alternative):
            yield "no listener requests client certificates (`tls.client_auth`): every request is refused"

    def client_identity(self) -> ClientIdentity:
        return CONSUMERS

    def build(self, env: Env) -> Hooks:
        holders = env.shared(("certificate_auth", env.namespace), lambda: CertificateOwners(env.roster))
        challenge = ((b"WWW-Authenticate", b'ClientCertificate realm="%b"' % self.realm.encode()),)

        def request(exchange: Exchange) -> Outcome:
            certificate = exchange.peer.certificate
            if certificate is None:
                return exchange.refuse(
                    Fault.CREDENTIALS_MISSING, fields=challenge, why="the client certificate is missing"
                )
            consumer = holders.of(certificate)
            if consumer is None:
                return exchange.refuse(
                    Fault.CREDENTIALS_INVALID, fields=challenge, why="the client certificate belongs to no consumer"
                )
            exchange.consumer = consumer
            return None

        return Hooks(request=request, explain=explain_consumer)


@final
class CertificateOwners:
    """Cache from certificates to consumers. All filters of a worker share one."""

    __slots__ = ("_found", "_index", "_roster")

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._index = roster.index
        self._found: dict[str, Consumer] = {}

    def of(self, certificate: ClientCertificate) -> Consumer | None:
        """Return the consumer with this certificate."""
        found = self._found
        if self._index is not self._roster.index:  # consumers have changed
            self._index = self._roster.index
            found.clear()
        consumer = found.get(certificate.fingerprint)
        if consumer is None:
            fingerprint = bytes.fromhex(certificate.fingerprint)
            consumer = self._roster.by_certificate(certificate.subject, certificate.sans, fingerprint)
            if consumer is not None:
                if len(found) >= REMEMBERED:
                    del found[next(iter(found))]  # the oldest entry
                found[certificate.fingerprint] = consumer
        return consumer
