"""Sticky sessions: a signed cookie identifies the target of a client without disclosing its address.

The value is 40 characters of base64url: nine bytes that identify the target within its upstream (a keyed digest, which
does not disclose its address), five for its expiry (epoch seconds; 0: none), and sixteen of an HMAC-SHA256 over the
upstream and both. Without the key a cookie can be neither created nor changed.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Container, Iterable
from hmac import compare_digest, digest
from time import time
from typing import Final, final

from fastgw.config.settings import gateway as config
from fastgw.exchange.request_keys import cookie_in
from fastgw.forwarded_headers import Peer, client_scheme
from fastgw.http.messages import RequestHead
from fastgw.upstream.load_balancing import Balancer, BalancingRequest
from fastgw.upstream.targets.target import Target

LENGTH: Final = 40
"""Characters of a cookie's value."""
MOST_KNOWN: Final = 4096
"""Number of verified values that are cached: some 1 MiB."""
_NAME: Final = 9
_SIGNED: Final = _NAME + 5


class Cookies:
    """The cookies of one upstream. `key`: signing key."""

    def __init__(
        self, settings: config.Sticky, upstream: str, key: bytes, now_date: Callable[[], float] = time
    ) -> None:
        self._name = settings.cookie.encode()
        self._ttl = settings.ttl
        self._secure = settings.secure
        self._key = digest(key, b"fastgw sticky\0" + upstream.encode(), "sha256")
        self._now_date = now_date
        # PERF: verified values are cached: 0.8 us for a request with a cookie, 4.3 without the cache (CPython 3.11,
        # micro/balance).
        self._known: dict[bytes, tuple[bytes, int]] = {}
        attributes = f"; Path={settings.path}; HttpOnly; SameSite={settings.same_site.capitalize()}"
        if settings.ttl is not None:
            attributes += f"; Max-Age={int(settings.ttl)}"
        self._attributes = attributes.encode()

    def name_of(self, target: Target) -> bytes:
        """Return the name of a target in the cookies."""
        return digest(self._key, b"target\0" + target.label.encode() + b" " + target.base_path, "sha256")[:_NAME]

    def named(self, head: RequestHead) -> bytes:
        """Return the name in the cookie of a request; b"": there is none, it is invalid, or it has expired."""
        value = cookie_in(head.values(b"cookie"), self._name)
        known = self._known.get(value)
        if known is None:
            known = self._read(value)
            if known is None:
                return b""
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[value] = known
        name, ends = known
        return name if not ends or ends > self._now_date() else b""

    def _read(self, value: bytes) -> tuple[bytes, int] | None:
        """Return the name in a value, and its expiry; None: the signature is invalid."""
        if len(value) != LENGTH:
            return None
        try:
            raw = urlsafe_b64decode(value)
        except ValueError:
            return None
        signed, mac = raw[:_SIGNED], raw[_SIGNED:]
        if not compare_digest(mac, self._mac(signed)):
            return None
        return signed[:_NAME], int.from_bytes(signed[_NAME:])

    def line_for(self, head: RequestHead, peer: Peer, target: Target) -> bytes:
        """Return the `Set-Cookie` line for the target of a request; b"": its cookie already names it."""
        if self.named(head) == self.name_of(target):
            return b""
        return self.line(target, client_scheme(head, peer) == b"https")

    def line(self, target: Target, https: bool) -> bytes:
        """Return the `Set-Cookie` line. `https`: whether the client uses HTTPS."""
        ends = 0 if self._ttl is None else int(self._now_date() + self._ttl)
        signed = self.name_of(target) + ends.to_bytes(_SIGNED - _NAME)
        value = urlsafe_b64encode(signed + self._mac(signed))
        secure = b"; Secure" if self._secure or (self._secure is None and https) else b""
        return b"Set-Cookie: %b=%b%b%b\r\n" % (self._name, value, self._attributes, secure)

    def _mac(self, signed: bytes) -> bytes:
        return digest(self._key, signed, "sha256")[: 3 * LENGTH // 4 - _SIGNED]


@final
class StickySessions:
    """Balancer that selects the target named in the cookie, while it is eligible. `otherwise` selects for all other
    requests.
    """

    __slots__ = ("_cookies", "_otherwise", "_targets")

    def __init__(self, otherwise: Balancer, cookies: Cookies, targets: Iterable[Target]) -> None:
        """`targets`: targets that may be used by sticky sessions."""
        self._otherwise = otherwise
        self._cookies = cookies
        self._targets = {cookies.name_of(target): target for target in targets}

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        if not tried:
            target = self._targets.get(self._cookies.named(asked.head))
            if target is not None:
                return target
        return self._otherwise.pick(asked, tried)

    def named(self, head: RequestHead) -> Target | None:
        """Return the target named in the cookie of a request, if sticky sessions may use it."""
        return self._targets.get(self._cookies.named(head))
