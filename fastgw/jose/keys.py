"""Verification keys: JWKs and sets of them (RFC 7517, 7518 section 6, 8037), PEM files, shared secrets.

Keys of a set are read independently: an unusable key does not affect the others, and is reported with the reason. A key
is used only for the algorithms that its type, curve, length and own `alg` allow.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fastgw.jose.algorithms import ALGORITHMS
from fastgw.jose.strict import TokenRefused, members, unencoded

MAX_KEYS: Final = 256
"""Maximum number of keys of a set; further ones are skipped."""
LEAST_RSA_BITS: Final = 2048
"""Minimum size of an RSA key in bits (RFC 7518 section 3.3)."""
MOST_RSA_BITS: Final = 8192
"""Maximum size of an RSA key in bits: larger ones take milliseconds per signature, valid or not."""
_MOST_EXPONENT_BITS: Final = 32  # large exponents take long as well; 65537 is usual
_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, int]]] = MappingProxyType(
    {
        "P-256": (ec.SECP256R1(), 32),
        "P-384": (ec.SECP384R1(), 48),
        "P-521": (ec.SECP521R1(), 66),
        "secp256k1": (ec.SECP256K1(), 32),
    }
)
_CURVE_NAMES: Final = {curve.name: name for name, (curve, _) in _CURVES.items()}
_TO_BASE64: Final = bytes.maketrans(b"-_", b"+/")
_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_LOOKS_PUBLIC: Final = re.compile(
    rb"-----BEGIN |-----END |\s*(?:ssh-(?:rsa|ed25519|dss)|ecdsa-sha2-\S+) [A-Za-z0-9+/]|---- BEGIN SSH2"
)


class UnusableKey(Exception):
    """A key that cannot be used. The text has the reason, and nothing of the key."""


_TOO_SHORT: Final = "a shared secret of less than 32 bytes; expected at least 32 for HS256, 48 for HS384, 64 for HS512"


@final
class Key:
    """A key and its algorithms. `mark`: equal for equal keys, whatever their names."""

    __slots__ = ("algorithms", "kid", "kty", "mark", "material")

    def __init__(self, kty: str, crv: str, material: Any, raw: bytes, kid: str | None, alg: str | None) -> None:
        self.kty = kty
        self.material = material
        self.kid = kid
        self.mark = sha256(f"{kty} {crv} ".encode() + raw).digest()
        fitting = {
            name
            for name, algorithm in ALGORITHMS.items()
            if (algorithm.kty, algorithm.crv) == (kty, crv) and len(raw) >= algorithm.least_bytes
        }
        if alg is not None and alg not in fitting:
            raise UnusableKey(
                "its `alg` does not match its key type"
                if alg in ALGORITHMS
                else "its `alg` is not a signature algorithm"
            )
        if not fitting:
            raise UnusableKey(_TOO_SHORT if kty == "oct" else "it is not a signing key")
        self.algorithms = frozenset(fitting if alg is None else (alg,))

    def nameless(self) -> "Key":
        """Return the key without its name, so that it verifies tokens with any `kid`. A new key is changed itself."""
        self.kid = None
        return self

    def __repr__(self) -> str:
        return f"<Key {self.kty} {'without kid' if self.kid is None else repr(self.kid)}>"


class PassedOver(NamedTuple):
    """A skipped key of a set."""

    place: int
    """Number of the key in the set, from 1."""
    kid: str
    """Key id; "" = none that can be shown."""
    reason: str

    def __str__(self) -> str:
        return f"key {self.place}{f' ({self.kid})' if self.kid else ''}: {self.reason}"


@final
class KeySet:
    """Keys of a policy at one time."""

    __slots__ = ("_by_kid", "_nameless", "keys", "marks", "passed_over")

    def __init__(self, keys: Iterable[Key] = (), passed_over: Iterable[PassedOver] = ()) -> None:
        self.keys = tuple(keys)
        self.passed_over = tuple(passed_over)
        self.marks = frozenset(key.mark for key in self.keys)
        self._nameless = tuple(key for key in self.keys if key.kid is None)
        self._by_kid: dict[str, tuple[Key, ...]] = {}
        for key in self.keys:
            if key.kid is not None:
                self._by_kid[key.kid] = (*self._by_kid.get(key.kid, ()), key)

    def named(self, kid: str | None) -> tuple[Key, ...]:
        """Return the keys that may have signed a token with this `kid`.

        They are the keys with this name; if there are none, the keys without a name. None: the token names no key, so
        all of them.
        """
        return self.keys if kid is None else self._by_kid.get(kid, self._nameless)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"<KeySet {len(self.keys)} keys, {len(self.passed_over)} passed over>"


def read_keys(raw: bytes, symmetric: bool) -> KeySet:
    """Return the keys of a file: PEM, a JWK set or a single JWK. Raises `UnusableKey` if it is none of these.

    `symmetric`: whether shared secrets (`kty: oct`) are allowed.
    """
    if raw.lstrip().startswith(b"{"):
        return read_set(raw, symmetric)
    return KeySet(keys_from_pem(raw))


def read_set(raw: bytes, symmetric: bool = False) -> KeySet:
    """Return the keys of a JWK set (RFC 7517 section 5), or of a single JWK. Raises `UnusableKey` for any other
    document.

    `symmetric`: whether shared secrets are allowed; a published set must not have any.
    """
    try:
        document = members(raw, "the key set")
    except TokenRefused as refusal:
        raise UnusableKey(str(refusal)) from refusal
    listed = [document] if "kty" in document and "keys" not in document else document.get("keys")
    if not isinstance(listed, list):
        raise UnusableKey("the JWKS has no list `keys`")
    keys: list[Key] = []
    passed_over: list[PassedOver] = []
    for place, jwk in enumerate(listed, 1):
        try:
            if place > MAX_KEYS:
                raise UnusableKey(f"the JWKS has more than {MAX_KEYS} keys")
            keys.append(read_jwk(jwk, symmetric))
        except UnusableKey as problem:
            passed_over.append(PassedOver(place, _printable_kid(jwk), str(problem)))
            if place > MAX_KEYS:
                break
    return KeySet(keys, passed_over)


def _printable_kid(jwk: Any) -> str:
    kid = jwk.get("kid") if isinstance(jwk, dict) else None
    return kid if isinstance(kid, str) and len(kid) <= 64 and kid.isascii() and kid.isprintable() else ""


def read_jwk(jwk: Any, symmetric: bool = False) -> Key:
    """Return the key of a JWK. Raises `UnusableKey`."""
    if not isinstance(jwk, dict):
        raise UnusableKey("it is not a JSON object")
    kty, kid, alg = _text(jwk, "kty"), _text(jwk, "kid"), _text(jwk, "alg")
    if kty is None:
        raise UnusableKey("it has no `kty`")
    reader = _READERS.get(kty)
    if reader is None or (kty == "oct" and not symmetric):
        raise UnusableKey(
            "it is a shared secret (`kty: oct`), which must not be in a public JWKS"
            if kty == "oct"
            else "its `kty` is unknown"
        )
    _check_purpose(jwk)
    if kty != "oct" and "d" in jwk:
        raise UnusableKey("it contains the private key: anyone who reads the JWKS can sign tokens")
    try:
        crv, material, raw = reader(jwk)
    except TokenRefused as refusal:
        raise UnusableKey(str(refusal)) from refusal
    return Key(kty, crv, material, raw, kid, alg)


def _check_purpose(jwk: Mapping[str, Any]) -> None:
    """Check `use` and `key_ops` (RFC 7517 sections 4.2 and 4.3)."""
    if jwk.get("use", "sig") != "sig":
        raise UnusableKey("its `use` is not sig")
    if "key_ops" in jwk:
        operations = jwk["key_ops"]
        if not isinstance(operations, list) or not all(isinstance(each, str) for each in operations):
            raise UnusableKey("its `key_ops` is not a list of strings")
        if len(set(operations)) < len(operations):
            raise UnusableKey("its `key_ops` has a duplicate operation")
        if "verify" not in operations:
            raise UnusableKey("its `key_ops` does not include `verify`")


def _text(jwk: Mapping[str, Any], name: str) -> str | None:
    value = jwk.get(name)
    if value is not None and not isinstance(value, str):
        raise UnusableKey(f"its `{name}` is not a string")
    if value is None and name in jwk:
        raise UnusableKey(f"its `{name}` is null")
    return value


def _bytes(jwk: Mapping[str, Any], name: str) -> bytes:
    value = _text(jwk, name)
    if not value:
        raise UnusableKey(f"it has no `{name}`")
    return unencoded(value.encode(), f"its `{name}`")


_Read = tuple[str, Any, bytes]
"""Curve, material, and the bytes that identify the key."""


def _read_rsa(jwk: Mapping[str, Any]) -> _Read:
    n, e = int.from_bytes(_bytes(jwk, "n")), int.from_bytes(_bytes(jwk, "e"))
    _check_rsa(n, e)
    try:
        return "", rsa.RSAPublicNumbers(e, n).public_key(), _rsa_bytes(n, e)
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey("it is not a valid RSA key") from None


def _check_rsa(n: int, e: int) -> None:
    if n.bit_length() < LEAST_RSA_BITS:
        raise UnusableKey(f"an RSA key of {n.bit_length()} bits; expected at least {LEAST_RSA_BITS}")
    if n.bit_length() > MOST_RSA_BITS:
        raise UnusableKey(f"an RSA key of {n.bit_length()} bits; expected at most {MOST_RSA_BITS}")
    if not n & 1 or not e & 1 or e < 3 or e.bit_length() > _MOST_EXPONENT_BITS:
        raise UnusableKey("it is not a valid RSA key")


def _rsa_bytes(n: int, e: int) -> bytes:
    return b"%x %x" % (n, e)


def _read_ec(jwk: Mapping[str, Any]) -> _Read:
    crv = _text(jwk, "crv") or ""
    curve, length = _CURVES.get(crv, (None, 0))
    if curve is None:
        raise UnusableKey("its `crv` is unknown")
    x, y = _bytes(jwk, "x"), _bytes(jwk, "y")
    if not len(x) == len(y) == length:  # RFC 7518 section 6.2.1.2
        raise UnusableKey("its `x` or `y` has the wrong length for its curve")
    try:
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve)
        return crv, numbers.public_key(), x + y
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey("its point is not on its curve") from None


def _read_okp(jwk: Mapping[str, Any]) -> _Read:
    if _text(jwk, "crv") != "Ed25519":
        raise UnusableKey("its `crv` is not Ed25519")
    x = _bytes(jwk, "x")
    try:
        return "Ed25519", ed25519.Ed25519PublicKey.from_public_bytes(x), x
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey("it is not a valid Ed25519 key") from None


def _read_oct(jwk: Mapping[str, Any]) -> _Read:
    return "", *_secret(_bytes(jwk, "k"))


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], _Read]]] = MappingProxyType(
    {"RSA": _read_rsa, "EC": _read_ec, "OKP": _read_okp, "oct": _read_oct}
)


def _secret(raw: bytes) -> tuple[bytes, bytes]:
    """Reject public data as a secret: everyone could sign tokens with it (RFC 8725 section 2.1)."""
    if _LOOKS_PUBLIC.search(raw) or raw.lstrip().startswith(b'{"') or _is_der(raw) or _is_der(_from_base64(raw)):
        raise UnusableKey("a public key or certificate cannot be a shared secret")
    return raw, raw


def _is_der(raw: bytes) -> bool:
    """Whether this is a DER sequence with correct length, like public keys and certificates; random secrets are not."""
    if raw[:2] == b"\x30\x82":
        return int.from_bytes(raw[2:4]) == len(raw) - 4
    return len(raw) > 4 and raw[:3] == bytes((0x30, len(raw) - 2 & 0xFF, 0x30)) and raw[4] == 0x06


def _from_base64(text: bytes) -> bytes:
    try:
        return b64decode(text.translate(_TO_BASE64) + b"=" * (-len(text) % 4))
    except ValueError:
        return b""


def key_from_secret(secret: bytes, kid: str | None = None) -> Key:
    """Return the key for a shared secret. Raises `UnusableKey` if it is too short, or not secret."""
    material, raw = _secret(secret)
    return Key("oct", "", material, raw, kid, None)


def secret_from_base64(text: bytes) -> bytes:
    """Return the bytes of a secret in base64 or base64url (RFC 4648 sections 4 and 5). Raises `UnusableKey`."""
    plain = text.strip().rstrip(b"=").translate(_TO_BASE64)
    try:
        return b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except ValueError:
        raise UnusableKey("it is not base64") from None


def keys_from_pem(raw: bytes) -> Sequence[Key]:
    """Return the public keys of a PEM file, in order, including those of certificates. Raises `UnusableKey`.

    Only the key of a certificate is used; issuer and validity are ignored.
    """
    blocks = [(match[1], match[0] + b"\n") for match in _BLOCK.finditer(raw)]
    if not blocks:
        raise UnusableKey("it is neither a JWKS (JSON) nor PEM")
    if len(blocks) > MAX_KEYS:
        raise UnusableKey(f"it contains more than {MAX_KEYS} keys")
    return [_key_from_block(label, block) for label, block in blocks]


def _certified(block: bytes) -> Any:
    from cryptography import x509  # takes 14 ms of each start, and only certificates need it

    return x509.load_pem_x509_certificate(block).public_key()


def _key_from_block(label: bytes, block: bytes) -> Key:
    if label.endswith(b"PRIVATE KEY"):
        raise UnusableKey("it contains a private key; expected the public key only")
    if label not in (b"PUBLIC KEY", b"RSA PUBLIC KEY", b"CERTIFICATE"):
        raise UnusableKey("it contains a PEM block that is neither a public key nor a certificate")
    try:
        key: Any = _certified(block) if label == b"CERTIFICATE" else load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey("it contains a key that cannot be parsed") from None
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        _check_rsa(numbers.n, numbers.e)
        return Key("RSA", "", key, _rsa_bytes(numbers.n, numbers.e), None, None)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVE_NAMES:
        point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        return Key("EC", _CURVE_NAMES[key.curve.name], key, point, None, None)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return Key("OKP", "Ed25519", key, key.public_bytes_raw(), None, None)
    raise UnusableKey("it contains a key of a type that is not supported for JWTs")
