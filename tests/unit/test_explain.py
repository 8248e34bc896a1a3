"""explain takes the steps that a request takes, and shows no secret on the way."""

import json
from pathlib import Path

import pytest

from fastgw import config
from fastgw.compile import Gateway
from fastgw.compile import compile as compile_tables
from fastgw.explain import as_text, explain
from fastgw.filters import TYPES
from tests.support.memory import SERVICE

SECRET = "s3cr3t"


def gateway(folder: Path, **settings: object) -> Gateway:
    file = folder / "gateway.json"
    file.write_text(json.dumps({**SERVICE, **settings}))
    return compile_tables(config.load(str(file), TYPES).config, 1)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "X-Api-Key",
        "apikey",
        "X-Auth-Token",
        "X-Amz-Security-Token",
        "X-Vault-Token",
        "X-CSRF-Token",
        "X-Client-Secret",
        "X-Session-Id",
        "X-Hub-Signature-256",
        "X-Password",
        "Ocp-Apim-Subscription-Key",
    ],
)
@pytest.mark.parametrize("whose", ["client", "gateway"])
def test_fields_that_hold_secrets_are_not_shown(tmp_path: Path, name: str, whose: str) -> None:
    """Whether the client sends them or a filter adds them."""
    edit = {"headers": {"request": {"set": {name: SECRET}}}} if whose == "gateway" and "Proxy" not in name else {}
    sent = [f"{name}: {SECRET}"] if whose == "client" else []
    shown = as_text(explain(gateway(tmp_path, filters=edit), "GET", "http://a.test/", sent))
    assert SECRET not in shown
    assert "sends" in shown


@pytest.mark.parametrize("name", ["token", "code", "sig"])
def test_parameters_that_hold_secrets_are_not_shown(tmp_path: Path, name: str) -> None:
    """Those that are masked in any log, and those that the configuration names."""
    tables = gateway(tmp_path, access_logs=[{"sink": "stdout", "format": "json", "redact": ["sig"]}])
    fields = [f"Referer: http://a.test/?{name}={SECRET}"]
    shown = as_text(explain(tables, "GET", f"http://a.test/x?a=1&{name}={SECRET}&b=2", fields))
    assert SECRET not in shown
    assert "a=1" in shown
    assert "b=2" in shown


def test_ordinary_fields_are_shown(tmp_path: Path) -> None:
    shown = as_text(explain(gateway(tmp_path), "GET", "http://a.test/x?a=1", ["X-Tenant: t1", "Accept: text/html"]))
    assert "X-Tenant: t1" in shown
    assert "Accept: text/html" in shown
    assert "GET /x?a=1 HTTP/1.1" in shown
