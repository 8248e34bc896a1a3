from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str, ...]
EACH: Final = "*"

class Projection:
    def __init__(
        self,
        allow: Iterable[Path] = (),
        deny: Iterable[Path] = (),
        rename: Mapping[Path, str] | None = None,
        each: str | None = EACH,
    ) -> None: ...
    def apply(self, text: bytes) -> bytes: ...
