"""Hooks of the site: `tuning.md` lies at the top of the repository for visitors, and is a page of the site too.

Its links and the links to it are written for a reader of the repository. On the site it is at the top of `docs`, so
both are rewritten.
"""

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent.parent
OUTSIDE: Final = "tuning.md"
"""Page that lies outside of `docs`: its path in the repository, and on the site."""
LINK: Final = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[#)])")
"""Relative link of a page, without its anchor."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, OUTSIDE, abs_src_path=str(ROOT / OUTSIDE)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of the page and those to it."""
    source = page.file.src_uri
    in_repository = source if source == OUTSIDE else f"docs/{source}"
    folder = posixpath.dirname(in_repository)

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[0]))
        if OUTSIDE not in (source, target):
            return link[0]
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(source) or ".")

    return LINK.sub(on_site, markdown)
