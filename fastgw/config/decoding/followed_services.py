"""Services whose files a configuration names: Vault and the registries of service discovery. Their settings are read
before all others, which may name secrets of Vault.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

from fastgw.config.base.problems import VAULT
from fastgw.config.decoding.decoder import BROKEN, Reading, shape_of
from fastgw.config.settings.discovery import Consul, Docker, Eureka, Nacos
from fastgw.config.settings.gateway import Config
from fastgw.config.settings.vault import Vault
from fastgw.config.sources.documents import Document
from fastgw.config.sources.files import Files

SERVICES: Final[Mapping[str, tuple[tuple[str, ...], Any]]] = {
    VAULT: (("vault",), Vault),
    "consul": (("providers", "consul"), Consul),
    "nacos": (("providers", "nacos"), Nacos),
    "eureka": (("providers", "eureka"), Eureka),
    "docker": (("providers", "docker"), Docker),
}
"""Path and settings of each kind of service."""
_DISTINCT: Final = ("address", "mount", "namespace", "network")


def services_in(documents: Iterable[Document], filter_types: Mapping[str, type], files: Files) -> dict[str, Any]:
    """Return the valid settings of services, by kind. Problems are reported when the documents are merged."""
    found: dict[str, Any] = {}
    for document in documents:
        for kind, (path, settings) in SERVICES.items():
            value: Any = document.value
            for step in path:
                value = value.get(step) if isinstance(value, dict) else None
            if isinstance(value, dict) and kind not in found:
                trial = Reading(document, filter_types, files)
                held = shape_of(settings).read(value, path, trial)
                if held is not BROKEN and not trial.problems:
                    found[kind] = held
    return found


def services_of(config: Config) -> dict[str, Any]:
    """Return the settings of the services of a configuration, by kind."""
    found: dict[str, Any] = {}
    for kind, (path, _) in SERVICES.items():
        value: Any = config
        for step in path:
            value = getattr(value, step)
        if value is not None:
            found[kind] = value
    return found


def identity_of(settings: Any) -> str:
    """Return the identity of a service: its files are others when it is another one. Credentials are not part of it."""
    distinct = [str(getattr(settings, name, None)) for name in _DISTINCT]
    return sha256("\0".join(distinct).encode()).hexdigest()[:8]
