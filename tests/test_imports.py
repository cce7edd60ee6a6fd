"""Imports run one way: from the commands down to the errors, and never in a circle."""

import ast
from pathlib import Path

import hf_unlearn


PACKAGE = Path(hf_unlearn.__file__).parent
# From what everything may import to what nothing may: a room imports its own modules and those of the rooms before it.
# Rooms that stand together do not know of each other.
ORDER = [{"errors", "terminal"}, {"request"}, {"data", "metrics"}, {"publication"}, {"unlearning"}, {"methods"}]
ORDER += [{"evaluation"}, {"commands"}]
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(name: str) -> set[str]:
    """The modules of the package that a module imports, also within functions; those for type checkers are none."""
    tree = ast.parse(MODULES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "hf_unlearn":
                base = []
            else:
                continue
            base = [*base, *(node.module or "").removeprefix("hf_unlearn").strip(".").split(".")]
            target = ".".join(part for part in base if part)
            # The package itself holds the version, and names that load late from rooms which a low room may not know.
            if not target and any(
                alias.name not in {"__version__", *(m.split(".")[0] for m in MODULES)} for alias in node.names
            ):
                found.add("a public name of the package")
            for alias in node.names:
                inner = f"{target}.{alias.name}" if target else alias.name
                if inner in MODULES or target:
                    found.add(inner if inner in MODULES else target)
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "hf_unlearn"}
    return found - {name}


IMPORTS = {name: imports_of(name) for name in MODULES if name}


def test_every_module_is_known():
    assert all(target in MODULES for targets in IMPORTS.values() for target in targets)
    assert {name.split(".")[0] for name in MODULES if name} == set(FLOOR)
    # What is read here is what is there: the first of all imports.
    assert "errors" in IMPORTS["request.forget_request"] and "commands.run" in IMPORTS["commands.main"]


def test_a_room_imports_only_what_stands_below_it():
    wrong = []
    for name, targets in IMPORTS.items():
        room = name.split(".")[0]
        for target in targets:
            other = target.split(".")[0]
            if other != room and FLOOR[other] >= FLOOR[room]:
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(sorted(wrong))


def circles() -> list[list[str]]:
    """Modules that import each other, directly or around corners."""
    found, done = [], set()

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            found.append([*way[way.index(name) :], name])
            return
        if name in done:
            return
        for target in sorted(IMPORTS.get(name, ())):
            visit(target, [*way, name])
        done.add(name)

    for name in sorted(IMPORTS):
        visit(name, [])
    return found


def test_there_is_no_circle():
    assert not circles(), "\n".join(" → ".join(circle) for circle in circles())


def test_no_file_only_forwards():
    """Every module but the names of the package defines something."""
    for name, path in MODULES.items():
        body = [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.Expr)]
        if name and body and path.name != "__init__.py":
            assert any(not isinstance(node, ast.Import | ast.ImportFrom) for node in body), name


def test_files_are_read_in_one_sitting():
    """400 lines, or a reason in the first lines of the file: `# Longer than 400 lines: ...`."""
    for name, path in MODULES.items():
        text = path.read_text()
        assert len(text.splitlines()) <= 400 or "Longer than 400 lines:" in text[:1500], name
