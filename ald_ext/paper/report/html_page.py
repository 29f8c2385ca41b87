"""The page as one HTML file that needs no other: pictures inside, no scripts, nothing fetched."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import unquote

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Results</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: auto; padding: 1rem; max-width: 66rem; font: 1rem/1.5 system-ui, sans-serif; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ padding: 0.3rem 0.6rem; border: 1px solid #8888; text-align: left; vertical-align: top; }}
img {{ max-width: 100%; background: #fff; }}
</style>
{body}
</html>
"""


def html_page(text: str, folder: Path) -> str:
    """Return a Markdown page as HTML, with HTML inside it shown as text.

    Args:
        text: the page.
        folder: what its links are relative to; pictures in it are put into the page.
    """
    from markdown import Markdown

    converter = Markdown(extensions=["tables", "fenced_code", "toc"], extension_configs={"toc": {"toc_depth": "2-2"}})
    converter.preprocessors.deregister("html_block")
    converter.inlinePatterns.deregister("html")
    introduction, heading, sections = converter.convert(text).partition("<h2")

    def embed(match: re.Match[str]) -> str:
        path = (folder / unquote(match[2])).resolve()
        if not (path.is_relative_to(folder.resolve()) and path.is_file()):
            return f'<a href="{match[2]}">{match[1] or match[2]}</a>'
        data = base64.b64encode(path.read_bytes()).decode()
        return (
            f'<img alt="{match[1]}" src="data:image/{path.suffix[1:].lower().replace("svg", "svg+xml")};base64,{data}">'
        )

    body = f"{introduction}{converter.toc}{heading}{sections}"  # type: ignore[attr-defined]
    # Links to files beside the page would lead nowhere.
    body = re.sub(r'<a href="(?!https?:|#)[^"]*">', "<a>", body)
    return PAGE.format(body=re.sub(r'<img alt="([^"]*)" src="([^"]*)"[^>]*>', embed, body))
