"""Addresses of targets as registries, SRV records and clusters have them: any text, of which only a host is used."""

from typing import Any, Final

from fastgw.config.base.value_types import parse_target_url

MOST_PRIORITY: Final = 100
"""Last priority group of a target in the configuration (`targets.priority`)."""
MOST_HOST: Final = 253
"""Maximum length of a host name (RFC 1035 section 2.3.4)."""


def target_url(scheme: str, host: str, port: int) -> str | None:
    """Return the URL of a target, the same for each way to write its address; None: the host or port is not valid."""
    if len(host) > MOST_HOST:
        return None
    try:
        parsed = parse_target_url(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
    except ValueError:
        return None
    if parsed.port != port or parsed.base_path or parsed.ends_in_slash:  # a host with a slash
        return None
    return f"{scheme}://{f'[{parsed.host}]' if ':' in parsed.host else parsed.host}:{port}"


def add_target(found: dict[str, dict[str, Any]], target: dict[str, Any]) -> None:
    """Add a target to those by URL. Of several with one URL the one with the first priority and the greatest weight
    counts, so that the order of an answer does not matter.
    """
    known = found.setdefault(target["url"], target)
    if (target["priority"], -target["weight"]) < (known["priority"], -known["weight"]):
        found[target["url"]] = target
