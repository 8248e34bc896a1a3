"""What is in deploy/, and the Dockerfile: systemd and Kubernetes take it, and it fits what fastgw does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fastgw.cli import app as app_of_commands
from fastgw.config.kyma.services import GROUP
from fastgw.config.loading.load import load
from fastgw.config.settings.egress import Kyma
from fastgw.config.settings.gateway import Config, DrainTimeouts
from fastgw.filters import TYPES
from fastgw.runtime.supervisor.lifecycle import FLUSH_GRACE, STOP_GRACE
from tests.support.manifests import VERSIONS, validate

ROOT = Path(__file__).parents[3]
SYSTEMD = ROOT / "deploy" / "systemd"
KUBERNETES = ROOT / "deploy" / "kubernetes"
UNITS = [SYSTEMD / "fastgw.service", SYSTEMD / "fastgw.socket"]
MANIFESTS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(KUBERNETES.glob("*.yaml"))}
KUSTOMIZATION = MANIFESTS.pop("kustomization.yaml")
ENDING = FLUSH_GRACE + STOP_GRACE + 1.0
"""Seconds that a stop may take beyond the drain: the logs are written, and who does not stop is killed."""


def manifest(kind: str) -> Any:
    (found,) = [each for each in MANIFESTS.values() if each["kind"] == kind]
    return found


def lasts(drain: DrainTimeouts) -> float:
    """Seconds from TERM to the end, at the longest."""
    return drain.delay + max(drain.requests, drain.tunnels) + ENDING


class TestSystemd:
    def unit(self, name: str) -> dict[str, list[str]]:
        """Its settings; what is set twice has two values."""
        settings: dict[str, list[str]] = {}
        for key, value in re.findall(r"^(\w+)=(.*)$", (SYSTEMD / name).read_text(), re.MULTILINE):
            settings.setdefault(key, []).append(value)
        return settings

    def analyze(self, *arguments: str | Path) -> tuple[int, list[str]]:
        """Exit code and lines of systemd-analyze, which looks at the files alone."""
        command = ["systemd-analyze", *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return ended.returncode, (ended.stdout + ended.stderr).splitlines()

    def test_finds_nothing_wrong_with_the_units(self):
        """But for the program, which is not installed here."""
        _, lines = self.analyze("verify", *UNITS)
        assert {re.sub(r" /\S+/fastgw ", " fastgw ", line) for line in lines} <= {
            "fastgw.service: Command fastgw is not executable: No such file or directory"
        }

    def test_calls_the_exposure_ok(self):
        code, lines = self.analyze("security", "--offline=true", "--threshold=20", "--no-pager", UNITS[0])
        assert (code, "OK" in lines[-1]) == (0, True), lines[-1]

    def test_waits_for_the_longest_drain(self):
        """Of a configuration that does not speak of it."""
        (stop,) = self.unit("fastgw.service")["TimeoutStopSec"]
        assert float(stop) > lasts(DrainTimeouts())

    def test_reloads_by_the_command_that_fails_where_the_file_is_refused(self):
        """A signal could not: `systemctl reload` went well whatever became of it. It names the file that is run."""
        service = self.unit("fastgw.service")
        program, _, configuration = service["ExecStart"][0].split()
        assert service["ExecReload"] == [f"{program} reload --config {configuration}"]
        assert (service["Type"], service["KillMode"]) == (["notify"], ["mixed"])

    def test_the_comments_install_what_is_there(self):
        """Files, user and program are called the same everywhere."""
        text, service = UNITS[0].read_text(), self.unit("fastgw.service")
        for file in re.findall(r"\bfastgw\.(?:service|socket|sysusers)\b", text):
            assert (SYSTEMD / file).exists()
        program, command, configuration = service["ExecStart"][0].split()
        assert f"{Path(program).parent}/pip install .)" in text
        assert f"gateway.yaml {configuration}" in text
        assert command == "run"
        (user,) = re.findall(r"^u (\w+) ", (SYSTEMD / "fastgw.sysusers").read_text(), re.MULTILINE)
        assert service["User"] == service["Group"] == [user]


class TestKubernetes:
    @pytest.fixture
    def config(self, tmp_path: Path) -> Config:
        """What the ConfigMap says. Loading it raises what is wrong."""
        ((name, text),) = manifest("ConfigMap")["data"].items()
        (tmp_path / name).write_text(text)
        return load(str(tmp_path / name), TYPES).config

    @property
    def pod(self) -> Any:
        return manifest("Deployment")["spec"]["template"]

    @property
    def container(self) -> Any:
        (container,) = self.pod["spec"]["containers"]
        return container

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("name", MANIFESTS)
    def test_takes_the_manifests(self, name, version):
        """Unknown keys are errors too."""
        validate(MANIFESTS[name], version)

    def test_every_manifest_is_applied_and_names_no_namespace(self):
        assert KUSTOMIZATION["resources"] == list(MANIFESTS)
        assert not [name for name, each in MANIFESTS.items() if "namespace" in each["metadata"]]
        assert [image["name"] for image in KUSTOMIZATION["images"]] == [self.container["image"]]

    def test_every_selector_finds_the_pods(self):
        labels = self.pod["metadata"]["labels"]
        assert manifest("Service")["spec"]["selector"] == labels
        assert manifest("NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": labels}
        for kind in ("Deployment", "PodDisruptionBudget"):
            assert manifest(kind)["spec"]["selector"] == {"matchLabels": labels}
        scaled = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        deployment = manifest("Deployment")
        assert scaled == {
            "apiVersion": deployment["apiVersion"],
            "kind": "Deployment",
            "name": deployment["metadata"]["name"],
        }

    def test_every_port_is_listened_on(self, config):
        ports = {each["name"]: each["containerPort"] for each in self.container["ports"]}
        assert ports == {"http": config.listeners["public"].address.port, "status": config.status.address.port}
        assert {each["targetPort"] for each in manifest("Service")["spec"]["ports"]} <= set(ports)
        assert self.pod["metadata"]["annotations"]["prometheus.io/port"] == str(ports["status"])
        probed = [self.container[f"{each}Probe"]["httpGet"] for each in ("startup", "readiness", "liveness")]
        assert probed == [{"path": path, "port": "status"} for path in ("/readyz", "/readyz", "/livez")]

    def test_the_configuration_is_where_the_command_looks_for_it(self):
        (mount, runtime), (memory, volume) = self.container["volumeMounts"], self.pod["spec"]["volumes"]
        assert (runtime["mountPath"], memory["emptyDir"]["medium"]) == ("/tmp", "Memory")
        assert (mount["name"], volume["configMap"]) == (
            volume["name"],
            {"name": manifest("ConfigMap")["metadata"]["name"]},
        )
        (name,) = manifest("ConfigMap")["data"]
        assert self.container["args"] == ["run", f"{mount['mountPath']}/{name}"]

    def test_a_pod_has_the_time_that_its_drain_takes(self, config):
        """And readiness is seen to be off before new connections are refused."""
        drain, readiness = config.timeouts.drain, self.container["readinessProbe"]
        assert self.pod["spec"]["terminationGracePeriodSeconds"] > lasts(drain)
        assert drain.delay > readiness["periodSeconds"] * readiness["failureThreshold"] + readiness["timeoutSeconds"]

    def test_a_pod_may_do_nothing_that_it_need_not(self):
        """The "restricted" pod security standard, and a root file system that cannot be written to."""
        assert self.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        pod = self.pod["spec"]["securityContext"]
        assert (pod["runAsNonRoot"], pod["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert self.pod["spec"]["automountServiceAccountToken"] is False


class TestEgress:
    """The pods that bring credentials along: what is otherwise there than for others, and their rights."""

    FOLDER = ROOT / "deploy" / "kubernetes-egress"
    MANIFESTS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
    KUSTOMIZATION = MANIFESTS.pop("kustomization.yaml")

    def manifest(self, kind: str) -> Any:
        (found,) = [each for each in self.MANIFESTS.values() if each["kind"] == kind]
        return found

    @pytest.fixture
    def config(self, tmp_path: Path) -> Config:
        """What the ConfigMap says. Loading it raises what is wrong."""
        ((name, text),) = self.manifest("ConfigMap")["data"].items()
        (tmp_path / name).write_text(text)
        return load(str(tmp_path / name), TYPES).config

    @property
    def pod(self) -> Any:
        return self.manifest("Deployment")["spec"]["template"]

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("name", MANIFESTS)
    def test_kubernetes_takes_the_manifests(self, name, version):
        validate(self.MANIFESTS[name], version)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_the_rights_to_write_services_are_those_of_the_account_in_their_namespace(self, version):
        """The calls that they permit are compared with those that are made in test_access_services.py."""
        manifests = {path.stem: yaml.safe_load(path.read_text()) for path in (self.FOLDER / "services").glob("*.yaml")}
        kustomization = manifests.pop("kustomization")
        for each in manifests.values():
            validate(each, version)
        assert kustomization["resources"] == [f"{name}.yaml" for name in ("namespace", "role", "rolebinding")]
        namespace = manifests["namespace"]["metadata"]["name"]
        assert namespace == kustomization["namespace"] == Kyma(directory="x").services_namespace
        binding = manifests["rolebinding"]
        assert binding["subjects"] == self.manifest("RoleBinding")["subjects"]
        assert binding["roleRef"]["name"] == manifests["role"]["metadata"]["name"]

    def test_every_manifest_is_applied_and_every_selector_finds_the_pods(self):
        assert self.KUSTOMIZATION["resources"] == list(self.MANIFESTS)
        labels = self.pod["metadata"]["labels"]
        assert self.manifest("Service")["spec"]["selector"] == labels
        selecting = self.manifest("NetworkPolicy")["spec"]["podSelector"]
        assert selecting == self.manifest("Deployment")["spec"]["selector"] == {"matchLabels": labels}
        assert self.manifest("PodDisruptionBudget")["spec"]["selector"] == {"matchLabels": labels}

    def test_the_account_may_read_what_is_watched_and_nothing_else(self, config):
        rights = {kind: self.manifest(kind)["rules"] for kind in ("ClusterRole", "Role")}
        reading = ["get", "list", "watch"]
        assert rights == {
            "ClusterRole": [{"apiGroups": [GROUP], "resources": ["applications"], "verbs": reading}],
            "Role": [{"apiGroups": [""], "resources": ["secrets"], "verbs": reading}],
        }
        account = self.manifest("ServiceAccount")["metadata"]["name"]
        assert self.pod["spec"]["serviceAccountName"] == account
        namespace = self.KUSTOMIZATION["namespace"]
        assert config.providers.kyma.namespace == namespace
        for kind in rights:
            binding = self.manifest(f"{kind}Binding")
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
            assert binding["roleRef"]["kind"] == kind
            assert binding["roleRef"]["name"] == self.manifest(kind)["metadata"]["name"]

    def test_every_port_is_listened_on(self, config):
        (container,) = self.pod["spec"]["containers"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        listened = {name: each.address.port for name, each in config.listeners.items()}
        assert ports == {**listened, "status": config.status.address.port}
        served = {each["targetPort"]: each["port"] for each in self.manifest("Service")["spec"]["ports"]}
        assert served == {**listened, "hosts": 80}, "applications name no port with a Service of the older form"
        assert {name: config.egress.listeners[name] for name in served} == {
            "services": "path",
            "entries": "path_with_entry",
            "hosts": "host",
        }

    @pytest.mark.parametrize("version", VERSIONS)
    def test_the_services_of_the_older_form_lead_to_it(self, config, version, tmp_path):
        """As `fastgw kyma-services` prints them; where they are is among the domains that are listened for."""
        apps = tmp_path / "apps.json"
        api = {"type": "API", "targetUrl": "https://api.example"}
        services = [
            {"id": "4B2A-1", "displayName": "Orders", "entries": [api]},
            {"id": "4b2a-1", "displayName": "Again", "entries": [api]},
            {"id": "no/id", "displayName": "Odd", "entries": [api]},
            {"id": "news", "displayName": "News", "entries": [{"type": "Events"}]},
        ]
        app = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "Application", "metadata": {"name": "shop"}}
        items = [{**app, "spec": {"services": services}}]
        apps.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": items}))
        told = CliRunner().invoke(app_of_commands, ["kyma-services", str(apps)])
        (service,) = json.loads(told.stdout)["items"]
        validate(service, version)
        assert service["metadata"]["name"] == "shop-4b2a-1"
        name, namespace = self.manifest("Service")["metadata"]["name"], self.KUSTOMIZATION["namespace"]
        assert service["spec"]["externalName"] == f"{name}.{namespace}.svc.cluster.local"
        assert service["metadata"]["namespace"] in config.egress.domains
        assert [line.partition(": ")[2].partition(": ")[2] for line in told.stderr.splitlines()] == [
            "Application/shop: spec.services[1]: the Service shop-4b2a-1 is already used for another application or"
            " service; expected another id",
            "Application/shop: spec.services[2]: the name and the id do not form a valid Service name;"
            " expected letters, digits and hyphens",
        ]
        assert CliRunner().invoke(app_of_commands, ["kyma-services", "-"], input=apps.read_text()).stdout == told.stdout

    def test_a_pod_that_knows_nothing_yet_is_not_started_anew(self):
        """The API server may be away for long; what is alive waits for it."""
        (container,) = self.pod["spec"]["containers"]
        probed = {each: container[f"{each}Probe"]["httpGet"]["path"] for each in ("startup", "readiness", "liveness")}
        assert probed == {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"}

    def test_the_rest_of_the_pod_is_as_that_of_any_gateway(self):
        others = manifest("Deployment")["spec"]["template"]["spec"]
        ours = self.pod["spec"]
        assert ours["securityContext"] == others["securityContext"]
        (container,), (other,) = ours["containers"], others["containers"]
        for key in ("securityContext", "args", "volumeMounts", "resources", "image", "livenessProbe", "readinessProbe"):
            assert container[key] == other[key]
        assert ours["terminationGracePeriodSeconds"] == others["terminationGracePeriodSeconds"]


class TestDockerfile:
    @pytest.fixture
    def last(self) -> dict[str, str]:
        """The instructions of the stage that is the image."""
        text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
        stage = text.rpartition("\nFROM ")[2]
        return dict(line.split(maxsplit=1) for line in stage.splitlines()[1:] if line)

    def test_process_1_is_fastgw_and_is_told_to_drain(self, last):
        """In exec form: a shell as process 1 passes no signal on."""
        assert json.loads(last["ENTRYPOINT"]) == ["fastgw"]
        assert json.loads(last["CMD"])[0] == "run"
        assert last["STOPSIGNAL"] == "SIGTERM"

    def test_it_is_nobody_in_particular(self, last):
        """By number, or `runAsNonRoot` cannot be checked."""
        pod = manifest("Deployment")["spec"]["template"]["spec"]["securityContext"]
        assert last["USER"] == f"{pod['runAsUser']}:{pod['runAsGroup']}"
        assert pod["runAsUser"] > 0


def test_every_link_leads_to_a_file():
    readme = ROOT / "deploy" / "README.md"
    links = re.findall(r"\]\(([^)]+)\)", readme.read_text())
    assert len(links) > 3
    assert not [link for link in links if not (readme.parent / link).exists()]
