"""The command `hf-unlearn run`: its steps from the request to the push, in the order in which they happen."""

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from ..data.forget_kind import kind_of_request
from ..errors import InputError
from ..evaluation.sequence import Tracker, named
from ..methods import load_method
from ..methods.jit_config import JiTConfig
from ..publication.facts import description_of, provenance_of
from ..publication.files import RECORD, SALT
from ..publication.hub import check_push
from ..publication.report import UnlearningReport
from ..publication.signing import read_private_key, sign_record
from ..request.forget_request import ForgetRequest
from ..terminal import Stage, say, write_json
from ..unlearning.compatibility import id2label_of
from ..unlearning.config import UnlearningConfig
from ..unlearning.trainer import UnlearningTrainer
from .arguments import DataArguments, ForgetArguments, ModelArguments, RunArguments, bound_samples, fill_in
from .given_images import check_by_position, further_images, holdout_accuracy
from .loading import load_model, load_retrained, load_splits
from .processes import check_processes
from .training_data import load_train_and_test


def run(
    model_args: ModelArguments,
    data_args: DataArguments,
    forget_args: ForgetArguments,
    run_args: RunArguments,
    config: UnlearningConfig,
) -> UnlearningReport:
    """
    Unlearns, measures, writes the model, the report, the card and the record, and pushes. All input is checked before
    anything is written.

    Args:
        model_args ([`~commands.arguments.ModelArguments`]):
            Which model is unlearned.
        data_args ([`~commands.arguments.DataArguments`]):
            Which images the model was trained on and is measured on.
        forget_args ([`~commands.arguments.ForgetArguments`]):
            What to forget.
        run_args ([`~commands.arguments.RunArguments`]):
            The method, and how the command behaves.
        config ([`UnlearningConfig`]):
            The configuration of the method.

    Returns:
        [`UnlearningReport`]: the measurements. They are also in `report.json` of the output folder.

    Raises:
        [`InputError`]: if an input cannot be used.
        [`CollapsedModelError`]: if the unlearned model is destroyed and must not be saved.
        [`HubPushError`]: if the push fails. All files are on the disk then.
    """
    whole = Stage("total")
    output_dir = Path(config.output_dir)
    # `world_size` sets up the processes as the flags say. This comes first: other code would set them up without the
    # flags.
    check_processes(config.world_size)

    # Checks that need no data come first.
    requests = forget_args.to_requests()
    for request in requests:
        if request is not None:
            fill_in(request, model_args, data_args)
    may_replace = run_args.overwrite or bool(config.resume_from_checkpoint)
    check_output_dir(output_dir, model_args.model_name_or_path, may_replace)
    if run_args.sign_key is not None:
        read_private_key(run_args.sign_key)
    if run_args.hub_tag is not None and run_args.create_pr:
        raise InputError("hub_tag", "cannot be combined with --create_pr: tag what was merged.")
    if config.push_to_hub:
        repo_id = config.hub_model_id or output_dir.absolute().name
        token = config.hub_token or model_args.token
        config.hub_model_id = check_push(
            repo_id, model_args.model_name_or_path, token, config.hub_revision, run_args.create_pr
        )

    if len(requests) == 1:
        trainer, report = run_request(requests[0], model_args, data_args, forget_args, run_args, config)
    else:
        # Several are named by files, and none of them by a folder.
        in_files = [request for request in requests if request is not None]
        trainer, report = run_sequence(in_files, model_args, data_args, forget_args, run_args, config)
    if trainer.is_world_process_zero():
        for step in output_dir.glob("step-*"):
            # Deletes steps of an earlier run that this run replaced, since their models still know the images. A
            # folder that is not a finished step is kept.
            if (step / RECORD).is_file() and step.name not in [f"step-{number}" for number in range(1, len(requests))]:
                shutil.rmtree(step)
        if run_args.sign_key is not None:
            sign_record(output_dir, run_args.sign_key)
    url = None
    if config.push_to_hub:
        stage = Stage("push")
        url = trainer.push_to_hub(
            token=config.hub_token or model_args.token, create_pr=run_args.create_pr, tag=run_args.hub_tag
        )
        stage.end(url or "", url=url)
    whole.end()
    say_result(trainer, report, url)
    trainer.end()
    return report


