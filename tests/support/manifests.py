"""Kubernetes' own judgement of manifests: its schemas, where unknown keys are errors too."""

from __future__ import annotations

from typing import Any, Final

OLDEST: Final = "1.27"
NEWEST: Final = "newest"
VERSIONS: Final = (OLDEST, NEWEST)
"""Of Kubernetes, for `validate`."""


def validate(manifest: Any, version: str) -> None:
    """Raise unless Kubernetes of this version takes the manifest."""
    import kubernetes_validate  # not by every process that collects tests: it takes 2 s

    if version == NEWEST:
        version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(manifest, version, strict=True)
