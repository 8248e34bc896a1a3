"""Manifests of the Services by which Kyma's applications formerly called each API: a host `{app}-{id}` for every
service of an `Application`.

Each is an alias (`ExternalName`) of the gateway's Service, whose listener selects services by host (`addressing:
host`). The command `fastgw kyma-services` prints them, or the gateway creates them (`services: create`).
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from fastgw.config.base.problems import Problem
from fastgw.config.kyma.names import access_service
from fastgw.config.kyma.objects import ObjectFile
from fastgw.config.kyma.services import GROUP

APP_LABEL: Final = "application"
MANAGER_LABEL: Final = "app.kubernetes.io/managed-by"
OWNER_LABEL: Final = "fastgw.dev/owner"
"""Label of the Services that a gateway has created: the namespace that it runs in."""
MANAGER: Final = "fastgw"


class ServiceManifests(NamedTuple):
    """Manifests of the Services for a file, unless it has errors; notes on the services that get none."""

    manifests: list[dict[str, Any]]
    notes: list[Problem]
    errors: list[Problem]


def services_of(name: str, content: bytes, namespace: str, gateway: str) -> ServiceManifests:
    """Return the manifests for all Applications of a file. Objects of other kinds are ignored, but a file without an
    Application is an error: it is another file than was meant.

    `namespace`: of the manifests. `gateway`: DNS name of the gateway's own Service.
    """
    file = ObjectFile(name, content)
    apps = [each for each in file.objects if each.kind == "Application" and each.version.partition("/")[0] == GROUP]
    errors = list(file.problems)
    if not apps and not errors:
        errors.append(Problem(name, 0, 0, "", "no Application", f"expected objects of {GROUP}, kind Application"))
    notes: list[Problem] = []
    made: dict[str, dict[str, Any]] = {}
    for each in apps:
        for index, service_id in _ids(each.value.get("spec")):
            host = access_service(each.name, service_id)
            if not host:
                wrong = "the name and the id do not form a valid Service name"
                notes.append(each.problem(("spec", "services", index), wrong, "expected letters, digits and hyphens"))
            elif host in made:
                wrong = f"the Service {host} is already used for another application or service"
                notes.append(each.problem(("spec", "services", index), wrong, "expected another id"))
            else:
                made[host] = service_manifest(host, each.name, namespace, gateway)
    return ServiceManifests([*made.values()], notes, errors)


def hosts_of(app: str, spec: Any) -> tuple[str, ...] | None:
    """Return the names of the Services of an Application; None: its services cannot be read."""
    services = spec.get("services") if isinstance(spec, dict) else spec
    if services is None:
        return ()
    if services is spec or not isinstance(services, list) or not all(map(_is_readable, services)):
        return None
    return tuple(host for _, service_id in _ids(spec) if (host := access_service(app, service_id)))


def _is_readable(service: Any) -> bool:
    if not isinstance(service, dict) or not isinstance(service.get("id"), str):
        return False
    entries = service.get("entries")
    return entries is None or (isinstance(entries, list) and all(isinstance(each, dict) for each in entries))


def _ids(spec: Any) -> Iterator[tuple[int, str]]:
    """Yield the ids of services with an API, with their positions."""
    services = spec.get("services") if isinstance(spec, dict) else None
    for index, service in enumerate(services if isinstance(services, list) else ()):
        if not isinstance(service, dict) or not isinstance(service.get("id"), str):
            continue
        entries = service.get("entries")
        listed = entries if isinstance(entries, list) else ()
        if any(isinstance(each, dict) and each.get("type") == "API" for each in listed):
            yield index, service["id"]


def app_label(app: str) -> str:
    """Return the value of `APP_LABEL` for an Application."""
    return app[:63].rstrip("-.")


def service_manifest(host: str, app: str, namespace: str, gateway: str, owner: str = "") -> dict[str, Any]:
    """Return the manifest of a Service. `owner`: value of `OWNER_LABEL`; "": a person applies it."""
    labels = {MANAGER_LABEL: MANAGER, APP_LABEL: app_label(app), **({OWNER_LABEL: owner} if owner else {})}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": host, "namespace": namespace, "labels": labels},
        "spec": {"type": "ExternalName", "externalName": gateway, "ports": [{"name": "http", "port": 80}]},
    }
