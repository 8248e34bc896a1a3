"""Action of a composed route, compiled from its settings."""

from collections.abc import Iterator, Mapping
from typing import final

from fastgw.composition.json_tree import Object, opened, rendered
from fastgw.composition.part import CompiledPart
from fastgw.composition.rules import flatmapping
from fastgw.composition.run import ComposeRun
from fastgw.config.settings.compose import Compose
from fastgw.exchange import Exchange
from fastgw.upstream.upstream import Upstream


@final
class ComposeAction:
    """Sends the parts of each exchange of a route, and merges their answers."""

    __slots__ = (
        "_static",
        "completed_name",
        "flatmap",
        "is_whole",
        "most_bytes",
        "most_requests",
        "parts",
        "settings",
        "takes_body",
        "timeout",
    )

    def __init__(self, settings: Compose, upstreams: Mapping[str, Upstream]) -> None:
        self.settings = settings
        order = settings.order()
        indexes = {part.name: index for index, part in enumerate(settings.parts)}
        self.parts = tuple(
            CompiledPart(
                index,
                part,
                upstreams[str(part.upstream)],
                [indexes[name] for name in order[part.name]],
                settings.headers_to_pass,
                settings.query_to_pass,
            )
            for index, part in enumerate(settings.parts)
        )
        self.timeout = settings.timeout
        self.most_bytes = settings.max_bytes
        self.most_requests = sum(1 if part.for_each is None else part.max for part in settings.parts) + len(self.parts)
        self.completed_name = settings.completed_header.encode()
        self.is_whole = settings.output == "no-op"
        self.takes_body = any(part.takes_body for part in settings.parts)
        self.flatmap = flatmapping(settings.flatmap) if settings.flatmap else None
        self._static: Object | None = None
        if settings.static is not None:
            held = opened(settings.static.data.encode())
            self._static = held if isinstance(held, dict) else None

    def __call__(self, exchange: Exchange) -> None:
        run = ComposeRun(self, exchange)
        exchange.service = run
        run.start()

    def static_for(self, complete: bool) -> Object | None:
        """Return the fixed members for a response; None: none."""
        if self.settings.static is None:
            return None
        strategy = self.settings.static.strategy
        wanted = strategy == "always" or complete is (strategy in ("success", "complete"))
        return self._static if wanted else None

    def finished(self, merged: Object, static: Object | None) -> bytes:
        """Return the body of the response."""
        if self.flatmap is not None:
            merged = self.flatmap(merged)
        return rendered(merged if static is None else {**merged, **static})

    def describe(self) -> Iterator[str]:
        """Yield a line for each part, for people."""
        for part in self.parts:
            names = ", ".join(self.parts[index].name for index in part.after)
            after = f" after {names}" if names else ""
            each = "" if part.settings.for_each is None else f" for each of {part.settings.for_each}"
            yield f"{part.name}: {part.settings.method} {part.settings.path} of {part.upstream.name}{after}{each}"
