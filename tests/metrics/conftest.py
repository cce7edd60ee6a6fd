"""Nothing that a metric stores outlives the tests."""

import pytest


# One place for all files: `evaluate` imports each module once.
@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """`evaluate` copies a module into its cache before importing it, and keeps its tables in another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", tmp_path_factory.mktemp("modules"))
        patch.setattr("evaluate.module.config.HF_METRICS_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield
