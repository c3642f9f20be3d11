"""The Markdown files of the repository, their headings, links and code blocks."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def markdown() -> list[Path]:
    """List the Markdown files that git knows or would add; without git, those of docs/."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {ROOT / name for name in listed.stdout.split("\0") if name} | set(DOCS.rglob("*.md"))
    return sorted(path for path in found if path.is_file())


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code: where it is, its language, and its text without indentation."""

    page: Path
    language: str
    text: str

    @property
    def where(self) -> str:
        first = self.text.strip().splitlines()[0]
        return f"{self.page.relative_to(ROOT)}: {first[:40]}"


def blocks(page: Path) -> list[Block]:
    found = _FENCE.findall(page.read_text())
    return [
        Block(page, lang, re.sub(f"^{indent}", "", text, flags=re.MULTILINE))
        for indent, lang, text in found
    ]


def all_blocks(language: str) -> list[Block]:
    return [block for page in markdown() for block in blocks(page) if block.language == language]


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """The fragments of a page, as mkdocs and code hosts make them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())
        for heading in headings
    }
