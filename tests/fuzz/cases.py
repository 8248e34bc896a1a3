"""Cases: what kinds there are, how one is made, judged and kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Final, Self

from tests.fuzz import comparison, frames, messages, mutations, records, routes
from tests.fuzz.comparison import Difference

FOUND = Path(__file__).with_name("found")
LONGEST_KEPT: Final = 4000  # bytes of a message that is mutated later; the few that are longer would take all the time
POOL: Final = 400


@dataclass(frozen=True)
class Kind:
    """How cases of one kind come to be, and how they are judged."""

    write: Callable[[Random], bytes]
    judge: Callable[[bytes, int], bool]
    """Takes the content and a seed; whether it was accepted. Raises `Difference`."""
    weight: float
    """How often: by what there is to find in one, and how long it takes."""
    breakable: bool = True
    """Whether a broken one is still worth judging."""


def _answering(method: bytes) -> Callable[[bytes, int], bool]:
    return lambda wire, seed: comparison.compare_response(wire, seed, method)


def _beginnings(method: bytes | None) -> Callable[[bytes, int], bool]:
    def judge(wire: bytes, seed: int) -> bool:
        comparison.refuse_beginnings(wire[:300], method)
        return False

    return judge


KINDS: Mapping[str, Kind] = {
    "request": Kind(messages.request, comparison.compare_request, 40),
    "request-with-body": Kind(messages.request_with_body, comparison.compare_request, 20),
    "response": Kind(messages.response, _answering(b"GET"), 40),
    "response-to-head": Kind(messages.response, _answering(b"HEAD"), 5),
    "request-cut-off": Kind(messages.request, _beginnings(None), 0.3),
    "response-cut-off": Kind(messages.response, _beginnings(b"GET"), 0.3),
    "routes": Kind(routes.write, routes.judge, 1, breakable=False),
    "frames": Kind(frames.write, frames.judge, 40),
    "records": Kind(records.write, records.judge, 1, breakable=False),
}


@dataclass(frozen=True)
class Case:
    kind: str
    seed: int
    """What judging it leaves to chance: where the bytes are cut, in which order questions are asked."""
    content: bytes

    def judge(self) -> bool:
        """Whether it was accepted. Raises `Difference`."""
        return KINDS[self.kind].judge(self.content, self.seed)

    @property
    def text(self) -> bytes:
        return b"%b %d\n%b" % (self.kind.encode(), self.seed, self.content)

    @classmethod
    def read(cls, text: bytes) -> Self:
        about, _, content = text.partition(b"\n")
        kind, seed = about.decode().split()
        return cls(kind, int(seed), content)

    def keep(self) -> Path:
        """Make a regression case of it."""
        FOUND.mkdir(exist_ok=True)
        file = FOUND / f"{self.kind}-{sha256(self.text).hexdigest()[:12]}"
        file.write_bytes(self.text)
        return file

    def smallest(self) -> Case:
        """The same with as much left out as can be while there is a difference."""
        content, size = self.content, len(self.content)
        while size:
            at = 0
            while at < len(content):
                shorter = Case(self.kind, self.seed, content[:at] + content[at + size :])
                try:
                    shorter.judge()
                except Difference:
                    content = shorter.content
                except Exception:
                    at += size
                else:
                    at += size
            size //= 2
        return Case(self.kind, self.seed, content)


def cases(seed: int) -> Iterator[Case]:
    """Cases without end, the same for the same seed: written anew, or broken out of earlier ones and of those found."""
    random = Random(seed)
    pools: dict[str, list[bytes]] = {name: [kind.write(random)] for name, kind in KINDS.items()}
    for case in found():
        pools[case.kind].append(case.content)
    names, weights = list(KINDS), [kind.weight for kind in KINDS.values()]
    while True:
        name = random.choices(names, weights)[0]
        kind, pool = KINDS[name], pools[name]
        die = random.random()
        if die < 0.01 and kind.breakable:
            content = mutations.noise(random)
        elif die < 0.4 and kind.breakable:
            content = mutations.mutated(random, pool)
        else:
            content = kind.write(random)
        if len(content) <= LONGEST_KEPT:
            if len(pool) < POOL:
                pool.append(content)
            else:
                pool[random.randrange(POOL)] = content
        yield Case(name, random.getrandbits(32), content)


def found() -> list[Case]:
    """All regression cases."""
    return [Case.read(file.read_bytes()) for file in sorted(FOUND.glob("*"))]
