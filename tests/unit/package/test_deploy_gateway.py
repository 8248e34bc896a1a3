"""The controller in deploy/ by kustomize: Kubernetes takes it, and it fits what fastgw reads. The chart: test_helm."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fastgw.config.kubernetes.cluster import CONTROLLER, INGRESS_CONTROLLER, KINDS
from fastgw.config.kubernetes.ingress import POD_PORTS
from tests.support.manifests import VERSIONS, validate

DEPLOY = Path(__file__).parents[3] / "deploy"
KUSTOMIZE = DEPLOY / "kubernetes-gateway"
MANIFESTS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(KUSTOMIZE.glob("*.yaml"))}
KUSTOMIZATION = MANIFESTS.pop("kustomization.yaml")
OWN_KINDS = {"GatewayClass", "CustomResourceDefinition"}
"""Kinds whose schemas kubernetes-validate does not have."""


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(version: str) -> None:
    for item in MANIFESTS.values():
        if item["kind"] not in OWN_KINDS:
            validate(item, version)


def test_the_kustomization_has_every_file() -> None:
    assert sorted(KUSTOMIZATION["resources"]) == sorted(MANIFESTS)


def test_the_role_permits_exactly_what_is_read_and_written() -> None:
    allowed: dict[tuple[str, str], set[str]] = {}
    for rule in MANIFESTS["clusterrole.yaml"]["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                allowed.setdefault((group, resource), set()).update(rule["verbs"])
    wanted = {(kind.group, kind.plural): {"list", "watch"} for kind in KINDS.values()}
    wanted |= {(kind.group, f"{kind.plural}/status"): {"patch"} for kind in KINDS.values() if kind.status}
    for made in (("", "services"), ("discovery.k8s.io", "endpointslices")):
        wanted[made] = wanted[made] | {"create", "patch"}
    wanted["", "events"] = {"create"}
    assert allowed == wanted


def test_classes_and_ports_are_those_of_the_controller() -> None:
    assert MANIFESTS["gatewayclass.yaml"]["spec"]["controllerName"] == CONTROLLER
    assert MANIFESTS["ingressclass.yaml"]["spec"]["controller"] == INGRESS_CONTROLLER
    (container,) = MANIFESTS["deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    by_name = {port["name"]: port["containerPort"] for port in container["ports"]}
    mapped = {port["port"]: by_name[port["targetPort"]] for port in MANIFESTS["service.yaml"]["spec"]["ports"]}
    assert mapped == POD_PORTS


def test_definitions_name_the_kinds_that_are_watched() -> None:
    for name in ("crd-fastgwpolicies.yaml", "crd-fastgwconsumers.yaml"):
        spec = MANIFESTS[name]["spec"]
        kind = KINDS[spec["names"]["kind"]]
        (version,) = spec["versions"]
        assert (spec["group"], spec["names"]["plural"], version["name"]) == (kind.group, kind.plural, kind.version)
