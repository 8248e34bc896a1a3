"""cache: cost of a response from the cache, and of the same response from the upstream."""

from http.client import HTTPException

from bench import origin
from bench.load.beside import BesideDownloads
from bench.load.h2load import PUBLIC_FIELDS, FixedRate
from bench.load.wrk import REQUESTS, Wrk
from bench.origin import BODY, LARGE, LARGE_BYTES, PAGE
from bench.peers import Fastgw, Haproxy, Nginx
from bench.peers.peer import HOST, Running
from bench.prove import NotTheSameWork, client_of, expect
from bench.scenarios.scenario import (
    CORE_USED,
    CPU_US,
    P50,
    P90,
    P99,
    P999,
    RATE,
    SYSTEM_US,
    USER_US,
    Scenario,
    Table,
    ratio_to,
)

CACHE = (
    "proxy_cache pages; proxy_cache_lock on; proxy_cache_use_stale error timeout updating;"
    "proxy_hide_header X-Request-Id; add_header X-Request-Id $http_x_request_id;"
    "add_header Cache-Status $upstream_cache_status; "
)
ZONE = "proxy_cache_path @{folder}/nginx-cache levels=1:2 keys_zone=pages:10m; "
HAPROXY_CACHE = "cache pages\n    total-max-size 64\n    max-object-size 100000\n    max-age 3600"
HAPROXY_USE = (
    "http-request set-var(txn.id) req.hdr(X-Request-Id)\n"
    "    http-request cache-use pages\n"
    "    http-response cache-store pages\n"
    "    http-after-response set-header X-Request-Id %[var(txn.id)]\n"
    "    http-after-response set-header Cache-Status hit if { res.cache_hit }"
)
UNCACHED = ", no cache"
STORED_A_SECOND = 50
CACHED = REQUESTS.with_name("cached.lua")
PAGES = Wrk("64 KiB", script=CACHED, arguments={"body": "@page", "below": PAGE, "count": 100})
"""As many as fastgw keeps as bytes in the memory of a worker."""
MISSES = Wrk("misses", script=CACHED, arguments={"body": "@body.json", "misses": 1})
COLUMNS = (CPU_US, USER_US, SYSTEM_US, ratio_to("fastgw" + UNCACHED), ratio_to("nginx"), RATE, CORE_USED, P50, P99)
LATENCIES = (P50, P90, P99, P999, CPU_US, RATE)
ALONE = FixedRate("a quarter of the load, alone", 0.25, "fastgw", fields=PUBLIC_FIELDS, times_as_long=2)
BESIDE = BesideDownloads(
    f"beside {STORED_A_SECOND} of 1 MiB stored a second", ALONE, STORED_A_SECOND, LARGE, LARGE_BYTES
)


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless the second response to a request comes from the cache, or none does."""
    client = client_of(running)
    try:
        for number in range(4):
            is_large = number >= 2
            target = f"{LARGE}proof" if is_large else "/svc1/v1/proof/7"
            client.request("GET", target, headers={"Host": HOST, "X-Request-Id": f"{number:032x}"})
            response = client.getresponse()
            expect("body", response.read(), bytes(LARGE_BYTES) if is_large else BODY.encode())
            status = (response.getheader("Cache-Status") or "").lower()
            stores = not name.endswith(UNCACHED) and not (is_large and name.startswith("haproxy"))
            expect("whether the cache has answered", "hit" in status, number % 2 == 1 and stores)
            expect("request id", response.getheader("X-Request-Id"), f"{number:032x}")
    except (OSError, HTTPException, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error
    finally:
        client.close()


SCENARIO = Scenario(
    name="cache",
    title="CPU per response from the cache",
    about=(
        "1,000 URLs with the headers of a browser, whose responses of 1 KiB all are stored for an hour, as they say; "
        "then 100 URLs with 64 KiB each; then 1 KiB again, with a URL of its own for each request, which all store as "
        "well. "
        "nginx keeps its cache in files, with `sendfile`; `open_file_cache` keeps the files open. HAProxy keeps its in "
        "memory. `no cache`: the same requests, forwarded. Then a quarter of the rate at which fastgw is saturated, "
        "alone and beside a client that fetches 50 objects of 1 MiB a second, which all but HAProxy store, too; "
        "latency counts from when a request was due."
    ),
    peers=(
        Fastgw(config={"filters": {"cache": {}}}),
        Fastgw("fastgw" + UNCACHED),
        Nginx(fill={"http": ZONE + "sendfile on;", "server": CACHE}),
        Nginx(
            "nginx, open_file_cache", fill={"http": ZONE + "sendfile on; open_file_cache max=2000;", "server": CACHE}
        ),
        Nginx("nginx" + UNCACHED),
        Haproxy(fill={"sections": HAPROXY_CACHE, "frontend": HAPROXY_USE}),
    ),
    loads=(Wrk(script=CACHED, arguments={"body": "@body.json"}), PAGES, ALONE, BESIDE, MISSES),
    tables=(
        Table("64 connections", COLUMNS),
        Table(PAGES.name, COLUMNS),
        Table(ALONE.name, LATENCIES),
        Table(BESIDE.name, LATENCIES),
        Table(MISSES.name, COLUMNS),
    ),
    prove=prove,
    origin=origin.serving_public,
)
