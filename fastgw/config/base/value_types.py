"""Types of single values, as written in a configuration and as stored: durations, sizes, addresses, URLs.

A `Notation` inside `Annotated` describes such a type for the decoder and the JSON schema. Its `parse` raises
`ValueError`; the message follows the value's path in a line of `fastgw check`.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from unicodedata import normalize as normalize_form
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from fastgw.config.base.route_patterns import parse_host, parse_regex
from fastgw.http.field_names import READ_IN_REQUESTS
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize


@dataclass(frozen=True)
class Notation:
    """Notation of a type that is not plain text."""

    expected: str
    """Correct form, with an example; the end of the line that reports an invalid value."""
    parse: Callable[[str], Any]
    """Function from text to the stored value. Raises `ValueError`."""
    schema: Mapping[str, Any] = field(hash=False)
    """JSON Schema of the text."""
    numbers: range = range(0)
    """Integers that are accepted as numbers."""
    write: Callable[[Any], str] = str
    """Function from the value back to its text."""
    unit: str = ""
    """Unit that a number without a unit was probably meant in."""


_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
LONGEST_DURATION: Final = 365 * 24 * 3600
_BYTES: Final = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
MAX_BYTE_RATE: Final = 1 << 40
"""Maximum bandwidth in bytes per second."""
_DURATION = r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)"
_SIZE = r"([0-9]+)(B|kB|KB|MB|GB|KiB|MiB|GiB)"
# Those from 600 on are of upstreams that may send them (`tolerate`).
_STATUSES = r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?"
_PERCENT = r"([0-9]+(?:\.[0-9]+)?)%"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PROTOCOL: Final = f"{_TOKEN}(/{_TOKEN})?"
_FIELD_PATTERN: Final = r"[!#$%&'+.^_`|~0-9A-Za-z-]+\*?"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_./@-]*"
_HTTP_VERSIONS: Final = ("http1", "http2")
_RPC_METHOD: Final = "[A-Za-z_][A-Za-z0-9_]*"
_RPC_SERVICE: Final = rf"{_RPC_METHOD}(\.{_RPC_METHOD})*"
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST_IDENTITY: Final = 256
_SUBJECT = r"^([A-Za-z][A-Za-z0-9-]*|[0-9.]+)="
_SAN = r"^(DNS|URI|email|IP):."
_HOST = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?"


def parse_duration(text: str) -> float:
    """Parse `250ms`, `10s`, `5m`, `1h`, `30d` as seconds: above zero, because a zero timeout never succeeds, and at
    most a year.
    """
    match = re.fullmatch(_DURATION, text)
    if match is None:
        raise ValueError(f'"{text}" is not a duration')
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds == 0:
        raise ValueError("a duration of zero")
    if seconds > LONGEST_DURATION:
        raise ValueError(f"{text} is longer than {LONGEST_DURATION // 3600}h")
    return seconds


def parse_delay(text: str) -> float:
    """Parse a duration that may be zero."""
    match = re.fullmatch(_DURATION, text)
    return 0.0 if match is not None and float(match[1]) == 0 else parse_duration(text)


def write_duration(seconds: float) -> str:
    """Format seconds in the largest unit up to hours that gives a whole number, else in milliseconds."""
    for unit in ("h", "m", "s", "ms"):
        length = _SECONDS[unit]
        number = f"{seconds / length:.10g}"
        if seconds and number.isdigit():
            return f"{number}{unit}"
    return f"{seconds / _SECONDS['ms']:.10g}ms" if seconds else "0s"


def parse_size(text: str) -> int:
    """Parse `32KiB`, `10MB` as bytes."""
    match = re.fullmatch(_SIZE, text)
    if match is None:
        raise ValueError(f'"{text}" is not a size')
    if len(match[1]) > 19 or (size := int(match[1]) * _BYTES[match[2]]) >= 2**63:
        raise ValueError(f"{text} is 8 EiB or more")
    return size


def write_size(size: int) -> str:
    """Format bytes in the largest unit that gives a whole number."""
    unit = max((unit for unit, length in _BYTES.items() if size % length == 0), key=_BYTES.__getitem__) if size else "B"
    return f"{size // _BYTES[unit]}{unit}"


def parse_byte_rate(text: str) -> int:
    """Parse `1MiB/s` as bytes per second, 1 or more."""
    size, slash, unit = text.partition("/")
    if (slash, unit) != ("/", "s"):
        raise ValueError(f'"{text}" is not a size per second')
    rate = parse_size(size)
    if not 1 <= rate <= MAX_BYTE_RATE:
        raise ValueError(f"{text} is not between 1B/s and {write_byte_rate(MAX_BYTE_RATE)}")
    return rate


def write_byte_rate(rate: int) -> str:
    return f"{write_size(rate)}/s"


def parse_percent(text: str) -> float:
    """Parse `20%` as 0.2; from 0% to 100%."""
    match = re.fullmatch(_PERCENT, text)
    if match is None:
        raise ValueError(f'"{text}" is not a percentage')
    share = float(
        f"{match[1]}e-2"
    )  # rounded once, as the quotient of two counts is: both are equal if their values are
    if share > 1:
        raise ValueError(f"{text} is more than 100%")
    return share


def count_within(share: float, whole: int) -> int:
    """Return the largest count that is at most this share of `whole`. Their product may be just below it: 100 * 0.29 is
    28.999999999999996.
    """
    count = int(whole * share)
    return count + 1 if count < whole and (count + 1) / whole <= share else count


class Trait(Struct, frozen=True):
    """Request attribute that a filter or hash is keyed by. `name`: header name in lower case; name of a cookie or claim
    as written; else "".
    """

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


_NAMED_TRAITS: Final = {"header": _TOKEN, "cookie": _TOKEN, "claim": r"[^\s,]+"}


def trait(*kinds: str) -> Notation:
    """Return the notation of these request attributes; `header`, `cookie` and `claim` have a name."""
    forms = [f"{kind}:NAME" if kind in _NAMED_TRAITS else kind for kind in kinds]

    def parse(text: str) -> Trait:
        kind, colon, name = text.partition(":")
        pattern = _NAMED_TRAITS.get(kind, "")
        if kind not in kinds or bool(colon) != bool(pattern) or re.fullmatch(pattern, name) is None:
            raise ValueError(f'"{text}" is not a valid key')
        return Trait(kind, name.lower() if kind == "header" else name)

    expected = " or ".join([", ".join(forms[:-1]), forms[-1]] if forms[1:] else forms)
    return Notation(expected, parse, {"type": "string"})


if TYPE_CHECKING:
    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
else:
    IPNetwork = ipaddress._BaseNetwork  # msgspec decodes a union by one class, or by none that it does not know itself


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parse `10.0.0.0/8`, `2001:db8::/32`, or one address. Set host bits are an error."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(str(error)) from error


def is_loopback(host: str) -> bool:
    """Whether this is a loopback address. Raises `ValueError` for an invalid address.

    IPv4-mapped IPv6 addresses (`::ffff:127.0.0.1`) are not, although CPython 3.13 says so: the gateway's sockets are
    IPv6-only and not reachable by them.
    """
    address = ipaddress.ip_address(host)
    return address.is_loopback and getattr(address, "ipv4_mapped", None) is None


class Address(Struct, frozen=True):
    """Address that a listener is bound to: a host and port, or the path of a unix socket (then host is "" and port
    0).
    """

    host: str = ""
    """Host without brackets for IPv6. "" with a port: all IPv4 and IPv6 addresses."""
    port: int = 0
    """0 lets the system choose."""
    path: str = ""

    @property
    def local(self) -> bool:
        """Whether only this machine can connect to it. False for host names other than localhost."""
        if self.path or self.host == "localhost":
            return True
        try:
            return is_loopback(self.host)
        except ValueError:
            return False

    @property
    def name(self) -> str | None:
        """Host for `getaddrinfo`: None means all addresses."""
        return self.host or None

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse `host:port`, `[ipv6]:port`, `:port` or `unix:/path`."""
    if text.startswith("unix:"):
        return Address(path=_socket_path(text.removeprefix("unix:")))
    match = re.fullmatch(r"(.*):([0-9]{1,5})", text)
    if match is None:
        raise ValueError(f'"{text}" is not an address')
    return Address(host=_host(match[1]) if match[1] else "", port=_port(match[2], lowest=0))


