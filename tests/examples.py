"""What the README and the guides show, run as it stands but for the names of model and data."""

import re


def python_of(page: str) -> str:
    """All Python of a page, which its blocks give in order."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE))


def commands_of(page: str) -> list[list[str]]:
    """The words of each call of `hf-unlearn` in the blocks without a language."""
    blocks = re.findall(r"^```\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("#")[0].split()[1:] for line in lines if line.startswith("hf-unlearn ")]


def run_python(code: str, model: str, dataset: str) -> None:
    """Runs it with a model and a dataset that are folders. Nothing is pushed."""
    code = code.replace("org/model", model)
    streamed = f"{{name: rows.to_iterable_dataset() for name, rows in load_dataset({dataset!r}).items()}}"
    code = code.replace('load_dataset("org/data", streaming=True)', streamed)
    code = code.replace('load_dataset("org/data")', f"load_dataset({dataset!r})")
    code = code.replace("from datasets import load_dataset", "from hf_unlearn.data.sources import load_dataset")
    # An untrained network is right on no cat, which the trainer refuses.
    code = code.replace('JiTConfig("out"', 'JiTConfig("out", allow_collapse=True')
    exec(code.replace("trainer.push_to_hub()", ""), {})
