"""Replacement of a filter with unusable secrets, on a route that fails alone (`Filter.fails_alone`)."""

from collections.abc import Iterable
from typing import final

from fastgw.config.sources.virtual_files import is_secret, secret_in
from fastgw.errors import Fault
from fastgw.filters.api import CACHES, STATE, Exchange, Reply


@final
class Misconfigured:
    """Request step that answers 500 with the reason, so that the caller can have the secret fixed."""

    __slots__ = ("files", "why")

    def __init__(self, wrong: str, files: Iterable[str]) -> None:
        """`wrong`: the filter's error message, without secrets. `files`: files that it has read."""
        self.files = frozenset(files) - {STATE, CACHES}
        names = {file: f"the Secret {secret_in(file)}" if is_secret(file) else file for file in sorted(self.files)}
        for file, name in names.items():
            wrong = wrong.replace(file, name)
        untold = [name for name in dict.fromkeys(names.values()) if name not in wrong]
        self.why = f"{wrong} ({', '.join(untold)})" if untold else wrong

    def __repr__(self) -> str:
        return f"<Misconfigured: {self.why}>"

    def __call__(self, exchange: Exchange) -> Reply:
        return exchange.refuse(Fault.SERVICE_MISCONFIGURED, self.why)
