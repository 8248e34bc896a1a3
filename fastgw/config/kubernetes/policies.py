"""FastgwPolicy and FastgwConsumer: filters and API consumers as objects of tenants.

A policy is a filter set that the routes of its targets use; for a Gateway, filters of its listeners. Tenants may use
the filters of `ALLOWED` only, without the settings of `OPERATOR_ONLY`: they neither read files nor environment
variables of the gateway, import nothing, start no processes of their own, and name no address of the gateway's own
machine or link. A policy that is refused here has a piece that says so; it is treated like one that the configuration
refuses (`provider`): it takes its routes with it.
"""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec.structs import replace

from fastgw.config.base.problems import suggest
from fastgw.config.base.route_patterns import is_large_regex
from fastgw.config.base.value_types import parse_endpoint
from fastgw.config.kubernetes.cluster import CONTROLLER, GATEWAY_GROUP, ClusterObject, generation_of, key_of
from fastgw.config.kubernetes.conditions import condition
from fastgw.config.kubernetes.model import Piece, TranslationContext, id_in
from fastgw.config.kubernetes.rules import marked_name
from fastgw.config.kyma.names import why_not_there
from fastgw.config.sources.virtual_files import cluster_name

POLICY: Final = "FastgwPolicy"
CONSUMER: Final = "FastgwConsumer"
ALLOWED: Final = frozenset(
    (
        *("auth", "authorize", "bandwidth", "basic_auth", "compress", "concurrency", "cors", "decompress", "fault"),
        *("graphql", "headers", "hmac", "https_redirect", "introspection", "ip", "jwt", "key_auth", "quota"),
        *("rate_limit", "request_id", "response_urls", "security_headers", "size", "target_errors", "transform"),
        *("validate", "waf", "websocket"),
    )
)
"""Filters that tenants may use: those that neither name upstreams nor files, nor keep anything for other tenants."""
OPERATOR_ONLY: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {"waf": {"crs": "it names a directory of the gateway, and each combination of its settings starts processes"}}
)
"""Settings of these filters that tenants may not use, with the reasons. Helper processes of other filters are shared by
all their uses."""
_SOURCES: Final = frozenset(("env", "file", "vault", "credential"))
"""Members of an object that stand for a value from somewhere else."""
_REGEXES: Final = frozenset(("matches", "pattern", "regex"))
"""Members of filters whose texts are regular expressions."""
TARGETS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Gateway": GATEWAY_GROUP,
        "GRPCRoute": GATEWAY_GROUP,
        "HTTPRoute": GATEWAY_GROUP,
        "Ingress": "networking.k8s.io",
    }
)
"""Groups of the kinds that policies may be for."""
MOST_NESTED: Final = 32
"""Maximum levels of nested values in an object of a tenant."""
_CONSUMER_KEYS: Final = frozenset(("groups", "key_auth", "basic_auth", "hmac", "jwt", "certificates"))


class PolicyRefused(Exception):
    """An object that a tenant may not have. The text is for its owner."""


def translate(context: TranslationContext) -> None:
    """Add the filter sets of policies, and the consumers."""
    for item in context.cluster.oldest_first(POLICY):
        id_ = POLICY, *key_of(item)
        set_name = context.filter_sets[id_] = "/".join(id_)
        context.contain(id_, _add_filters, item, set_name, context)
        if id_ in context.failed:  # its routes answer 500
            context.add_piece(set_name, filter_sets={set_name: {}})
    for item in context.cluster.oldest_first(CONSUMER):
        context.contain((CONSUMER, *key_of(item)), _add_consumer, item, context)


def _add_filters(item: ClusterObject, set_name: str, context: TranslationContext) -> None:
    spec = item.get("spec") or {}
    filters = {**(spec.get("filters") or {})}
    problem = ""
    try:
        _check_sections(spec.get("targetRefs") or (), key_of(item)[0], context)
        check_filters(filters)
    except PolicyRefused as error:
        filters, problem = {}, str(error)
    context.add_piece(set_name, filter_sets={set_name: filters}, problem=problem)


def _check_sections(references: Sequence[ClusterObject], namespace: str, context: TranslationContext) -> None:
    """Refuse a policy for a listener of a Gateway that shares its port, and with it the filters, with others of it."""
    for index, reference in enumerate(references):
        section = reference.get("sectionName")
        if reference.get("kind") != "Gateway" or not section:
            continue
        own = context.listeners_of("Gateway", (namespace, str(reference.get("name")))) or ()
        entries = {each.entry for each in own if each.name == section and each.entry}
        if others := [each.name for each in own if each.entry in entries and each.name != section]:
            raise PolicyRefused(
                f"spec.targetRefs[{index}].sectionName: the listener {section} shares its port with "
                f"{', '.join(others)}; leave it out, or name the routes instead"
            )


