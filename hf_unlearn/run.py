"""One run, from the request to the hub, in the order in which it happens."""

from pathlib import Path

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.trainer_utils import get_last_checkpoint

from . import data
from .arguments import DataArguments, ForgetArguments, ModelArguments, RunArguments
from .errors import InputError, listing
from .evaluation import collect_logits, evaluate_unlearning
from .facts import description_of
from .forget_request import ForgetRequest
from .hub import check_push
from .methods.jit import JiTConfig, JiTTrainer
from .metrics.unlearning_accuracy.unlearning_accuracy import accuracy
from .processes import check_processes
from .report import UnlearningReport


def run(
    model_args: ModelArguments,
    data_args: DataArguments,
    forget_args: ForgetArguments,
    run_args: RunArguments,
    config: JiTConfig,
) -> UnlearningReport:
    """
    Unlearns, measures, writes the card and pushes. Nothing is written before all input has been checked.

    Returns:
        [`UnlearningReport`]: what was measured; also in `report.json` of the output folder.

    Raises:
        [`InputError`]: if something the user gave cannot be used.
        [`CollapsedModelError`]: if the unlearned model is not fit to be saved.
        [`HubPushError`]: if the push fails; everything is on disk then.
    """
    output_dir = Path(config.output_dir)
    # Asking for the number sets up the processes as the flags say, before anything else can.
    check_processes(config.world_size)

    # Check all that needs no data first.
    request = forget_args.to_request()
    check_output_dir(output_dir, model_args.model_name_or_path, run_args.overwrite or config.resume_from_checkpoint)
    if config.push_to_hub:
        repo_id = config.hub_model_id or output_dir.absolute().name
        config.hub_model_id = check_push(repo_id, model_args.model_name_or_path, config.hub_token or model_args.token)

    model, image_processor = load_model(model_args)
    splits, columns = load_splits(data_args, forget_args, request, model.config.label2id, model_args)
    say(f"Forgetting {len(splits['forget'])} images: {description_of(request)}.")
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    say(f"Splits: {sizes}. Processes: {config.world_size}.")

    config.forget_kind = config.forget_kind or kind_of(request, columns["label_column"])
    if data_args.holdout_dir is not None:
        config.forget_target = holdout_accuracy(data_args.holdout_dir, model.to(config.device), image_processor)
        say(f"Target: {100 * config.forget_target:.1f} %, the accuracy on the unseen images of --holdout_dir.")
    trainer = JiTTrainer(
        model=model,
        args=config,
        processing_class=image_processor,
        forget_dataset=splits["forget"],
        **columns,
    )
    trainer.train(resume_from_checkpoint=find_checkpoint(config))
    if trainer.step is not None:
        say(trainer.step.describe())
    # Internal: the push comes last, with card and report.
    trainer.save_model(_internal_call=True)

    original, _ = load_model(model_args)
    retrained = None
    if model_args.retrained_model_name_or_path is not None:
        retrained = load_retrained(model_args, model)
    report = evaluate_unlearning(
        model,
        splits,
        image_processor,
        original_model=original.to(config.device),
        retrained_model=retrained.to(config.device) if retrained is not None else None,
        batch_size=config.per_device_eval_batch_size,
        **columns,
    )
    trainer.save_report(report, request, data_args.dataset_name or data_args.train_dir)
    if trainer.is_world_process_zero():
        if request is not None:
            # Stays here: the hub never sees who or what was forgotten.
            request.to_file(output_dir / "forget_request.yaml")
        report.print()
        say(f"Model, card, report and pictures are in {output_dir}.")
    if config.push_to_hub:
        url = trainer.push_to_hub(token=config.hub_token or model_args.token)
        say(f"Pushed to {url}")
    trainer.end()
    return report


def say(message: str) -> None:
    """Prints on the first process only."""
    PartialState().print(message)


def kind_of(request: ForgetRequest | None, label_column: str | None) -> str:
    """What the forget set is: a `"class"`, a `"subclass"` or single `"images"`."""
    if request is not None and request.kind == "classes":
        return "class"
    if request is not None and request.kind == "column":
        return "class" if request.column == label_column else "subclass"
    return "images"


