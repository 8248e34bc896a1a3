"""An ACME issuer (RFC 8555, RFC 8737, RFC 9773): strict, and it verifies by connecting, several times: every worker has
to answer.
"""

from __future__ import annotations

import hmac
import itertools
import json
import re
import socket
import ssl
import threading
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.support.certificates import Certificates, server_tls
from tests.support.peer import DEADLINE
from tests.support.threaded import Threaded

HELD = 90.0
"""Seconds that a step is held at most: a gateway on a busy machine may be starting meanwhile."""

VERIFICATIONS = 6
"""Connections for one challenge."""
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    assert re.fullmatch(r"[A-Za-z0-9_-]*", text), f"not base64url: {text!r}"
    return b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))


class Refused(Exception):
    def __init__(self, kind: str, detail: str, status: int = 400, **fields: str) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.status, self.fields = kind, detail, status, fields


@dataclass
class Order:
    account: str
    names: list[str]
    replaces: str = ""
    status: str = "pending"
    certificate: bytes = b""


@dataclass
class Authorization:
    order: Order
    name: str
    tokens: dict[str, str]
    status: str = "pending"
    error: dict[str, Any] | None = None


@dataclass
class Account:
    jwk: dict[str, str]
    contact: list[str]

    @property
    def thumbprint(self) -> str:
        return b64(sha256(json.dumps(self.jwk, sort_keys=True, separators=(",", ":")).encode()).digest())


@dataclass
class Behaviour:
    """Behaviour that tests change."""

    rate_limited: int = 0
    """Seconds that new orders have to wait; 0: they are accepted."""
    binding: tuple[str, bytes] | None = None
    """Key identifier and key that an account has to be bound to."""
    bad_nonces: int = 0
    """Number of nonces that are refused."""
    days: float = 90.0
    window: tuple[float, float] | None = None
    """Renewal window that is suggested for the current certificates: seconds from now."""
    wrong: str = ""
    """Defect of certificates: "names", "key" or "dates"; "": none."""
    held_step: str = ""
    """Beginning of a path: requests for it are handled, and answered once `resumed` is set."""
    orders: list[Order] = field(default_factory=list)


class AcmeIssuer(Threaded):
    """Issuer. `http`, `tls`: ports that are connected to in place of 80 and 443; `records`: file with a TXT record in
    each line.
    """

    def __init__(self, folder: Path) -> None:
        self.authority_of_server = Certificates(folder)
        issued = self.authority_of_server.issue("127.0.0.1", stem="acme-issuer")
        super().__init__(_Answering, server_tls(issued))
        self.signer = self.authority_of_server
        self.http = self.tls = 0
        self.located = threading.Event()
        """Set once the ports are known."""
        self.records = folder / "records"
        self.behaviour = Behaviour()
        self.accounts: dict[str, Account] = {}
        self.orders: dict[str, Order] = {}
        self.authorizations: dict[str, Authorization] = {}
        self.issued: dict[str, Order] = {}
        self.asked_renewals: list[str] = []
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._nonces: set[str] = set()
        self._numbers = itertools.count(1)
        self.lock = threading.RLock()
        self.is_held, self.resumed = threading.Event(), threading.Event()
        self.hold_finalize = threading.Event()
        self.hold_finalize.set()
        self.begin()

    @property
    def directory(self) -> str:
        return f"{self.origin}/directory"

    @property
    def ca(self) -> str:
        return self.authority_of_server.ca

    def new_nonce(self) -> str:
        with self.lock:
            nonce = b64(f"nonce {next(self._numbers)} of this issuer".encode())
            self._nonces.add(nonce)
            return nonce

    def use_nonce(self, nonce: str) -> None:
        with self.lock:
            if self.behaviour.bad_nonces:
                self.behaviour.bad_nonces -= 1
                raise Refused("badNonce", "this nonce is refused")
            if nonce not in self._nonces:
                raise Refused("badNonce", "unknown nonce")
            self._nonces.remove(nonce)

    def number(self) -> str:
        return str(next(self._numbers))

    def verified(self, kind: str, name: str, token: str, thumbprint: str) -> None:
        """Raises `Refused`, `OSError` or `AssertionError` if the name is not verified."""
        text = f"{token}.{thumbprint}"
        if kind == "dns-01":
            wanted = f"_acme-challenge.{name} {b64(sha256(text.encode()).digest())}"
            found = self.records.read_text().splitlines() if self.records.exists() else []
            assert wanted in found, f"no TXT record {wanted}; there are {found}"
            return
        assert self.located.wait(DEADLINE), "the ports are not known"
        for _ in range(VERIFICATIONS):
            (self._over_http if kind == "http-01" else self._over_tls)(name, token, text)

    def _over_http(self, name: str, token: str, text: str) -> None:
        with socket.create_connection(("127.0.0.1", self.http), DEADLINE) as client:
            request = f"GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
            client.sendall(request.encode())
            received = b"".join(iter(lambda: client.recv(65_536), b""))
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert body == text.encode(), body

    def _over_tls(self, name: str, token: str, text: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["acme-tls/1"])
        with (
            socket.create_connection(("127.0.0.1", self.tls), DEADLINE) as plain,
            context.wrap_socket(plain, server_hostname=name) as client,
        ):
            assert client.selected_alpn_protocol() == "acme-tls/1"
            der = client.getpeercert(binary_form=True)
            assert client.recv(1) == b"", "data after the handshake"
        assert der is not None
        shown = x509.load_der_x509_certificate(der)
        assert shown.issuer == shown.subject
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [each.value for each in names] == [name]
        extension = shown.extensions.get_extension_for_oid(ACME_IDENTIFIER)
        assert extension.critical
        assert isinstance(extension.value, x509.UnrecognizedExtension)
        assert extension.value.value == b"\x04\x20" + sha256(text.encode()).digest()


