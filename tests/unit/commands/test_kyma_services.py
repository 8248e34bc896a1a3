"""`fastgw kyma-services` prints the whole list of Services or none: its output goes to `kubectl apply`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastgw.cli import app
from fastgw.config.kyma.services import GROUP

APP = f"""\
apiVersion: {GROUP}/v1alpha1
kind: Application
metadata: {{name: shop}}
spec: {{services: [{{id: orders, displayName: Orders, entries: [{{type: API, targetUrl: "https://api.example"}}]}}]}}
"""
OTHER = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\x80\x81", ":1:1: not UTF-8"),
        (b"", ": the file is empty; expected an object, or no file at all"),
        (b"apiVersion: v1\nkind:\n\tx: 1\n", ":3:1: not valid YAML: a tab in the indentation; expected spaces"),
        (b"a: 1\n", ":1:1: no `apiVersion` and `kind`; expected a Kubernetes object"),
        (OTHER.encode(), f": no Application; expected objects of {GROUP}, kind Application"),
        (f"{APP}---\na: 1\n".encode(), ":6:1: no `apiVersion` and `kind`; expected a Kubernetes object"),
        (f"{APP}---\n- {{".encode(), ":7:1: not valid YAML: the file ends within brackets or braces"),
    ],
    ids=["binary", "empty", "tab", "no_object", "another_kind", "one_bad_document", "one_not_yaml"],
)
def test_an_error_leaves_no_output(content: bytes, error: str, tmp_path: Path) -> None:
    file = tmp_path / "apps.yaml"
    file.write_bytes(content)
    good = tmp_path / "good.yaml"
    good.write_text(APP)
    done = CliRunner().invoke(app, ["kyma-services", str(good), str(file)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{file}{error}")
    assert len(done.stderr.splitlines()) == 1


def test_objects_of_other_kinds_may_stand_beside_applications(tmp_path: Path) -> None:
    file = tmp_path / "apps.yaml"
    file.write_text(f"{OTHER}---\n{APP}")
    done = CliRunner().invoke(app, ["kyma-services", str(file)])
    assert done.exit_code == 0
    assert [each["metadata"]["name"] for each in json.loads(done.stdout)["items"]] == ["shop-orders"]
