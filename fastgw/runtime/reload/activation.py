"""Result of activating the objects of a watch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Activation(NamedTuple):
    """Result of activating the objects of a watch."""

    is_tried: bool
    """False: they cannot be tried now, or have failed in a worker. Invalid objects count as tried."""
    rejected: str = ""
    """Reason for which they are not in force; "" = they are."""
    refused: Mapping[str, str] = MappingProxyType({})
    """Objects that are left out, with the reasons."""
    again_s: float | None = None
    """Seconds until listeners are tried again whose addresses cannot be opened now; None: there are none."""
