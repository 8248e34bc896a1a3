"""The contestants, each configured as an expert would, to do the same work.

That work: routes by prefix, 404 for an unknown path, Host preserved, X-Forwarded-For, -Proto, -Host and -Port set, Via
in both directions, keep-alive on both sides, one JSON line per request in a log file (except where the name says `no
log`). Each scenario creates its own instances: its differences are attributes of the peer, inserted into the template
of its configuration. `bench/prove.py` verifies each contestant before the measurement.
"""

from bench.peers.caddy import Caddy
from bench.peers.envoy import Envoy
from bench.peers.fastgw import Fastgw
from bench.peers.haproxy import Haproxy
from bench.peers.nginx import Nginx
from bench.peers.peer import LeftOut, Peer, Place, Running

__all__ = ["Caddy", "Envoy", "Fastgw", "Haproxy", "LeftOut", "Nginx", "Peer", "Place", "Running"]
