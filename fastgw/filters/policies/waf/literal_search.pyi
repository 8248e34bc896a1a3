from collections.abc import Iterable

class LiteralSearch:
    """Callable that returns whether a text contains one of some literals, none of which is empty."""

    def __init__(self, literals: Iterable[bytes]) -> None: ...
    def __call__(self, text: bytes) -> bool: ...
