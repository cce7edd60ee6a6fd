"""Docstrings in the form of Hugging Face become Markdown."""

import pytest


docstrings = pytest.importorskip("scripts.docs.docstrings", reason="needs the extra docs", exc_type=ImportError)


def test_arguments_become_a_list():
    text = docstrings.as_markdown(
        "Does it.\n\n    x = y\n\nArgs:\n    a, b (`int`, *optional*, defaults to 1):\n        The first\n        two.\n"
        "    kwargs:\n        The rest.\n\nReturns:\n    `int`: the sum."
    )
    assert "    x = y\n" in text
    assert (
        "**Arguments**\n\n- **`a`, `b`** (`int`, *optional*, defaults to 1):\n    The first\n    two.\n- **`kwargs`** :"
        in text
    )
    assert "**Returns**\n\n`int`: the sum." in text


def test_long_heads_and_changed_defaults_become_items():
    text = docstrings.as_markdown(
        "Args:\n    request (`str`, *optional*, defaults to\n            what is known):\n        What.\n\n"
        'Others:\n\noptim (`str`, *optional*, defaults to `"sgd"`)\nlr (`float`, *optional*): low.'
    )
    assert "- **`request`** (`str`, *optional*, defaults to what is known):\n    What." in text
    assert '- **`optim`** (`str`, *optional*, defaults to `"sgd"`)\n- **`lr`** (`float`, *optional*): low.' in text


def test_names_become_links_where_the_reference_has_them():
    assert docstrings.as_markdown("See [`JiTTrainer`].") == "See [`JiTTrainer`][hf_unlearn.methods.jit.JiTTrainer]."
    assert docstrings.as_markdown("See [`~unlearning.head_edit.edit_head`].") == "See `edit_head`."
