"""The pages of the reference, made from the package: docstrings by mkdocstrings, flags from the parsers of the commands."""

import argparse
import re
from dataclasses import fields
from unittest.mock import patch

from hf_unlearn.commands.main import main
from hf_unlearn.commands.parsing import make_run_parser
from hf_unlearn.methods import load_method
from hf_unlearn.unlearning.config import UnlearningConfig
from hf_unlearn.unlearning.method_names import METHODS, WITH_RETAINED_IMAGES
from scripts.docs.names import ATTACKS, ERRORS, METRICS, PACKAGE, PUBLIC, in_methods


COMMANDS = {
    "run": ["run"],
    "compare": ["compare"],
    "verify": ["verify"],
    "push": ["push"],
    "demo": ["demo"],
    "find": ["find"],
    "request": ["request new", "request check", "request list", "request answer"],
    "record": ["record verify", "record sign", "record replay"],
    "descendants": ["descendants"],
    "card": ["card"],
}
# How a value is written, by the name of its type.
VALUES = {"str": "text", "int": "whole number", "float": "number", "string_to_bool": "true or false", "dict": "JSON"}


def pages() -> dict[str, str]:
    """Every page of the reference, by its path in the site."""
    made = {f"reference/commands/{command}.md": command_page(command) for command in COMMANDS}
    made["reference/python.md"] = python_page()
    made["reference/methods.md"] = methods_page()
    made["reference/metrics.md"] = metrics_page()
    made["reference/attacks.md"] = attacks_page()
    return made


class Shown(Exception):
    """Raised in place of printing a help text."""


def parser_of(words: str) -> argparse.ArgumentParser:
    """The parser that a command makes, such as that of `"request check"`."""
    found = []

    def keep(parser: argparse.ArgumentParser, file: object = None) -> None:
        found.append(parser)
        raise Shown

    with patch.object(argparse.ArgumentParser, "print_help", keep):
        try:
            main([*words.split(), "--help"])
        except Shown:
            pass
    return found[0]


def command_page(command: str) -> str:
    """The page of a command: how it is called, and a table of its flags."""
    parts = [f"# hf-unlearn {command}", f"Every flag of `hf-unlearn {command}`, made from the command itself."]
    for words in COMMANDS[command]:
        parser = parser_of(words)
        if len(COMMANDS[command]) > 1:
            parts.append(f"## {words}")
        if parser.description:
            parts.append(as_text(parser.description))
        taken = [action.metavar or action.dest.upper() for action in parser._get_positional_actions()]
        usage = parser.usage or " ".join(["hf-unlearn", words, *map(str, taken), "[flags]"])
        parts.append(f"```text\n{usage}\n```")
        inherited = []
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
            shown = [action for action in actions if action.help != argparse.SUPPRESS]
            inherited += [action for action in actions if action.help == argparse.SUPPRESS]
            if shown:
                title = {"options": "flags", "positional arguments": "what it takes"}.get(
                    str(group.title), group.title
                )
                parts += [f"**{str(title).capitalize()}**", table(words, shown)]
        if inherited:
            parts.append(
                "**Inherited flags**\n\nThose of `transformers.TrainingArguments`, whose documentation describes them; "
                "here with the defaults of JiT."
            )
            parts.append(table(words, inherited, with_help=False))
    if command == "run":
        parts += ["## Flags of each method", "With `--method NAME`; the other flags above are the same for all."]
        parts += [f"### {method}\n\n{method_flags(method)}" for method in METHODS if method != "jit"]
    return "\n\n".join(parts) + "\n"


def method_flags(method: str) -> str:
    """The flags that a method adds, and those whose default it changes."""
    base = {field.name: field.default for field in fields(UnlearningConfig)}
    actions = [
        action
        for action in make_run_parser(method=method)._actions
        if action.dest in load_method(method)[0].__dataclass_fields__
        and action.help != argparse.SUPPRESS
        # Every run has to name it.
        and action.dest != "output_dir"
        and (action.dest not in base or action.default != base[action.dest])
    ]
    return table(method, actions) if actions else "None of its own."


