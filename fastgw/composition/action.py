"""Action of a composed route: it sends the parts of each exchange, and merges their answers."""

from fastgw.composition.pass_through import PassThrough
from fastgw.composition.plan import CompositionPlan
from fastgw.composition.run import ComposeRun
from fastgw.exchange.exchange import Exchange
from fastgw.upstream.forwarding.forward_action import is_translated


class ComposeAction(CompositionPlan):
    """Action of a route by this plan."""

    def begin(self, exchange: Exchange) -> None:
        if exchange.chain.translate_steps and is_translated(exchange, self):
            return
        if self.passes_through:
            exchange.service = streamed = PassThrough(self, exchange)
            streamed.start()
        else:
            exchange.service = run = ComposeRun(self, exchange)
            run.start()
