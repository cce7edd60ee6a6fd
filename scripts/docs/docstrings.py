"""
The docstrings of the package as Markdown. They are written in the form of Hugging Face, which no parser of mkdocstrings
reads: arguments with their types and defaults in the text, and [`Name`] for what is described elsewhere.

mkdocstrings loads this file and calls it for each object of the package, see `mkdocs.yml`.
"""

import re
import textwrap

from griffe import Extension, Object

from scripts.docs.names import LINKS


HEADERS = {
    "Args:": "Arguments",
    "Returns:": "Returns",
    "Raises:": "Raises",
    "Yields:": "Yields",
    "Attributes:": "Attributes",
}
# `name (`type`, ...`: an argument, or a setting whose default is another than that of the base class.
ARGUMENT = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: (?=\([`\[])|(?=:$))")


class HuggingFaceDocstrings(Extension):
    """Rewrites each docstring before it is shown."""

    def on_instance(self, *, obj: Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring in the form of Hugging Face as Markdown."""
    lines, made, header = text.splitlines(), [], None
    while lines:
        line = lines.pop(0)
        indent = len(line) - len(line.lstrip())
        if line and indent == 0:
            header = None
        if line in HEADERS:
            header = line
            made += [f"**{HEADERS[line]}**", ""]
        elif line.startswith("> "):
            header = "Args:"
            made += [f"**{line[2:]}**", ""]
        elif ARGUMENT.match(line.strip()) and (header in ("Args:", "Attributes:") or indent == 0):
            block = [line.strip()]
            while lines and lines[0].strip() and len(lines[0]) - len(lines[0].lstrip()) > indent:
                block.append(lines.pop(0))
            made += argument(block)
        else:
            # What stands below Returns and Raises is indented, and would be code.
            made.append(line[4:] if header else line)
    return references("\n".join(made))


def argument(block: list[str]) -> list[str]:
    """The lines of one argument as an item of a list."""
    head, rest = block[0], block[1:]
    while head.count("(") > head.count(")") and rest:
        head, rest = f"{head} {rest[0].strip()}", rest[1:]
    matched = ARGUMENT.match(head)
    assert matched is not None
    names = ", ".join(f"`{name}`" for name in matched.group(1).split(", "))
    body = textwrap.dedent("\n".join(rest)).splitlines()
    return [f"- **{names}** {head[matched.end() :]}", *(f"    {line}" for line in body)]


def references(text: str) -> str:
    """[`Name`] as a link to the name, if the reference has it, else as code."""

    def link(match: re.Match) -> str:
        whole = match.group(1)
        name = whole.lstrip("~")
        shown = name.rsplit(".", 1)[-1] if whole.startswith("~") else name
        target = LINKS.get(name.rsplit(".", 1)[-1]) or LINKS.get(name.split(".")[0])
        return f"[`{shown}`][{target}]" if target else f"`{shown}`"

    return re.sub(r"\[`([~\w.]+)`\](?![\[(])", link, text)
