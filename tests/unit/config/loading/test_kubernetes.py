"""`providers.kyma.kubernetes`: whether an API server can be asked, as far as that can be told without asking it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.config import ConfigError
from fastgw.config.settings.egress import Kyma
from fastgw.config.validation import kubeconfig
from fastgw.filters import TYPES

KUBECONFIG = json.dumps({"current-context": "a", "contexts": [{"name": "a"}, {"name": "b"}], "users": ["planted"]})


def read(folder: Path, settings: str) -> Kyma:
    """Raises `ConfigError`."""
    listeners = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\n"
    text = f"{listeners}providers: {{kyma: {{kubernetes: {settings}}}}}\n"
    kyma = config.load_text(text.encode(), str(folder / "a.yaml"), TYPES).config.providers.kyma
    assert kyma is not None
    assert kyma.kubernetes is not None
    return kyma


def problem(folder: Path, settings: str) -> str:
    """The only one."""
    with pytest.raises(ConfigError) as raised:
        read(folder, settings)
    (found,) = raised.value.problems
    return str(found)


def test_a_pod_needs_to_say_nothing(tmp_path: Path) -> None:
    made = read(tmp_path, "{}")
    assert (made.namespace, made.kubernetes.kubeconfig) == ("kyma-system", None)


def test_a_kubeconfig_has_the_context_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    for settings in ("{kubeconfig: kubeconfig}", "{kubeconfig: kubeconfig, context: b}"):
        assert read(tmp_path, settings).kubernetes.kubeconfig == f"{tmp_path}/kubeconfig"


@pytest.mark.parametrize(
    ("written", "settings", "wanted"),
    [
        (KUBECONFIG, "{context: b}", "`context` needs a `kubeconfig`"),
        (
            KUBECONFIG,
            "{kubeconfig: kubeconfig, context: c}",
            'the kubeconfig has no context "c"; expected another',
        ),
        ("{}", "{kubeconfig: kubeconfig}", "the kubeconfig has no current context; expected a `context`"),
        (
            "planted: {",
            "{kubeconfig: kubeconfig}",
            "the kubeconfig cannot be read; expected a file as used by kubectl",
        ),
        ("planted", "{kubeconfig: kubeconfig}", "the kubeconfig cannot be read; expected a file as used by kubectl"),
    ],
)
def test_what_is_wrong_is_told_and_shows_nothing_else(tmp_path: Path, written: str, settings: str, wanted: str) -> None:
    (tmp_path / "kubeconfig").write_text(written)
    assert problem(tmp_path, settings).endswith(f"providers.kyma.kubernetes: {wanted}")


@pytest.mark.parametrize("package", kubeconfig.PACKAGES)
def test_what_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    def installed(name: str) -> Any:
        return None if name == package else find_spec(name)

    monkeypatch.setattr(kubeconfig, "find_spec", installed)
    assert f"the package {package} is missing; pip install 'fastgw[kubernetes]'" in problem(tmp_path, "{}")