def table(prefix: str, actions: list[argparse.Action], with_help: bool = True) -> str:
    """Flags as a table; each can be linked to as `#prefix-flag`."""
    lines = ["| flag | what it does | value | default |", "|:--|:--|:--|:--|"]
    if not with_help:
        lines = ["| flag | value | default |", "|:--|:--|:--|"]
    for action in actions:
        # The spelling with hyphens works as well, and says nothing more.
        spelt = [name for name in action.option_strings if "-" not in name[2:]]
        names = ", ".join(f"`{name}`" for name in spelt) or f"`{action.metavar or action.dest.upper()}`"
        mark = f"{prefix}-{action.dest}"
        told = [as_text(action.help or "")] if with_help else []
        cells = [f'<span id="{mark.replace(" ", "-")}"></span>{names}', *told, value_of(action), default_of(action)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def value_of(action: argparse.Action) -> str:
    """What may be written after a flag."""
    if action.nargs == 0:
        return "none"
    if action.choices is not None:
        value = ", ".join(f"`{choice}`" for choice in action.choices)
    else:
        value = VALUES.get(getattr(action.type, "__name__", "str"), "text")
    many = action.nargs in ("+", "*") or (isinstance(action.nargs, int) and action.nargs > 1)
    return f"{value}, one or more" if many or isinstance(action, argparse._AppendAction) else value


def default_of(action: argparse.Action) -> str:
    """The default of a flag; a dash where there is none."""
    if action.nargs == 0 or action.default in (None, argparse.SUPPRESS, "", []):
        return "–"
    # Files of the package are where it is installed.
    return f"`{str(action.default).replace(str(PACKAGE), PACKAGE.name)}`"


def as_text(text: str) -> str:
    """A help text as Markdown in one line, with flags as code."""
    # The default has a column of its own.
    text = " ".join(text.replace(" (default: %(default)s)", "").split())
    text = text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return re.sub(r"(?<![\w`-])(--\w+)", r"`\1`", text)


def directive(path: str, **options: object) -> str:
    """What mkdocstrings replaces by a signature and a docstring."""
    lines = [f"::: {path}"]
    if options:
        lines += ["    options:", *(f"      {name}: {value}" for name, value in options.items())]
    return "\n".join(lines)


def of_class(path: str) -> str:
    """A class. The settings of a configuration are in its docstring, and those of transformers would hide them."""
    if path.endswith("Config"):
        return directive(path, show_signature="false", members="false")
    return directive(path)


def python_page() -> str:
    parts = [
        "# Python",
        "What `from hf_unlearn import …` gives, made from the docstrings. The methods have [a page of their own]"
        "(methods.md), and so have [metrics](metrics.md) and [attacks](attacks.md).",
    ]
    parts += [of_class(path) for path in PUBLIC.values()]
    parts += ["## Errors", "What a user can cause. The command prints their message in one line."]
    parts += [directive(path, heading_level=3) for path in ERRORS.values()]
    return "\n\n".join(parts) + "\n"


def methods_page() -> str:
    parts = [
        "# Methods",
        "The configuration and the trainer of each method, made from the docstrings, with the formula of the update and its "
        "source. Which to use: [methods](../methods.md). JiT, the default, is on [the page of the public names]"
        "(python.md).",
        directive("hf_unlearn.methods.load_method"),
    ]
    for method in METHODS:
        if method == "jit":
            continue
        needs = "the forget set and retained images" if method in WITH_RETAINED_IMAGES else "the forget set alone"
        parts.append(f"## {method}\n\n`--method {method}`; needs {needs}.")
        parts += [of_class(in_methods(method, kind)) for kind in ("Config", "Trainer")]
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    parts = [
        "# Metrics",
        "What each metric computes, needs and does not show, and the functions behind it. What a run reports, and which of these "
        "it needs: [evaluation](../evaluation.md). Each is an `evaluate` module, loadable by its path: "
        '`evaluate.load("hf_unlearn/metrics/js_divergence")` from a clone.',
    ]
    for name in METRICS:
        text = (PACKAGE / "metrics" / name / "README.md").read_text(encoding="utf-8")
        text = re.sub(r"^---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE).strip()
        parts += [
            re.sub(r"^#", "##", text, flags=re.MULTILINE),
            directive(f"hf_unlearn.metrics.{name}.{name}", members_order="source"),
        ]
    return "\n\n".join(parts) + "\n"


def attacks_page() -> str:
    parts = [
        "# Attacks",
        "The functions behind `hf-unlearn verify`, and the attacks with shadow models, made from the docstrings. What they "
        "show and what was found with them: [verification](../verification.md).",
    ]
    parts += [directive(path) for path in ATTACKS.values()]
    return "\n\n".join(parts) + "\n"
