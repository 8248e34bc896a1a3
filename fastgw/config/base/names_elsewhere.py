"""Names of other products, such as nginx, Traefik, Kong, Envoy, Caddy and KrakenD, or of other settings, and what they
are here.

They are looked up before the nearest name, which for them is a wrong one or none. A value is the name here, or advice:
a text with blanks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_HEADERS: Final = "filters: {{headers: {{{}: {{set: {{NAME: VALUE}}}}}}}}"
_PATHS: Final = 'expected "paths", such as `paths: ["/x/*"]`'
_MATCH: Final = 'expected "hosts", "paths", "methods", "headers" or "query" on the route itself'

KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "Route": {
        **dict.fromkeys(("prefix", "path_prefix", "pathPrefix", "prefixes"), 'expected `paths: ["/x/*"]`'),
        **dict.fromkeys(("location", "uri", "uris", "endpoint", "rule", "url_pattern", "on"), _PATHS),
        **dict.fromkeys(("match", "matches", "matchers"), _MATCH),
        **dict.fromkeys(("service", "to", "backend", "backends", "target", "targets", "url", "cluster"), "upstream"),
        **dict.fromkeys(("proxy", "proxy_pass", "reverse_proxy"), "upstream"),
        **dict.fromkeys(("domains", "host"), "hosts"),
        **dict.fromkeys(("stripPath", "strip_path"), "strip_prefix"),
        **dict.fromkeys(("plugins", "middlewares"), "filters"),
        **dict.fromkeys(
            ("circuit_breaker", "pool", "health_checks", "load_balancing"),
            "expected it in upstreams.NAME, where NAME is the `upstream` of the route",
        ),
        "preserve_host": "expected `host_header: preserve`",
        "handler": 'expected the action itself: "upstream", "redirect", "respond" or "files"',
        "add_headers": f'expected the filter "headers": {_HEADERS.format("response")}, or `request`',
        "request_headers": f'expected the filter "headers": {_HEADERS.format("request")}',
        "response_headers": f'expected the filter "headers": {_HEADERS.format("response")}',
    },
    "PathForwarding": dict.fromkeys(
        ("prefix", "exact", "regex", "type", "value"), 'expected "paths" of the route, such as `paths: ["/x/*"]`'
    ),
    "Config": {
        **dict.fromkeys(("services", "clusters", "backends"), "upstreams"),
        **dict.fromkeys(("servers", "entryPoints", "entrypoints", "frontends"), "listeners"),
        **dict.fromkeys(("error_log", "log_level"), "log"),
        **dict.fromkeys(("plugins", "middlewares"), "filters"),
        "tls": "expected it in listeners.NAME or upstreams.NAME",
    },
    "EgressCredentials": {
        "tls": 'expected "token_tls" for the token endpoint, or "tls" of the service for the API itself'
    },
    "AccessLog": dict.fromkeys(("file", "path"), "sink"),
    "KeyAuth": {
        "keys": "expected them at the consumers: consumers: [{name: NAME, key_auth: [{key: KEY}]}]",
    },
}
"""Unknown keys, by the class of the settings that they stand in."""

_OF_TARGETS: Final = frozenset(("url", "host", "address", "targets", "servers", "name", "port", "scheme"))


def _is_target(value: Any) -> bool:
    """Whether an object describes a destination, and has no shares of upstreams, which are numbers."""
    return isinstance(value, dict) and any(
        key in _OF_TARGETS and not isinstance(each, int | float) for key, each in value.items()
    )


VALUES: Final[Mapping[str, Mapping[str, Sequence[tuple[Callable[[Any], bool], str]]]]] = {
    "Route": {
        "path": [
            (
                lambda value: isinstance(value, str | list),
                'did you mean "paths", a list such as ["/x"]? expected an object with "forward", "encoded_slash" or '
                '"root"',
            )
        ],
        "strip_prefix": [(lambda value: isinstance(value, bool), 'expected the prefix itself, such as "/api"')],
        "upstream": [
            (
                lambda value: isinstance(value, list),
                "expected one destination: several targets belong in upstreams.NAME.targets, and NAME is the "
                "destination",
            ),
            (
                _is_target,
                'expected the URL itself, such as "http://127.0.0.1:9000", or the name of one of `upstreams`, which '
                "has all other settings",
            ),
        ],
    },
}
"""Values of a form that other products have, by class and key: whether a value has it, and the advice."""

MOST_USED: Final[Mapping[str, tuple[str, ...]]] = {
    "Route": (
        *("paths", "upstream", "filters", "methods", "redirect", "respond", "rewrite", "hosts", "strip_prefix"),
        *("headers", "query", "files", "use", "timeout", "retries", "add_prefix"),
    ),
}
"""Keys to name first where none is near, by class."""

_TRANSFORMER: Final = 'expected "headers", "query_parameters" or "transform"'
_OF_ROUTE: Final = "expected `{}` of the route, which is no filter"

FILTERS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("gzip", "brotli", "encode", "compressor"), "compress"),
    "decompressor": "decompress",
    "request-validator": "validate",
    **dict.fromkeys(("jwt_authn", "auth_jwt", "jwt_auth", "jwt-auth", "jwt_validator"), "jwt"),
    **dict.fromkeys(("openid-connect", "openid_connect"), "oidc"),
    **dict.fromkeys(("ext_authz", "auth_request"), "forward_auth"),
    "hmac-auth": "hmac",
    "mtls-auth": "certificate_auth",
    **dict.fromkeys(("request-transformer", "request_transformer"), _TRANSFORMER),
    **dict.fromkeys(("response-transformer", "response_transformer"), 'expected "headers" or "transform"'),
    "response_headers": 'expected "headers" or "transform"',
    "proxy_set_header": "headers",
    **dict.fromkeys(("request_size", "request_body", "request-size-limiting"), "size"),
    "errors": "expected `error_pages`, which is no filter",
    **dict.fromkeys(("allow", "ip-restriction", "ip_restriction", "ipAllowList"), "ip"),
    "limit_req": "rate_limit",
    **dict.fromkeys(("limit_conn", "inFlightReq"), "concurrency"),
    "auth_basic": "basic_auth",
    **dict.fromkeys(("oauth", "oauth2", "bearer", "bearer_auth"), 'expected "jwt", "introspection" or "oidc"'),
    **dict.fromkeys(("api_key", "apikey", "apiKey", "api-key", "key"), "key_auth"),
    **dict.fromkeys(("acl", "rbac", "authorization", "authz"), "authorize"),
    **{
        key: _OF_ROUTE.format(key)
        for key in ("redirect", "rewrite", "strip_prefix", "add_prefix", "timeout", "retries")
    },
    "modsecurity": "waf",
    "grpc-gateway": "grpc_transcode",
    "respond": _OF_ROUTE.format("respond"),
    "aws-lambda": _OF_ROUTE.format("lambda"),
    **dict.fromkeys(("static", "file_server"), _OF_ROUTE.format("files")),
}
"""Types of filters."""


def is_advice(here: str) -> bool:
    """Whether a value of these tables is advice, and no name."""
    return " " in here
