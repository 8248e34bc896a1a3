"""Documentation of an API as one HTML page: no scripts, and nothing from elsewhere. All text is escaped."""

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, Final

import msgspec

from fastgw.config.openapi.operations import ApiOperation
from fastgw.config.openapi.schemas import Schemas

_STYLE: Final = """\
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;color:#1b1f24;background:#fff}
details{border:1px solid #d0d7de;border-radius:6px;margin:.5rem 0;padding:.25rem .75rem}
summary{cursor:pointer;overflow-wrap:anywhere}
code,pre{font:14px/1.45 ui-monospace,monospace;background:#f3f5f7;border-radius:4px}
code{padding:.1em .3em}pre{padding:.75rem;overflow:auto;white-space:pre-wrap}
b.m{display:inline-block;min-width:4.5rem}
table{border-collapse:collapse;width:100%}
td,th{border-top:1px solid #d0d7de;padding:.3rem .5rem;text-align:left;vertical-align:top}
.d{white-space:pre-wrap}.old{text-decoration:line-through}
@media(prefers-color-scheme:dark){body{color:#e6e9ec;background:#111518}code,pre{background:#1d2329}
details,td,th{border-color:#39424c}a{color:#7ab7ff}}"""


def page(document: dict[str, Any], operations: Iterable[ApiOperation], schemas: Schemas, link: str) -> str:
    """Return the page."""
    return "".join(_page(document, operations, schemas, link))


def _page(document: dict[str, Any], operations: Iterable[ApiOperation], schemas: Schemas, link: str) -> Iterator[str]:
    info = document.get("info")
    info = info if isinstance(info, dict) else {}
    title = _text(info.get("title") or "API")
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width"><title>'
    yield f"{title}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{title} <small>{_text(info.get('version', ''))}</small></h1>"
    yield _description(info)
    yield f'<p><a href="{_text(link)}" rel="nofollow">openapi.json</a></p>'
    groups: dict[str, list[ApiOperation]] = {}
    for each in operations:
        tags = each.operation.get("tags")
        tag = tags[0] if isinstance(tags, list) and tags and isinstance(tags[0], str) else ""
        groups.setdefault(tag, []).append(each)
    for tag, grouped in groups.items():
        if tag:
            yield f"<h2>{_text(tag)}</h2>"
        for each in grouped:
            yield from _operation(each, schemas)
    components = document.get("components")
    named = components.get("schemas") if isinstance(components, dict) else None
    if isinstance(named, dict) and named:
        yield "<h2>Schemas</h2>"
        for name, schema in named.items():
            yield f'<details id="schema-{_text(name)}"><summary><code>{_text(name)}</code></summary>{_json(schema)}'
            yield "</details>"
    yield "</body></html>"


def _operation(each: ApiOperation, schemas: Schemas) -> Iterator[str]:
    old = ' class="old"' if each.operation.get("deprecated") is True else ""
    yield f'<details><summary><b class="m">{_text(each.method)}</b> <code{old}>{_text(each.template)}</code> '
    yield f"{_text(each.operation.get('summary', ''))}</summary>"
    yield _description(each.operation)
    yield f"<p>Operation <code>{_text(each.name)}</code>"
    if each.security:
        ways = (" and ".join(map(str, one)) or "none" for one in each.security)
        yield f"; authentication: {_text(' or '.join(ways))}"
    yield "</p>"
    if each.parameters:
        yield "<table><tr><th>Parameter</th><th>In</th><th>Type</th><th>Required</th></tr>"
        for one in each.parameters:
            types = ", ".join(one.get("types", ())) or "any"
            yield f"<tr><td><code>{_text(one['name'])}</code></td><td>{_text(one['in'])}</td><td>{_text(types)}</td>"
            yield f"<td>{'yes' if one.get('required') else 'no'}</td></tr>"
        yield "</table>"
    body = schemas.followed(each.operation.get("requestBody"))
    yield from _content("Request body", body)
    responses = each.operation.get("responses")
    for status, response in responses.items() if isinstance(responses, dict) else ():
        held = schemas.followed(response)
        yield f"<h4>{_text(status)} {_text(held.get('description', ''))}</h4>"
        yield from _content("", held)
    yield "</details>"


def _content(title: str, held: dict[str, Any]) -> Iterator[str]:
    content = held.get("content")
    if not isinstance(content, dict):
        return
    if title:
        yield f"<h4>{title}</h4>"
    for content_type, media in content.items():
        yield f"<p><code>{_text(content_type)}</code></p>"
        if isinstance(media, dict) and "schema" in media:
            yield _json(media["schema"])


def _json(value: Any) -> str:
    return f"<pre>{_text(msgspec.json.format(msgspec.json.encode(value)).decode())}</pre>"


def _description(holder: dict[str, Any]) -> str:
    text = holder.get("description")
    return f'<p class="d">{_text(text)}</p>' if isinstance(text, str) and text else ""


def _text(value: Any) -> str:
    return escape(str(value))
