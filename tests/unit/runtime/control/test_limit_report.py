"""GET /quotas and POST /quotas/reset of the admin API: what is asked of the node, and what is refused."""

from __future__ import annotations

import json

import pytest

from fastgw.config.base.value_types import Trait
from fastgw.filters.limiting.keys import key_named, key_of
from tests.support.admin import served


def test_what_a_consumer_has_used():
    with served() as here:
        assert json.loads(here.ask("GET /quotas?consumer=alice")[2])["quotas"][0]["used"] == 3
        assert json.loads(here.ask("GET /quotas")[2])["quotas"][0]["used"] is None
        assert here.ask("GET /quotas?user=alice")[0] == 400
        assert here.ask("GET /quotas?consumer=a&key=b&key=c")[0] == 200
        assert here.ask("GET /quotas?consumer=a&consumer=b")[0] == 400


@pytest.mark.parametrize(
    ("trait", "value", "seen"),
    [
        (Trait("ip"), "192.0.2.1", "192.0.2.1"),
        (Trait("ip"), "2001:db8::1", "2001:db8::ffff"),
        (Trait("header", "x-tenant"), "a", "a"),
        (Trait("header", "x-tenant"), "a" * 255, "a" * 255),
        (Trait("header", "x-tenant"), "a" * 256, "a" * 256),
    ],
)
def test_a_key_that_is_named_is_the_one_that_requests_have(trait, value, seen):
    class Asked:
        client_ip = seen

        def current_values(self, name: bytes) -> list[bytes]:
            return [seen.encode()]

    for times in (1, 2):
        traits = [trait] * times
        assert key_named(traits, 64, b"name", [value] * times) == key_of(traits, 64, b"name")(Asked())  # type: ignore[arg-type]
