"""What a composed route does with each exchange, compiled from its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

import cython

from fastgw.composition.outputs import (
    FORMS,
    JSON,
    NEGOTIATED,
    Composed,
    OutputForm,
    negotiate_form,
    write_response,
)
from fastgw.composition.part import CompiledPart
from fastgw.composition.rules import OF_VALUES, flatmapping
from fastgw.config.settings.compose import Compose
from fastgw.exchange.exchange import Exchange
from fastgw.upstream.client.response_action import MARKS, ResponseAction
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.forwarding.forwarded_request import ForwardSettings
from fastgw.upstream.upstream import Upstream

_DIGEST_BYTES = 12
_XML_TO_JSON = 8


class CompositionPlan(ResponseAction):
    """Which parts each exchange of a route sends, and how their answers become its response."""

    def __init__(self, settings: Compose, upstreams: Mapping[str, Upstream], via: bool) -> None:
        """`via`: of the route, as in `ForwardSettings`."""
        super().__init__(MARKS)
        self.settings = settings
        order = settings.order()
        self.indexes = indexes = {part.name: index for index, part in enumerate(settings.parts)}
        self.parts = tuple(
            CompiledPart(
                index,
                part,
                upstreams[str(part.upstream)],
                [indexes[name] for name in order[part.name]],
                settings.headers_to_pass,
                settings.query_to_pass,
                Forward(upstreams[str(part.upstream)], ForwardSettings(via=via)),
            )
            for index, part in enumerate(settings.parts)
        )
        for part in self.parts:
            part.followers = tuple(other for other in self.parts if part.index in other.after)
        self.first = tuple(part for part in self.parts if not part.after)
        """Parts that wait for nothing."""
        self._digest = blake2b(repr(settings).encode(), digest_size=_DIGEST_BYTES).digest()
        self.timeout = settings.timeout
        self.most_bytes = settings.max_bytes
        self.most_requests = sum(1 if part.for_each is None else part.max for part in settings.parts) + len(self.parts)
        self.completed_name = settings.completed_header.encode()
        marks = self.parts[0].forward.marks
        self.replaced_names = marks | {self.completed_name.lower()}
        """Names in the response of a part that are not passed on."""
        self.passes_through = settings.output == "no-op"
        self.form = FORMS.get(settings.output, JSON)
        self.is_negotiated = settings.output == NEGOTIATED
        self.takes_body = any(part.takes_body for part in settings.parts)
        self.flatmap = flatmapping(settings.flatmap) if settings.flatmap else None
        self._static = None if settings.static is None else settings.static.data.encode()
        groups = {part.group for part in settings.parts}
        self._are_apart = (
            None not in groups
            and len(groups) == len(settings.parts)
            and self.flatmap is None
            and not any(part.error_as for part in settings.parts)
        )
        """Whether no two parts have a member in common: each is in a group of its own."""
        self.most_xml = _XML_TO_JSON * self.most_bytes * len(self.parts)
        """Maximum bytes of a response as XML: each element of an array has its name twice there."""

    def key_values(self, exchange: Exchange) -> list[bytes | None]:
        """Return what the response depends on (`ResponseAction`): these settings, and the values of the request in the
        requests of the parts. Values that no two requests have in common, such as the request id, are left out.
        """
        return [self._digest, *(value for part in self.parts for value in part.key_values(exchange))]

    def form_for(self, exchange: Exchange) -> OutputForm:
        """Return the representation for the client."""
        return negotiate_form(exchange.values(b"accept")) if self.is_negotiated else self.form

    def cost_of(self, form: OutputForm) -> int:
        """Return how many times as long as merging alone the response takes."""
        return OF_VALUES if self.flatmap is not None else form.cost

    def static_for(self, complete: bool) -> bytes | None:
        """Return the object with the fixed members for a response; None: none."""
        if self.settings.static is None:
            return None
        strategy = self.settings.static.strategy
        wanted = strategy == "always" or complete is (strategy in ("success", "complete"))
        return self._static if wanted else None

    def write(
        self, contents: Sequence[bytes], static: bytes | None, form: OutputForm, complete: bool, most: cython.Py_ssize_t
    ) -> Composed | str:
        """Return the response, or why it cannot be written. `contents`: of the parts; `most`: maximum bytes of XML."""
        return write_response(contents, self.flatmap, static, form, complete, most, self._are_apart)

    def describe(self) -> Iterator[str]:
        """Yield a line for each part, for people, and one for an output other than JSON."""
        for part in self.parts:
            names = ", ".join(self.parts[index].name for index in part.after)
            after = f" after {names}" if names else ""
            each = "" if part.settings.for_each is None else f" for each of {part.settings.for_each}"
            yield f"{part.name}: {part.settings.method} {part.settings.path} of {part.upstream.name}{after}{each}"
        if self.settings.output != JSON.name:
            yield f"output: {self.settings.output}"
