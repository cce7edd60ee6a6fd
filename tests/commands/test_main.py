"""The console command: the commands that it knows, and what it imports when."""

import subprocess
import sys

from hf_unlearn.commands.main import main


def test_what_only_the_evaluation_needs_is_not_imported_before_the_update():
    late = ("evaluate", "scipy.stats", "sklearn", "matplotlib", "jsonschema")
    code = f"import sys, hf_unlearn.commands.run, hf_unlearn.methods.jit; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_command_imports_is_never_looked_through_for_garbage():
    """Hundreds of thousands of objects that stay: they are frozen, and what comes later is collected as ever."""
    code = """
import gc, hf_unlearn.commands.main as cli
assert cli.main(["run", "--method", "none"]) == 2
assert cli.main(["compare", "--no_such_flag", "1"]) == 2
print(gc.isenabled(), gc.get_freeze_count() > 300_000, len(gc.get_objects()) < 50_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


def test_a_program_that_has_imported_torch_keeps_its_garbage_collection():
    code = """
import gc, torch, hf_unlearn.commands.main as cli
assert cli.main(["run", "--method", "none"]) == 2
print(gc.isenabled(), gc.get_freeze_count())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "0"], done.stderr


def test_unknown_command_and_help(capsys):
    assert main(["forget"]) == 2
    assert "unknown command 'forget'. Valid: run," in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "hf-unlearn run" in capsys.readouterr().out


def test_demo_that_no_method_can_run_is_one_line(tmp_path, capsys):
    flags = ["--method", "rebuild", "--scenario", "random", "--output_dir", str(tmp_path / "demo")]
    assert main(["demo", *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "hf-unlearn: error: --method: rebuild forgets whole classes. Valid with it: --scenario class."
    assert not (tmp_path / "demo").exists()
