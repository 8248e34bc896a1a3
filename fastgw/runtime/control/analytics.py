"""Analytics of the control process: reads the workers' counters every few seconds, and writes them in a thread."""

import asyncio
import time

from fastgw.admin.node_interface import AnalyticsInfo
from fastgw.analytics.queries import Usage, UsageQuery
from fastgw.analytics.usage import read_usage
from fastgw.runtime.node.analytics_writer import EVERY_S, AnalyticsWriter
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.node_state import NodeState


class Analytics:
    """Writes and queries the database, each in one thread at a time."""

    def __init__(self, node_state: NodeState) -> None:
        self._writer = AnalyticsWriter(node_state.shared, node_state.words)
        self._writing = asyncio.Lock()
        self._querying = asyncio.Lock()

    @property
    def info(self) -> AnalyticsInfo | None:
        return self._writer.info

    def use_configuration(self, accepted: ConfigSnapshot, *, begins: bool = False) -> None:
        self._writer.use_configuration(accepted.settings, accepted.slot_table, accepted.index, begins=begins)

    async def query(self, query: UsageQuery) -> Usage | None:
        """Return the rows of a query, up to now. None: there are no analytics. Raises as `read_usage`."""
        async with self._querying:
            await self._write(time.time())
            info = self._writer.info
            return None if info is None else await asyncio.to_thread(read_usage, info.file, query)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            # At the full minute what was counted belongs to the minute that has ended.
            now = time.time()
            await asyncio.sleep(EVERY_S - now % EVERY_S)
            await self._write(time.time() - EVERY_S / 2)

    async def stop(self) -> None:
        """Write what was counted until now."""
        await self._write(time.time())
        self._writer.close()

    async def _write(self, date: float) -> None:
        async with self._writing:
            await asyncio.to_thread(self._read_and_write, date)

    def _read_and_write(self, date: float) -> None:
        self._writer.read(date)
        self._writer.write_readings()
