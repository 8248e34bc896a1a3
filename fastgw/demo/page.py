"""Page of the demo: what to try, as commands to copy, and the way to the dashboard.

Rule: it fetches nothing, and has no token. It is the same for all clients, but for their own request.
"""

import html
import os
import re
import sys
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import Final

from fastgw import VERSION

TRY: Final = (
    ("curl -i {url}/", "this page, and what the gateway adds to it"),
    ("curl -d hello {url}/echo", "a request as the service sees it"),
    ("curl -N {url}/events", "a stream: each event as it happens"),
)
"""Commands on the terminal and the page, each with its explanation."""
MORE: Final = (("curl -s '{url}/limited?[1-5]'", "five requests, of which a rate limit lets three pass in 10 seconds"),)
LOOK: Final = (
    ("{fastgw} status", "the gateway, its workers and targets"),
    ("{fastgw} top", "the busiest routes, until Ctrl-C"),
    ("{fastgw} tap --requests 3", "the next three requests and responses, with headers and bodies"),
    ("{fastgw} stories", "requests answered 500 and above, or slowly; with a number behind it, one of them"),
)
CLONE: Final = (
    (
        "{fastgw} explain examples/gateway.yaml GET http://api.example.com/users/7",
        "what would happen to a request, without sending it: this one has no token, and would be refused",
    ),
)
"""Commands that need the files of a clone."""
PAGES: Final = (
    ("quick-start.md", "Quick start", "a gateway of your own in five lines"),
    ("concepts.md", "Concepts", "routes, upstreams and filters on one page"),
    ("index.md", "All guides", "by task, with a reference of every setting"),
)


def commands(url: str) -> list[str]:
    """Return the commands to try, one line each, with aligned explanations as comments, so that whole lines can be
    pasted.
    """
    written = [(command.format(url=url), about) for command, about in TRY]
    width = max(len(command) for command, _ in written)
    return [f"{command:<{width}}   # {about}" for command, about in written]


def page(url: str, request_id: str, dashboard: str, *, is_clone: bool) -> bytes:
    """Return the page. `url`: of the demo, as the client has it; `request_id`: of the request; `dashboard`: its URL,
    "" = unknown; `is_clone`: whether the files of a clone are there.
    """
    fastgw = program()
    look = LOOK + CLONE if is_clone else LOOK
    return (
        _template()
        .substitute(
            version=VERSION,
            request_id=html.escape(request_id),
            dashboard=html.escape(dashboard),
            no_dashboard="" if dashboard else " hidden",
            token=html.escape(f"{fastgw} token"),
            try_it=_listed(TRY + MORE, url, fastgw),
            look=_listed(look, url, fastgw),
            docs="".join(_link(*each) for each in PAGES),
            no_docs="" if is_clone else " hidden",
        )
        .encode()
    )


def program() -> str:
    """Return the command that visitors type: `.venv/bin/fastgw` in a clone, which is not on their PATH."""
    name = sys.argv[0]
    is_relative = os.path.basename(name) == "fastgw" and os.sep in name and not os.path.isabs(name)
    return name if is_relative else "fastgw"


@cache
def csp() -> str:
    """Return the content security policy: the page's own style and script, and nothing else."""
    script = re.findall(r"<script>(.*?)</script>", _template().template, re.DOTALL)[0]
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@cache
def _template() -> Template:
    return Template(files(__package__).joinpath("page.html").read_text())


def _listed(shown: tuple[tuple[str, str], ...], url: str, fastgw: str) -> str:
    return "".join(
        f"<li><p>{html.escape(about[:1].upper() + about[1:])}</p>"
        f"<div><code>{html.escape(command.format(url=url, fastgw=fastgw), quote=False)}</code>"
        "<button>Copy</button></div></li>\n"
        for command, about in shown
    )


def _link(file: str, title: str, about: str) -> str:
    return f'<li><a href="/docs/{file}">{title}</a>: {about}</li>\n'
