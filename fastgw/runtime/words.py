"""The words of shared memory that the runtime gives to those who serve, and those that it keeps itself."""

from fastgw.compile import Gateway
from fastgw.node.limits import AddressLimit, NodeLimit
from fastgw.node.shared import Column, Shared


class Words:
    """Where they stand in a column. Placed before the memory is mapped."""

    def __init__(self, gateway: Gateway) -> None:
        layout = gateway.layout
        self._limits = gateway.limits
        self._series = gateway.series
        self._counted = layout.counter("series", gateway.series.words)
        self.beat = layout.gauge("beat")
        """When the worker's loop last went round, in nanoseconds of the monotonic clock."""
        self.ready = layout.gauge("ready")
        """1 while the worker accepts. In the supervisor's column: 1 from the start until the stop begins."""
        self._workers = gateway.workers
        self.silent = layout.gauge("silent", gateway.workers)
        """In the supervisor's column, a word for each worker: 1 while it does not beat."""
        self.deaths = layout.counter("deaths")
        """In the supervisor's column: how many children ended although they should not have."""
        self.connections = layout.gauge("connections")
        """Client connections."""
        layout.connections = max(layout.connections, self._limits.connections)

    def accepting(self, shared: Shared) -> int:
        """How many workers accept, and go round."""
        silent = shared.supervisor.words[self.silent : self.silent + self._workers]
        return sum(column.words[self.ready] for column, hangs in zip(shared.columns, silent, strict=False) if not hangs)

    def counted(self, column: Column) -> memoryview:
        """What the observer counts."""
        return column.words[self._counted : self._counted + self._series.words]

    def connection_limit(self, column: Column) -> NodeLimit:
        return column.limit(self.connections, self._limits.connections)

    def address_limit(self, column: Column) -> AddressLimit | None:
        """None: addresses are not limited."""
        most = self._limits.connections_per_ip
        return None if most is None else column.address_limit(most)