def check_filters(filters: dict[str, Any], where: str = "spec.filters", nested: int = 0) -> None:
    """Check the filters of a policy, which stand at `where`. `nested`: levels of values around them. Raises
    `PolicyRefused`.
    """
    if not filters:
        raise PolicyRefused(f"{where} is empty")
    for name, settings in filters.items():
        if not isinstance(settings, dict):
            raise PolicyRefused(f"{where}.{name}: expected an object")
        kind = settings.get("type", name)
        if not isinstance(kind, str):
            raise PolicyRefused(f"{where}.{name}.type: expected the name of a filter")
        if kind not in ALLOWED:
            raise PolicyRefused(
                f"{where}.{name}: the filter {kind} is not one of those that policies may use; {suggest(kind, ALLOWED)}"
            )
        for setting, why in OPERATOR_ONLY.get(kind, {}).items():
            if settings.get(setting) is not None:
                raise PolicyRefused(f"{where}.{name}.{setting}: a policy may not use it: {why}")
        _check_values(settings, f"{where}.{name}", nested)


def _check_values(value: Any, where: str, nested: int) -> None:
    _check_nesting(where, nested)
    if isinstance(value, dict):
        if sources := _SOURCES.intersection(value):
            raise PolicyRefused(f"{where}: a policy may not read {min(sources)}")
        for key, held in value.items():
            if key in _REGEXES and isinstance(held, str) and is_large_regex(held):
                raise PolicyRefused(f"{where}.{key}: the regular expression is too large")
            if key in ("any_of", "all_of") and isinstance(held, list):
                for index, each in enumerate(held):
                    if isinstance(each, dict):
                        check_filters(each, f"{where}.{key}[{index}]", nested + 1)
                    else:
                        _check_values(each, f"{where}.{key}[{index}]", nested + 1)
                continue
            _check_values(held, f"{where}.{key}", nested + 1)
    elif isinstance(value, list):
        for index, held in enumerate(value):
            _check_values(held, f"{where}[{index}]", nested + 1)
    elif isinstance(value, str):
        _check_text(value, where)


def _check_nesting(where: str, nested: int) -> None:
    if nested > MOST_NESTED:
        raise PolicyRefused(f"{where}: expected at most {MOST_NESTED} levels of nested values")


def _check_text(text: str, where: str) -> None:
    """Check a text that may be a URL: exactly those that the settings would accept are checked."""
    try:
        url = parse_endpoint(text).origin
    except ValueError:
        return  # no URL, or one that is reported when the settings are read
    if url.socket:
        raise PolicyRefused(f"{where}: a policy may not name a socket of the gateway's machine")
    if why := why_not_there(url):
        raise PolicyRefused(f"{where}: {why}")


# targets


def attach(context: TranslationContext) -> None:
    """Let the routes and listeners of their targets use the policies. All routes and listeners have been added. A
    defect here is not contained: without their policies, routes would be served unprotected.
    """
    by_object: dict[str, list[int]] = {}
    for index, piece in enumerate(context.pieces):
        by_object.setdefault(piece.object, []).append(index)
    for item in context.cluster.oldest_first(POLICY):
        namespace, name = key_of(item)
        set_name = context.filter_sets[POLICY, namespace, name]
        ancestors = [
            _ancestor(item, reference, set_name, by_object, context)
            for reference in (item.get("spec") or {}).get("targetRefs") or ()
            if not context.elsewhere.has(id_in(reference, namespace))
        ]
        context.statuses[POLICY, namespace, name] = {"ancestors": ancestors}


