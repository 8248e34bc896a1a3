"""Commands for Kyma."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fastgw.commands.configuration_input import read_stdin
from fastgw.commands.exit_codes import WRONG
from fastgw.commands.options import STDIN
from fastgw.commands.output import fail, print_json


def kyma_services(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Kyma's Applications, as YAML or JSON; - is standard input.")
    ],
    namespace: Annotated[str, typer.Option(metavar="NAME", help="Namespace of the Services.")] = "kyma-integration",
    gateway: Annotated[
        str, typer.Option(metavar="HOST", help="The DNS name of the gateway's own Service, which has port 80.")
    ] = "fastgw-egress.kyma-system.svc.cluster.local",
) -> None:
    """Print the Kubernetes Services by which applications call APIs as {app}-{id}, for kubectl apply."""
    from pathlib import Path

    from fastgw.config.kyma.service_manifests import services_of

    made: dict[str, Any] = {}
    errors: list[str] = []
    for file in files:
        try:
            content = read_stdin() if file == STDIN else Path(file).read_bytes()
        except OSError as error:
            fail(WRONG, f"fastgw: {file}: {error.strerror}")
        name = "standard input.json" if file == "-" and content.lstrip().startswith((b"{", b"[")) else file
        services = services_of(name, content, namespace, gateway)
        for each in services.notes:
            typer.echo(f"note: {each}", err=True)
        errors.extend(map(str, services.errors))
        made |= {each["metadata"]["name"]: each for each in services.manifests}
    if errors:  # no part of the list, because what reads it would take it for the whole
        fail(WRONG, *errors)
    print_json({"apiVersion": "v1", "kind": "List", "items": [*made.values()]})
