"""One target of an upstream: its address, its protocol settings, and the connections of this worker to it.

Rule 1: the configuration is evaluated here, before the workers are forked; a request only reads it.
Rule 2: only `pool` changes the counts and queues.
Rule 3: a connection has one server name (SNI). Where it follows the `Host` of requests, a target has a part for each
name, a `Target` of its own with its connections; whatever is known of the target is known by the whole one. Likewise
for the connections over HTTP/1.1 of a target that negotiates the version.
"""

import re
import socket
import ssl
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import ip_address
from math import inf
from typing import Any, Final
from weakref import ref

from fastgw.config.base.value_types import Url
from fastgw.config.settings import gateway as settings
from fastgw.http.http1.tolerance import STRICT, ResponseRules
from fastgw.upstream.targets.dns import Name, TargetAddress
from fastgw.upstream.targets.tls import TargetTls

MOST_STREAMS: Final = 100
"""Maximum number of concurrent streams on an HTTP/2 connection, if the target allows as many."""
MOST_NAMES: Final = 64
"""Maximum number of parts without connections and requests that a target remembers, with their TLS sessions."""
_LOOKED_AT: Final = 8
"""Maximum number of names that are looked at to forget one. Others are in use, and bounded by `pool`."""
_SERVER_NAME: Final = re.compile(r"(?=.{1,253}\Z)(?:[^.]{1,63}\.)*[^.]{1,63}")
_TIMEOUTS: Final = settings.UpstreamTimeouts()
_SETTINGS: Final = (
    *("timeouts", "response_rules", "slot", "counted", "scheme", "host", "port", "label", "base_path", "negotiates"),
    *("minor", "authority", "_own_host", "host_header", "follows_host", "_literal", "_name", "capacity"),
)
"""What a part takes over from its target."""
_NO_PARTS: Final[dict[Any, Any]] = {}
"""Parts of the targets that have none: no entry is ever made."""


