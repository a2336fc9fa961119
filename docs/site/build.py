"""Builds the documents as a site into target/site, with mdBook, and checks its links.

docs/README.md is the table of contents. Links to files outside docs/ lead to the repository. Without a network the site
shows diagrams as well: it contains mermaid.
"""

from __future__ import annotations

import hashlib
import html.parser
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BOOK = ROOT / "target/site"
TOOLS = ROOT / "target/tools/site"
REPOSITORY = "https://github.com/nicplug/nicplug/blob/main"
MERMAID = "12.3.0"
MERMAID_SHA256 = "336df803d87a38b70a01e736e666c8f7601d2ce42f5e47c8fafe5d721074b9a3"


def main() -> None:
    shutil.rmtree(BOOK, ignore_errors=True)
    source = BOOK / "src"
    source.mkdir(parents=True)
    for file in DOCS.glob("*.md"):
        (source / file.name).write_text(page(file.read_text()))
        for diagram in re.findall(r"(?ms)^```mermaid$(.*?)^```$", file.read_text()):
            # mermaid reads a semicolon as the end of a statement, and draws an error in place of the diagram.
            if ";" in diagram:
                sys.exit(f"build.py: {file.name}: a diagram contains a semicolon")
    shutil.copytree(DOCS / "images", source / "images")
    (source / "SUMMARY.md").write_text(summary((DOCS / "README.md").read_text()))
    for name in ("book.toml", "site.js", "site.css"):
        shutil.copyfile(DOCS / "site" / name, BOOK / name)
    shutil.copyfile(mermaid(), BOOK / "mermaid.min.js")
    subprocess.run([TOOLS / "venv/bin/mdbook", "build", BOOK], check=True)
    if faults := dead_links(BOOK / "html"):
        sys.exit("\n".join(["build.py: dead links:", *faults]))
    print(f"The site has {len(list((BOOK / 'html').glob('*.html')))} pages: {BOOK / 'html/index.html'}")


def page(text: str) -> str:
    """Returns a document with its links to files outside of docs/ as links to the repository."""
    # Code is not changed: every second part is a fenced block.
    parts = re.split(r"(?ms)(^```.*?^```$)", text)
    parts[::2] = [re.sub(r"\]\(\.\./([^)\s]+)\)", rf"]({REPOSITORY}/\1)", part) for part in parts[::2]]
    return "".join(parts)


def summary(index: str) -> str:
    """Returns the table of contents: the sections and the first link of each item of docs/README.md."""
    lines = ["# Summary\n", "[Documentation](README.md)\n"]
    for line in index.splitlines():
        if line.startswith("## "):
            lines.append(f"\n# {line.removeprefix('## ')}\n")
        elif (item := re.match(r"- \[[^]]+\]\(([\w-]+\.md)\)", line)) and (DOCS / item[1]).is_file():
            title = re.search(r"(?m)^# (.+)$", (DOCS / item[1]).read_text())[1]
            lines.append(f"- [{title}]({item[1]})")
    return "\n".join(lines) + "\n"


def mermaid() -> Path:
    """Returns mermaid's script, from npm."""
    script = TOOLS / f"mermaid-{MERMAID}.min.js"
    if not script.exists():
        package = f"mermaid@{MERMAID}"
        subprocess.run(["npm", "pack", "--silent", package, "--pack-destination", TOOLS], check=True)
        packed = TOOLS / f"mermaid-{MERMAID}.tgz"
        with tarfile.open(packed) as archive:
            content = archive.extractfile("package/dist/mermaid.min.js").read()
        packed.unlink()
        if hashlib.sha256(content).hexdigest() != MERMAID_SHA256:
            sys.exit(f"build.py: {package} is not the expected one")
        script.write_bytes(content)
    return script


class Page(html.parser.HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := values.get(key))}
        self.links += [value for key in ("href", "src") if (value := values.get(key))]


def dead_links(site: Path) -> list[str]:
    """Returns the links of the site that lead to a page, a file or a heading that does not exist."""
    pages = {file: Page(file.read_text()) for file in site.rglob("*.html")}
    faults = []
    for file, parsed in sorted(pages.items()):
        # This page is for every address that does not exist; its links begin at the root of the host.
        if file.name in ("404.html", "print.html"):
            continue
        for link in parsed.links:
            path, _, anchor = link.partition("#")
            if "://" in link or link.startswith(("mailto:", "data:")):
                continue
            target = (file.parent / urllib.parse.unquote(path)).resolve() if path else file
            if not target.is_file():
                faults.append(f"{file.name}: there is no {link}")
            elif anchor and target in pages and urllib.parse.unquote(anchor) not in pages[target].anchors:
                faults.append(f"{file.name}: the page of {link} has no heading of this name")
    return faults


if __name__ == "__main__":
    main()
