"""The words of shared memory that the runtime itself keeps, or places for the rooms below."""

from fastgw.config.settings import Limits
from fastgw.node.shared import Layout, Sketch
from fastgw.observe import Series


class Words:
    """Where they stand in a column."""

    def __init__(self, layout: Layout, series: Series, limits: Limits) -> None:
        self.beat = layout.gauge("beat")
        """When the worker's loop last went round, in nanoseconds of the monotonic clock."""
        self.ready = layout.gauge("ready")
        """1 while the worker accepts. In the supervisor's column: 1 from the start until the stop begins."""
        self.deaths = layout.counter("deaths")
        """In the supervisor's column: how many children ended although they should not have."""
        self.connections = layout.gauge("connections")
        """Client connections."""
        self.addresses = None
        """Client connections by address."""
        if limits.connections_per_ip is not None:
            self.addresses = Sketch.place(layout, "connections_by_address", limits.connections)
        self.series = layout.counter("series", series.words)
        """The first word of what the observer counts."""