def holdout_accuracy(folder: str, model, image_processor) -> float:
    """
    The model's accuracy on unseen images, one subfolder per class; they serve for nothing else.

    Raises:
        [`InputError`]: if the folder has no images or no classes, or classes that the model does not know.
    """
    images = data.load_image_folder("holdout_dir", folder)
    label_column = data.find_label_column(images)
    if label_column is None:
        raise InputError("holdout_dir", f"{folder!r} needs one subfolder per class.")
    label_ids = data.match_labels(images, label_column, model.config.label2id)
    dataset = data.ImageDataset(images, image_processor, label_column=label_column, label_ids=label_ids)
    logits, labels = collect_logits(model, dataset)
    return accuracy(logits, labels)


def find_checkpoint(config: JiTConfig) -> str | None:
    """
    The checkpoint named by `--resume_from_checkpoint`, or the last one of `output_dir` if its value is `True`.

    Returns:
        `str` or `None`: `None` to start from the original model, also when the interrupted run had not got to a
        checkpoint.
    """
    if config.resume_from_checkpoint is None:
        return None
    if str(config.resume_from_checkpoint).lower() != "true":
        if not Path(config.resume_from_checkpoint).is_dir():
            raise InputError("resume_from_checkpoint", f"there is no folder {config.resume_from_checkpoint!r}.")
        return config.resume_from_checkpoint
    checkpoint = get_last_checkpoint(config.output_dir) if Path(config.output_dir).is_dir() else None
    say(f"Resuming from {checkpoint}." if checkpoint else "No checkpoint yet: starting from the original model.")
    return checkpoint


def check_output_dir(output_dir: Path, model_name_or_path: str | None, may_replace: bool) -> None:
    """
    Raises:
        [`InputError`]: if the folder is the original model's, or holds a run that may not be replaced.
    """
    if model_name_or_path is None:
        raise InputError("model_name_or_path", "is missing: a model id on the hub or a folder.")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError("output_dir", f"{str(output_dir)!r} is a file.")
    if output_dir.resolve() == Path(model_name_or_path).resolve():
        raise InputError("output_dir", "is the folder of the original model, which is not overwritten.")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not may_replace:
        raise InputError("output_dir", f"{str(output_dir)!r} is not empty. Choose another or add --overwrite.")


def load_model(model_args: ModelArguments):
    """
    The model and its image processor.

    Raises:
        [`InputError`]: if it cannot be loaded or is no image classifier with trained weights.
    """
    name = model_args.model_name_or_path
    hub = {
        "revision": model_args.model_revision,
        "cache_dir": model_args.cache_dir,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
    try:
        model, loading = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True, **hub)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError("model_name_or_path", f"{name!r} is no image classifier: {reason}") from error
    architectures = model.config.architectures or []
    known = set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values())
    if loading["missing_keys"] or not (known & set(architectures) or model_args.trust_remote_code):
        raise InputError(
            "model_name_or_path",
            f"{name!r} is no trained image classifier (architecture {listing(architectures)}, "
            f"{len(loading['missing_keys'])} weights missing).",
        )
    try:
        image_processor = AutoImageProcessor.from_pretrained(model_args.image_processor_name or name, **hub)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError("image_processor_name", f"no image processor found: {reason}") from error
    return model, image_processor


