"""The scenarios, in the order of `python -m bench all`. Each module has one `SCENARIO`."""

from collections.abc import Mapping

from bench.scenarios import (
    cache,
    churn,
    compose,
    compress,
    download,
    egress,
    events,
    files,
    filters,
    grpc,
    http2,
    idle,
    path,
    plain,
    policies,
    post,
    reload,
    routes,
    slow,
    tcp,
    tls,
    transform,
    upload,
    validate,
    waf,
    websocket,
    workers,
)
from bench.scenarios.scenario import Scenario

SCENARIOS: Mapping[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        plain,
        policies,
        tls,
        post,
        download,
        upload,
        files,
        websocket,
        routes,
        idle,
        events,
        churn,
        filters,
        http2,
        grpc,
        egress,
        workers,
        slow,
        path,
        reload,
        tcp,
        compress,
        compose,
        transform,
        validate,
        waf,
        cache,
    )
}
