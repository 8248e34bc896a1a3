"""Successive configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastgw import config
from fastgw.config.settings.gateway import Config
from fastgw.filters import TYPES
from fastgw.gateway.compiler import Plan


def load_document(document: Mapping[str, Any], types: Mapping[str, Any] = TYPES) -> Config:
    return load_with_files(document, types).config


def load_with_files(document: Mapping[str, Any], types: Mapping[str, Any] = TYPES) -> config.Loaded:
    with TemporaryDirectory() as folder:
        file = Path(folder, "gateway.json")
        file.write_text(json.dumps(document))
        return config.load(str(file), types)


def plan_after(before: Config, after: Config, files: Mapping[str, bytes] | None = None) -> Plan:
    """Return the plan of a configuration that replaces another: which of its routes are unchanged."""
    places = {route.name: place for place, route in enumerate(before.routes)}

    def place_before(name: str, place: int) -> int:
        was = places.get(name, -1)
        return was if was >= 0 and before.routes[was] == after.routes[place] else -1

    same = [place_before(route.name, place) for place, route in enumerate(after.routes)]
    return Plan.of(after)._replace(same=same, files=files or {})
