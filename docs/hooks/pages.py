"""What mkdocs does for this project: pages that are read out of the code, and the measurements of benchmarks/."""

import logging
import re
from pathlib import Path
from typing import Any

from deployment_page import page as deployment_page
from error_page import page as error_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from remedies import REMEDIES

ROOT = Path(__file__).resolve().parents[2]
MARKERS = {
    "<!-- deployments -->": lambda: deployment_page(ROOT),
    "<!-- sentences -->": lambda: error_page(ROOT, REMEDIES),
}
"""Where in a page what is generated goes."""
log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Measurements lie outside docs/; they are pages all the same."""
    for path in sorted((ROOT / "benchmarks").rglob("*")):
        if path.suffix in (".md", ".png", ".jpg", ".svg", ".html"):
            place = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what is generated, and makes links between docs/ and benchmarks/ those of the site."""
    for marker, made in MARKERS.items():
        if marker in markdown:
            markdown = markdown.replace(marker, made())
    markdown = markdown.replace("](../benchmarks/", "](benchmarks/")
    if page.file.src_uri.startswith("benchmarks/"):
        markdown = markdown.replace("](../docs/", "](../").replace("](../../docs/", "](../../")
    return re.sub(r"\[`?(docs/[a-z-]+\.md)`?\]\(\1\)", lambda m: f"[{m[1]}]({Path(m[1]).name})", markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig, **more: Any) -> str:
    """Refuses a page that loads something from elsewhere: the site is read offline."""
    for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^>]*>", output):
        if 'rel="canonical"' not in tag:
            log.warning("%s loads something from elsewhere: %s", page.file.src_uri, tag)
    return output