def say_result(trainer: UnlearningTrainer, report: UnlearningReport, url: str | None) -> None:
    """Prints what a run came to, on the main process."""
    output_dir = Path(trainer.args.output_dir)
    outcome = trainer.describe_outcome()
    if trainer.is_world_process_zero():
        report.print()
    if outcome:
        say(outcome, always=True)
    say(f"Model, card, report, record and pictures are in {output_dir}.", always=True)
    salt = output_dir / SALT
    say(f"Keep {salt}: with it the record tells whether an image was forgotten. It is never pushed.", always=True)
    if url is not None:
        say(f"Pushed to {url}", always=True)
    write_json(
        "result",
        output_dir=str(output_dir),
        url=url,
        outcome=outcome,
        change_elsewhere=trainer.change,
        splits=report.splits,
        metrics={model: result["metrics"] for model, result in report.results.items()},
    )


def run_sequence(
    requests: list[ForgetRequest],
    model_args: ModelArguments,
    data_args: DataArguments,
    forget_args: ForgetArguments,
    run_args: RunArguments,
    config: UnlearningConfig,
) -> tuple[UnlearningTrainer, UnlearningReport]:
    """
    Carries out several requests, one after the other. The model after the last request goes to `output_dir`. The
    models before it go to its subfolders `step-1`, `step-2`, …, each with its own report, card and record. For the
    arguments see [`run`].

    Returns:
        `tuple[UnlearningTrainer, UnlearningReport]`: of the last request. The report also has the accuracies on every
        request after each step.

    Raises:
        [`InputError`]: if an input cannot be used. All requests are checked before the first one is carried out.
    """
    if config.resume_from_checkpoint:
        raise InputError("resume_from_checkpoint", "works with one request only.")
    requests = named(requests)
    model, image_processor = load_model(model_args)
    bound_samples(data_args, image_processor)
    train, test = load_train_and_test(data_args, model_args)
    if train is None:
        raise InputError("dataset_name", "is missing: the requests name images of a dataset (or of --train_dir).")
    # Checks the data of every request before the first one is carried out.
    columns: dict[str, Any] = {"label_column": None}
    for number, request in enumerate(requests):
        _, columns, _ = load_splits(
            data_args, forget_args, request, id2label_of(model), model_args, earlier=requests[:number]
        )
    tracker = None
    if columns["label_column"] is not None:
        tracker = Tracker(requests, train, test, columns, data_args.max_eval_samples)
        tracker.measure(None, model.to(config.device), image_processor, config.per_device_eval_batch_size)
    del model

    for number, request in enumerate(requests, start=1):
        say(f"Request {number} of {len(requests)}: {request.id}.")
        write_json("request", number=number, of=len(requests), id=request.id)
        step = copy.copy(config)
        last = number == len(requests)
        if not last:
            step.output_dir = str(Path(config.output_dir) / f"step-{number}")
            step.hub_model_id = None
        trainer, report = run_request(
            request,
            model_args if last else replace(model_args, retrained_model_name_or_path=None),
            data_args,
            forget_args,
            run_args,
            step,
            earlier=requests[: number - 1],
            tracker=tracker,
        )
        if last:
            return trainer, report
        model_args = replace(model_args, model_name_or_path=step.output_dir, model_revision="main")
    raise InputError("forget_request", "there is none.")


