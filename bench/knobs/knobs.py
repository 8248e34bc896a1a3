"""The knobs: for each, contestants that differ in one setting, with the default first."""

import platform
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.knobs import origin as three_ways
from bench.knobs.network import Burst, FewPorts
from bench.knobs.turned import Elsewhere, Queue, Rationed, Unlogged, other_pythons, under
from bench.load.load import Load
from bench.load.wrk import Wrk
from bench.origin import serving
from bench.peers import Fastgw, Peer
from bench.scenarios.scenario import Scenario

BODY = {"body": "@body.json"}
SATURATED = Wrk(arguments=BODY)
KEPT, NEW = "kept", "a new connection each"
TCP, TLS = "TCP", "TLS"


def python() -> Scenario:
    """Python built with and without profile-guided optimization."""
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    this = f"this Python {platform.python_version()}, {'' if optimised else 'no '}--enable-optimizations"
    return _knob("python", Fastgw(this), *(under(python, python) for python in other_pythons()))


def log() -> Scenario:
    """Access log and its format."""
    formats = (
        Fastgw(format, config={"access_logs": [{"sink": "access.log", "format": format}]})
        for format in ("ecs", "combined")
    )
    return _knob("log", Fastgw("json"), *formats, Unlogged("none"))


def idle() -> Scenario:
    """Number of idle upstream connections, with 64 concurrent requests."""
    sizes = (_pool(f"max_idle {size}", {"max_idle": size}) for size in (64, 32, 8, 0))
    return _knob("idle", *sizes)


def clients() -> Scenario:
    """Clients with keep-alive, or with a connection per request."""
    load = Wrk(arguments=BODY, arguments_of={NEW: {"close": 1}})
    return _knob("clients", Fastgw(KEPT), Fastgw(NEW), load=load)


def upstream() -> Scenario:
    """Connection to the upstream: TCP, unix socket, TLS; with and without keep-alive."""
    tcp, tls = "http://127.0.0.1:{port}", f"https://{three_ways.TLS_HOST}:{{port}}"
    new = {"upstream": {"pool": {"max_idle": 0}}}
    return _knob(
        "upstream",
        Elsewhere(TCP, url=tcp),
        Elsewhere("unix socket", url="unix:{folder}/origin.sock"),
        Elsewhere(TLS, url=tls),
        Elsewhere(f"{TCP}, {NEW}", config=new, url=tcp),
        Elsewhere(f"{TLS}, {NEW}", config=new, url=tls),
        origin=three_ways.serving,
    )


def workers() -> Scenario:
    """More workers than cores, all on one core."""
    counts = (Fastgw(f"{count} workers on one core", config={"workers": count}) for count in (2, 4))
    return _knob("workers", Fastgw("1 worker on one core"), *counts)


def pinning() -> Scenario:
    """One worker pinned to a core, or free to move to the core of the load."""
    return _knob("pinning", Fastgw("bound to a core"), Fastgw("not bound", workers=2, config={"workers": 1}))


def quota() -> Scenario:
    """CPU quota of a fifth of a core: a slower core would be five times slower, a quota stops and resumes."""
    return _knob(
        "quota",
        Fastgw("no quota"),
        Rationed("20 ms in each 100 ms", quota_us=20_000, period_us=100_000),
        Rationed("2 ms in each 10 ms", quota_us=2_000, period_us=10_000),
    )


def backlog() -> Scenario:
    """1,000 clients that connect at the same time, against the kernel's maximum listen backlog."""
    lengths = (Queue(f"somaxconn {length}", length=length) for length in (4096, 128))
    return _knob("backlog", *lengths, load=Burst("1,000 at once", 1000))


def ports() -> Scenario:
    """Ephemeral ports for upstream connections, with and without keep-alive."""
    return _knob(
        "ports", Fastgw("kept"), _pool("a new connection each", {"max_idle": 0}), load=FewPorts(arguments=BODY)
    )


KNOBS: Sequence[Callable[[], Scenario]] = (
    python,
    log,
    idle,
    upstream,
    clients,
    workers,
    pinning,
    quota,
    backlog,
    ports,
)

MAY_FAIL = frozenset({"ports"})
"""Contestants whose requests may fail, because that is the effect of the setting."""


def _knob(
    name: str,
    *peers: Peer,
    load: Load = SATURATED,
    origin: Callable[[Path, int], AbstractContextManager[int]] = serving,
) -> Scenario:
    return Scenario(name, name, "", peers, (load,), (), origin=origin)


def _pool(name: str, pool: dict[str, int]) -> Fastgw:
    return Fastgw(name, config={"upstream": {"pool": pool}})
