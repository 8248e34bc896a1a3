"""Names of the variables that stand for values of a request: in headers, queries, rewrites, redirects and responses."""

import re
from collections.abc import Collection, Iterator
from typing import Final

from fastgw.config.base.value_types import IN_TEXT
from fastgw.jose import claim_path

FIXED: Final = frozenset(
    (
        *("client_ip", "scheme", "host", "method", "path", "query", "request_id", "listener", "route"),
        *("consumer.name", "consumer.groups", "upstream", "target", "latency", "uuid"),
        *("time.unix", "time.unix_ms", "time.iso"),
        *("tls.version", "tls.cipher", "tls.sni"),
        *("tls.subject", "tls.common_name", "tls.fingerprint", "tls.serial", "tls.issuer"),
        *("tls.client_subject", "tls.client_common_name", "tls.client_fingerprint", "tls.client_serial"),
        "tls.client_issuer",
        *("proxy.alpn", "proxy.authority", "proxy.unique_id", "proxy.tls_version", "proxy.tls_cipher"),
    )
)
"""Variables with a fixed name. Others: `claim.PATH` (or `claims.PATH`), `header.NAME`, `query.NAME`, `cookie.NAME`,
`response_header.NAME`, `map.NAME`, and path parameters, also as `param.NAME`.
"""
OF_UPSTREAMS: Final = frozenset(("upstream", "target"))
"""Variables that only requests to an upstream have."""
MAP_PREFIX: Final = "map."
RESPONSE_PREFIX: Final = "response_header."
CLAIM_PREFIXES: Final = ("claim.", "claims.")
_PARAMETER: Final = "param."
_SOURCE: Final = re.compile(r"query\..+|(?:header|cookie|response_header)\.[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def claim_name(name: str) -> str | None:
    """Return the path of the claim that a variable stands for; None: it is no claim."""
    prefix = next((prefix for prefix in CLAIM_PREFIXES if name.startswith(prefix)), None)
    return None if prefix is None else name.removeprefix(prefix)


def is_variable(name: str) -> bool:
    """Whether a variable exists for every request, unlike a path parameter. Raises `ValueError` for a claim that is no
    path.
    """
    claim = claim_name(name)
    if claim is not None:
        claim_path(claim)
        return True
    return name in FIXED or _SOURCE.fullmatch(name) is not None


def inserted_values(text: str, parameters: Collection[str]) -> Iterator[tuple[re.Match[str], str]]:
    """Yield each part of a `respond` text that stands for a value of the request, and its name: `param.NAME` for a path
    parameter. `parameters`: those that all paths of the route have. Other braces are literal, and so are variables that
    only requests to an upstream have.
    """
    for match in IN_TEXT.finditer(text):
        name = match[1]
        parameter = name.removeprefix(_PARAMETER)
        if parameter in parameters:
            yield match, _PARAMETER + parameter
        elif name.startswith(MAP_PREFIX) or (not is_of_response(name) and _is_valid_variable(name)):
            yield match, name


def is_of_response(name: str) -> bool:
    """Whether a variable is known in responses only."""
    return name in OF_UPSTREAMS or name.startswith(RESPONSE_PREFIX)


def _is_valid_variable(name: str) -> bool:
    try:
        return is_variable(name)
    except ValueError:  # a claim that is no path
        return False
