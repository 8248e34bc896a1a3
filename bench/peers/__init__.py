"""The contestants, each configured as someone who knows it would, to do the same work.

That work: routes by prefix, an unknown path is 404, Host kept, X-Forwarded-For, -Proto, -Host and -Port set, Via both
ways, connections kept alive on both sides, one JSON line per request in a log file (except where the name says
`no log`). A scenario makes its own instances: what differs goes into the fields of the peer, and the template of its
configuration has a place for it. `bench/prove.py` holds each contestant to the work before anything is measured.
"""

from bench.peers.caddy import Caddy
from bench.peers.envoy import Envoy
from bench.peers.fastgw import Fastgw
from bench.peers.haproxy import Haproxy
from bench.peers.nginx import Nginx
from bench.peers.peer import LeftOut, Peer, Place, Running

__all__ = ["Caddy", "Envoy", "Fastgw", "Haproxy", "LeftOut", "Nginx", "Peer", "Place", "Running"]