def load_retrained(model_args: ModelArguments, model):
    """The yardstick, which must have the labels of the unlearned model."""
    name = model_args.retrained_model_name_or_path
    try:
        retrained = AutoModelForImageClassification.from_pretrained(
            name, cache_dir=model_args.cache_dir, token=model_args.token
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError("retrained_model_name_or_path", f"{name!r} cannot be loaded: {reason}") from error
    if retrained.config.label2id != model.config.label2id:
        raise InputError("retrained_model_name_or_path", f"{name!r} has other labels than the model to unlearn.")
    return retrained


def load_splits(
    data_args: DataArguments,
    forget_args: ForgetArguments,
    request: ForgetRequest | None,
    label2id: dict[str, int],
    model_args: ModelArguments,
) -> tuple[DatasetDict, dict]:
    """
    The splits `forget`, `retain`, `forget_test` and `retain_test`, as far as the data allows, and the names of the
    image and label columns.

    Raises:
        [`InputError`]: if the data and the request, or the data and the model, do not fit.
    """
    train, test = load_train_and_test(data_args, model_args)
    if request is None:
        forget = data.load_image_folder("forget_dir", forget_args.forget_dir)
        image_column, label_column = data.find_image_column(forget), data.find_label_column(forget)
        splits = {"forget": forget}
        if test is not None:
            # The folder decides what the columns are called, and the training images, which hold those of the folder
            # under other names, are left alone.
            splits["retain_test"] = with_columns_of_a_folder(test, data_args)
    else:
        if train is None:
            raise InputError("dataset_name", "is missing: the request names images of a dataset (or of --train_dir).")
        image_column = data.find_image_column(train, data_args.image_column_name)
        label_column = data.find_label_column(train, data_args.label_column_name)
        if request.kind == "classes" and label_column is not None:
            check_classes(train, label_column, request.classes, label2id)
        splits = dict(data.split_dataset(train, request, label_column, image_column))
        if test is not None:
            splits |= split_test(test, request, label_column, image_column)

    if label_column is not None:
        for split in splits.values():
            if label_column in split.column_names:
                data.match_labels(split, label_column, label2id)
    if data_args.max_eval_samples is not None:
        for name in splits.keys() - {"forget"}:
            if len(splits[name]) > data_args.max_eval_samples:
                splits[name] = splits[name].shuffle(seed=0).select(range(data_args.max_eval_samples))
    for name, split in splits.items():
        broken = data.unreadable_images(split, image_column)
        if broken and not data_args.skip_unreadable_images:
            raise InputError(
                "skip_unreadable_images",
                f"{len(broken)} of {len(split)} images of the {name} split cannot be read: "
                f"{listing(broken.values(), 5)}. Add the flag to leave them out.",
            )
        if len(broken) == len(split):
            raise InputError("skip_unreadable_images", f"no image of the {name} split can be read.")
        if broken:
            splits[name] = data.drop_rows(split, broken)
    return DatasetDict(splits), {"image_column": image_column, "label_column": label_column}


def split_test(test: Dataset, request: ForgetRequest, label_column: str, image_column: str) -> dict[str, Dataset]:
    """
    Unseen images of what is forgotten, `forget_test`, and the others, `retain_test`; a part without images is left out.
    A request for single images names no unseen ones.
    """
    if request.kind == "column" and request.column not in test.column_names:
        say(f"The unseen images have no column {request.column!r} and are left out.")
        return {}
    rows = []
    if request.kind in ("classes", "column"):
        rows = data.matching_rows(test, request, label_column, image_column, every_value=False)
    parts = {"forget_test": test.select(rows), "retain_test": data.drop_rows(test, rows)}
    return {name: part for name, part in parts.items() if len(part)}


def with_columns_of_a_folder(dataset: Dataset, data_args: DataArguments) -> Dataset:
    """The image and label columns alone, under the names that they have in a folder of images: `image`, `label`."""
    names = {data.find_image_column(dataset, data_args.image_column_name): "image"}
    label_column = data.find_label_column(dataset, data_args.label_column_name)
    if label_column is not None:
        names[label_column] = "label"
    return dataset.select_columns(list(names)).rename_columns({old: new for old, new in names.items() if old != new})


def load_train_and_test(data_args: DataArguments, model_args: ModelArguments) -> tuple[Dataset | None, Dataset | None]:
    """The training and the unseen images, each `None` if not given."""
    if data_args.dataset_name is not None and data_args.train_dir is not None:
        raise InputError("train_dir", "cannot be combined with --dataset_name. Choose one.")
    train = test = None
    if data_args.dataset_name is not None:
        with PartialState().main_process_first():
            dataset = data.load_dataset(
                data_args.dataset_name,
                data_args.dataset_config_name,
                data_args.dataset_revision,
                model_args.token,
                model_args.cache_dir,
            )
        if data_args.train_split not in dataset:
            raise InputError("train_split", f"there is no split {data_args.train_split!r}. Valid: {listing(dataset)}.")
        train = dataset[data_args.train_split]
        if data_args.test_split is not None and data_args.test_split not in dataset:
            raise InputError("test_split", f"there is no split {data_args.test_split!r}. Valid: {listing(dataset)}.")
        for name in [data_args.test_split] if data_args.test_split else ("test", "validation"):
            if name in dataset:
                test = dataset[name]
                break
    if data_args.train_dir is not None:
        train = data.load_image_folder("train_dir", data_args.train_dir)
    if data_args.validation_dir is not None:
        test = data.load_image_folder("validation_dir", data_args.validation_dir)
    return train, test


def check_classes(train: Dataset, label_column: str, classes: list, label2id: dict[str, int]) -> None:
    """
    Raises:
        [`InputError`]: if a class to forget is one of the model's and has no image in the data.
    """
    feature = train.features[label_column]
    names = feature.names if isinstance(feature, data.ClassLabel) else set(data.read_column(train, label_column))
    for name in classes:
        if name in label2id and name not in names and not str(name).isdigit():
            raise InputError("classes", f"the model knows {name!r} but the data has no such class: {listing(names)}.")
