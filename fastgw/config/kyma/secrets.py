"""Kubernetes Secrets: their values by key, each as a derived file that settings can name.

Rule: values of Secrets appear in derived files only; reasons and notes name the Secret and its keys.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from fastgw.config.base.problems import Path, Problem
from fastgw.config.base.settings_base import NONE
from fastgw.config.base.value_types import parse_field_value, parse_token
from fastgw.config.formats import json
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.kyma.objects import Object
from fastgw.config.settings.credentials import check_own
from fastgw.config.settings.secrets import LONGEST, Secret
from fastgw.config.sources.virtual_files import derived_name
from fastgw.net.pem import pair_problem

HEADERS: Final = "headers"
QUERY: Final = "queryParameters"
CONFIGURATION: Final = "CONFIGURATION"
CREDENTIALS_TYPE: Final = "CREDENTIALS_TYPE"
TARGET_URL: Final = "_TARGET_URL"
"""Suffix of the keys of the URLs of APIs in Compass mode."""
_OF_COMPASS: Final[Mapping[str, str]] = {
    "oauth": "OAuth",
    "oauthwithcert": "OAuthWithCert",
    "basicauth": "Basic",
    "basic": "Basic",
    "noauth": "NoAuth",
    "": "NoAuth",
    "certificate": "CertificateGen",
    "certificategen": "CertificateGen",
}
"""Values of `credentials.type`, by `CREDENTIALS_TYPE` in lower case."""
OF_TOKEN_REQUESTS: Final = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})
"""Parameters of a token request that documents must not set."""
Listed = Mapping[str, tuple[Secret, ...]]


class UnusableSecret(Exception):
    """A Secret that cannot be used. The text may be shown to callers of a service. `problem`: the same as a problem of
    the Secret.
    """

    def __init__(self, why: str, problem: Problem | None = None) -> None:
        self.why, self.problem = why, problem
        super().__init__(why)


T = TypeVar("T")
Asked = Mapping[str, Object | None]
"""Secrets by name; None = it does not exist."""
Keys = tuple[str, ...]
"""Key of a Secret; then, for a JSON text, the members in which a value is."""
Derived = Mapping[str, bytes]
"""Contents of derived files, by name."""


class KymaSecrets:
    """The Secrets of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._objects: dict[str, Object] = {}
        self._made: dict[tuple[str, tuple[Keys, ...]], tuple[Any, Derived]] = {}
        self._asked: dict[str, Object | None] = {}
        self._derived: dict[str, bytes] = {}

    def add(self, each: Object) -> Problem | None:
        """Add a Secret. Returns the reason if it cannot be added; Secrets of other namespaces are ignored."""
        if (each.namespace or self._namespace) != self._namespace:
            return None
        if not each.name:
            return each.problem(("metadata",), "no name", "expected `metadata.name`")
        if each.name in self._objects:
            first = self._objects[each.name].location
            return each.problem(
                ("metadata", "name"), f"already defined at {first}, which takes precedence", "expected a unique name"
            )
        self._objects[each.name] = each
        return None

    def take_used(self) -> tuple[Asked, Derived]:
        """Return the Secrets used since the last call, and the files derived from them."""
        used = self._asked, self._derived
        self._asked, self._derived = {}, {}
        return used

    def are_unchanged(self, asked: Asked) -> bool:
        """Whether these Secrets are unchanged."""
        return all(self._objects.get(name) is each for name, each in asked.items())

    def text(self, name: str, key: str) -> Secret:
        """Return a value that is text. Raises `UnusableSecret`."""
        return self._text(name, key, self._value(name, key))

    def username(self, name: str, key: str) -> Secret:
        """Return a value that is text without a colon. Raises `UnusableSecret`."""
        raw = self._value(name, key)
        if b":" in raw:
            raise self.unusable(name, key, "has a colon, which is not allowed in a username (RFC 7617)")
        return self._text(name, key, raw)

    def pair(self, name: str, certificate: str, key: str) -> tuple[str, str]:
        """Return the files of a certificate and its key, which must match. Raises `UnusableSecret`."""
        keys = (certificate,), (key,)
        return self._make_once(name, keys, lambda: self._fitting(name, keys, lambda each: self._value(name, *each)))

    def _fitting(self, name: str, keys: tuple[Keys, Keys], read: Callable[[Keys], bytes]) -> tuple[str, str]:
        certificate, key = read(keys[0]), read(keys[1])
        if (wrong := pair_problem(certificate, key)) is not None:
            of = keys[0] if wrong.of == "certificate" else keys[1]
            raise self.unusable(name, of[0], f"cannot be used: {wrong.wrong}")
        return self._file(name, keys[0], certificate), self._file(name, keys[1], key)

    def named(self, name: str) -> Object | None:
        """Return a Secret; None: there is none."""
        return self._objects.get(name)

    def target_keys(self, name: str) -> list[str]:
        """Return the keys `{API}_TARGET_URL` of a Secret. Raises `UnusableSecret`."""
        parts = (self._object(name).value.get(part) for part in ("stringData", "data"))
        return sorted({key for part in parts if isinstance(part, dict) for key in part if key.endswith(TARGET_URL)})

    def path_of(self, name: str, key: str) -> Path:
        """Return the path of the value of a key. Raises `UnusableSecret`."""
        held = self._object(name).value.get("stringData")
        return ("stringData" if isinstance(held, dict) and key in held else "data"), key

    def target_key(self, name: str, apis: tuple[str, ...]) -> str:
        """Return the key `{API}_TARGET_URL` of an API. `apis`: names that the Secret may have for it; the first one
        takes precedence. Case, and characters other than letters and digits, make no difference. Raises
        `UnusableSecret`.
        """
        keys = self.target_keys(name)
        for api in apis:
            found = [key for key in keys if _squeezed(key.removesuffix(TARGET_URL)) == _squeezed(api)]
            if len(found) > 1:
                raise self.unusable(name, found[1], f"means the same API as `{found[0]}`")
            if found:
                return found[0]
        wanted = f"{re.sub('[^A-Z0-9]+', '_', apis[-1].upper())}{TARGET_URL}"
        raise UnusableSecret(
            f"the Secret {self._namespace}/{name} has no `{wanted}`",
            self._object(name).problem((), f"it has no `{wanted}`"),
        )

    def plain(self, name: str, key: str) -> str:
        """Return a value that is no secret. Raises `UnusableSecret`."""
        try:
            return self._value(name, key).decode().strip()
        except UnicodeDecodeError:
            raise self.unusable(name, key, "is not UTF-8") from None  # the cause would show the value

    def parameters(self, name: str) -> tuple[Listed, Listed]:
        """Return the headers and query parameters in a Secret. Raises `UnusableSecret`."""
        return self._make_once(name, (), lambda: (self._listed(name, HEADERS), self._listed(name, QUERY)))

    def parameters_for_token(self, name: str) -> tuple[Listed, Listed]:
        """Return the parameters for the token endpoint. Raises `UnusableSecret`."""
        headers, query = self.parameters(name)
        for field in headers:
            if field.lower() in OF_TOKEN_REQUESTS:
                raise self.unusable(name, HEADERS, f"has {field}, which is set by the gateway")
        return headers, query

    def compass(self, name: str) -> "Compass | None":
        """Return a Secret of the older Compass form; None: it has another form, or does not exist. Raises
        `UnusableSecret`.
        """
        try:
            self._object(name)
        except UnusableSecret:
            return None
        return self.compass_alone(name) if self._value(name, CONFIGURATION, required=False).strip() else None

    def compass_alone(self, name: str) -> "Compass":
        """Return a Secret of the Compass form, which may have no `CONFIGURATION`. Raises `UnusableSecret`."""
        raw = self._value(name, CONFIGURATION, required=False)
        said = self._json(name, CONFIGURATION, raw) if raw.strip() else {}
        if not isinstance(said, dict):
            raise self.unusable(name, CONFIGURATION, "is not a JSON object")
        kind = self._value(name, CREDENTIALS_TYPE, required=False)
        return Compass(self, name, said, kind.decode(errors="replace").strip())

    def _json(self, name: str, key: str, raw: bytes) -> Any:
        try:
            said, repeats = json.read(raw.decode())
        except (SyntaxProblem, ValueError, RecursionError):
            raise self.unusable(name, key, "is not valid JSON") from None  # the cause would show the value
        if repeats:
            raise self.unusable(name, key, "has a duplicate key")
        return said

    def _listed(self, name: str, key: str) -> Listed:
        raw = self._value(name, key, required=False)
        if not raw.strip():
            return NONE
        return self._listed_in(name, key, key, self._json(name, key, raw))

    def _listed_in(self, name: str, key: str, kind: str, said: Any, *above: str) -> Listed:
        """Return named lists of values. `key`: of the Secret. `kind`: `HEADERS` or `QUERY`. `above`: path within the
        key's value.
        """
        found: dict[str, tuple[Secret, ...]] = {}
        for each, values in (said if isinstance(said, dict) else {"": None}).items():
            listed = [values] if isinstance(values, str) else values
            if not each or not isinstance(listed, list) or not all(isinstance(value, str) for value in listed):
                raise self.unusable(name, key, 'is not of the form {"name": ["value"]}')
            if kind == HEADERS:
                self._check_field(name, each, listed, found)
            if listed:
                found[each] = tuple(
                    self._text(name, key, value.encode(), *above, each, str(at)) for at, value in enumerate(listed)
                )
        return MappingProxyType(found)

    def _check_field(self, name: str, field: str, values: list[Any], others: Mapping[str, object]) -> None:
        try:
            parse_token(field)
            for value in values:
                parse_field_value(value)
        except ValueError:
            raise self.unusable(name, HEADERS, "has an invalid header name or value") from None  # not shown
        try:
            check_own((field,))
        except ValueError:
            raise self.unusable(name, HEADERS, f"has {field}, which is set by the gateway") from None
        if field.lower() in map(str.lower, others):
            raise self.unusable(name, HEADERS, "has a duplicate header")

    def _make_once(self, name: str, of: tuple[Keys, ...], make: Callable[[], T]) -> T:
        """Return the object made from these values of a Secret; it is made once for all callers. Raises
        `UnusableSecret`.
        """
        self._object(name)
        key = name, of
        if key not in self._made:
            before, self._derived = self._derived, {}
            found: T | UnusableSecret
            try:
                found = make()
            except UnusableSecret as unusable:
                found = unusable
            self._made[key] = found, self._derived
            self._derived = before
        found, derived = self._made[key]
        self._derived.update(derived)
        if isinstance(found, UnusableSecret):
            raise found
        return found

    def _object(self, name: str) -> Object:
        found = self._asked[name] = self._objects.get(name)
        if found is None:
            raise UnusableSecret(f"the Secret {self._namespace}/{name} is missing")
        return found

    def _value(self, name: str, key: str, *, required: bool = True) -> bytes:
        """Return the value of a key; b"" if it is missing and not required."""
        each = self._object(name)
        for part, as_bytes in (("stringData", _as_it_stands), ("data", _from_base64)):
            held = each.value.get(part)
            if held is None:
                continue
            if not isinstance(held, dict):
                raise self.unusable(name, "", f"has no object `{part}`", (part,))
            if key in held:
                return self._read(name, key, held[key], as_bytes, (part, key))
        if not required:
            return b""
        raise UnusableSecret(
            f"the Secret {self._namespace}/{name} has no `{key}`", each.problem((), f"it has no `{key}`")
        )

    def _read(self, name: str, key: str, held: Any, as_bytes: Callable[[str], bytes], path: Path) -> bytes:
        try:
            return as_bytes(held) if isinstance(held, str) else _refuse()
        except ValueError:
            expected = "a base64 string" if as_bytes is _from_base64 else "a string (quote it if it is a number)"
            raise self.unusable(name, key, f"is not {expected}", path) from None  # the cause would show the value

    def _text(self, name: str, key: str, raw: bytes, *keys: str) -> Secret:
        if not raw.removesuffix(b"\n").removesuffix(b"\r"):
            raise self.unusable(name, key, "has an empty value" if keys else "is empty")
        if len(raw) > LONGEST:
            raise self.unusable(name, key, f"has more than {LONGEST // 1024} KiB")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise self.unusable(name, key, "is not UTF-8") from None  # the cause would show the value
        if key not in (HEADERS, QUERY, CONFIGURATION) and not text.rstrip("\r\n").isprintable():
            raise self.unusable(name, key, "has a control character")
        return Secret(file=self._file(name, (key, *keys), raw))

    def _file(self, name: str, keys: tuple[str, ...], content: bytes) -> str:
        file = derived_name(self._namespace, name, *keys)
        self._derived[file] = content
        return file

    def unusable(self, name: str, key: str, wrong: str, path: Path = ()) -> UnusableSecret:
        """Return the error about the value of a key. `path`: of the value; () = by its key."""
        each = self._object(name)
        path = path or self.path_of(name, key)
        what = f"`{key}` of the Secret" if key else "the Secret"
        return UnusableSecret(f"{what} {self._namespace}/{name} {wrong}", each.problem(path, wrong))


