"""Methods of references that compiled functions replace (`compiled.replace`), for tests of both."""

from __future__ import annotations

import pytest

from fastgw import compiled


def use_references(monkeypatch: pytest.MonkeyPatch, *owners: type) -> None:
    """Have these classes use the methods of the reference."""
    for (owner, name), method in compiled.replaced.items():
        if owner in owners:
            monkeypatch.setattr(owner, name, method)
