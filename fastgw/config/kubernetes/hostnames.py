"""Hostnames of listeners and routes (Gateway API): a name, or `*.` and a suffix of any number of labels; "" = any."""


def covers(pattern: str, name: str) -> bool:
    """Whether every host that `name` matches is matched by `pattern`."""
    if not pattern or pattern == name:
        return True
    return bool(name) and pattern.startswith("*.") and name.removeprefix("*").endswith(pattern[1:])


def intersection(one: str, other: str) -> str | None:
    """Return the hostname that matches what both match; None: there is no such host."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def specificity(hostname: str) -> tuple[bool, int]:
    """Return the precedence of a hostname: exact names first, then longer ones."""
    return bool(hostname) and not hostname.startswith("*."), len(hostname)