class Target:
    """An address of an upstream and, in a worker, the connections to it."""

    def __init__(
        self,
        url: Url,
        host_header: str = "target",
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        resolve_interval: float = 30.0,
        timeouts: settings.UpstreamTimeouts = _TIMEOUTS,
        label: str = "",
        streams: int = 1,
        negotiates: bool = False,
        follows_host: bool = False,
        response_rules: ResponseRules = STRICT,
    ) -> None:
        """`tls`: required for an https URL; for a tcp URL whether TLS is used; ignored for others. `host_header`,
        `server_name`: as configured. `label`: of `labels_of`, if the upstream has several targets. `streams`: expected
        number of concurrent streams per connection. `negotiates`: it selects the version of HTTP by ALPN.
        `follows_host`: connections have the server name of requests, if it uses TLS.
        """
        self.timeouts = timeouts
        self.response_rules = response_rules
        self.slot = 0  # in the node's shared memory
        self.counted = 0  # position of its row of counters there
        self.scheme = url.scheme
        self.host = url.host
        self.port = url.port
        self.label = label or label_of(url)
        self.base_path = url.base_path.encode()
        self.negotiates = negotiates
        self.http1_only = False  # a part whose connections offer HTTP/1.1 alone, with the context of `negotiates`
        self.minor = 1  # HTTP/1 minor version of its last response
        self.authority = url.authority.encode()
        self._own_host = None if follows_host or _gets_clients_host(url, server_name) else self.authority
        self.host_header = self.host_for(host_header)
        self.tls = TargetTls(tls) if tls is not None and (url.tls or url.scheme == "tcp") else None
        # An IP address is verified against the certificate's addresses, and not sent as SNI (RFC 6066 section 3).
        self.server_name = server_name or url.host.rstrip(".")
        self.follows_host = follows_host and self.tls is not None
        self._whole: ref[Target] | None = None  # of a part
        # By server name, and by that and True for HTTP/1.1, the most recently used last. PERF: an empty dict for each
        # of thousands of targets is 64 bytes.
        self._parts: dict[str | tuple[str, bool], Target] = {} if self.follows_host else _NO_PARTS
        address = _literal(url)
        self._literal = [] if address is None else [address]
        self._name = Name(url.host, url.port, resolve_interval) if address is None else None

        self.capacity = streams  # number of streams that its last connection could carry
        self._set_up()

    def _set_up(self) -> None:
        """Begin without connections."""
        # Whether a connection was opened; of a whole target: by the last of its names by which any was.
        self.accepted = False
        self.idle: dict[Any, None] = {}  # idle connections, the most recently used last: taken from the end
        self.shared: dict[Any, None] = {}  # connections that carry some streams and have room for more
        self.places = 0  # connections: opening, lent and idle
        self.opening = 0
        self.waiting: OrderedDict[Any, None] = OrderedDict()  # waiting borrowers, the longest-waiting first
        self.willing: OrderedDict[Any, None] = OrderedDict()  # those of them that accept a used one
        self.logged_at = float("-inf")

    def __repr__(self) -> str:
        return (
            f"<Target {self.label}: {self.places} places, {self.opening} opening, {len(self.idle)} idle, "
            f"{len(self.waiting)} waiting>"
        )

    def host_for(self, setting: str) -> bytes | None:
        """Return the value of `Host` for a setting `host_header`; None: the client's, or `authority` if it has
        sent none.
        """
        match setting:
            case "auto":
                return self._own_host
            case "preserve":
                return None
            case "target":
                return self.authority
        return setting.encode()

    @property
    def literal(self) -> TargetAddress | None:
        """The address, if no lookup is needed; otherwise None."""
        return self._literal[0] if self._literal else None

    async def addresses(self, timeout: float = inf) -> list[TargetAddress]:
        """Return the addresses to connect to, in order of preference. `timeout`: as of `Name.addresses`. Raises
        `ResolveFailed`.
        """
        return self._literal if self._name is None else await self._name.addresses(timeout)

    def has(self, address: TargetAddress) -> bool:
        """Whether this is still an address of the target."""
        return self._name is None or self._name.has(address)

    def watch(self, on_change: Callable[[], None] | None) -> None:
        """Call `on_change` whenever an address was removed, also while there are only open connections. None: no more
        calls.
        """
        if self._name is not None:
            self._name.on_change = on_change
            self._name.is_connected = None if on_change is None else self._has_places

    def _has_places(self) -> bool:
        return self.places > 0 or any(part.places for part in self._parts.values())

    # parts

    @property
    def parts(self) -> Collection["Target"]:
        """The parts for server names that follow requests, and for HTTP/1.1."""
        return self._parts.values()

    @property
    def whole(self) -> "Target":
        """The target that this is a part of, or itself."""
        return self if self._whole is None else self._whole() or self

    def part_for(self, host: bytes) -> "Target":
        """Return the part with the connections for a host: a name or an IP address. Raises `ValueError` if it can be no
        server name.
        """
        name = host.decode("ascii").removeprefix("[").removesuffix("]")
        if name not in self._parts and _SERVER_NAME.fullmatch(name) is None:
            raise ValueError(name)
        part = self._known_part(name, name)
        self.minor, self.capacity = part.minor, part.capacity  # as its last connection was
        return part

    def over_http1(self) -> "Target":
        """Return the part with the connections over HTTP/1.1, if the target negotiates the version; otherwise itself.
        For upgrades, which HTTP/2 does not have.
        """
        if not self.negotiates:
            return self
        whole = self.whole
        if whole._parts is _NO_PARTS:
            whole._parts = {}
        part = whole._known_part((self.server_name, True), self.server_name)
        part.negotiates, part.http1_only, part.capacity = False, True, 1
        self.minor = part.minor
        return part

    def rests_over_http1(self) -> bool:
        """Whether a connection over HTTP/1.1 is idle, and none over HTTP/2 is open: as where HTTP/2 was refused."""
        if self.idle or self.shared:
            return False
        part = self.whole._parts.get((self.server_name, True))
        return part is not None and bool(part.idle)

    def _known_part(self, key: str | tuple[str, bool], name: str) -> "Target":
        """Return the part with this key, which has the server name `name`."""
        part = self._parts.pop(key, None)
        if part is None:
            if len(self._parts) >= MOST_NAMES:
                self._forget_part()
            part = self._part(name)
        self._parts[key] = part
        return part

    def _part(self, name: str) -> "Target":
        part = Target.__new__(Target)
        for field in _SETTINGS:
            setattr(part, field, getattr(self, field))
        part.tls = None if self.tls is None else TargetTls(self.tls.context)
        part.server_name, part._parts, part._whole = name, _NO_PARTS, ref(self)
        part._set_up()
        return part

    def _forget_part(self) -> None:
        """Forget the part that was not used for longest and has no connections, nor requests that wait for one."""
        for _ in range(_LOOKED_AT):
            key = next(iter(self._parts))
            part = self._parts.pop(key)
            if not part.places and not part.waiting:
                return
            self._parts[key] = part

    def avoid(self, address: TargetAddress) -> None:
        """Try this address last until the next lookup, because it did not respond or others were faster."""
        if self._name is not None:
            self._name.avoid(address)

    def stop(self) -> None:
        """Stop lookups."""
        if self._name is not None:
            self._name.stop()


