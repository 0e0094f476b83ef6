"""A hook of MkDocs for links out of docs/, which whoever reads the repository can follow and the site cannot.

On the site such a link is its text alone. A file that is not there any more is a warning, which fails `make docs`.
"""

import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)")
log = logging.getLogger("mkdocs.hooks.links")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with every link out of docs/ replaced by its text."""
    source = Path(page.file.abs_src_path)

    def replaced(link: re.Match[str]) -> str:
        target = (source.parent / link[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        if not target.exists():
            log.warning("Doc file '%s' links to %s, which is not there", page.file.src_uri, link[2])
        return link[1]

    return LINK.sub(replaced, markdown)
