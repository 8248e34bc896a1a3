"""Components of a request that message signatures cover (RFC 9421 section 2), as the library's verifier asks for them.

Imported where signatures are verified only: the library takes 15 ms of a start.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, final
from urllib.parse import parse_qs, quote, unquote

from http_message_signatures import HTTPMessageSignaturesException, HTTPSignatureComponentResolver

from fastgw.exchange.exchange import Exchange
from fastgw.forwarded_headers import client_authority, client_scheme

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_IS_ENCODED: Final = re.compile(r"(?:[!-$&-~]|%[0-9A-Fa-f]{2})*").fullmatch


class SignedMessage:
    """Adapter of an exchange to the library's request interface.

    `signature_fields`: `Signature-Input` and `Signature` with the one signature to verify. Components are those of the
    request itself, which may have more signatures.
    """

    def __init__(self, exchange: Exchange, signature_fields: dict[str, str], forwarded_host: bool) -> None:
        self.headers = signature_fields
        head, peer = exchange.head, exchange.peer
        self.scheme = client_scheme(head, peer).decode("ascii")
        authority = client_authority(head, peer) if forwarded_host else head.authority
        self.authority = authority.decode("latin-1")
        path, query = exchange.raw_path.decode("latin-1"), exchange.query
        self.path = path if path.startswith("/") else ""  # `OPTIONS *` has no path (RFC 9110 section 7.1)
        self.query = None if query is None else query.decode("latin-1")
        self.request = _RequestView(exchange)


class _RequestView:
    """Attributes of the request that the library's own resolver reads."""

    url = "http://gateway.invalid/"
    """A URL that it accepts: it refuses the characters `[]{}|^` and backticks, which clients do send unencoded."""

    def __init__(self, exchange: Exchange) -> None:
        self.method = exchange.method.decode("latin-1")
        self.request_target = exchange.head.request_target.decode("latin-1")
        self.headers = _HeaderLines(exchange)


class _HeaderLines:
    """Header lines of the request, for the library."""

    def __init__(self, exchange: Exchange) -> None:
        self._fields = exchange.headers

    def items(self) -> Iterator[tuple[str, str]]:
        return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._fields)


@final
class SignedComponents(HTTPSignatureComponentResolver):
    """Resolver of components that takes the parts of the URL from the exchange, as they were received."""

    def __init__(self, message: SignedMessage) -> None:
        super().__init__(message.request)  # type: ignore[no-untyped-call]  # the library's has no annotations
        self._signed = message

    def get_scheme(self) -> str:
        return self._signed.scheme

    def get_authority(self) -> str:
        """Return the host, with its port unless that is the default one of the scheme (RFC 9421 section 2.2.3)."""
        authority = self._known_authority()
        host, _, port = authority.rpartition(":")
        is_default = not port or port.lstrip("0") == _DEFAULT_PORTS[self._signed.scheme]
        return host if host and is_default else authority

    def get_target_uri(self) -> str:
        signed = self._signed
        path = signed.path if self.message.method == "OPTIONS" else self.get_path()
        suffix = "" if signed.query is None else f"?{signed.query}"
        return f"{signed.scheme}://{self._known_authority()}{path}{suffix}"

    def get_path(self) -> str:
        return self._signed.path or "/"

    def get_query(self) -> str:
        return f"?{self._signed.query or ''}"

    def get_query_params(self, *, name: Any) -> str:
        query = self._signed.query or ""
        # Another query with bytes that are not encoded, or half an escape, could have the same values once decoded.
        if not isinstance(name, str) or not _IS_ENCODED(query) or not _IS_ENCODED(name):
            raise HTTPMessageSignaturesException("a query parameter is not encoded as in a form")
        try:
            values = parse_qs(query, keep_blank_values=True, errors="strict").get(unquote(name, errors="strict"), ())
        except UnicodeDecodeError:  # all such bytes would have the same signature
            raise HTTPMessageSignaturesException("a query parameter is not UTF-8") from None
        if len(values) != 1:
            raise HTTPMessageSignaturesException(f"a signed query parameter has {len(values) or 'no'} values")
        # The percent-encode set of forms, with %20 for a space (RFC 9421 section 2.2.8).
        return quote(values[0], safe="*").replace("~", "%7E")

    def _known_authority(self) -> str:
        authority = self._signed.authority
        if not authority:
            raise HTTPMessageSignaturesException("the request has no Host")
        return authority
