"""Client side that stands before another one and passes everything on. Subclasses override what they change."""

from fastgw.errors import Fault
from fastgw.exchange.body_relay import Trailers
from fastgw.exchange.exchange import ClientSide, Exchange
from fastgw.exchange.exchange_counts import ExchangeCounts
from fastgw.exchange.reply import Response
from fastgw.http.messages import ResponseHead
from fastgw.shm.held_body_budget import HeldBodyBudget


class ClientWrapper(ClientSide):
    """`inner`: the client side behind this one."""

    __slots__ = ("inner",)

    def __init__(self, inner: ClientSide) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.inner!r}>"

    @property
    def fd(self) -> int:
        return self.inner.fd

    @property
    def body_goes_to(self) -> int:
        return self.inner.body_goes_to

    @body_goes_to.setter
    def body_goes_to(self, fd: int) -> None:
        self.inner.body_goes_to = fd

    @property
    def accepts_more(self) -> bool:
        return self.inner.accepts_more

    def send_interim(self, head: ResponseHead | None) -> None:
        self.inner.send_interim(head)

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        self.inner.answer(response, payload, ended)

    def send_held(self, exchange: Exchange, response: Response, body: bytes, trailers: Trailers) -> bool:
        return self.inner.send_held(exchange, response, body, trailers)

    def feed(self, payload: bytes) -> None:
        self.inner.feed(payload)

    def end(self, trailers: Trailers) -> None:
        self.inner.end(trailers)

    def abort(self, fault: Fault) -> None:
        self.inner.abort(fault)

    def tunnel(self, early: bytes, timeout: float) -> None:
        self.inner.tunnel(early, timeout)

    def pause_tunnel(self) -> None:
        self.inner.pause_tunnel()

    def resume_tunnel(self) -> None:
        self.inner.resume_tunnel()

    @property
    def counts(self) -> ExchangeCounts:
        return self.inner.counts

    @property
    def held_body_budget(self) -> HeldBodyBudget:
        return self.inner.held_body_budget

    def filter_timeout(self) -> float:
        return self.inner.filter_timeout()
