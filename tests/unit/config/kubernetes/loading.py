"""Loads a translation as the gateway does."""

from __future__ import annotations

import msgspec

from fastgw.config import Loaded, load_text
from fastgw.config.kubernetes.model import Translation
from fastgw.config.kubernetes.provider import FILE
from fastgw.filters import TYPES


def loaded(made: Translation, more: str = "") -> Loaded:
    text = f"version: 1\nadmin: null\nproviders: {{kubernetes: {{kubeconfig: kube}}}}\n{more}".encode()
    kube = b"current-context: a\ncontexts: [{name: a, context: {}}]\n"
    return load_text(
        text, "/etc/gw.yaml", TYPES, instead={"/etc/kube": kube, FILE: msgspec.json.encode([*made.pieces])}
    )