def build_targets(
    upstream: settings.Upstream, tls: ssl.SSLContext | None = None, there: Mapping[Url, Target] = settings.NONE
) -> tuple[Target, ...]:
    """Return the targets of a configured upstream, in file order. `tls`: required if one of them uses TLS.

    `there`: existing targets, which are reused if their name is unchanged.
    """
    made = []
    limits = upstream.response_limits
    is_strict = not upstream.tolerate and limits == settings.ResponseLimits()
    rules = STRICT if is_strict else ResponseRules(upstream.tolerate, limits.header_bytes, limits.header_count)
    for target, label in zip(upstream.targets, labels_of(each.url for each in upstream.targets), strict=True):
        known = there.get(target.url)
        if known is None or known.label != label:
            known = Target(
                target.url,
                upstream.host_header,
                tls,
                upstream.client_tls.fixed_server_name,
                upstream.resolve.interval,
                upstream.timeouts,
                label,
                MOST_STREAMS if may_speak_http2(upstream, target.url) else 1,
                upstream.protocol == "auto" and may_speak_http2(upstream, target.url),
                upstream.client_tls.follows_host,
                rules,
            )
        made.append(known)
    return tuple(made)


def may_speak_http2(upstream: settings.Upstream, url: Url) -> bool:
    """Whether connections to this target may use HTTP/2."""
    if upstream.protocol == "auto":
        return url.tls
    return upstream.protocol in ("http2", "grpc")


def labels_of(urls: Iterable[Url]) -> list[str]:
    """Return the labels of an upstream's targets: their addresses, with their paths if two have the same address."""
    urls = list(urls)
    labels = [label_of(url) for url in urls]
    if len(set(labels)) == len(labels):
        return labels
    often = Counter(labels)
    return [f"{label}{url.base_path}" if often[label] > 1 else label for label, url in zip(labels, urls, strict=True)]


def label_of(url: Url) -> str:
    """Return the address of a target."""
    if url.socket:
        return f"unix:{url.socket}"
    return f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"


def _gets_clients_host(url: Url, server_name: str | None) -> bool:
    """Whether `host_header: auto` sends the client's `Host` to a target. `server_name`: its `tls.server_name`.

    Only a name that is also the one of the certificate and of SNI says what a server is called: virtual hosts of others
    are told apart by it. An address says nothing, and with a `server_name`, also one that follows the requests, the URL
    only says where the server is.
    """
    return not url.tls or server_name is not None or _is_address(url.host)


def _literal(url: Url) -> TargetAddress | None:
    """Return an address that needs no lookup: a unix socket or an IP literal."""
    if url.socket:
        return TargetAddress(socket.AF_UNIX, url.socket)
    if not _is_address(url.host):
        return None
    return TargetAddress(socket.AF_INET6 if ":" in url.host else socket.AF_INET, (url.host, url.port))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
