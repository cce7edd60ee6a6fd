"""The names of the package as type checkers find them; what their types are is in `public_types.py`."""

import ast
from pathlib import Path

import hf_unlearn


def test_every_public_name_is_there_for_type_checkers():
    tree = ast.parse(Path(hf_unlearn.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    assert {alias.name for line in block.body for alias in line.names} == set(hf_unlearn.__all__)
    for line in block.body:
        for alias in line.names:
            # Where a checker finds a name is where it is made.
            assert getattr(hf_unlearn, alias.name).__module__ == f"hf_unlearn.{line.module}"