def run_request(
    request: ForgetRequest | None,
    model_args: ModelArguments,
    data_args: DataArguments,
    forget_args: ForgetArguments,
    run_args: RunArguments,
    config: UnlearningConfig,
    earlier: Sequence[ForgetRequest] = (),
    tracker: Tracker | None = None,
) -> tuple[UnlearningTrainer, UnlearningReport]:
    """
    Carries out one request: unlearns, measures, and writes model, report, card and record. For the arguments that are
    not listed see [`run`].

    Args:
        request ([`ForgetRequest`] or `None`):
            What to forget; `None` if `--forget_dir` names a folder of images.
        earlier (`list[ForgetRequest]`, *optional*, defaults to `()`):
            Requests that were carried out before. Their images do not count as retained.
        tracker ([`~evaluation.sequence.Tracker`], *optional*):
            Measures all requests of a sequence after this one.

    Returns:
        `tuple[UnlearningTrainer, UnlearningReport]`

    Raises:
        [`InputError`]: if an input cannot be used.
        [`CollapsedModelError`]: if the unlearned model is destroyed and must not be saved.
    """
    stage = Stage("reading")
    model, image_processor = load_model(model_args)
    bound_samples(data_args, image_processor)
    # Loaded before unlearning, so that a wrong name is found before the work.
    retrained = load_retrained(model_args, id2label_of(model), config.device)
    trainer_class = load_method(run_args.method)[1]
    splits, columns, drawn_from = load_splits(
        data_args,
        forget_args,
        request,
        id2label_of(model),
        model_args,
        earlier=earlier,
        whole_retain=trainer_class.needs_retain or data_args.retain_fraction is not None,
    )
    processes = f" Processes: {config.world_size}." if config.world_size > 1 else ""
    say(f"Forgetting {len(splits['forget'])} images: {description_of(request)}.{processes}")
    sizes = {str(name): len(split) for name, split in splits.items()}
    stage.end(", ".join(f"{name} {size:,}" for name, size in sizes.items()), splits=sizes)

    if data_args.labels_by_position:
        check_by_position(splits["forget"], model.to(config.device), image_processor, **columns)
    config.forget_kind = config.forget_kind or kind_of_request(request, columns["label_column"])
    further = further_images(data_args, model_args, splits.get("retain"), trainer_class, config)
    if data_args.holdout_dir is not None:
        if not isinstance(config, JiTConfig):
            raise InputError("holdout_dir", f"sets the target of --method jit; {run_args.method} has none.")
        config.forget_target = holdout_accuracy(data_args.holdout_dir, model.to(config.device), image_processor)
        say(f"Target: {100 * config.forget_target:.1f} %, the accuracy on the unseen images of --holdout_dir.")
    trainer = trainer_class(
        model=model,
        args=config,
        processing_class=image_processor,
        forget_dataset=splits["forget"],
        **further,
        **columns,
    )
    trainer.train(resume_from_checkpoint=find_checkpoint(config))
    stage = Stage("saving")
    # With `_internal_call`, the Trainer does not push. The push comes last, with card and report.
    trainer.save_model(_internal_call=True)
    stage.end()

    stage = Stage("evaluation")
    # Imported here because the metrics are slow to import (scipy.stats), and nothing above needs them.
    from ..evaluation.evaluate import evaluate_unlearning

    original, _ = load_model(model_args)
    report = evaluate_unlearning(
        model,
        splits,
        image_processor,
        original_model=original.to(config.device),
        retrained_model=retrained[0] if retrained else None,
        further_retrained_models=tuple(retrained[1:]),
        batch_size=config.per_device_eval_batch_size,
        max_eval_samples=data_args.max_eval_samples,
        **columns,
    )
    report.sampled |= drawn_from
    stage.end(", ".join(report.results), models=list(report.results))
    stage = Stage("card")
    if tracker is not None and request is not None:
        tracker.measure(request.id, model, image_processor, config.per_device_eval_batch_size)
    folder = forget_args.forget_dir or data_args.train_dir or data_args.dataset_name
    provenance = replace(
        provenance_of(trainer, request, folder, data_args.dataset_revision),
        sequence=tracker.table() if tracker is not None else None,
    )
    trainer.save_report(report, request, data_args.dataset_name or data_args.train_dir, provenance)
    stage.end("report, pictures, record and card")
    return trainer, report


def find_checkpoint(config: UnlearningConfig) -> str | None:
    """
    The checkpoint to resume from: the one that `--resume_from_checkpoint` names, or the last one in `output_dir` if
    its value is `True`.

    Returns:
        `str` or `None`: `None` to start from the original model. This is also the case if the interrupted run had not
        written a checkpoint.

    Raises:
        [`InputError`]: if the named checkpoint does not exist.
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
    Checks that the output folder can be written to without overwriting the original model or an earlier run.

    Args:
        output_dir (`Path`):
            The output folder.
        model_name_or_path (`str` or `None`):
            The original model.
        may_replace (`bool`):
            Whether an earlier run in the folder may be replaced or continued.

    Raises:
        [`InputError`]: if no model is named, or if the folder is a file, is or contains the folder of the original
            model, or holds files that may not be replaced.
    """
    if model_name_or_path is None:
        raise InputError("model_name_or_path", "is missing: a model id on the hub or a folder.")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError("output_dir", f"{str(output_dir)!r} is a file.")
    if output_dir.resolve() == Path(model_name_or_path).resolve():
        raise InputError("output_dir", "is the folder of the original model, which is not overwritten.")
    if output_dir.resolve() in Path(model_name_or_path).resolve().parents:
        raise InputError("output_dir", f"{str(output_dir)!r} holds the original model, which is not overwritten.")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not may_replace:
        raise InputError("output_dir", f"{str(output_dir)!r} is not empty. Choose another or add --overwrite.")