class Url(Struct, frozen=True, array_like=True):
    """URL that requests are sent to: one target, and the base path prepended to request paths.

    For `tcp` and `udp` it is the address alone, always with a port.
    """

    scheme: Literal["http", "https", "unix", "tcp", "udp"]
    host: str = ""
    """Host name in lower case or address (IPv6 without brackets); "" for a unix socket."""
    port: int = 0
    socket: str = ""
    """Path of a unix socket."""
    base_path: str = ""
    """Path prepended to the request's path; in normal form, without a trailing slash."""
    ends_in_slash: bool = False
    """Whether the base path was written with a trailing slash."""

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """Value of `Host` that names the target: without the default port; `localhost` for a unix socket."""
        if self.socket:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS.get(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        if self.socket:
            slash = "/" if self.ends_in_slash else ""
            return f"unix:{self.socket}:{self.base_path}{slash}" if self.base_path else f"unix:{self.socket}"
        return f"{self.scheme}://{self.authority}{self.base_path}{'/' if self.ends_in_slash else ''}"


_PORTS: Final = {"http": 80, "https": 443}


IN_TEXT: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*(?:\.[^{}\s\"']+)?)\}")
"""Pattern of possible variables in a text where other braces are literal, such as the body of `respond`."""
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:(?=[/\\]))?[/\\]*([^/\\?#]*)(.*)", re.DOTALL)
_HAS_PORT: Final = re.compile(r"[^:]*|.*:\d*|\[.*\]").fullmatch
_HAS_USER: Final = "a URL that contains a user or password"  # not shown: it may be a secret


def check_no_user(text: str) -> None:
    """Refuse a URL of any scheme that contains a user or password, without showing it. Raises `ValueError`.

    A check that shows the text calls this before.
    """
    authority, rest = _AUTHORITY.fullmatch(text).groups()  # type: ignore[union-attr]  # it fits every text
    may_be_user = authority if _HAS_PORT(authority) else authority + rest  # a password may contain a slash
    if "@" in may_be_user or "%40" in may_be_user:
        raise ValueError(_HAS_USER)


def parse_url(text: str) -> Url:
    """Parse `http://host:port/base`, `https://…`, `unix:/path/of.sock` or `unix:/path/of.sock:/base`."""
    if text.startswith("unix:"):
        path, _, base = text.removeprefix("unix:").partition(":")
        return Url("unix", socket=_socket_path(path), base_path=_base_path(base), ends_in_slash=_ends_in_slash(base))
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError("not a URL") from error
    if "@" in parts.netloc or (parts.scheme not in _PORTS and "@" in text):
        raise ValueError(_HAS_USER)
    if parts.scheme not in _PORTS:
        raise ValueError(f'"{text}" is not an http, https or unix URL')
    if "?" in text or "#" in text:
        raise ValueError("a URL with a query or fragment")  # not shown: it may be a secret
    host, colon, port = parts.netloc.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = parts.netloc, str(_PORTS[parts.scheme])
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    where, number = _host(host), _port(port, lowest=1)
    return Url(scheme, where, number, base_path=_base_path(parts.path), ends_in_slash=_ends_in_slash(parts.path))


def parse_target_url(text: str) -> Url:
    """Parse the URL of a target: as `parse_url`, or `tcp://host:port` or `udp://host:port`."""
    scheme, separator, address = text.partition("://")
    if not separator or scheme not in ("tcp", "udp"):
        return parse_url(text)
    if "@" in address:
        raise ValueError(_HAS_USER)
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or "?" in address or "#" in address:
        raise ValueError(f'"{text}" is not {scheme}://host:port')
    return Url("tcp" if scheme == "tcp" else "udp", _host(host), _port(port, lowest=1))


class Endpoint(Struct, frozen=True):
    """Endpoint that the gateway calls: its origin, and the request target, sent as written."""

    origin: Url
    """Origin, without a base path."""
    target: str = "/"
    """Path and query."""

    def __str__(self) -> str:
        return f"{self.origin}:{self.target}" if self.origin.socket else f"{self.origin}{self.target}"


def parse_endpoint(text: str) -> Endpoint:
    """Parse a URL as `parse_url` does; a query may follow the path: `https://idp.example/keys?tenant=a`."""
    match = re.fullmatch(r"(?i:(https?://[^/?#]*)|(unix:[^:]*):?)(.*)", text, re.DOTALL)
    if match is None:
        return Endpoint(parse_url(text))  # it reports the error
    origin, target = parse_url(match[1] or match[2]), match[3]
    if re.fullmatch(r"([/?][!$-~]*)?", target) is None:  # not shown: a query may contain a secret
        raise ValueError("a URL with a fragment, a space or a non-ASCII character")
    return Endpoint(origin, target if target.startswith("/") else f"/{target}")


def write_endpoint(endpoint: Endpoint) -> str:
    """Format an endpoint for people, without the values in its query, which may be secrets."""
    path, asked, query = endpoint.target.partition("?")
    return str(Endpoint(endpoint.origin, path + asked + write_query(query)))


def parse_query(text: str) -> str:
    """Validate a query, unchanged. Raises `ValueError`."""
    if re.fullmatch(_QUERY, text) is None:
        raise ValueError("a query with a character that has to be percent-encoded")  # not shown: it may have a secret
    return text


def write_query(query: str) -> str:
    """Format a query for people, without its values, which may be secrets."""
    return re.sub(r"(?<==)[^&]+|(?<![^&])[^&=]+(?![^&])", "***", query)


def is_far_in_the_clear(url: Url) -> bool:
    """Whether requests there cross a network in plaintext."""
    if url.scheme != "http":
        return False
    try:
        return not is_loopback(url.host)
    except ValueError:
        return url.host != "localhost" and not url.host.endswith(".localhost")


def parse_destination(text: str) -> str | Url:
    """Parse a route's `upstream`: the name of an upstream, or a URL. Only URLs contain a colon."""
    return parse_url(text) if ":" in text else text


def parse_server_name(text: str) -> str:
    """Validate a server name pattern (RFC 6066 section 3); stored in lower case without a trailing dot."""
    try:
        name = parse_host(text).name.decode()
    except ValueError as error:
        raise ValueError(re.sub(" host( name)?$", " server name", str(error).partition("; ")[0])) from error
    if name.startswith("["):
        raise ValueError(f'"{text}" is an address: clients send none as server name')
    return f"*{name}" if name.startswith(".") else name


def parse_cipher(text: str) -> str:
    """Validate the name of a cipher suite, as OpenSSL has it. Raises `ValueError`."""
    from fastgw.net.tls_profiles import is_cipher  # it takes OpenSSL, which most programs do not need

    if re.fullmatch(r"[A-Z0-9-]{1,64}", text) is None or not is_cipher(text):
        raise ValueError(f"{text!r} is not a cipher suite of TLS 1.2 or earlier that OpenSSL has here")
    return text


def parse_alpn(text: str) -> str:
    """Validate an ALPN protocol name (RFC 7301 section 3.1): 1 to 255 visible ASCII characters."""
    if not (0 < len(text) <= 255 and text.isascii() and text.isprintable() and " " not in text):
        raise ValueError(f"{text!r} is not the name of a protocol")
    return text


def parse_name(text: str) -> str:
    """Validate the name of a listener, upstream or other part."""
    if re.fullmatch(_NAME, text) is None:
        raise ValueError(f'"{text}" is not a name')
    return text


def parse_route_name(text: str) -> str:
    """Validate the name of a route: not empty, and no control characters, which terminals obey."""
    if not text:
        raise ValueError("an empty name")
    if (control := _CONTROLS.search(text)) is not None:
        raise ValueError(f"the control character U+{ord(control[0]):04X} in a name")
    return text


def parse_segment(text: str) -> str:
    """Validate the name of an application, a service or an entry: one element of a path, or part of a host."""
    if re.fullmatch(_SEGMENT, text) is None:
        raise ValueError(f'"{text}" cannot be used as a path segment or in a host')
    return text


def parse_method(text: str) -> str:
    """Validate a method (RFC 9110 section 9.1). Methods are case-sensitive: `get` is not GET."""
    if text != text.upper():
        raise ValueError(f'"{text}" is not in upper case')
    return parse_token(text)


def parse_token(text: str) -> str:
    """Validate a token (RFC 9110 section 5.6.2), such as the name of a header or a method."""
    if re.fullmatch(_TOKEN, text) is None:
        raise ValueError(f'"{text}" is not a token (RFC 9110 section 5.6.2)')
    return text


def parse_field_pattern(text: str) -> str:
    """Parse the name of a reserved header, or a prefix of such names followed by `*`."""
    if re.fullmatch(_FIELD_PATTERN, text) is None:
        raise ValueError(f'"{text}" is neither a header name nor a prefix of header names followed by `*`')
    if text.lower().encode() in READ_IN_REQUESTS:
        raise ValueError(f"{text} cannot be reserved: the gateway has rules of its own for it (see `forwarded`)")
    return text


def parse_rpc_service(text: str) -> str:
    """Validate the full name of a service in protobuf: identifiers separated by dots."""
    if re.fullmatch(_RPC_SERVICE, text) is None:
        raise ValueError(f'"{text}" is not the full name of a service')
    return text


def parse_rpc_method(text: str) -> str:
    """Validate the name of a method in protobuf: an identifier."""
    if re.fullmatch(_RPC_METHOD, text) is None:
        raise ValueError(f'"{text}" is not the name of a method')
    return text


def parse_http_version(text: str) -> str:
    """Validate a version of HTTP that listeners speak."""
    if text in ("http3", "h3"):
        raise ValueError("HTTP/3 is not supported")
    if text not in _HTTP_VERSIONS:
        raise ValueError(f'"{text}" is not a version of HTTP that the gateway speaks')
    return text


def parse_protocol(text: str) -> str:
    """Parse a protocol (RFC 9110 section 7.8): a name, and optionally a version."""
    if re.fullmatch(_PROTOCOL, text) is None:
        raise ValueError(f'"{text}" is not a protocol (RFC 9110 section 7.8)')
    return text


def parse_field_value(text: str) -> str:
    """Validate a header's value (RFC 9110 section 5.5): no control characters, no leading or trailing whitespace."""
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text) is not None:
        raise ValueError("a control character in a header value")
    if text != text.strip(" \t"):
        raise ValueError("a header value with leading or trailing whitespace")
    return text


def parse_plain_value(text: str) -> str:
    """Validate a header's value in which there are no variables of a request."""
    refuse_variables(text)
    return parse_field_value(text)


def refuse_variables(text: str) -> None:
    """Refuse text with a variable, such as `{host}`, where none has a value. Raises `ValueError`."""
    if (found := IN_TEXT.search(text)) is not None:
        raise ValueError(f"{found[0]} is a variable of requests, which has no value here")


def parse_identity(text: str) -> str:
    """Validate the name of a consumer or group: it can be sent in a request header, and in a list there."""
    if len(text) > _LONGEST_IDENTITY:
        raise ValueError(f"a name longer than {_LONGEST_IDENTITY} characters")
    return parse_name(text)


def parse_username(text: str) -> str:
    """Validate a username (RFC 7617), in Unicode normalization form NFC: no colon, no control characters."""
    if not text or ":" in text or _CONTROLS.search(text) is not None:
        raise ValueError(f'"{text}" is not a username')
    if len(text.encode()) > _LONGEST_IDENTITY:
        raise ValueError(f"a username longer than {_LONGEST_IDENTITY} bytes")
    return normalize_form("NFC", text)


def parse_sha256(text: str) -> bytes:
    """Parse a digest in hexadecimal digits. Errors do not show it: it may be a plaintext key written in the wrong
    place.
    """
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text) is None:
        raise ValueError("not a SHA-256 digest")
    return bytes.fromhex(text)


def parse_fingerprint(text: str) -> bytes:
    """Parse the SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` prints it, or without colons."""
    digits = text.replace(":", "")
    if re.fullmatch(r"[0-9A-Fa-f]{64}", digits) is None:
        raise ValueError(f'"{text}" is not a fingerprint')
    return bytes.fromhex(digits)


def parse_subject(text: str) -> str:
    """Validate the subject of a certificate in the form of RFC 4514. Any other form would never match."""
    if re.match(_SUBJECT, text) is None:
        raise ValueError(f'"{text}" is not a subject in RFC 4514 form')
    return text


def parse_san(text: str) -> str:
    """Parse a subject alternative name with its kind."""
    if re.match(_SAN, text) is None:
        raise ValueError(f'"{text}" is not a subject alternative name with its type')
    return text


def parse_statuses(text: str) -> range:
    """Parse `200-399`, or one status."""
    match = re.fullmatch(_STATUSES, text)
    if match is None:
        raise ValueError(f'"{text}" is neither a status nor a range of statuses')
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise ValueError(f"{text} is empty: its start is above its end")
    return range(first, last + 1)


def write_statuses(statuses: range) -> str:
    first, last = statuses[0], statuses[-1]
    return str(first) if first == last else f"{first}-{last}"


def parse_check_path(text: str) -> str:
    """Parse the path of a health check, with or without a query; sent as written."""
    refuse_variables(text)
    if re.fullmatch(r"/[!-~]*", text) is None or "#" in text:
        raise ValueError(f'"{text}" is not a path')
    return text


def parse_realm(text: str) -> str:
    """Validate a realm (RFC 9110 section 11.5) that needs no escaping."""
    if re.fullmatch(r"[ !#-\[\]-~]*", text) is None:
        raise ValueError("a quote, backslash or other character that is not allowed in a realm")
    return text


def parse_host_name(text: str) -> str:
    if re.fullmatch(_HOST, text) is None:
        raise ValueError(f'"{text}" is not a host name')
    return text


def parse_host_header(text: str) -> str:
    """Parse `auto`, `target`, `preserve`, or a literal value of `Host`."""
    refuse_variables(text)
    host, colon, port = ("", "", "") if text.endswith("]") else text.rpartition(":")
    _host(host if colon else text)
    if colon:
        _port(port, 1)
    return text


def parse_tls_name(text: str) -> str:
    """Validate the server name that an upstream is asked for, and that its certificate has."""
    refuse_variables(text)
    _host(text)
    return text


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError as error:
            raise ValueError(f'"{text}" is not an IPv6 address') from error
    if re.fullmatch(_HOST, text) is None:
        raise ValueError(f'"{text}" is not a host')
    if re.fullmatch(r"[0-9.]+", text) is not None:
        try:
            ipaddress.IPv4Address(text)
        except ValueError as error:
            raise ValueError(f'"{text}" is not an IPv4 address') from error
    return text.lower()


def _port(text: str, lowest: int) -> int:
    if re.fullmatch("[0-9]{1,5}", text) is None or not lowest <= int(text) <= 65535:
        raise ValueError(f'"{text}" is not a port')
    return int(text)


def _socket_path(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f'"{text}" is not the absolute path of a unix socket')
    if len(text.encode()) > 107:  # sun_path has 108 bytes, including the closing NUL
        raise ValueError("a unix socket path longer than 107 bytes")
    return text


def _ends_in_slash(base: str) -> bool:
    return base.endswith("/") and bool(base.strip("/"))


def _base_path(text: str) -> str:
    if re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*", text) is None:
        raise ValueError(f'"{text}" is not a valid path prefix')
    try:
        return normalize(text.encode()).decode().rstrip("/") if text else ""
    except Malformed as refusal:
        raise ValueError(f'"{text}" is not a valid path prefix: {refusal.reason}') from refusal


def _written(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$"}


Duration = Annotated[
    float,
    Notation(
        'a duration such as "250ms", "10s", "5m", "1h" or "30d"',
        parse_duration,
        _written(_DURATION),
        write=write_duration,
        unit="s",
    ),
]
Delay = Annotated[
    float,
    Notation(
        'a duration such as "250ms", "10s" or "5m", or 0',
        parse_delay,
        {"anyOf": [_written(_DURATION), {"const": 0}]},
        numbers=range(1),
        write=write_duration,
        unit="s",
    ),
]
AlgorithmName = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA", "Ed25519",
    "HS256", "HS384", "HS512",
]  # fmt: skip
Size = Annotated[
    int,
    Notation(
        'a size such as "32KiB" or "10MB"',
        parse_size,
        {"anyOf": [_written(_SIZE), {"type": "integer", "minimum": 0}]},
        numbers=range(2**64),
        write=write_size,
        unit="B",
    ),
]
ByteRate = Annotated[
    int,
    Notation(
        'a bandwidth such as "1MiB/s"',
        parse_byte_rate,
        _written(f"{_SIZE}/s"),
        write=write_byte_rate,
        unit="B/s",
    ),
]
Percent = Annotated[
    float,
    Notation(
        'a percentage such as "20%"',
        parse_percent,
        _written(_PERCENT),
        write=lambda share: f"{share * 100:.10g}%",
        unit="%",
    ),
]
Statuses = Annotated[
    range,
    Notation('statuses such as "200-399" or "204"', parse_statuses, _written(_STATUSES), write=write_statuses),
]
CertificateSubject = Annotated[
    str, Notation('a subject such as "CN=alice,O=Ex"', parse_subject, {"type": "string", "pattern": _SUBJECT})
]
CertificateName = Annotated[
    str,
    Notation(
        'DNS:…, URI:…, email:… or IP:…, such as "DNS:alice.client"', parse_san, {"type": "string", "pattern": _SAN}
    ),
]
CheckPath = Annotated[str, Notation('a path such as "/healthz"', parse_check_path, {"type": "string"})]
Network = Annotated[
    IPNetwork,
    Notation('a network such as "10.0.0.0/8" or an address', parse_network, {"type": "string"}),
]
ADDRESS: Final = Notation('"host:port", "[ipv6]:port", ":port" or "unix:/path"', parse_address, {"type": "string"})
URL: Final = Notation('a URL such as "http://host:9000", or "unix:/path/of.sock"', parse_url, {"type": "string"})
ListenAddress = Annotated[Address, ADDRESS]
TargetUrl = Annotated[
    Url,
    Notation(
        'a URL such as "http://host:9000", "tcp://host:5432" or "unix:/path/of.sock"',
        parse_target_url,
        {"type": "string"},
    ),
]
EndpointUrl = Annotated[
    Endpoint,
    Notation(
        'a URL such as "https://idp.example/keys", or "unix:/path/of.sock:/keys"',
        parse_endpoint,
        {"type": "string"},
        write=write_endpoint,
    ),
]
Destination = Annotated[
    str | Url,
    Notation("the name of an upstream or a URL", parse_destination, {"type": "string"}),
]
_QUERY: Final = r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*"
QueryText = Annotated[
    str, Notation('a query such as "version=2&lang=de"', parse_query, _written(_QUERY), write=write_query)
]
"""A query as it is sent. Its values are shown as `***`."""
FieldName = Annotated[str, Notation('a header name such as "X-Tenant"', parse_token, _written(_TOKEN))]
Token = Annotated[str, Notation('a name such as "lb"', parse_token, _written(_TOKEN))]
FieldPattern = Annotated[
    str,
    Notation(
        'a header name such as "X-Client-IP", or a prefix such as "X-SSL-*"',
        parse_field_pattern,
        _written(_FIELD_PATTERN),
    ),
]
PlainValue = Annotated[str, Notation("a single-line string without variables", parse_plain_value, {"type": "string"})]
TlsName = Annotated[
    str, Notation('"host_header", or a host name such as "users.internal"', parse_tls_name, {"type": "string"})
]
FieldValue = Annotated[str, Notation("a single-line string", parse_field_value, {"type": "string"})]
Method = Annotated[str, Notation('a method such as "GET"', parse_method, _written(_TOKEN))]
Name = Annotated[str, Notation("a name of letters, digits, `_`, `-`, `.`, `/` and `@`", parse_name, _written(_NAME))]
RouteName = Annotated[
    str,
    Notation(
        "a name without control characters",
        parse_route_name,
        {"type": "string", "minLength": 1, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$"},
    ),
]
Identity = Annotated[
    str, Notation("a name of letters, digits, `_`, `-`, `.`, `/` and `@`", parse_identity, _written(_NAME))
]
Segment = Annotated[
    str,
    Notation(
        "a name of at most 253 letters, digits, `_`, `-` and `.`, starting with a letter or digit",
        parse_segment,
        _written(_SEGMENT),
    ),
]
Username = Annotated[str, Notation("a username without a colon", parse_username, {"type": "string"})]
Sha256 = Annotated[
    bytes, Notation("64 hexadecimal digits", parse_sha256, _written("[0-9A-Fa-f]{64}"), write=lambda _: "***")
]
Fingerprint = Annotated[
    bytes,
    Notation(
        "the SHA-256 fingerprint of a certificate as hexadecimal digits",
        parse_fingerprint,
        {"type": "string"},
        write=lambda digest: digest.hex(":").upper(),
    ),
]
Realm = Annotated[
    str,
    Notation("an ASCII string without quotes", parse_realm, _written(r"[ !#-\[\]-~]*")),
]
Regex = Annotated[str, Notation('an RE2 regular expression such as "^v[0-9]+$"', parse_regex, {"type": "string"})]
RpcService = Annotated[
    str, Notation('a full name such as "package.Service"', parse_rpc_service, _written(_RPC_SERVICE))
]
RpcMethod = Annotated[str, Notation('a name such as "SayHello"', parse_rpc_method, _written(_RPC_METHOD))]
HttpVersion = Annotated[str, Notation('"http1" or "http2"', parse_http_version, {"enum": list(_HTTP_VERSIONS)})]
Protocol = Annotated[str, Notation('a protocol such as "websocket"', parse_protocol, _written(_PROTOCOL))]
HostName = Annotated[str, Notation('a host name such as "users.internal"', parse_host_name, {"type": "string"})]
ServerNamePattern = Annotated[
    str,
    Notation('a server name such as "api.example.com" or "*.example.com"', parse_server_name, {"type": "string"}),
]
CipherName = Annotated[
    str, Notation('a cipher suite such as "ECDHE-RSA-AES128-GCM-SHA256"', parse_cipher, _written("[A-Z0-9-]{1,64}"))
]
AlpnProtocol = Annotated[str, Notation('a protocol such as "h2" or "http/1.1"', parse_alpn, {"type": "string"})]
HostHeader = Annotated[
    str, Notation('"auto", "target", "preserve" or the host to send', parse_host_header, {"type": "string"})
]


RETRY_CONDITIONS: Final = (
    "connect_failure",
    "reset_before_response",
    "reset",
    "per_try_timeout",
    "cancelled",
    "deadline_exceeded",
    "internal",
    "resource_exhausted",
    "unavailable",
)
_STATUS_TO_RETRY: Final = "[4-9][0-9]{2}"


def parse_retry_condition(text: str) -> str:
    """Parse a reason for a retry: a name, or a status of errors. Raises `ValueError`."""
    if text not in RETRY_CONDITIONS and re.fullmatch(_STATUS_TO_RETRY, text) is None:
        raise ValueError(f'"{text}" is not a reason for a retry')
    return text


RetryCondition = Annotated[
    str,
    Notation(
        "one of " + ", ".join(RETRY_CONDITIONS) + ' or a status such as "503"',
        parse_retry_condition,
        {"type": "string", "pattern": f"^({'|'.join(RETRY_CONDITIONS)}|{_STATUS_TO_RETRY})$"},
    ),
]


def parse_relative_path(text: str) -> str:
    """Parse the path of a file relative to a directory that it does not leave. Raises `ValueError`."""
    segments = text.split("/")
    if "\0" in text or any(each in ("", ".", "..") for each in segments):
        raise ValueError(f"{text!r} is not a relative path")
    return text


def parse_base_name(text: str) -> str:
    """Parse the name of a file without a directory. Raises `ValueError`."""
    if "/" in text:
        raise ValueError(f"{text!r} has a slash")
    return parse_relative_path(text)


_ERROR_STATUS: Final = "[45](?:[0-9]{2}|xx)"


def parse_error_status(text: str) -> str:
    """Parse a status of errors or a class of them. Raises `ValueError`."""
    if not re.fullmatch(_ERROR_STATUS, text):
        raise ValueError(f"{text!r} is not a status of errors")
    return text


ErrorStatus = Annotated[
    str, Notation('a status such as "404", or a class such as "5xx"', parse_error_status, _written(_ERROR_STATUS))
]
RelativePath = Annotated[
    str, Notation('a relative path such as "app/index.html"', parse_relative_path, {"type": "string"})
]
BaseName = Annotated[str, Notation('the name of a file such as "index.html"', parse_base_name, {"type": "string"})]


MediaType = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9!#$&^_.+-]+/(\*|(\*\+)?[a-z0-9!#$&^_.+-]+)$",
        max_length=100,
        title="a media type in lower case without parameters",
        examples=["text/html"],
    ),
]


@dataclass(frozen=True)
class FileName:
    """Name of a file, relative to the file that contains it; stored as an absolute path."""

    readable: bool = True
    """Whether it must be readable (else it is created when needed)."""
    words: tuple[str, ...] = ()
    """Words with a special meaning, which are kept as they are."""
    is_directory: bool = False
    """Whether it names a directory."""
    is_schema: bool = False
    """Whether it has a JSON Schema, whose misspelt keywords are noted."""
    is_secret: bool = False
    """Whether it is a private key, which other users must not be able to read."""
    is_network_list: bool = False
    """Whether it lists networks: the file that is derived from it has them in packed form."""


ReadableFile = Annotated[str, FileName()]
KeyFile = Annotated[str, FileName(is_secret=True)]
NetworksFile = Annotated[str, FileName(is_network_list=True)]
SchemaFile = Annotated[str, FileName(is_schema=True)]
LogSink = Annotated[str, FileName(readable=False, words=("stdout",))]
