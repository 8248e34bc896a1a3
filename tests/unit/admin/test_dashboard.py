"""The dashboard's page: put together from its files, whole, and covered by its policy."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from pathlib import Path

import pytest

from fastgw.admin import dashboard
from tests.support.table import for_each

FOLDER = Path(dashboard.__file__).parent
NAMED = re.compile(r'^import \{ ([^}]+) \} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORTED = re.compile(r"^export (?:async )?(?:const|class|function) (\w+)", re.MULTILINE)


def inline(tag: str) -> str:
    """What stands between a tag of the page and its end."""
    (text,) = re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", dashboard.page().decode(), re.DOTALL)
    return str(text)


def script(name: str) -> str:
    return (FOLDER / f"{name}.js").read_text()


@pytest.mark.parametrize(("tag", "directive"), [("style", "style-src"), ("script", "script-src")])
def test_the_policy_names_what_is_inline_by_its_hash(tag: str, directive: str) -> None:
    digest = base64.b64encode(sha256(inline(tag).encode()).digest()).decode()
    assert f"{directive} 'sha256-{digest}';" in dashboard.csp()


def test_the_page_takes_nothing_from_elsewhere() -> None:
    markup = (FOLDER / "index.html").read_text()
    named = {found for found in re.findall(r'(?:src|href)="([^#"]*)', markup) if found and "data:" not in found}
    assert named == {"/openapi.json", "analytics.csv"}  # links
    assert not re.search(r"url\(|@import", inline("style"))
    assert " style=" not in markup
    assert not re.search(r"\bon\w+=", markup)


def test_every_script_of_the_folder_is_in_the_page() -> None:
    assert {path.stem for path in FOLDER.glob("*.js")} == set(dashboard.SCRIPTS)
    assert not re.search(r"^(import|export)\b", inline("script"), re.MULTILINE)


@for_each("name", dashboard.SCRIPTS)
def test_a_script_imports_from_those_before_it(name: str) -> None:
    """In the page there are no modules any more: what is imported has to stand above under the same name."""
    before = dashboard.SCRIPTS[: dashboard.SCRIPTS.index(name)]
    assert len(re.findall(r"^import\b", script(name), re.MULTILINE)) == len(NAMED.findall(script(name)))
    for names, source in NAMED.findall(script(name)):
        assert source in before
        assert set(names.split(", ")) <= set(EXPORTED.findall(script(source)))
        used = NAMED.sub("", script(name))
        assert [each for each in names.split(", ") if not re.search(rf"\b{each}\b", used)] == []


def test_nothing_turns_text_into_markup() -> None:
    """The browser would refuse it by policy; it is not even written."""
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"
    assert not re.search(forbidden, inline("script"))