def _ancestor(
    item: ClusterObject,
    reference: ClusterObject,
    set_name: str,
    by_object: Mapping[str, Sequence[int]],
    context: TranslationContext,
) -> dict[str, Any]:
    """Attach a policy to one target, and return the entry of its status. `by_object`: indexes of the pieces, which are
    replaced, because they are reused in the next translation.
    """
    namespace = key_of(item)[0]
    kind, name, section = reference.get("kind", ""), reference.get("name", ""), reference.get("sectionName")
    reason, message = "", ""
    pieces, targets = context.pieces, by_object.get(f"{kind}/{namespace}/{name}", ())
    rules = {_rule_of(route, pieces[index]) for index in targets for route in pieces[index].routes}
    if section and marked_name(section) in rules:
        section = marked_name(section)
    if kind not in TARGETS:
        reason, message = "Invalid", f"the target has kind {kind}; expected one of {', '.join(TARGETS)}"
    elif reference.get("group") != TARGETS[kind]:
        reason, message = "Invalid", f'the target has group "{reference.get("group", "")}"; expected {TARGETS[kind]}'
    elif not rules and not any(pieces[index].listeners for index in targets):
        reason, message = "TargetNotFound", f"no {kind} {name} is served in this namespace"
    elif kind == "Gateway" and section:
        own = context.listeners_of(kind, (namespace, name)) or ()
        entries = {each.entry for each in own if each.name == section}
        targets = [index for index in targets if not entries.isdisjoint(pieces[index].listeners)]
        section = None
        if not targets:
            names = ", ".join(each.name for each in own)
            reason = "TargetNotFound"
            message = f"the Gateway {name} serves no listener {reference['sectionName']}; it has {names}"
    elif section and rules and section not in rules:
        has = ", ".join(sorted(rule.removeprefix("@") for rule in rules))
        reason, message = "TargetNotFound", f"the {kind} {name} has no rule {section}; it has {has}"
    for index in targets if not reason else ():
        pieces[index] = _with_policy(pieces[index], section, set_name)
    return {
        "ancestorRef": reference,
        "controllerName": CONTROLLER,
        "conditions": [condition("Accepted", not reason, reason or "Accepted", generation_of(item), message)],
    }


def _rule_of(route: Mapping[str, Any], piece: Piece) -> str:
    """Return the name or number of the rule that a route was made from."""
    return str(route["name"]).removeprefix(f"{piece.object}/").partition("/")[0]


def _with_policy(piece: Piece, section: str | None, set_name: str) -> Piece:
    """Return a piece whose listeners, and routes of a rule (None: of all), use a filter set."""

    def used(route: dict[str, Any]) -> dict[str, Any]:
        is_meant = section is None or section == _rule_of(route, piece)
        return {**route, "use": [*route.get("use", ()), set_name]} if is_meant else route

    policies = {listener: [*piece.policies.get(listener, ()), set_name] for listener in piece.listeners}
    return replace(piece, routes=[used(route) for route in piece.routes], policies=policies)


# consumers


def _add_consumer(item: ClusterObject, context: TranslationContext) -> None:
    namespace, name = key_of(item)
    of = f"{CONSUMER}/{namespace}/{name}"
    try:
        files: dict[str, str] = {}
        spec = {**(item.get("spec") or {})}
        if unknown := spec.keys() - _CONSUMER_KEYS:
            raise PolicyRefused(f"spec.{min(unknown)} is unknown; expected one of {', '.join(sorted(_CONSUMER_KEYS))}")
        settings = _with_secrets(spec, "spec", namespace, context, files)
        if not context.settings.shares_consumers_of(namespace):
            settings["namespace"] = namespace
        context.add_piece(of, consumers=[{"name": f"{namespace}.{name}", **settings}], files=files)
    except PolicyRefused as error:
        context.add_piece(of, problem=str(error))
    accepted = condition("Accepted", True, "Accepted", generation_of(item))
    context.statuses[CONSUMER, namespace, name] = {"conditions": [accepted]}


def _with_secrets(
    value: Any, where: str, namespace: str, context: TranslationContext, files: dict[str, str], nested: int = 0
) -> Any:
    """Return settings with `{secret: {name: …, key: …}}` replaced by derived files. Raises `PolicyRefused`."""
    _check_nesting(where, nested)
    inner = nested + 1
    if isinstance(value, list):
        return [
            _with_secrets(each, f"{where}[{at}]", namespace, context, files, inner) for at, each in enumerate(value)
        ]
    if not isinstance(value, dict):
        return value
    if sources := _SOURCES.intersection(value):
        raise PolicyRefused(f"{where}: a consumer may not read {min(sources)}")
    if value.keys() == {"secret"} and isinstance(value["secret"], dict):
        said = value["secret"]
        file = cluster_name("Secret", namespace, str(said.get("name")), str(said.get("key")))
        files[file] = _secret_text(said, where, namespace, context)
        return {"file": file}
    return {key: _with_secrets(each, f"{where}.{key}", namespace, context, files, inner) for key, each in value.items()}


def _secret_text(said: ClusterObject, where: str, namespace: str, context: TranslationContext) -> str:
    name, key = str(said.get("name")), str(said.get("key"))
    item = context.cluster.get("Secret", namespace, name)
    if item is None:
        raise PolicyRefused(f"{where}: the Secret {namespace}/{name} does not exist")
    encoded = (item.get("data") or {}).get(key)
    if not isinstance(encoded, str):
        raise PolicyRefused(f"{where}: the Secret {namespace}/{name} has no key {key}")
    try:
        return b64decode(encoded, validate=True).decode("latin-1")
    except ValueError as error:
        raise PolicyRefused(f"{where}: the Secret {namespace}/{name} is malformed") from error
