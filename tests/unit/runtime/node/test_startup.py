"""The state of a gateway that has just started."""

from contextlib import ExitStack

from fastgw.gateway.compiler import compile
from fastgw.runtime.node.startup import open_node_state
from fastgw.runtime.sockets.systemd_activation import Inherited
from tests.support.node import accepted_of, document


def test_both_clocks_tell_the_same_start() -> None:
    """Loading a large configuration takes seconds: its time belongs to the time since the start on both clocks."""
    accepted = accepted_of(document())
    gateway = compile(accepted.config(), accepted.workers)
    with ExitStack() as opened:
        node_state = open_node_state(accepted, gateway, Inherited(()), opened)
        assert node_state.begun_date == 1.0
        assert node_state.begun_at < 0.0  # long before this machine has started
