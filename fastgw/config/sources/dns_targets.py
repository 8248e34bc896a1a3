"""Targets from DNS, handled like files: looked up when read, and again after an interval.

Rule: results are stored with the files of a configuration (`files.Disk`), so validation, caching and reload treat both
alike. A failed lookup is a file that cannot be read: the previous result stays in use.
"""

import json
import socket
import time
from collections.abc import Container
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from fastgw.config.base.problems import LOOKUPS
from fastgw.config.formats.positions import MissingPackage, SyntaxProblem
from fastgw.config.sources.target_weights import scale_weights

TIMEOUT_S: Final = 5.0
"""Timeout of an SRV lookup, in seconds; other lookups use the timeout of the system's resolver."""
AT_START_S: Final = 10.0
"""Timeout in seconds of all lookups of a reading together, if there are no previous results; lookups beyond it are
skipped.
"""
UNKNOWN: Final = b"[]"
"""Contents of a lookup without any result yet: no targets."""
_FIRST_S: Final = 1.0
_failed: Final[dict[str, tuple[int, float]]] = {}
"""Names whose last lookup failed: the failures in a row, and the time of the next attempt (monotonic seconds)."""


def lookup_name(kind: str, name: str, port: int, scheme: str, interval: float) -> str:
    """Return the name of the virtual file with these targets. `kind`: one of `LOOKUPS`; `port`: for `dns` only."""
    where = f"{name}:{port}" if kind == "dns" else name
    return f"{kind}://{where}?scheme={scheme}&interval={interval:g}"


def is_lookup(name: str) -> bool:
    """Whether a file's name is that of a lookup."""
    scheme, is_url, _ = name.partition("://")
    return bool(is_url) and scheme in LOOKUPS


def turn_of(name: str) -> str:
    """Return a text that changes when the next lookup is due: after the interval; sooner after a failure, with
    exponential backoff."""
    now = time.monotonic()
    if name in _failed:
        failures, due_at = _failed[name]
        return f"{failures + (now >= due_at)} failed"
    return str(int(now / _interval(name)))


def keep_failures(names: Container[str]) -> None:
    """Drop the failures of all other names."""
    for name in [each for each in _failed if each not in names]:
        del _failed[name]


def looked_up(name: str) -> bytes:
    """Return the targets as JSON, sorted so that the order of answers does not matter. Raises `SyntaxProblem`."""
    split = urlsplit(name)
    found = _addresses if split.scheme == "dns" else _services
    try:
        targets = found(split.netloc, _options(name)["scheme"])
        if not targets:
            raise SyntaxProblem(f"{split.netloc} is not a valid target")
    except SyntaxProblem:
        failures = _failed.get(name, (0, 0.0))[0] + 1
        wait = min(_FIRST_S * 2.0 ** min(failures - 1, 30), _interval(name))
        _failed[name] = failures, time.monotonic() + wait
        raise
    _failed.pop(name, None)
    return json.dumps(sorted(targets, key=lambda each: (each.get("priority", 0), each["url"]))).encode()


def _interval(name: str) -> float:
    return float(_options(name)["interval"])


def _options(name: str) -> dict[str, str]:
    return {key: value for key, (value,) in parse_qs(urlsplit(name).query).items()}


def _addresses(where: str, scheme: str) -> list[dict[str, Any]]:
    host, _, port = where.rpartition(":")
    try:
        answers = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (
        OSError,
        UnicodeError,
    ) as error:  # a gaierror is the first of these; the second is raised for an empty or overlong label
        raise SyntaxProblem(f"{host} cannot be resolved: {getattr(error, 'strerror', None) or error}") from error
    addresses = {str(address[0]) for *_, address in answers}
    return [{"url": f"{scheme}://{f'[{each}]' if ':' in each else each}:{port}"} for each in addresses]


def _services(name: str, scheme: str) -> list[dict[str, Any]]:
    try:
        from dns import exception, resolver
    except ImportError as error:
        raise MissingPackage("SRV records need the package dnspython; install fastgw[dns]") from error
    try:
        answers = [*resolver.resolve(name, "SRV", lifetime=TIMEOUT_S)]
    except (exception.DNSException, OSError) as error:
        raise SyntaxProblem(f"{name} cannot be resolved: {error}") from error
    ranks = {priority: rank for rank, priority in enumerate(sorted({each.priority for each in answers}))}
    targets = [
        {
            "url": f"{scheme}://{each.target.to_text(omit_final_dot=True)}:{each.port}",
            "weight": max(each.weight, 1),
            "priority": ranks[each.priority],
        }
        for each in answers
        if each.target.to_text() != "."  # the service is decidedly not available (RFC 2782)
    ]
    scale_weights(targets)
    return targets
