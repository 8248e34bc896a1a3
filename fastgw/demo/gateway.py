"""Configuration of the demo, and the announcement on the terminal.

The dashboard is that of the default admin listener: on 127.0.0.1, with a token that is generated at each start. The
supervisor prints a link with the token, on a terminal only. Rule: the page never has it, because every client that
reaches the demo reads the page.
"""

import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from fastgw import VERSION
from fastgw.config import Config
from fastgw.config.base.value_types import Address, Trait, Url
from fastgw.config.settings.gateway import AccessLog, Files, FilterUse, Limits, Listener, Route, Target, Upstream
from fastgw.config.settings.log_lines import LogCondition
from fastgw.config.settings.telemetry import Stories
from fastgw.demo.page import commands
from fastgw.demo.service import run_service
from fastgw.filters.policies.headers import Edits, Headers
from fastgw.filters.policies.rate_limit import RateLimit
from fastgw.filters.policies.request_id import RequestId
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import STDERR, notice
from fastgw.runtime.node.bound_addresses import Bound
from fastgw.runtime.node.child_slots import Work

CLONE: Final = Path(__file__).parents[2]
"""Folder of the repository, where the package lies in a clone; else that of installed packages."""
IS_CLONE: Final = (CLONE / "mkdocs.yml").is_file()
PUBLIC: Final = "demo"
"""Listener of the visitors."""
SAMPLE: Final = "sample"
"""Listener of the sample traffic: the access log on the terminal leaves it out."""


@contextmanager
def demo(address: Address, workers: int | Literal["auto"]) -> Iterator[tuple[Config, Work, Callable[[Bound], None]]]:
    """Return the demo's configuration, its service (a process for the supervisor to run), and its announcement."""
    with (
        tempfile.TemporaryDirectory(prefix="fastgw-demo-") as directory,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        path = os.path.join(directory, "origin.sock")
        listening.bind(path)
        listening.listen()
        sample, dashboard = os.path.join(directory, "sample.sock"), os.path.join(directory, "dashboard")
        configuration = _configuration(address, sample, path, workers)
        service = partial(run_service, listening, sample, dashboard, IS_CLONE)
        yield configuration, service, partial(announce, dashboard)


def _configuration(address: Address, sample: str, origin: str, workers: int | Literal["auto"]) -> Config:
    limit = RateLimit(limit=3, window=10.0, key=Trait("ip"))
    limited = MappingProxyType({"rate_limit": FilterUse("rate_limit", "rate_limit", limit)})
    target = Target(url=Url(scheme="unix", socket=origin))
    return Config(
        version=1,
        workers=workers,
        listeners=MappingProxyType({PUBLIC: Listener(address=address), SAMPLE: Listener(address=Address(path=sample))}),
        limits=Limits(connections=1000),
        access_logs=(AccessLog(sink="stdout", format="combined", only=LogCondition(listener=(PUBLIC,))),),
        stories=Stories(),
        filters=MappingProxyType({"request_id": FilterUse("request_id", "request_id", RequestId())}),
        upstreams=MappingProxyType({"origin": Upstream(targets=(target,), host_header="preserve")}),
        routes=(
            Route(name="users", paths=("/users/{id}",), upstream="origin"),
            Route(name="orders", paths=("/orders/{id}",), upstream="origin"),
            Route(name="limited", paths=("/limited",), upstream="origin", filters=limited),
            *([_docs()] if IS_CLONE else []),
            Route(name="demo", upstream="origin"),
        ),
    )


def _docs() -> Route:
    """Return the route to the documentation, as files that a browser shows."""
    plain = Headers(response=Edits(set=MappingProxyType({"Content-Type": "text/plain; charset=utf-8"})))
    return Route(
        name="docs",
        paths=(r"~^/docs/.*\.md$",),
        strip_prefix="/docs",
        files=Files(root=str(CLONE / "docs")),
        filters=MappingProxyType({"headers": FilterUse("headers", "headers", plain)}),
    )


def announce(dashboard: str, bound: Bound) -> None:
    """Print the introduction of the demo, and tell the service where the dashboard is, in the file `dashboard`."""
    if bound.admin is not None:
        Path(dashboard).write_text(f"http://{bound.admin}/")
    workers = f"{bound.workers} worker{'s' if bound.workers > 1 else ''}"
    lines = [f"fastgw {VERSION}: demo on {bound.urls[0]} ({workers}), Ctrl-C to stop"]
    url = bound.urls[0].replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")  # to be opened here
    if url.startswith("unix:"):  # which no browser opens
        url = f"--unix-socket {shlex.quote(url.removeprefix('unix:'))} http://localhost"
    else:
        lines.append(f"  open  {url}/   # a first look, in a browser")
    lines += [f"  {label:<5} {line}" for label, line in zip(("try:", "", ""), commands(url), strict=True)]
    if os.isatty(STDERR):  # without time and process, so that lines can be pasted
        with suppress(OSError):
            print(*lines, sep="\n", file=sys.stderr, flush=True)
        return
    for line in lines:
        notice(OperatorEvent.DEMO, line)