class Compass:
    """A Secret in the form of Kyma's Compass mode: one JSON text with all credentials and parameters."""

    def __init__(self, secrets: KymaSecrets, name: str, said: Mapping[str, Any], kind: str) -> None:
        self._secrets, self._name, self._members = secrets, name, said
        self.type = _OF_COMPASS.get(kind.lower(), kind)
        """Type, as in `credentials.type` of an Application."""

    def __repr__(self) -> str:  # its contents are secrets
        return f"<Compass {self._name}>"

    def unusable(self, wrong: str, key: str = CONFIGURATION) -> UnusableSecret:
        return self._secrets.unusable(self._name, key, wrong)

    def plain(self, key: str, part: str = "credentials") -> str:
        """Return a text of its credentials, or of another part. Raises `UnusableSecret`."""
        held = self._part(part).get(key)
        if not isinstance(held, str) or not held:
            raise self.unusable(f"has no text as `{part}.{key}`")
        if not held.isprintable():
            raise self.unusable(f"has a control character in `{part}.{key}`")
        return held

    def text(self, key: str) -> Secret:
        """Return a value as a secret. Raises `UnusableSecret`."""
        return self._secrets._text(self._name, CONFIGURATION, self.plain(key).encode(), "credentials", key)

    def pair(self) -> tuple[str, str]:
        """Return the files of its certificate and key, each base64 of PEM. Raises `UnusableSecret`."""
        keys = (CONFIGURATION, "credentials", "certificate"), (CONFIGURATION, "credentials", "privateKey")
        made = self._secrets._fitting
        return self._secrets._make_once(self._name, keys, lambda: made(self._name, keys, self._decoded))

    def _decoded(self, keys: Keys) -> bytes:
        try:
            return _from_base64(self.plain(keys[-1]))
        except ValueError:
            raise self.unusable(
                f"has no base64 as `credentials.{keys[-1]}`"
            ) from None  # the cause would show the value

    @property
    def has_csrf_url(self) -> bool:
        """Whether it has the URL of its CSRF tokens. Raises `UnusableSecret`."""
        return bool(self._part("csrfConfig").get("tokenUrl"))

    def parameters(self, *above: str) -> tuple[Listed, Listed]:
        """Return headers and query parameters for the API, or for the token endpoint (`credentials`). Raises
        `UnusableSecret`.
        """
        part = self._part(*above, "requestParameters")
        lead = (*above, "requestParameters")
        made = self._secrets._listed_in
        headers, query = (
            NONE if part.get(kind) is None else made(self._name, CONFIGURATION, kind, part[kind], *lead, kind)
            for kind in (HEADERS, QUERY)
        )
        if above and any(field.lower() in OF_TOKEN_REQUESTS for field in headers):
            raise self.unusable("has a header for the token endpoint that is set by the gateway")
        return headers, query

    def _part(self, *keys: str) -> Mapping[str, Any]:
        held: Any = self._members
        for key in keys:
            held = held.get(key)
            if held is None:
                return {}
            if not isinstance(held, dict):
                raise self.unusable(f"has no object as `{'.'.join(keys)}`")
        return held  # type: ignore[no-any-return]  # a dict of JSON


def _squeezed(api: str) -> str:
    return re.sub("[^A-Z0-9]", "", api.upper())


def _as_it_stands(text: str) -> bytes:
    return text.encode()


def _from_base64(text: str) -> bytes:
    """Decode base64, which may contain line breaks."""
    try:
        return b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError from error


def _refuse() -> bytes:
    raise ValueError
