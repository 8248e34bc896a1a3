"""The dashboard: one page that loads nothing but JSON of the admin API, from its own address.

The page is assembled from the files in this folder on first use; there is no build step. The scripts are ES modules, so
that tools can read them one by one; the page contains them as a single inline module, because the content security
policy can only list inline scripts by hash. Nothing in the page is secret: it asks for the token itself.
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
    "stories",
    "cache",
    "explain",
    "tap",
    "consumers",
    "analytics",
    "versions",
    "actions",
    "configuration",
    "main",
)
"""Scripts in running order: each one imports only from earlier ones. In the page, all of them share one scope."""

_IMPORT: Final = re.compile(r"^import [^;]+;\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:const|class|function) )", re.MULTILINE)


@cache
def page() -> bytes:
    """Return the page as it is sent: `text/html; charset=utf-8`."""
    html = _text("index.html")
    html = html.replace("<style></style>", f"<style>{_style()}</style>")
    html = html.replace('<script type="module"></script>', f'<script type="module">{_script()}</script>')
    return html.encode()


@cache
def csp() -> str:
    """Return the `Content-Security-Policy` of the page. Trusted types: no string from a server can become markup."""
    return "; ".join(
        (
            "default-src 'none'",
            "connect-src 'self'",
            "img-src data:",  # icon
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
    """Return all scripts as one, without the imports, whose names are defined above."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", _text(f"{name}.js"))) for name in SCRIPTS)


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()
