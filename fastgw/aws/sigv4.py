"""AWS Signature Version 4: headers that sign a request.

Rule: the caller sends exactly what is signed: `canonical_query` is the query to send, and the path is the one that is
sent. Sources: "Signature Version 4 signing process" of the AWS General Reference; "Signature Calculations for the
Authorization Header" of the API reference of S3, for the headers that have to be signed.
"""

import hmac
import time
from collections.abc import Container, Iterable
from hashlib import sha256
from typing import Final, NamedTuple, final
from urllib.parse import quote, unquote_to_bytes

EMPTY_DIGEST: Final = sha256(b"").hexdigest()
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
"""Takes the place of the digest for a body that is not signed, which some services accept over TLS (S3)."""
FIELDS: Final = frozenset((b"authorization", b"x-amz-date", b"x-amz-content-sha256", b"x-amz-security-token"))
"""Lower-case names of the headers that a signature adds."""
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_UNRESERVED: Final = "-_.~"
_UNENCODED: Final = f"/{_UNRESERVED}"
_S3: Final = "s3"
_SIGNED_PREFIX: Final = b"x-amz-"
_SIGNED_OF_CLIENTS: Final = b"x-amz-meta-", b"x-amz-checksum-", b"x-amz-sdk-"
"""Headers to S3 that describe the data. Others are commands, such as to copy another object or to make it public: the
keys may do more than routes let clients do, so those of clients are sent without a signature, and S3 refuses them.
"""
_SIGNED_TOO: Final = b"content-md5"


class AwsKeys(NamedTuple):
    """Credentials of an IAM user or role. `token`: of temporary ones; "": none."""

    access_key_id: str
    secret_access_key: str
    token: str

    def __repr__(self) -> str:
        return "<AwsKeys>"


def canonical_query(query: bytes | None) -> bytes | None:
    """Return a query in the only form that signer and verifier encode alike. `+` stands for a space, as in forms."""
    if not query:
        return query
    return b"&".join(b"=".join(map(_encoded, pair.split(b"=", 1))) for pair in query.split(b"&") if pair)


def _encoded(text: bytes) -> bytes:
    return quote(unquote_to_bytes(text.replace(b"+", b"%20")), safe=_UNRESERVED).encode()


@final
class AwsSigner:
    """Signer for one service in one region. The key of a day is derived once."""

    __slots__ = ("_day", "_key", "_keys", "_region", "_service")

    def __init__(self, keys: AwsKeys, region: str, service: str) -> None:
        self._keys, self._region, self._service = keys, region, service
        self._day, self._key = "", b""

    def __repr__(self) -> str:
        return f"<AwsSigner {self._region}/{self._service}>"

    def sign(
        self,
        method: bytes,
        host: bytes,
        path: bytes,
        query: bytes | None,
        digest: str,
        now: float,
        headers: Iterable[tuple[bytes, bytes]] = (),
        of_client: Container[bytes] = frozenset(),
    ) -> bytes:
        """Return the header lines for a request.

        `path`: as it is sent. `query`: from `canonical_query`. `digest`: SHA-256 of the body in hexadecimal, or
        `UNSIGNED`. `now`: seconds since the epoch. `headers`: all others that are sent, without those in `FIELDS`.
        `of_client`: lower-case names of those that the client has sent, also where a filter has changed the value.
        """
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        own = [("x-amz-content-sha256", digest), ("x-amz-date", at)]
        if self._keys.token:
            own.append(("x-amz-security-token", self._keys.token))
        signed = sorted([("host", host.decode("latin-1")), *own, *self._signed_headers(headers, of_client).items()])
        names = ";".join(name for name, _ in signed)
        canonical = "\n".join(
            (
                method.decode("ascii"),
                self._canonical_path(path),
                _canonical_pairs(query),
                *(f"{name}:{value}" for name, value in signed),
                "",
                names,
                digest,
            )
        )
        scope = f"{at[:8]}/{self._region}/{self._service}/aws4_request"
        to_sign = f"{_ALGORITHM}\n{at}\n{scope}\n{sha256(canonical.encode(*_AS_SENT)).hexdigest()}"
        signature = hmac.digest(self._key_of(at[:8]), to_sign.encode(), "sha256").hex()
        credential = f"{self._keys.access_key_id}/{scope}"
        lines = [
            f"Authorization: {_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}\r\n",
            *(f"{_WRITTEN[name]}: {value}\r\n" for name, value in own),
        ]
        return "".join(lines).encode()

    def _signed_headers(self, headers: Iterable[tuple[bytes, bytes]], of_client: Container[bytes]) -> dict[str, str]:
        """Return those of the headers that are signed, by their lower-case names: the values of equal names joined, and
        each run of spaces as one space.
        """
        prefixes = _SIGNED_OF_CLIENTS if self._service == _S3 else _SIGNED_PREFIX
        signed: dict[str, str] = {}
        for each, value in headers:
            name = each.lower()
            is_ours = name.startswith(_SIGNED_PREFIX) and name not in of_client
            if is_ours or name.startswith(prefixes) or name == _SIGNED_TOO:
                key, text = name.decode("ascii"), b" ".join(value.split()).decode(*_AS_SENT)
                signed[key] = f"{signed[key]},{text}" if key in signed else text
        return signed

    def _canonical_path(self, path: bytes) -> str:
        """Return the path as the service reads it. All but S3 encode its percent signs again, and remove dot segments
        and repeated slashes.
        """
        if self._service == _S3:
            return quote(unquote_to_bytes(path), safe=_UNENCODED) or "/"
        return quote(_normal_path(path), safe=_UNENCODED)

    def _key_of(self, day: str) -> bytes:
        if day != self._day:
            key = f"AWS4{self._keys.secret_access_key}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day, self._key = day, key
        return self._key


def _normal_path(path: bytes) -> bytes:
    """Return a path without dot segments (RFC 3986 section 5.2.4) and empty ones."""
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return b"/%b%b" % (b"/".join(segments), b"/" if segments and path.endswith(b"/") else b"")


def _canonical_pairs(query: bytes | None) -> str:
    """Return the parameters, each with an equals sign, sorted by name and then by value."""
    pairs = [] if not query else [pair.decode("ascii").partition("=") for pair in query.split(b"&")]
    return "&".join(f"{name}={value}" for name, value in sorted((name, value) for name, _, value in pairs))


_AS_SENT: Final = "utf-8", "surrogateescape"
"""Encoding by which the bytes of a header are signed as they are."""
_WRITTEN: Final = {
    "x-amz-content-sha256": "X-Amz-Content-Sha256",
    "x-amz-date": "X-Amz-Date",
    "x-amz-security-token": "X-Amz-Security-Token",
}
