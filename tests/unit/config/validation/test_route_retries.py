"""Retries of a route over those of its upstream: what is left out is the upstream's, and both must fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw import config
from fastgw.config.settings.gateway import Retries, RouteRetries
from fastgw.filters import TYPES

FILE = """\
version: 1
listeners: {main: {address: "127.0.0.1:0"}}
upstreams: {u: {targets: ["http://a.test"], retries: {conditions: [%s]}}}
routes: [{name: r, upstream: %s, retries: {%s}}]
"""


def test_what_is_left_out_is_the_upstreams() -> None:
    upstreams = Retries(max=3, conditions=("503",), budget=0.5)
    assert RouteRetries().over(upstreams) == upstreams
    made = RouteRetries(max=0, non_idempotent=True).over(upstreams)
    assert made == Retries(max=0, conditions=("503",), budget=0.5, non_idempotent=True)


@pytest.mark.parametrize(
    ("conditions", "upstream", "retries", "wrong"),
    [
        ("per_try_timeout", "u", "per_try_timeout: 1s", ""),
        ("connect_failure", "u", "per_try_timeout: 1s, conditions: [per_try_timeout]", ""),
        ("connect_failure", "u", "per_try_timeout: 1s", 'with those of upstream "u"'),
        ("per_try_timeout", "'http://b.test'", "per_try_timeout: 1s", '"per_try_timeout" is not among `conditions`'),
        ("connect_failure", "u", "budget: 10%", "unknown key"),
        ("connect_failure", "u", "max: 11", "expected"),
    ],
)
def test_they_must_fit_together(tmp_path: Path, conditions: str, upstream: str, retries: str, wrong: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE % (conditions, upstream, retries))
    if not wrong:
        config.load(str(file), TYPES)
        return
    with pytest.raises(config.ConfigError) as error:
        config.load(str(file), TYPES)
    assert wrong in str(error.value)
    assert "routes[0].retries" in str(error.value)
