"""
Writes the source of the site, which mkdocs then builds:

    python -m scripts.docs.pages build/docs_source && mkdocs build --strict

The pages of `docs/` are read on the hub of the code as well, where their links lead to the files beside them. Here a
link that leaves the folder becomes one to the copy of a picture, to the page of the reference that shows the same, or to
the repository that pyproject.toml names.
"""

import argparse
import re
import shutil
from pathlib import Path

from scripts.docs.reference import pages


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(!?)\[([^\]\[]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
PICTURES = (".png", ".svg")
# What a folder of the repository is on the site.
INSTEAD = {"hf_unlearn/metrics": "reference/metrics.md"}
REPOSITORY = re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)


def write(folder: Path) -> None:
    """All pages and what they show, into a folder that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder)
    for path in sorted(folder.rglob("*.md")):
        name = path.relative_to(folder)
        path.write_text(with_links(path.read_text(encoding="utf-8"), name, folder), encoding="utf-8")
    for name, text in {**pages(), "files.md": list_of_files()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def with_links(text: str, page: Path, folder: Path) -> str:
    """The page with links that hold within the site."""
    back = "../" * (len(page.parts) - 1)

    def replace(match: re.Match) -> str:
        mark, words, target, anchor = match.groups()
        if ":" in target:
            return match.group()
        path = (DOCS / page.parent / target).resolve().relative_to(ROOT)
        if path.parts[0] == "docs":
            # A folder with the numbers behind a page.
            is_folder = (ROOT / path).is_dir()
            return f"{mark}[{words}]({back}files.md#{path.name})" if is_folder else match.group()
        if path.suffix in PICTURES:
            copy = folder / "repository" / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, copy)
            return f"{mark}[{words}]({back}repository/{path}{anchor or ''})"
        if str(path) in INSTEAD:
            return f"{mark}[{words}]({back}{INSTEAD[str(path)]})"
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"docs/{page} links to {path}, which is not there.")
        if REPOSITORY is None:
            return words
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{words}]({REPOSITORY.group(1)}/{kind}/main/{path})"

    return LINK.sub(replace, text)


def list_of_files() -> str:
    """A page that lists the files with the numbers behind the pages."""
    parts = [
        "# Files with the numbers",
        "The rows behind the tables and pictures of the pages on results, as the scripts wrote them.",
    ]
    for folder in sorted(path for path in DOCS.iterdir() if path.is_dir() and path.name != "notebooks"):
        names = [
            f"- [{path.name}]({folder.name}/{path.name})" for path in sorted(folder.iterdir()) if path.suffix != ".md"
        ]
        if names:
            parts.append(f"## {folder.name}\n\n" + "\n".join(names))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where the source of the site goes.")
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
