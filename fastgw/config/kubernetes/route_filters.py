"""Filters of HTTPRoutes and GRPCRoutes in the terms of settings."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from fastgw.config.base.route_patterns import parse_plain_path, parse_rewrite, parse_strip_prefix
from fastgw.config.base.value_types import LONGEST_DURATION
from fastgw.config.kubernetes import backends
from fastgw.config.kubernetes.cluster import ClusterObject
from fastgw.config.kubernetes.model import ServedGateway, TranslationContext
from fastgw.http.field_names import WRITTEN_HERE

_UNITS: Final[Mapping[str, float]] = MappingProxyType({"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001})
_IN_PATHS: Final = "/:@!$&'()*+,;=~%"
"""Characters of paths that are not encoded (RFC 3986 section 3.3); `%` is that of an encoded one."""
_DURATION: Final = re.compile(r"([0-9]+)(h|ms|m|s)")


def seconds_of(text: str | None) -> float | None:
    """Return the seconds of a duration of the Gateway API, such as `1m30s`; None: there is none."""
    return None if text is None else sum(int(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))


def duration(seconds: float) -> str:
    """Return a duration in the terms of settings, which have a longest one."""
    return f"{max(1, round(min(seconds, LONGEST_DURATION) * 1000))}ms"


@dataclass
class RouteFilters:
    """Result of the filters of a rule, or of a backend."""

    filters: dict[str, Any] = field(default_factory=dict)
    forwarding: dict[str, Any] = field(default_factory=dict)
    """Settings of routes and variants that change what is forwarded: `host_header`, `rewrite` and so on."""
    redirect: dict[str, Any] | None = None
    unsupported: str = ""
    """Filter that is not supported; "" = none."""
    reason: str = ""
    """Reason why a reference is not resolved; "" = they are."""
    message: str = ""
    use: list[str] = field(default_factory=list)
    """Names of filter sets."""


@dataclass(frozen=True)
class RulePosition:
    """Position of filters: the rule of a route."""

    kind: str
    namespace: str
    context: TranslationContext
    gateway: ServedGateway
    prefix: str = ""
    """Path prefix that the rule matches; "" = it matches others."""
    port: int = 80
    """Port of the listeners, as clients name it."""
    protocol: str = "HTTP"


def read(filters: list[ClusterObject] | None, position: RulePosition) -> RouteFilters:
    """Read the filters of a rule or backend, in order."""
    made = RouteFilters()
    for index, each in enumerate(filters or ()):
        reader = READERS.get(each.get("type", ""))
        if reader is None:
            made.unsupported = made.unsupported or each.get("type", "")
        else:
            reader(each, index, made, position)
    return made


def _edits(said: ClusterObject) -> dict[str, Any]:
    """Return the changes of a header modifier. Connection headers, which the gateway sets, are left out."""
    edits: dict[str, Any] = {}
    for key in ("set", "add"):
        values = {
            each["name"]: each["value"].replace("{", "{{").replace("}", "}}")
            for each in said.get(key) or ()
            if each["name"].lower().encode() not in WRITTEN_HERE
        }
        if values:
            edits[key] = values
    removed = [name for name in said.get("remove") or () if name.lower().encode() not in WRITTEN_HERE]
    if removed:
        edits["remove"] = removed
    return edits


def _modify(side: str, key: str) -> Any:
    def reader(each: ClusterObject, index: int, made: RouteFilters, position: RulePosition) -> None:
        edits = _edits(each.get(key) or {})
        if edits:
            made.filters[f"{side}-headers-{index}"] = {"type": "headers", side: edits}

    return reader


def _mirror(each: ClusterObject, index: int, made: RouteFilters, position: RulePosition) -> None:
    said = each["requestMirror"]
    backend = backends.resolve(
        said["backendRef"],
        position.kind,
        position.namespace,
        position.context,
        gateway=position.gateway,
        protocol="grpc" if position.kind == "GRPCRoute" else "auto",
    )
    if backend.reason:
        made.reason, made.message = backend.reason, backend.message
    if not backend.upstream:
        return
    share = 1.0
    if said.get("percent") is not None:
        share = said["percent"] / 100
    elif said.get("fraction"):
        share = said["fraction"]["numerator"] / (said["fraction"].get("denominator") or 100)
    if share:
        made.filters[f"mirror-{index}"] = {
            "type": "mirror",
            "upstream": backend.upstream,
            "share": f"{min(share, 1.0) * 100:g}%",
        }


def _redirect(each: ClusterObject, index: int, made: RouteFilters, position: RulePosition) -> None:
    said = each.get("requestRedirect") or {}
    redirect: dict[str, Any] = {"status": said.get("statusCode") or 302}
    scheme = said.get("scheme")
    if scheme:
        redirect["scheme"] = scheme
    if said.get("hostname"):
        redirect["host"] = said["hostname"]
    if said.get("port"):
        redirect["port"] = said["port"]
    elif not scheme:
        redirect["port"] = position.port
    path = said.get("path") or {}
    if path.get("type") == "ReplaceFullPath":
        redirect["path"] = _literal(path.get("replaceFullPath") or "/", parse_plain_path, made)
    elif path.get("type") == "ReplacePrefixMatch":
        if position.prefix.strip("/"):
            redirect["strip_prefix"] = _literal(position.prefix, parse_strip_prefix, made)
        redirect["add_prefix"] = _literal(path.get("replacePrefixMatch") or "/", parse_plain_path, made)
    made.redirect = redirect


def _rewrite(each: ClusterObject, index: int, made: RouteFilters, position: RulePosition) -> None:
    said = each.get("urlRewrite") or {}
    if said.get("hostname"):
        made.forwarding["host_header"] = said["hostname"]
    path = said.get("path") or {}
    if path.get("type") == "ReplaceFullPath":
        made.forwarding["rewrite"] = _literal(path.get("replaceFullPath") or "/", parse_rewrite, made)
    elif path.get("type") == "ReplacePrefixMatch":
        if position.prefix.strip("/"):
            made.forwarding["strip_prefix"] = _literal(position.prefix, parse_strip_prefix, made)
        replacement = (path.get("replacePrefixMatch") or "/").rstrip("/")
        if replacement:
            made.forwarding["add_prefix"] = _literal(replacement, parse_plain_path, made)


def _literal(path: str, parse: Callable[[str], object], made: RouteFilters) -> str:
    """Return a path of the Gateway API, which has no parameters, as `parse` takes it; else it is unsupported."""
    literal = quote(path, safe=_IN_PATHS)
    try:
        parse(literal)
    except ValueError:
        made.unsupported = made.unsupported or f"the path {path}"
    return literal


def _cors(each: ClusterObject, index: int, made: RouteFilters, position: RulePosition) -> None:
    said = each.get("cors") or {}
    cors: dict[str, Any] = {"origins": said.get("allowOrigins") or [], "headers": said.get("allowHeaders") or []}
    if said.get("allowMethods"):
        cors["methods"] = said["allowMethods"]
    if said.get("exposeHeaders"):
        cors["expose"] = said["exposeHeaders"]
    if said.get("allowCredentials"):
        cors["credentials"] = True
        if any("*" in cors.get(key, ()) for key in ("origins", "methods", "headers")):
            cors["reflect"] = True
    cors["max_age"] = f"{min(said['maxAge'], LONGEST_DURATION)}s" if said.get("maxAge") else None
    if cors["origins"]:
        made.filters["cors"] = cors


def _extension(each: ClusterObject, index: int, made: RouteFilters, position: RulePosition) -> None:
    reference = each.get("extensionRef") or {}
    name = position.context.filter_set_of(reference, position.namespace)
    if name:
        made.use.append(name)
    else:
        made.unsupported = made.unsupported or "ExtensionRef"


READERS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "RequestHeaderModifier": _modify("request", "requestHeaderModifier"),
        "ResponseHeaderModifier": _modify("response", "responseHeaderModifier"),
        "RequestMirror": _mirror,
        "RequestRedirect": _redirect,
        "URLRewrite": _rewrite,
        "CORS": _cors,
        "ExtensionRef": _extension,
    }
)
