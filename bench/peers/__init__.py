"""The contestants, each configured as someone who knows it would, to do the same work.

The work of `plain`: 100 routes by prefix, an unknown path is 404, Host kept, X-Forwarded-For, -Proto, -Host and -Port
set, Via both ways, connections kept alive on both sides, one JSON line per request in a log file (except where the name
says `no log`). `bench/prove.py` holds each contestant to it before anything is measured.
"""

from bench.peers.caddy import Caddy
from bench.peers.envoy import Envoy
from bench.peers.fastgw import Fastgw
from bench.peers.haproxy import Haproxy
from bench.peers.nginx import Nginx
from bench.peers.peer import Peer

PEERS: tuple[Peer, ...] = (
    Fastgw(),
    Nginx(logs=True),
    Nginx(logs=False),
    Haproxy(logs=True),
    Haproxy(logs=False),
    Envoy(),
    Caddy(),
)
