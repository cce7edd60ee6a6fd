"""The page of this metric, where its folder is a Space."""

from pathlib import Path

import evaluate

from hf_unlearn.metrics.widget import launch_widget


if __name__ == "__main__":
    folder = Path(__file__).parent
    launch_widget(evaluate.load(str(folder / "retrain_free_js.py"), keep_in_memory=True), folder / "README.md")
