"""The dashboard: one page that takes nothing from anywhere but the admin API's JSON, from the address it came from.

The page is put together from the files beside this one when it is first asked for; there is no build step. The scripts
are ES modules, written so that tools can read them one by one; the page has them as a single inline module, because
only what is inline can be named by its hash in the policy. Nothing in the page is secret: it asks for the token itself.
"""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

SCRIPTS: Final = (
    "words",
    "elements",
    "histogram",
    "history",
    "chart",
    "table",
    "connection",
    "poll",
    "theme",
    "overview",
    "hour",
    "routes",
    "upstreams",
    "workers",
    "reloads",
    "certificates",
    "limits",
    "explain",
    "actions",
    "configuration",
    "main",
)
"""Scripts in the order in which they run: a script imports from those before it. All of them share one scope in the
page.
"""

_IMPORT: Final = re.compile(r"^import [^;]+;\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:const|class|function) )", re.MULTILINE)


@cache
def page() -> bytes:
    """The page as it is sent: `text/html; charset=utf-8`."""
    html = _text("index.html")
    html = html.replace("<style></style>", f"<style>{_style()}</style>")
    html = html.replace('<script type="module"></script>', f'<script type="module">{_script()}</script>')
    return html.encode()


@cache
def csp() -> str:
    """The `Content-Security-Policy` to send with it. Trusted types: no string of a server can become markup."""
    return "; ".join(
        (
            "default-src 'none'",
            "connect-src 'self'",
            "img-src data:",  # the icon
            f"style-src 'sha256-{_digest(_style())}'",
            f"script-src 'sha256-{_digest(_script())}'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _text(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


def _style() -> str:
    return _text("dashboard.css")


def _script() -> str:
    """All scripts as one: without the imports, since everything that they name stands above."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", _text(f"{name}.js"))) for name in SCRIPTS)


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()
