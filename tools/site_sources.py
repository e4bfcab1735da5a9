"""A hook of mkdocs: files of the repository that pages link to are pages of the site.

The pages link to tests and examples by their place in the repository, as a reader of the repository
needs it. A site has no such files, so each becomes a page of its own with the file's text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)(?=[)#])")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sh": "bash"}


def outside(text: str, page: str) -> list[str]:
    """The links of a page that leave the documentation, as paths in the repository."""
    found = (_target(link, page) for link in LINK.findall(text))
    return sorted({str(path) for path in found if path})


def _target(link: str, page: str) -> PurePosixPath | None:
    path = os.path.normpath(PurePosixPath("docs", page).parent / link)
    return None if PurePosixPath(path).is_relative_to("docs") else PurePosixPath(path)


def address(path: str) -> str:
    """Where the site has a file of the repository."""
    return f"source/{path}.md"


def source_page(root: Path, path: str) -> str:
    """The Markdown page of a file, or of the files in a folder."""
    place = root / path
    files = [place] if place.is_file() else sorted(f for f in place.iterdir() if f.is_file())
    head = f"---\ntitle: {place.name}\nsearch:\n  exclude: true\n---\n\n# {path}\n"
    return "\n".join([head, *(_listing(file, place) for file in files)])


def _listing(file: Path, place: Path) -> str:
    heading = "" if file == place else f"## {file.name}\n\n"
    language = LANGUAGES.get(file.suffix, "text")
    return f"{heading}~~~~~{language}\n{file.read_text(encoding='utf-8')}\n~~~~~\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the files that any page links to."""
    root = Path(config.docs_dir).parent
    pages = list(files.documentation_pages())
    for path in sorted({p for f in pages for p in outside(f.content_string, f.src_uri)}):
        files.append(File.generated(config, address(path), content=source_page(root, path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point a page's links at those files."""
    here = PurePosixPath(page.file.src_uri).parent

    def there(match: re.Match[str]) -> str:
        path = _target(match[1], page.file.src_uri)
        return os.path.relpath(address(str(path)), here) if path else match[1]

    return LINK.sub(there, markdown)
