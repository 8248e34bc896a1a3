"""Building blocks of black-box tests, which use fastgw only by its commands, its contract and its bytes.

- `gateway.Gateway` runs `fastgw run` and stops it; `lanes.Lanes` shares one gateway among tests, each with a host, an
  upstream and an origin of its own (fixtures `lanes` and `lane`).
- `client.Client` and `origin.OriginConnection` are the two ends that a test plays; both are a `peer.Peer`.
- `faults.assert_fault` checks the gateway's own responses.
- `certificates.Certificates` issues certificates for TLS.

A test is one thread that moves step by step: the client sends, the origin accepts, reads and answers, the client reads.
Each step waits for at most `peer.DEADLINE` seconds. For clients that only support whole HTTP requests, `Origin.serve`
answers on threads by a script.
"""
