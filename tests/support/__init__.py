"""What black-box tests are made of: they know fastgw by its commands, its contract and its bytes alone.

- `gateway.Gateway` runs `fastgw run` and stops it; `lanes.Lanes` shares one gateway among tests, each with a host, an
  upstream and an origin of its own (fixtures `lanes` and `lane`).
- `client.Client` and `origin.OriginConnection` are the two ends that a test plays; both are a `peer.Peer`.
- `faults.assert_fault` says what every answer of the gateway's own must look like.
- `certificates.Certificates` issues what TLS needs.

A test is one thread that moves step by step: the client sends, the origin accepts, reads and answers, the client reads.
Each step waits for what it needs, for `peer.DEADLINE` seconds at most. Where a client that knows only HTTP must be
served meanwhile, `Origin.serve` answers on threads by a script.
"""
