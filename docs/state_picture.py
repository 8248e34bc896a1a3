"""Draws the states of an HTTP/1 connection from the tables of fastgw.downstream.http1.states, as SVG."""

from collections.abc import Mapping
from html import escape
from math import hypot
from typing import Final

from fastgw.downstream.http1.states import EVENTS, ClientPhase

PLACES: Final[Mapping[ClientPhase, tuple[int, int]]] = {
    ClientPhase.HEAD: (120, 70),
    ClientPhase.IDLE: (120, 230),
    ClientPhase.ACTIVE: (400, 150),
    ClientPhase.FLUSHING: (260, 340),
    ClientPhase.TUNNEL: (640, 70),
    ClientPhase.LINGERING: (850, 170),
    ClientPhase.CLOSING: (620, 340),
    ClientPhase.CLOSED: (860, 340),
}
WIDTH, HEIGHT = 110, 36
STYLE: Final = """
  .page { fill: #fff } rect { fill: #eef2ff; stroke: #4051b5 } .end { fill: #f3f4f6; stroke: #6b7280 }
  text { font: 13px system-ui, sans-serif; text-anchor: middle; fill: #1f2937 }
  .event { font-size: 11px; fill: #4051b5 }
  line { stroke: #6b7280; marker-end: url(#arrow) }
"""


def picture() -> str:
    """An arrow for each event in each state, but for LOST, which leads from every state to CLOSED."""
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 400" role="img"',
        '  aria-label="States of an HTTP/1 connection of a client">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">',
        '<path d="M0 0 8 4 0 8z" fill="#6b7280"/></marker></defs>',
        '<rect class="page" width="960" height="400" style="stroke: none"/>',
    ]
    for event in EVENTS:
        if event.name != "LOST":
            for before, after in event.items():
                lines += _arrow(PLACES[before], PLACES[after], event.name)
    for phase, (x, y) in PLACES.items():
        kind = "end" if phase >= ClientPhase.CLOSING else "state"
        lines += [
            f'<rect class="{kind}" x="{x - WIDTH // 2}" y="{y - HEIGHT // 2}" width="{WIDTH}" height="{HEIGHT}"',
            '  rx="8"/>',
            f'<text x="{x}" y="{y + 5}">{escape(phase.name)}</text>',
        ]
    lines += ['<text class="event" x="860" y="385">LOST: from every state</text>', "</svg>"]
    return "\n".join(lines) + "\n"


def _arrow(before: tuple[int, int], after: tuple[int, int], name: str) -> list[str]:
    """From the edge of one box to that of the other, a little to the right of the middle: the way back is beside it."""
    (x, y), (to_x, to_y) = before, after
    away_x, away_y = to_x - x, to_y - y
    length = hypot(away_x, away_y)
    step_x, step_y = away_x / length, away_y / length
    aside_x, aside_y = -step_y * 8, step_x * 8
    edge = min(
        (WIDTH / 2 + 2) / abs(step_x) if step_x else length, (HEIGHT / 2 + 2) / abs(step_y) if step_y else length
    )
    points = (x + step_x * edge, y + step_y * edge, to_x - step_x * edge, to_y - step_y * edge)
    x1, y1, x2, y2 = (round(each + aside) for each, aside in zip(points, (aside_x, aside_y) * 2, strict=True))
    at_x, at_y = round(x1 + (x2 - x1) * 0.45 + aside_x), round(y1 + (y2 - y1) * 0.45 + aside_y)
    return [
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>',
        f'<text class="event" x="{at_x}" y="{at_y + 4}">{escape(name)}</text>',
    ]
