"""Configuration warnings about upstreams that hash on the consumer without a filter that identifies it."""

from collections.abc import Iterator

from fastgw.config.decoding.filter_levels import running
from fastgw.config.loading.locate_filter import Where
from fastgw.config.settings.gateway import Config
from fastgw.filters.api.warning_context import identity_by


def unidentified_hash_keys(config: Config) -> Iterator[tuple[Where, str]]:
    """Yield a warning for each upstream with `hash_on: consumer` whose clients are never identified."""
    by_consumer = {
        name
        for name, upstream in config.upstreams.items()
        if upstream.load_balancing.hash_on is not None and upstream.load_balancing.hash_on.kind == "consumer"
    }
    if not by_consumer:
        return
    reached, known = set(), set()
    for route in config.routes:
        wanted = [name for name in (*route.destinations, *route.part_destinations) if name in by_consumer]
        for listener in (route.listeners or config.listeners) if wanted else ():
            reached.update(wanted)
            if any(identity_by(use.settings).known for use in running(config, listener, route)):
                known.update(wanted)
    for name in sorted(reached - known):
        yield Where("upstreams", name, ""), "no filter authenticates the client: requests are balanced round robin"
