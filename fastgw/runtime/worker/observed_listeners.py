"""Observed listeners of a worker: while there are observers, they use observed tables (`capture.observed_tables`)."""

from collections.abc import Callable
from typing import Any, final

from fastgw.capture.observed_tables import ExchangeObserver, observe_tables
from fastgw.gateway.tables import Gateway


@final
class ObservedListeners:
    """`tables_in_use`: returns the tables whose listeners are observed."""

    def __init__(self, tables_in_use: Callable[[], Gateway]) -> None:
        self._tables = tables_in_use
        self._observers: list[ExchangeObserver] = []

    def __repr__(self) -> str:
        return f"<ObservedListeners by {self._observers!r}>"

    def add(self, observer: ExchangeObserver) -> None:
        self._observers.append(observer)
        self.use_tables()

    def remove(self, observer: ExchangeObserver) -> None:
        if observer in self._observers:
            self._observers.remove(observer)
            self.use_tables()

    def use_tables(self) -> None:
        """Observe the requests of the tables in use, which may be new ones."""
        gateway = self._tables()
        for listener in gateway.listeners:
            used: Any = listener
            compiled: Any = gateway.tables[listener.name]
            observe_tables(used, compiled, self._observers)
