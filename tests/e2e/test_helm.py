"""The chart as Helm renders it: the same objects as by kustomize, and what its values change."""

from __future__ import annotations

import subprocess
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastgw.config import load_text
from fastgw.filters import TYPES
from tests.support.forked import FASTGW
from tests.support.manifests import VERSIONS, validate
from tests.unit.package.test_deploy_gateway import DEPLOY, MANIFESTS, OWN_KINDS

CHART = DEPLOY / "helm" / "fastgw"
HELM = Path(FASTGW).parent.parent / "helm" / "bin" / "helm"
Item = dict[str, Any]


def helm(*arguments: str) -> str:
    if not HELM.exists():
        pytest.fail(f"helm is not installed: make {HELM.relative_to(Path.cwd())}")
    done = subprocess.run([HELM, *arguments], capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def rendered(*values: str) -> dict[str, Item]:
    """Return the objects by kind, in small letters. `values`: as for `--set-json`."""
    settings = [argument for each in values for argument in ("--set-json", each)]
    text = helm("template", "fastgw", str(CHART), "--namespace", "fastgw-system", *settings)
    made = [*yaml.safe_load_all(text)]
    assert len(made) == len({each["kind"] for each in made})
    return {each["kind"].lower(): each for each in made}


def gateway_file(made: dict[str, Item]) -> Any:
    text = made["configmap"]["data"]["gateway.yaml"]
    own = {
        "/run/secrets/kubernetes.io/serviceaccount/token": b"",
        "/run/secrets/kubernetes.io/serviceaccount/ca.crt": b"",
    }
    load_text(text.encode(), "/etc/fastgw/gateway.yaml", TYPES, instead=own)
    return yaml.safe_load(text)


def pods_of(made: dict[str, Item]) -> Any:
    return made["deployment"]["spec"]["template"]["spec"]


def test_helm_finds_no_fault_in_the_chart() -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_by_default_it_has_the_objects_of_kustomize() -> None:
    """Images, and the namespace, which Helm makes, aside."""
    made = rendered()
    wanted = {name.removesuffix(".yaml"): each for name, each in MANIFESTS.items() if not name.startswith("crd-")}
    del wanted["namespace"]
    assert made.keys() == wanted.keys()
    for name, item in made.items():
        if name == "deployment":
            (ours,), (theirs,) = pods_of(made)["containers"], pods_of(wanted)["containers"]
            assert (ours["image"], theirs["image"]) == ("registry.example/fastgw:latest", "fastgw")
            ours["image"] = theirs["image"]
            del item["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        if name == "configmap":
            assert gateway_file(made) == gateway_file(wanted)
        else:
            assert item == wanted[name], name
    definitions = {path.name: yaml.safe_load(path.read_text()) for path in (CHART / "crds").glob("*.yaml")}
    assert definitions == {name.removeprefix("crd-"): MANIFESTS[name] for name in MANIFESTS if name.startswith("crd-")}


def test_values_change_what_clusters_differ_in() -> None:
    made = rendered(
        'service.annotations={"example.com/load-balancer-type": "network"}',
        'settings={"access_logs": [], "state": {"url": "redis://redis:6379/0"}}',
        'settings.limits={"connections": 1000}',
        'env=[{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "word", "key": "word"}}}]',
        'pod={"nodeSelector": {"edge": "yes"}, "imagePullSecrets": [{"name": "registry"}]}',
        'autoscaling.requestsInFlight=""',
    )
    for version in VERSIONS:
        for each in made.values():
            if each["kind"] not in OWN_KINDS:
                validate(each, version)
    assert made["service"]["metadata"]["annotations"] == {"example.com/load-balancer-type": "network"}
    file = gateway_file(made)
    assert (file["access_logs"], file["limits"]) == ([], {"connections": 1000})
    assert file["status"] == {"address": "0.0.0.0:9902"}
    pods = pods_of(made)
    assert pods["nodeSelector"] == {"edge": "yes"}
    assert pods["imagePullSecrets"] == [{"name": "registry"}]
    assert [each["name"] for each in pods["containers"][0]["env"]] == ["WORD"]
    assert [each["type"] for each in made["horizontalpodautoscaler"]["spec"]["metrics"]] == ["Resource"]


def test_pods_are_replaced_when_their_file_changes_and_not_otherwise() -> None:
    """Pods read the file at their start."""

    def template(*values: str) -> Any:
        return rendered(*values)["deployment"]["spec"]["template"]

    def checksum(made: Any) -> str:
        return str(made["metadata"]["annotations"]["checksum/config"])

    before = template('service.type="LoadBalancer"')
    assert template('service.type="NodePort"') == before
    for change in ('settings.limits={"connections": 1000}', 'ingressClass="other"', 'sharedConsumers=["infra"]'):
        after = template(change)
        assert checksum(after) != checksum(before)
        assert after["spec"] == before["spec"]


def permitted(*roles: Item) -> set[tuple[str, str, str]]:
    rules = [rule for role in roles for rule in role["rules"]]
    return {each for rule in rules for each in product(rule["apiGroups"], rule["resources"], rule["verbs"])}


def test_with_namespaces_only_their_roles_permit_to_read_secrets() -> None:
    """Together with the role for what is in no namespace, they permit what the default role does, and no more."""
    values = "--set-json", 'namespaces=["shop", "infra"]', "--set-json", 'sharedConsumers=["infra"]'
    made = [*yaml.safe_load_all(helm("template", "fastgw", str(CHART), "--namespace", "edge", *values))]
    for version in VERSIONS:
        for each in made:
            if each["kind"] not in OWN_KINDS:
                validate(each, version)

    def of(kind: str, namespace: str | None = None) -> list[Item]:
        return [each for each in made if each["kind"] == kind and each["metadata"].get("namespace") == namespace]

    (everywhere,), whole = of("ClusterRole"), permitted(rendered()["clusterrole"])
    assert {group_and_kind[:2] for group_and_kind in permitted(everywhere)} == {
        ("", "namespaces"),
        ("gateway.networking.k8s.io", "gatewayclasses"),
        ("gateway.networking.k8s.io", "gatewayclasses/status"),
        ("networking.k8s.io", "ingressclasses"),
    }
    for namespace in ("shop", "infra"):
        (role,), (binding,) = of("Role", namespace), of("RoleBinding", namespace)
        assert permitted(role) | permitted(everywhere) == whole
        assert permitted(role).isdisjoint(permitted(everywhere))
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "fastgw", "namespace": "edge"}]
    (own,) = of("Role", "edge")
    assert permitted(own) - permitted(rendered()["role"]) == {
        *product([""], ["services"], ["list", "watch"]),
        *product(["discovery.k8s.io"], ["endpointslices"], ["list", "watch"]),
    }
    file = gateway_file({each["kind"].lower(): each for each in made})
    provider = file["providers"]["kubernetes"]
    assert (provider["namespaces"], provider["shared_consumers"]) == (["shop", "infra"], ["infra"])


def test_a_new_user_is_told_what_comes_next() -> None:
    """Shown by `helm install`. The namespace and the classes are those of the installation."""
    shown = helm(
        "install", "fastgw", str(CHART), "--namespace", "edge", "--dry-run=client", "--set", "gatewayClass=outside"
    )
    notes = shown.partition("NOTES:")[2]
    assert "kubectl rollout status -n edge deployment/fastgw" in notes
    assert "gatewayClassName: outside" in notes