def renewal_id(pem: bytes) -> str:
    """RFC 9773 section 4.1."""
    certificate = x509.load_pem_x509_certificate(pem)
    akid = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert akid is not None
    serial = certificate.serial_number
    return f"{b64(akid)}.{b64(serial.to_bytes(serial.bit_length() // 8 + 1))}"


class _Answering(BaseHTTPRequestHandler):
    server: AcmeIssuer
    protocol_version = "HTTP/1.1"
    timeout = DEADLINE

    def log_message(self, *_: object) -> None: ...

    def _send(self, status: int, body: Any = None, kind: str = "application/json", **fields: str) -> None:
        held_step = self.server.behaviour.held_step
        if held_step and self.path.startswith(held_step) and status < 400:
            self.server.is_held.set()
            self.server.resumed.wait(HELD)
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Replay-Nonce", self.server.new_nonce())
        self.send_header("Content-Type", kind)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self._send(200 if self.path == "/new-nonce" else 405)

    def do_GET(self) -> None:
        server, origin = self.server, self.server.origin
        server.requests.append(self.path)
        if self.path == "/directory":
            names = {"newNonce": "new-nonce", "newAccount": "new-account", "newOrder": "new-order"}
            names |= {"revokeCert": "revoke-cert", "keyChange": "key-change", "renewalInfo": "renewal-info"}
            meta = {"termsOfService": f"{origin}/terms", "externalAccountRequired": bool(server.behaviour.binding)}
            self._send(200, {**{name: f"{origin}/{path}" for name, path in names.items()}, "meta": meta})
        elif self.path.startswith("/renewal-info/"):
            self._renewal_info(self.path.removeprefix("/renewal-info/"))
        else:
            self._send(405, {"type": "urn:ietf:params:acme:error:malformed"})

    def _renewal_info(self, name: str) -> None:
        server = self.server
        server.asked_renewals.append(name)
        if name not in server.issued:
            self._send(404, {"type": "urn:ietf:params:acme:error:malformed"})
            return
        since, until = server.behaviour.window or (50 * 86_400, 60 * 86_400)
        form = "%Y-%m-%dT%H:%M:%SZ"
        dates = [time.strftime(form, time.gmtime(time.time() + each)) for each in (since, until)]
        self._send(200, {"suggestedWindow": {"start": dates[0], "end": dates[1]}}, Retry_After="3600")

    def do_POST(self) -> None:
        server = self.server
        server.requests.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            protected, payload, account = self._authenticated(body)
            if self.path.startswith("/finalize/"):
                server.hold_finalize.wait(DEADLINE)
            found = ((handle, re.fullmatch(pattern, self.path)) for pattern, handle in _ROUTES)
            handle, match = next((handle, match) for handle, match in found if match is not None)
            with server.lock:
                handle(self, protected, payload, account, *match.groups())
        except Refused as refusal:
            if refusal.kind != "badNonce":
                server.problems.append(f"{self.path}: {refusal.detail}")
            error = {"type": f"urn:ietf:params:acme:error:{refusal.kind}", "detail": refusal.detail}
            self._send(refusal.status, error, "application/problem+json", **refusal.fields)

    def _authenticated(self, body: bytes) -> tuple[dict[str, Any], bytes, str]:
        """The protected header, the payload, and the URL of the account ("": a new one)."""
        if self.headers["Content-Type"] != "application/jose+json":
            raise Refused("malformed", "the content type", 415)
        jws = json.loads(body)
        if jws.keys() != {"protected", "payload", "signature"}:
            raise Refused("malformed", f"the members of the JWS: {sorted(jws)}")
        protected = json.loads(unb64(jws["protected"]))
        if protected.get("alg") != "ES256":
            raise Refused("badSignatureAlgorithm", "expected ES256")
        if protected.get("url") != f"{self.server.origin}{self.path}":
            raise Refused("unauthorized", f"the url {protected.get('url')}", 401)
        if ("jwk" in protected) == ("kid" in protected):
            raise Refused("malformed", "expected one of jwk and kid")
        if ("jwk" in protected) != (self.path == "/new-account"):
            raise Refused("malformed", "jwk or kid in the wrong place")
        if "kid" in protected and protected["kid"] not in self.server.accounts:
            raise Refused("accountDoesNotExist", "unknown account")
        jwk = protected["jwk"] if "jwk" in protected else self.server.accounts[protected["kid"]].jwk
        if jwk.keys() != {"kty", "crv", "x", "y"} or (jwk["kty"], jwk["crv"]) != ("EC", "P-256"):
            raise Refused("badPublicKey", f"the members of the key: {sorted(jwk)}")
        point = ec.EllipticCurvePublicNumbers(*(int.from_bytes(unb64(jwk[each])) for each in "xy"), ec.SECP256R1())
        signature = unb64(jws["signature"])
        if len(signature) != 64:
            raise Refused("malformed", "the length of the signature")
        der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        signed = f"{jws['protected']}.{jws['payload']}".encode()
        point.public_key().verify(der, signed, ec.ECDSA(hashes.SHA256()))
        self.server.use_nonce(protected.get("nonce", ""))
        return protected, unb64(jws["payload"]), protected.get("kid", "")

    def _new_account(self, protected: dict[str, Any], payload: bytes, account: str) -> None:
        server, wanted, jwk = self.server, json.loads(payload), protected["jwk"]
        for uri, known in server.accounts.items():
            if known.jwk == jwk:
                self._send(200, {"status": "valid", "contact": known.contact}, Location=uri)
                return
        if wanted.get("onlyReturnExisting"):
            raise Refused("accountDoesNotExist", "no account has this key")
        if wanted.get("termsOfServiceAgreed") is not True:
            raise Refused("userActionRequired", "the terms are not agreed to", 403)
        if server.behaviour.binding is not None:
            self._check_binding(wanted.get("externalAccountBinding"), jwk, *server.behaviour.binding)
        uri = f"{server.origin}/account/{server.number()}"
        server.accounts[uri] = Account(jwk, wanted.get("contact", []))
        self._send(201, {"status": "valid", "contact": wanted.get("contact", [])}, Location=uri)

    def _check_binding(self, binding: Any, jwk: dict[str, str], key_id: str, key: bytes) -> None:
        if binding is None:
            raise Refused("externalAccountRequired", "an account has to be bound", 403)
        protected = json.loads(unb64(binding["protected"]))
        signed = f"{binding['protected']}.{binding['payload']}".encode()
        right = hmac.digest(key, signed, "sha256") == unb64(binding["signature"])
        url = f"{self.server.origin}/new-account"
        if not right or protected != {"alg": "HS256", "kid": key_id, "url": url}:
            raise Refused("unauthorized", f"the binding is wrong: {protected}", 403)
        if json.loads(unb64(binding["payload"])) != jwk:
            raise Refused("unauthorized", "the binding is of another key", 403)

    def _new_order(self, _: dict[str, Any], payload: bytes, account: str) -> None:
        server, wanted = self.server, json.loads(payload)
        if seconds := server.behaviour.rate_limited:
            raise Refused("rateLimited", "too many certificates", 429, Retry_After=str(seconds))
        if not wanted.keys() <= {"identifiers", "replaces"}:
            raise Refused("malformed", f"the members of the order: {sorted(wanted)}")
        names = [each["value"] for each in wanted["identifiers"] if each["type"] == "dns"]
        if not names or len(names) < len(wanted["identifiers"]) or len({*names}) < len(names):
            raise Refused("malformed", "the identifiers")
        replaces = wanted.get("replaces", "")
        if replaces:
            if replaces not in server.issued:
                raise Refused("malformed", f"an unknown certificate is replaced: {replaces}")
            if any(each.replaces == replaces for each in server.orders.values()):
                raise Refused("alreadyReplaced", "it is replaced already", 409)
        order, number = Order(account, names, replaces), server.number()
        server.orders[number] = order
        server.behaviour.orders.append(order)
        for name in names:
            kinds = ["dns-01"] if name.startswith("*.") else ["http-01", "dns-01", "tls-alpn-01"]
            tokens = {kind: b64(sha256(f"{number} {name} {kind}".encode()).digest()) for kind in kinds}
            server.authorizations[server.number()] = Authorization(order, name, tokens)
        self._send(201, self._shown(number), Location=f"{server.origin}/order/{number}")

    def _shown(self, number: str) -> dict[str, Any]:
        server, order = self.server, self.server.orders[number]
        own = [(key, each) for key, each in server.authorizations.items() if each.order is order]
        if order.status == "pending" and all(each.status == "valid" for _, each in own):
            order.status = "ready"
        if order.status == "pending" and any(each.status == "invalid" for _, each in own):
            order.status = "invalid"
        shown = {
            "status": order.status,
            "identifiers": [{"type": "dns", "value": each} for each in order.names],
            "authorizations": [f"{server.origin}/authorization/{key}" for key, _ in own],
            "finalize": f"{server.origin}/finalize/{number}",
        }
        return shown | ({"certificate": f"{server.origin}/certificate/{number}"} if order.certificate else {})

    def _own_order(self, number: str, account: str) -> Order:
        order = self.server.orders.get(number)
        if order is None or order.account != account:
            raise Refused("unauthorized", "the order of another account", 403)
        return order

    def _order(self, _: dict[str, Any], payload: bytes, account: str, number: str) -> None:
        self._own_order(number, account)
        if payload:
            raise Refused("malformed", "expected POST-as-GET")
        self._send(200, self._shown(number))

    def _authorization(self, _: dict[str, Any], payload: bytes, account: str, number: str) -> None:
        each = self.server.authorizations[number]
        if payload or each.order.account != account:
            raise Refused("malformed", "expected POST-as-GET by its account")
        self._send(200, self._shown_authorization(number))

    def _shown_authorization(self, number: str) -> dict[str, Any]:
        each = self.server.authorizations[number]
        bare = each.name.removeprefix("*.")
        shown: dict[str, Any] = {"status": each.status, "identifier": {"type": "dns", "value": bare}}
        if bare != each.name:
            shown["wildcard"] = True
        shown["challenges"] = [self._shown_challenge(number, kind) for kind in each.tokens]
        return shown

    def _shown_challenge(self, number: str, kind: str) -> dict[str, Any]:
        each = self.server.authorizations[number]
        url = f"{self.server.origin}/challenge/{number}/{kind}"
        shown = {"type": kind, "url": url, "token": each.tokens[kind], "status": each.status}
        return shown | ({"error": each.error} if each.error else {})

    def _challenge(self, _: dict[str, Any], payload: bytes, account: str, number: str, kind: str) -> None:
        server, each = self.server, self.server.authorizations[number]
        if json.loads(payload) != {} or each.order.account != account:
            raise Refused("malformed", f"expected an empty object, not {payload!r}")
        if each.status == "pending":
            try:
                thumbprint = server.accounts[account].thumbprint
                server.verified(kind, each.name.removeprefix("*."), each.tokens[kind], thumbprint)
                each.status = "valid"
            except (AssertionError, OSError) as error:
                each.status = "invalid"
                each.error = {"type": "urn:ietf:params:acme:error:unauthorized", "detail": f"not verified: {error}"}
        link = f'<{server.origin}/authorization/{number}>;rel="up"'
        self._send(200, self._shown_challenge(number, kind), Link=link)

    def _finalize(self, _: dict[str, Any], payload: bytes, account: str, number: str) -> None:
        server, order = self.server, self._own_order(number, account)
        self._shown(number)
        if order.status != "ready":
            raise Refused("orderNotReady", f"the order is {order.status}", 403)
        csr = x509.load_der_x509_csr(unb64(json.loads(payload)["csr"]))
        if not csr.is_signature_valid:
            raise Refused("badCSR", "the signature")
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if sorted(names.get_values_for_type(x509.DNSName)) != sorted(order.names):
            raise Refused("badCSR", "other names")
        key: Any = csr.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            numbers = key.public_numbers()
            if b64(numbers.x.to_bytes(32)) == server.accounts[account].jwk["x"]:
                raise Refused("badCSR", "the key of the account")
        wrong = server.behaviour.wrong
        granted = ["other.test"] if wrong == "names" else order.names
        signed = ec.generate_private_key(ec.SECP256R1()).public_key() if wrong == "key" else key
        order.certificate = server.signer.sign(signed, granted, -1.0 if wrong == "dates" else server.behaviour.days)
        order.status = "valid"
        server.issued[renewal_id(order.certificate)] = order
        self._send(200, self._shown(number), Location=f"{server.origin}/order/{number}")

    def _certificate(self, _: dict[str, Any], payload: bytes, account: str, number: str) -> None:
        order = self._own_order(number, account)
        if payload:
            raise Refused("malformed", "expected POST-as-GET")
        self._send(200, order.certificate, "application/pem-certificate-chain")


_ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"/new-account", _Answering._new_account),
    (r"/new-order", _Answering._new_order),
    (r"/order/(\d+)", _Answering._order),
    (r"/authorization/(\d+)", _Answering._authorization),
    (r"/challenge/(\d+)/([a-z0-9-]+)", _Answering._challenge),
    (r"/finalize/(\d+)", _Answering._finalize),
    (r"/certificate/(\d+)", _Answering._certificate),
]
