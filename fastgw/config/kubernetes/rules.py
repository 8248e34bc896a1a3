"""Rules of HTTPRoutes and GRPCRoutes become routes: what both kinds have in common."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from fastgw.config.base.route_patterns import REJECTED_METHODS, is_large_regex, parse_path, parse_regex
from fastgw.config.base.value_types import LONGEST_DURATION
from fastgw.config.kubernetes import backends, route_filters
from fastgw.config.kubernetes.attachment import Attachment, add_status_of_failed, attach, isolated
from fastgw.config.kubernetes.backends import Backend
from fastgw.config.kubernetes.cluster import ClusterObject, generation_of, key_of
from fastgw.config.kubernetes.conditions import Condition, condition
from fastgw.config.kubernetes.model import ObjectId, Piece, PortListener, TranslatedRoute, TranslationContext
from fastgw.config.kubernetes.route_filters import RouteFilters, RulePosition, duration, seconds_of

ERROR: Final = {"respond": {"status": 500}}
"""Action of requests without a backend (Gateway API)."""
_MOST_RETRIES: Final = 10


@dataclass
class RuleMatch:
    """Conditions of a rule, in the terms of routes. A request meets them on one of the paths."""

    conditions: dict[str, Any]
    rank: int
    paths: list[str] = field(default_factory=list)
    """Paths of the match, one or more."""
    prefix: str = ""
    """Path prefix that is matched; "" = the paths are others."""


Matches = Callable[[ClusterObject], list[RuleMatch]]
"""Returns the conditions of a rule."""


@dataclass
class ListenerGroup:
    """Listeners on which a route is the same."""

    hosts: tuple[str, ...]
    entries: list[PortListener]


@dataclass
class _Problems:
    """Problems of the references and filters of a route, the first of each."""

    reason: str = ""
    message: str = ""
    unsupported: str = ""

    def add(self, reason: str, message: str) -> None:
        if reason and not self.reason:
            self.reason, self.message = reason, message


def translate(kind: str, matches: Matches, context: TranslationContext) -> None:
    """Add the routes and statuses of all routes of a kind."""
    memo = context.memo
    for item in context.cluster.oldest_first(kind):
        id_ = kind, *key_of(item)
        conflicts = context.conflicts.get(id_, {})
        made = memo.find(id_, item, conflicts)
        if made is None:
            made = context.contain(id_, _translated, item, kind, matches, context)
            memo.translated_count += 1
        if made is None:
            add_status_of_failed(id_, item, context)
            continue
        memo.store(id_, item, conflicts, made)
        _add(id_, made, context)


def _add(id_: ObjectId, made: TranslatedRoute, context: TranslationContext) -> None:
    if made.piece is not None:
        context.pieces.append(made.piece)
    context.statuses[id_] = made.status
    for listener in made.attached:
        context.listeners_by_id[listener].attached += 1
    for name in made.upstreams:
        backends.add_upstream(name, context)
    for policy, gateway in made.policies:
        context.policy_ancestors.setdefault(policy, set()).add(gateway)


def _translated(item: ClusterObject, kind: str, matches: Matches, context: TranslationContext) -> TranslatedRoute:
    namespace, name = key_of(item)
    context.used_upstreams, context.used_policies = [], []
    attachments = attach(item, kind, context)
    if not attachments:
        return TranslatedRoute(None, {"parents": []}, (), (), ())
    problems = _Problems()
    routes: list[dict[str, Any]] = []
    sets: dict[str, Any] = {}
    groups = _groups(attachments, context)
    for number, group in enumerate(groups):
        behind = f"/{number}" if len(groups) > 1 else ""
        rule_maker = _RuleMaker(kind, item, group, context, problems, sets)
        for index, rule in enumerate((item.get("spec") or {}).get("rules") or ()):
            called = f"{kind}/{namespace}/{name}/{_rule_name(rule, index)}"
            routes += rule_maker.routes_of(rule, called, behind, matches)
    if not groups:
        _check_references(item, kind, context, problems)
    others = _conditions(problems, generation_of(item))
    return TranslatedRoute(
        Piece(f"{kind}/{namespace}/{name}", routes=routes, filter_sets=sets) if routes else None,
        {"parents": [each.status(*others) for each in attachments]},
        tuple(dict.fromkeys(each.id for at in attachments for each in at.listeners)),
        tuple(dict.fromkeys(context.used_upstreams)),
        tuple(dict.fromkeys(context.used_policies)),
    )


def _rule_name(rule: ClusterObject, index: int) -> str:
    """Return the name of a rule, or its index."""
    return marked_name(rule.get("name") or "") or str(index)


def marked_name(name: str) -> str:
    """Return the name of a rule in names of routes: one that could be the index of another rule is marked."""
    return f"@{name}" if name.isdigit() else name


def _conditions(problems: _Problems, generation: int) -> list[Condition]:
    found = [
        condition("ResolvedRefs", not problems.reason, problems.reason or "ResolvedRefs", generation, problems.message)
    ]
    if problems.unsupported:
        message = f"{problems.unsupported} is not supported: its rule or match does not forward requests"
        found.append(condition("PartiallyInvalid", True, "UnsupportedValue", generation, message))
    return found


def _groups(attachments: list[Attachment], context: TranslationContext) -> list[ListenerGroup]:
    hosts: dict[str, dict[str, None]] = {}
    everywhere: set[str] = set()
    for attachment in attachments:
        for position, listener in enumerate(attachment.listeners):
            if not listener.entry or not listener.is_valid:
                continue
            served = isolated(listener, attachment.hosts[position])
            if served is None:
                continue
            hosts.setdefault(listener.entry, {}).update(dict.fromkeys(served))
            if not served:
                everywhere.add(listener.entry)
    groups: dict[tuple[Any, ...], ListenerGroup] = {}
    for name, found in hosts.items():
        entry = context.entries[name]
        names = () if name in everywhere else tuple(sorted(found))
        gateway = entry.gateway
        key = names, gateway.key if gateway.client_certificate is not None else None, entry.port
        groups.setdefault(key, ListenerGroup(names, [])).entries.append(entry)
    return list(groups.values())


def _check_references(item: ClusterObject, kind: str, context: TranslationContext, problems: _Problems) -> None:
    """Check the backends of a route that is served nowhere."""
    for rule in (item.get("spec") or {}).get("rules") or ():
        for reference in rule.get("backendRefs") or ():
            backend = backends.resolve(reference, kind, item["metadata"]["namespace"], context)
            problems.add(backend.reason, backend.message)


@dataclass
class _RuleMaker:
    """Makes the routes of the rules of one route on one group of listeners."""

    kind: str
    item: ClusterObject
    group: ListenerGroup
    context: TranslationContext
    problems: _Problems
    sets: dict[str, Any]

    def routes_of(self, rule: ClusterObject, name: str, behind: str, matches: Matches) -> Iterator[dict[str, Any]]:
        entry = self.group.entries[0]
        found = matches(rule)
        for number, match in enumerate(found):
            paths, unsupported = _usable_paths(match)
            self.problems.unsupported = self.problems.unsupported or unsupported
            if not paths:
                continue
            position = RulePosition(
                self.kind,
                self.item["metadata"]["namespace"],
                self.context,
                entry.gateway,
                match.prefix,
                entry.port,
                entry.protocol,
            )
            route: dict[str, Any] = {
                "name": f"{name}{f'/{number}' if len(found) > 1 else ''}{behind}",
                "listeners": [each.name for each in self.group.entries],
                **match.conditions,
                "rank": match.rank,
                "paths": paths,
            }
            if self.group.hosts:
                route["hosts"] = list(self.group.hosts)
            route.update(self._action(rule, position, f"{name}{behind}"))
            yield route

    def _action(self, rule: ClusterObject, position: RulePosition, name: str) -> dict[str, Any]:
        """Return what a route does, with its filters."""
        made = route_filters.read(rule.get("filters"), position)
        self._note(made)
        if made.unsupported:
            return ERROR
        action: dict[str, Any] = {}
        if made.filters:
            action["filters"] = made.filters
        if made.use:
            action["use"] = made.use
        if made.redirect is not None:
            return {**action, "redirect": made.redirect}
        forwarding = self._forwarding(rule, position, name, made)
        if "respond" in forwarding:
            return {**action, **forwarding}
        if "variants" not in forwarding:
            action.update(made.forwarding)
        return {**action, **forwarding, **_policies(rule)}

    def _note(self, made: RouteFilters) -> None:
        self.problems.add(made.reason, made.message)
        self.problems.unsupported = self.problems.unsupported or made.unsupported

    def _forwarding(self, rule: ClusterObject, position: RulePosition, name: str, made: RouteFilters) -> dict[str, Any]:
        """Return the upstreams of a rule: one, several with shares, or variants if they differ in more."""
        found: list[tuple[Backend, RouteFilters]] = []
        protocol = "grpc" if self.kind == "GRPCRoute" else "auto"
        for reference in rule.get("backendRefs") or ():
            backend = backends.resolve(
                reference, self.kind, position.namespace, self.context, protocol=protocol, gateway=position.gateway
            )
            self.problems.add(backend.reason, backend.message)
            own = route_filters.read(reference.get("filters"), position)
            self._note(own)
            found.append((backend, own))
        weighted = [each for each in found if each[0].weight]
        usable = [each for each in weighted if each[0].upstream and not each[1].unsupported]
        if not usable:
            return ERROR
        plain = not any(own.filters or own.forwarding or own.redirect or own.use for _, own in usable)
        if plain and len(usable) == len(weighted):
            shares = backends.shares((backend.upstream, backend.weight) for backend, _ in usable)
            if len(shares) == 1:
                return {"upstream": next(iter(shares))}
            return {"upstream": shares, "split": {"by": "request"}}
        variants = [self._variant(backend, own, f"{name}.{at}", made) for at, (backend, own) in enumerate(weighted)]
        return {"variants": variants, "split": {"by": "request"}} if len(variants) > 1 else {"variants": variants}

    def _variant(self, backend: Backend, own: RouteFilters, name: str, made: RouteFilters) -> dict[str, Any]:
        if not backend.upstream or own.unsupported:
            return {"weight": backend.weight, **ERROR}
        if own.redirect is not None:
            return {"weight": backend.weight, "redirect": own.redirect}
        variant: dict[str, Any] = {"weight": backend.weight, "upstream": backend.upstream}
        variant.update(made.forwarding)
        variant.update(own.forwarding)
        use = list(own.use)
        if own.filters:
            self.sets[name] = own.filters
            use.append(name)
        if use:
            variant["use"] = use
        return variant


def _usable_paths(match: RuleMatch) -> tuple[list[str], str]:
    """Return the paths on which a request can meet the conditions, and what no request can meet; "" = nothing."""
    for method in match.conditions.get("methods", ()):
        if method in REJECTED_METHODS:
            return [], f"the method {method}"
    for each in (*match.conditions.get("headers", {}).values(), *match.conditions.get("query", {}).values()):
        if isinstance(each, dict) and not _is_regex(each["regex"]):
            return [], f"the regular expression {each['regex']}"
    problems = {path: _path_problem(path) for path in match.paths}
    return [path for path, why in problems.items() if not why], next(filter(None, problems.values()), "")


def _path_problem(path: str) -> str:
    """Return what no request can match; "" = nothing."""
    if path.startswith("~"):
        return "" if _is_regex(path[1:]) else f"the regular expression {path[1:]}"
    try:
        parse_path(path)
    except ValueError:
        return f"the path {path}"
    return ""


@lru_cache(maxsize=4096)
def _is_regex(text: str) -> bool:
    if is_large_regex(text):
        return False
    try:
        parse_regex(text)
    except ValueError:
        return False
    return True


def _policies(rule: ClusterObject) -> dict[str, Any]:
    """Return the timeouts and retries of a rule."""
    settings: dict[str, Any] = {}
    timeouts = rule.get("timeouts") or {}
    whole, each = seconds_of(timeouts.get("request")), seconds_of(timeouts.get("backendRequest"))
    if whole:
        settings["timeout"] = duration(whole)
    if each is not None or whole is not None:
        settings["timeouts"] = {"response_headers": duration(each or whole or LONGEST_DURATION)}  # 0 disables a timeout
    retry = rule.get("retry")
    if retry is not None:
        conditions = ["connect_failure", "reset_before_response", "reset"]
        conditions += ["per_try_timeout"] if each else []
        conditions += sorted({str(code) for code in retry.get("codes") or ()})
        attempts = 1 if retry.get("attempts") is None else retry["attempts"]
        # Clients of the Gateway API expect 503 when no attempt got a response, as other gateways answer.
        settings["fallback"] = {"conditions": ["broken"], "respond": {"status": 503}}
        settings["retries"] = {"max": min(attempts, _MOST_RETRIES), "conditions": conditions}
        backoff = seconds_of(retry.get("backoff"))
        if backoff:
            settings["retries"]["backoff"] = {"base": duration(backoff), "max": duration(max(backoff * 8, backoff))}
    return settings
