"""A hook of mkdocs: links from the documentation into the repository become the names of what they lead to.

On a code host such a link opens the file; the site holds no files of the repository. All other links stay strict.
"""

import re
from typing import Any

PLACES = r"benchmark|methods|tests|results|examples|[A-Z]+\.md|bench\.py"
OUTSIDE = re.compile(rf"\[([^\]]+)\]\((?:\.\./)+(?:{PLACES})[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return OUTSIDE.sub(r"\1", markdown)
