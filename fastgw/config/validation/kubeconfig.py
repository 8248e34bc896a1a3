"""Checks the access to a Kubernetes API server, as far as possible without connecting to it."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import yaml

from fastgw.config.base.problems import format_value
from fastgw.config.settings.egress import Kubernetes
from fastgw.config.settings.kubernetes import KubernetesProvider

PACKAGES: Final = ("kubernetes_asyncio", "aiohttp")


def check_kubernetes(settings: Kubernetes | KubernetesProvider, read: Callable[[str], bytes]) -> None:
    """Check a kubeconfig. `read`: returns the contents of a file. Raises `ValueError`: the error, a semicolon, the
    expected form.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ValueError(f"the package {package} is missing; pip install 'fastgw[kubernetes]'")
    if settings.kubeconfig is None:
        if settings.context is not None:
            raise ValueError("`context` needs a `kubeconfig`")
        return
    known, current = _contexts(read(settings.kubeconfig))
    wanted = settings.context or current
    if not wanted:
        raise ValueError("the kubeconfig has no current context; expected a `context`")
    if wanted not in known:  # the names in the file are not shown
        named = f"the kubeconfig has no context {format_value(wanted)}"
        wrong = "the current context of the kubeconfig is not defined in it" if settings.context is None else named
        raise ValueError(f"{wrong}; expected {'another' if known else 'a kubeconfig with contexts'}")


def _contexts(content: bytes) -> tuple[list[str], str]:
    """Return the names of a kubeconfig's contexts, and the current one; errors show nothing of it. Raises
    `ValueError`.
    """
    try:
        written: Any = yaml.safe_load(content)
        known = [str(each["name"]) for each in written.get("contexts") or ()]
        current = written.get("current-context") or ""
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError("the kubeconfig cannot be read; expected a file as used by kubectl") from error
    return known, str(current)
