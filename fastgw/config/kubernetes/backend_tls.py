"""BackendTLSPolicy: TLS to the targets of a Service."""

from dataclasses import dataclass
from typing import Any

from fastgw.config.kubernetes import references
from fastgw.config.kubernetes.cluster import (
    CONTROLLER,
    GATEWAY_GROUP,
    ClusterObject,
    ObjectKey,
    age_of,
    generation_of,
    key_of,
)
from fastgw.config.kubernetes.conditions import condition
from fastgw.config.kubernetes.model import TranslationContext

_PREFIXES = {"Hostname": ("DNS", "hostname"), "URI": ("URI", "uri")}


@dataclass
class TlsPolicy:
    """Policy with its result."""

    item: ClusterObject
    settings: dict[str, Any] | None = None
    """TLS settings of upstreams; None: it is not valid."""
    refused: tuple[str, str] = ("", "")
    """Reason and message why it is not accepted."""
    unresolved: tuple[str, str] = ("", "")
    is_conflicted: bool = False

    @property
    def key(self) -> ObjectKey:
        return key_of(self.item)


def translate(context: TranslationContext) -> None:
    """Read all policies: the oldest for a Service and port name takes precedence."""
    for item in sorted(context.cluster.all("BackendTLSPolicy").values(), key=age_of):
        policy = TlsPolicy(item)
        namespace = policy.key[0]
        id_ = "BackendTLSPolicy", *policy.key
        context.contain(id_, _read, policy, context)
        if id_ in context.failed:
            policy.refused = "Invalid", "it cannot be translated"
        context.policies[policy.key] = policy
        for target in (item.get("spec") or {}).get("targetRefs") or ():
            if target.get("group") or target.get("kind") != "Service":
                continue
            position = namespace, target.get("name") or "", target.get("sectionName") or ""
            if position in context.policy_of:
                policy.is_conflicted = True
                context.conflicted.setdefault(position, []).append(policy)
            else:
                context.policy_of[position] = policy


def policy_for(namespace: str, service: str, port_name: str, context: TranslationContext) -> TlsPolicy | None:
    """Return the policy of a port of a Service: the one for the port by name, else the one for the whole Service."""
    own = context.policy_of.get((namespace, service, port_name)) if port_name else None
    return own or context.policy_of.get((namespace, service, ""))


def _read(policy: TlsPolicy, context: TranslationContext) -> None:
    validation = policy.item["spec"].get("validation") or {}
    namespace, name = policy.key
    settings: dict[str, Any] = {"server_name": validation.get("hostname") or ""}
    asked = validation.get("caCertificateRefs") or []
    if asked:
        text, problem = references.authorities_of(asked, "BackendTLSPolicy", namespace, context, local=True)
        if problem is not None:
            policy.unresolved = problem.reason, str(problem)
        if not text:
            policy.refused = "NoValidCACertificate", policy.unresolved[1]
            return
        settings["ca"] = references.add_authorities(text, namespace, name, "BackendTLSPolicy", context)
    elif validation.get("wellKnownCACertificates") not in (None, "System"):
        policy.refused = "Invalid", "wellKnownCACertificates: expected System"
        return
    names = [
        f"{_PREFIXES[each['type']][0]}:{each[_PREFIXES[each['type']][1]]}"
        for each in validation.get("subjectAltNames") or ()
        if each.get("type") in _PREFIXES
    ]
    if names:
        settings["subject_alt_names"] = names
    policy.settings = settings


def add_statuses(context: TranslationContext) -> None:
    """Add the statuses of the policies, with the Gateways whose routes use them as ancestors."""
    for position, losers in context.conflicted.items():
        holder = context.policy_of[position]
        for loser in losers:
            ancestors = context.policy_ancestors.get(holder.key, set())
            context.policy_ancestors.setdefault(loser.key, set()).update(ancestors)
    for key, policy in context.policies.items():
        gateways = sorted(context.policy_ancestors.get(key, ()))
        generation = generation_of(policy.item)
        reason, message = policy.refused
        if policy.is_conflicted:
            reason, message = "Conflicted", "an older policy has the same target"
        unresolved, why = policy.unresolved
        conditions = [
            condition("Accepted", not reason, reason or "Accepted", generation, message),
            condition("ResolvedRefs", not unresolved, unresolved or "ResolvedRefs", generation, why),
        ]
        context.statuses["BackendTLSPolicy", *key] = {
            "ancestors": [
                {
                    "ancestorRef": {
                        "group": GATEWAY_GROUP,
                        "kind": "Gateway",
                        "namespace": gateway[0],
                        "name": gateway[1],
                    },
                    "controllerName": CONTROLLER,
                    "conditions": conditions,
                }
                for gateway in gateways[:16]
            ]
        }
