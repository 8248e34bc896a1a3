"""What a worker's connections stand on goes on turning, whatever happens on it."""

import asyncio

import uvloop

from fastgw.node.ground import Ground
from fastgw.node.timers import Timed


class Broken(Timed):
    def expire(self, now: float) -> None:
        raise ZeroDivisionError


class Waiting(Timed):
    def __init__(self, rang: asyncio.Event) -> None:
        super().__init__()
        self.rang = rang

    def expire(self, now: float) -> None:
        self.rang.set()


def test_the_wheel_turns_on_when_an_expiry_raises() -> None:
    """Else no connection of this worker would ever time out again. The error is the loop's to report."""

    async def live() -> list[str]:
        loop = asyncio.get_running_loop()
        reported: list[str] = []
        loop.set_exception_handler(lambda _, report: reported.append(type(report["exception"]).__name__))
        ground = Ground(loop)
        ground.start()
        rang = asyncio.Event()
        ground.wheel.watch(Broken(), ground.wheel.now + 0.05)
        ground.wheel.watch(Waiting(rang), ground.wheel.now + 0.2)
        async with asyncio.timeout(5):
            await rang.wait()
        ground.close()
        return reported

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(live()) == ["ZeroDivisionError"]
