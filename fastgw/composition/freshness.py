"""Cache fields of a composed response, from those of its parts (RFC 9111)."""

from collections.abc import Iterable, Iterator

from fastgw.http.fields import Fields


def cache_fields(answers: Iterable[Fields]) -> Iterator[tuple[bytes, bytes]]:
    """Yield `Cache-Control` and `Vary` for the whole.

    The strictest part decides: `no-store` before `no-cache`, `private` for all, and the shortest `max-age`, less its
    `Age`. If a part says nothing about its freshness, the whole says nothing but what restricts it.
    """
    names: set[bytes] = set()
    varies: dict[bytes, bytes] = {}
    ages: list[int | None] = []
    for fields in answers:
        directives = dict(_directives(fields))
        names |= directives.keys() & {b"no-store", b"no-cache", b"private", b"must-revalidate"}
        ages.append(_left(directives.get(b"max-age"), fields.get(b"age")))
        for value in fields.get_all(b"vary"):
            varies.update((each.strip().lower(), each.strip()) for each in value.split(b",") if each.strip())
    said: list[bytes] = [name for name in (b"no-store", b"no-cache", b"private", b"must-revalidate") if name in names]
    known = [age for age in ages if age is not None]
    if known and len(known) == len(ages) and b"no-store" not in names:
        said.append(b"max-age=%d" % min(known))
    if said:
        yield b"Cache-Control", b", ".join(said)
    if varies:
        yield b"Vary", b"*" if b"*" in varies else b", ".join(varies.values())


def _directives(fields: Fields) -> Iterator[tuple[bytes, bytes]]:
    for value in fields.get_all(b"cache-control"):
        for each in value.split(b","):
            name, _, argument = each.strip().partition(b"=")
            yield name.lower(), argument.strip(b'"')


def _left(max_age: bytes | None, age: bytes | None) -> int | None:
    """Return the seconds that are left; None: unknown."""
    if max_age is None or not max_age.isdigit() or len(max_age) > 10:
        return None
    spent = int(age) if age is not None and age.isdigit() and len(age) <= 10 else 0
    return max(int(max_age) - spent, 0)
