"""fastgw in the egress role: applications call APIs, each with a token that the gateway fetches."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.origin.tokens import SOCKET
from bench.peers.peer import routes
from bench.peers.reloaded import VERSIONS, FastgwChanges, ReloadedFastgw, changes_by

SOME = 10
"""In each version, one application of this many differs."""


@dataclass(frozen=True)
class EgressFastgw(ReloadedFastgw):
    """`services` of each of `apps` applications, called as `/svc7/v1/…`; all share one token."""

    apps: int = 1
    services: int = 1

    def _configuration(self, origin_port: int, access_log: Path) -> dict[str, Any]:
        made = super()._configuration(origin_port, access_log)
        del made["upstreams"], made["routes"]
        credentials = {
            "type": "oauth2",
            "token_url": f"unix:{access_log.parents[1] / SOCKET}:/token",
            "client_id": "bench",
            "client_secret": "bench",
        }
        service = {"url": f"http://127.0.0.1:{origin_port}", "credentials": credentials, "forwarded": "set"}
        apps = {app: {f"v{number + 1}": service for number in range(self.services)} for app in routes(self.apps)}
        return {**made, "egress": {"apps": apps}}

    def _changes(self, addresses: bytes, file: Path) -> FastgwChanges:
        configuration = json.loads(file.read_text())
        apps: dict[str, Mapping[str, Any]] = configuration["egress"]["apps"]
        versions = []
        for version in range(VERSIONS):
            for app in [*apps][::SOME]:
                apps[app] = {
                    name: {**service, "timeouts": {"response_headers": f"{version + 20}s"}}
                    for name, service in apps[app].items()
                }
            written = file.with_suffix(f".{version}")
            written.write_text(json.dumps(configuration))
            versions.append(written)
        return changes_by(addresses, file, versions)
