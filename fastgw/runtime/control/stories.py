"""Stories of failed, slow and debugged requests in the control process: the last ones, in bounded memory."""

import asyncio
from collections import deque
from typing import Final, final

import msgspec

from fastgw.capture.redaction import Redaction
from fastgw.capture.story_record import Story, StoryOrder, decode
from fastgw.config.settings.gateway import Config
from fastgw.config.settings.telemetry import Stories as StorySettings
from fastgw.runtime.control.captures import Captures
from fastgw.runtime.ipc.sample_stream import Sample

MOST_BYTES: Final = 32 * 1024
"""Maximum size of a story; longer ones are dropped."""
MOST_DEBUGGED: Final = 100
"""Maximum number of stories of debugged requests, which are kept apart: others do not displace them."""
_encode: Final = msgspec.msgpack.Encoder().encode


@final
class StoryStore:
    """The last stories. It begins to collect with the configuration, and ends with it."""

    def __init__(self, captures: Captures) -> None:
        self._captures = captures
        self._settings: StorySettings | None = None
        self._stories: deque[bytes] = deque()
        self._debugged: deque[bytes] = deque(maxlen=MOST_DEBUGGED)
        self._redaction = Redaction()
        self._count = 0
        self.dropped = 0
        """Number of stories that were dropped."""
        self._collecting: asyncio.Task[None] | None = None

    def use_configuration(self, config: Config, redaction: Redaction) -> None:
        """Collect as configured. Stories that were kept before stay."""
        self._redaction, settings = redaction, config.stories
        if settings == self._settings:
            return
        self._settings = settings
        self.stop()
        self._stories = deque(self._stories, 0 if settings is None else settings.keep)
        if settings is not None:
            self._collecting = asyncio.get_running_loop().create_task(self._collect(settings))

    async def _collect(self, settings: StorySettings) -> None:
        order = StoryOrder(slower_than=settings.slower_than)
        async with self._captures.sampling(_encode(order), self._take_sample):
            await asyncio.get_running_loop().create_future()

    def _take_sample(self, sample: Sample) -> None:
        self._keep_story(sample, self._stories)

    def take_debugged(self, sample: Sample) -> None:
        """Keep the story of a debugged request, whatever the configuration."""
        self._keep_story(sample, self._debugged)

    def _keep_story(self, sample: Sample, kept: deque[bytes]) -> None:
        self.dropped += sample.dropped
        if len(sample.content) > MOST_BYTES:
            self.dropped += 1
            return
        self._count += 1
        story, redaction = decode(sample.content), self._redaction
        story.number = self._count
        story.path = redaction.path(story.path.encode()).decode(errors="replace")
        if story.query is not None:
            story.query = (redaction.query(story.query.encode()) or b"").decode(errors="replace")
        kept.append(_encode(story))  # PERF: encoded, a story takes a tenth of the memory of its objects

    def all(self) -> list[Story] | None:
        """Return the stories, newest first. None: none are kept."""
        if self._settings is None and not self._debugged:
            return None
        found = [decode(each) for each in (*self._stories, *self._debugged)]
        return sorted(found, key=lambda story: story.number, reverse=True)

    def stop(self) -> None:
        if self._collecting is not None:
            self._collecting.cancel()
            self._collecting = None
