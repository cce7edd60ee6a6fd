"""The names of the methods. Their classes are in `methods/`, which nothing here knows."""

# Method, as `--method` takes it and its file is called, and how its classes begin: `<…>Config` and `<…>Trainer`.
METHODS = {
    "jit": "JiT",
    "delete": "DELETE",
    "mu_mis": "MUMis",
    "boundary_shrink": "BoundaryShrink",
    "boundary_expand": "BoundaryExpand",
    "gradient_ascent": "GradientAscent",
    "random_label": "RandomLabel",
    "loss_free_ssd": "LossFreeSSD",
    "gkt": "GKT",
    "emmn": "EMMN",
    "rebuild": "Rebuild",
    "head_only": "HeadOnly",
    "retrain": "Retrain",
    "fine_tune": "FineTune",
    "neg_grad_plus": "NegGradPlus",
    "amnesiac": "Amnesiac",
    "bad_teacher": "BadTeacher",
    "scrub": "SCRUB",
    "salun": "SalUn",
    "lotus": "LoTUS",
    "ssd": "SSD",
    "unsir": "UNSIR",
}
# Those that need retained images, with labels: `needs_retain` of their Trainer.
WITH_RETAINED_IMAGES = (
    "retrain",
    "fine_tune",
    "neg_grad_plus",
    "amnesiac",
    "bad_teacher",
    "scrub",
    "salun",
    "lotus",
    "ssd",
    "unsir",
)


def name_of_method(trainer_class: type) -> str | None:
    """The name of the method whose trainer this is; `None` for a class that is not of this package."""
    names = {f"{start}Trainer": name for name, start in METHODS.items()}
    return names.get(trainer_class.__name__)


def forget_only_methods() -> list[str]:
    """The methods that need no retained images."""
    return [name for name in METHODS if name not in WITH_RETAINED_IMAGES]
