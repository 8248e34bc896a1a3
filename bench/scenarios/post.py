"""post: requests with a body of 64 KiB each."""

from bench.origin import streams
from bench.scenarios.bodies import PEERS, different, posting
from bench.scenarios.scenario import (
    CORE_USED,
    CPU_US,
    P50,
    P99,
    RATE,
    SYSTEM_US,
    USER_US,
    Kind,
    Picture,
    Scenario,
    Table,
    ratio_to,
)

SIZE = 64 << 10

SCENARIO = Scenario(
    name="post",
    title="requests with bodies of 64 KiB",
    about=(
        "1,000 different POST requests of 64 KiB and a head of about 1 KB, which the origin answers with the CRC-32 "
        "of the body; 100 routes, forwarding fields, a JSON access log. nginx passes bodies on as they come, as "
        "the others do."
    ),
    peers=PEERS,
    loads=(posting("64 connections", 64, SIZE, count=1000),),
    tables=(Table("64 connections", (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx"), RATE, CORE_USED, P50, P99)),),
    origin=streams.serving,
    prepare=different(64, SIZE),
    pictures=(Picture(Kind.BARS, "64 connections", "CPU per POST request of 64 KiB"),),
)
