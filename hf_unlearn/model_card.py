"""The model card: facts from the report, put into a template."""

from dataclasses import dataclass
from pathlib import Path

from .guard import CHANGE_LIMIT
from .report import METRICS, UnlearningReport, percent
from .step_size import Search


TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"

CAPTIONS = {
    "accuracy.png": "Accuracy on the forgotten and the retained images, before and after",
    "entropy.png": "Entropy of the output: low where the model is sure of its answer",
    "class_accuracy.png": "Accuracy on unseen images of each class",
}

# Where each metric was measured, for the model-index: (split of the dataset, name of the metric).
INDEX = {
    "forget_accuracy": ("train", "Accuracy on the forget set"),
    "forget_test_accuracy": ("test", "Accuracy on unseen images of what was forgotten"),
    "retain_accuracy": ("train", "Accuracy on the retained training images"),
    "retain_test_accuracy": ("test", "Accuracy on retained unseen images"),
    "membership_inference": ("train", "Membership inference on the forget set"),
}


@dataclass
class UnlearningCardData:
    """
    The facts of a card that go into its front matter.

    Args:
        report ([`UnlearningReport`]):
            The measurements and the facts of the run.
        name (`str`):
            Name of the unlearned model.
        license (`str`, *optional*):
            Licence of the original model, if known.
    """

    report: UnlearningReport
    name: str
    license: str | None = None

    def front_matter(self) -> str:
        """The YAML between the dashes, without them."""
        from huggingface_hub import EvalResult, ModelCardData

        run = self.report.run
        dataset = run["dataset"] or "local images"
        dataset_is_on_hub = "/" in dataset
        results = [
            EvalResult(
                task_type="image-classification",
                task_name="Image classification",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=split,
                metric_type="accuracy" if metric.endswith("accuracy") else metric,
                metric_name=name,
                metric_value=round(self.report.results["unlearned"]["metrics"][metric], 6),
            )
            for metric, (split, name) in INDEX.items()
            if metric in self.report.results["unlearned"]["metrics"]
        ]
        base_is_on_hub = "/" in run["model"]
        return ModelCardData(
            license=self.license,
            base_model=run["model"] if base_is_on_hub else None,
            **({"base_model_relation": "finetune"} if base_is_on_hub else {}),
            datasets=[dataset] if dataset_is_on_hub else None,
            library_name="transformers",
            pipeline_tag="image-classification",
            tags=["unlearning", "machine-unlearning", f"{run['method'].lower()}-unlearning"],
            metrics=["accuracy"],
            model_name=self.name,
            eval_results=results or None,
        ).to_yaml()


def render_model_card(report: UnlearningReport, name: str, repo_id: str, figures: list[str]) -> str:
    """
    Renders the card.

    Args:
        report ([`UnlearningReport`]):
            The measurements and the facts of the run.
        name (`str`):
            Name of the unlearned model.
        repo_id (`str`):
            What to pass to `pipeline` to load it.
        figures (`list[str]`):
            Paths of the pictures, relative to the card.

    Returns:
        `str`: front matter and Markdown.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["percent"] = percent
    run = report.run
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        front_matter=UnlearningCardData(report, name).front_matter(),
        name=name,
        repo_id=repo_id,
        base=f"[{run['model']}](https://huggingface.co/{run['model']})"
        if "/" in run["model"]
        else f"`{run['model']}`",
        description=run["request"]["description"],
        num_forget=report.splits["forget"],
        method=run["method"],
        paper=run["paper"],
        models=list(report.results),
        rows=report.rows(),
        missing=[(METRICS[metric][0], reason) for metric, reason in report.missing.items()],
        splits=report.splits,
        figures=[(figure, CAPTIONS[Path(figure).name]) for figure in figures],
        hyperparameters={name: value for name, value in run["hyperparameters"].items() if value is not None},
        step=Search(**run["step"]).describe() if run["step"] else None,
        change_elsewhere=f"{run['change_elsewhere']:.3f}",
        change_limit=CHANGE_LIMIT,
        passes=run["passes"],
        updates=run["updates"],
        distance_moved=f"{run['distance_moved']:.2e}" if run["distance_moved"] is not None else "not measured",
        seconds=run["seconds"],
        versions=run["environment"],
        sha_before=run["weights_sha256_before"],
        sha_after=run["weights_sha256_after"],
    )


def write_model_card(folder: str | Path, repo_id: str | None = None) -> Path:
    """
    Writes `README.md` into the folder of a run, from its `report.json` and its pictures alone.

    Args:
        folder (`str` or `Path`):
            The output folder of a run.
        repo_id (`str`, *optional*):
            The repository on the hub, defaults to the name of the folder.

    Returns:
        `Path`: the card.
    """
    folder = Path(folder)
    report = UnlearningReport.from_json(folder / "report.json")
    repo_id = repo_id or folder.absolute().name
    name = repo_id.split("/")[-1]
    figures = [f"figures/{figure}" for figure in CAPTIONS if (folder / "figures" / figure).is_file()]
    card = folder / "README.md"
    card.write_text(render_model_card(report, name, repo_id, figures), encoding="utf-8")
    return card
