"""The command `hf-unlearn record replay`: carries a run out again, and compares what comes out with its record."""

import inspect
import json
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForImageClassification

from ..data.forget_kind import kind_of_request
from ..errors import CollapsedModelError, InputError, listing
from ..methods import load_method
from ..publication.facts import environment, provenance_of
from ..publication.files import RECORD, REQUEST, SALT
from ..publication.record import read_record, read_salt, salted
from ..publication.record_check import verify
from ..publication.report import weights_sha256
from ..publication.signing import Check
from ..request.forget_request import ForgetRequest
from ..terminal import printing
from ..unlearning.compatibility import id2label_of
from ..unlearning.config import UnlearningConfig
from ..unlearning.method_names import METHODS
from ..unlearning.trainer import UnlearningTrainer
from .arguments import DataArguments, ForgetArguments, ModelArguments, fill_in
from .given_images import further_images
from .loading import load_model, load_splits


if TYPE_CHECKING:
    from transformers import HfArgumentParser


# What of a record's environment decides the last bits of a result.
VERSIONS = ("hf_unlearn", "torch", "transformers", "accelerate", "device", "machine", "processes", "mixed_precision")


@dataclass
class ReplayArguments:
    """Where the request of the run and its salt are."""

    _argument_group_name = "replay"

    forget_request: str | None = field(
        default=None, metadata={"help": "The request; default: the copy that lies with the run."}
    )
    forget_dir: str | None = field(default=None, metadata={"help": "The folder of images, if there was no request."})
    salt_file: str | None = field(
        default=None, metadata={"help": "The salt of the record; default: the one that lies with the run."}
    )


def replay(
    folders: list[str], model_args: ModelArguments, data_args: DataArguments, replay_args: ReplayArguments
) -> list[Check]:
    """
    Carries a run out again with the original model, the images and the settings of its record, and compares. Nothing
    is written.

    Args:
        folders (`list[str]`):
            One folder of a run.
        model_args ([`~commands.arguments.ModelArguments`]), data_args ([`~commands.arguments.DataArguments`]):
            The original model and the data. What the request and the record say need not be given.
        replay_args ([`ReplayArguments`]):
            Where the request and the salt are.

    Returns:
        `list[Check]`: of the record, of the request and the images, and of the weights.

    Raises:
        [`InputError`]: if something that is needed is missing.
    """
    folder = Path(folders[0])
    record = read_record(folder / RECORD)
    checks = verify(folder)
    request = find_request(folder, replay_args)
    if request is not None:
        fill_in(request, model_args, data_args)
    salt_file = Path(replay_args.salt_file or folder / SALT)
    salt = read_salt(salt_file) if replay_args.salt_file is not None or salt_file.is_file() else None
    checks.append(check_request(record, request, salt))
    config_class, trainer_class, settings, notes = settings_of(record, data_args)
    checks += notes
    if trainer_class.needs_retain and record["lineage"]:
        raise InputError(
            "folder",
            "cannot be done again: the method needs retained images, and the record does not say which ones the earlier "
            "requests took away.",
        )

    model, image_processor = load_model(model_args)
    before = record["weights"]["sha256_before"]
    checks.append(
        Check(weights_sha256(model.state_dict()) == before, "the original model has the weights of the record")
    )
    if checks[-1].holds is False:
        return [*checks, Check(None, "the run was not done again: it would begin with other weights")]
    # The other splits measure, and nothing is measured here.
    data_args.max_eval_samples = 1
    forget_args = ForgetArguments(forget_dir=replay_args.forget_dir)
    splits, columns, _ = load_splits(
        data_args, forget_args, request, id2label_of(model), model_args,
        whole_retain=trainer_class.needs_retain or data_args.retain_fraction is not None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as aside, threads_of(record):
        config = config_class(
            output_dir=aside,
            use_cpu=record["environment"].get("device") == "cpu",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
            **settings,
        )
        config.forget_kind = config.forget_kind or kind_of_request(request, columns["label_column"])
        further = further_images(data_args, model_args, splits.get("retain"), trainer_class, config)
        trainer = trainer_class(
            model=model,
            args=config,
            processing_class=image_processor,
            forget_dataset=splits["forget"],
            **further,
            **columns,
        )
        checks.append(
            check_images(record, trainer, request, data_args, replay_args.forget_dir, salt, len(splits["forget"]))
        )
        versions = check_versions(record, trainer)
        checks.append(versions)
        try:
            with printing(quiet=True):
                trainer.train()
        except CollapsedModelError as error:
            return [*checks, Check(False, f"with the settings of the record no model is saved: {error}")]
        checks.append(check_settings(record, trainer))
        return [*checks, *check_weights(record, folder, trainer, versions)]


def find_request(folder: Path, replay_args: ReplayArguments) -> ForgetRequest | None:
    """The request of the run; `None` if it was a folder of images."""
    if replay_args.forget_dir is not None:
        return None
    path = replay_args.forget_request or folder / REQUEST
    if replay_args.forget_request is None and not Path(path).is_file():
        raise InputError(
            "forget_request",
            f"there is none in {str(folder)!r}. Name the request, or --forget_dir if it was a folder.",
        )
    return ForgetRequest.from_file(path)


def check_request(record: dict, request: ForgetRequest | None, salt: bytes | None) -> Check:
    """Whether the request is the one of the record."""
    expected = record["request"]["hmac_sha256"]
    if request is None or expected is None:
        return Check(request is None and expected is None or None, "the record tells of no request file")
    if salt is None:
        return Check(
            None, "without the salt it is not known whether the request and the images are those of the record"
        )
    return Check(request.hmac(salt) == expected, "the request is that of the record")


def settings_of(
    record: dict, data_args: DataArguments
) -> tuple[type[UnlearningConfig], type[UnlearningTrainer], dict[str, Any], list[Check]]:
    """
    The classes of the method and the settings of the run. What the record says of the data goes into the flags, where
    they say nothing.

    Raises:
        [`InputError`]: if the method is not known.
    """
    known: dict[str, Any] | None = record.get("replay")
    notes = []
    if known is None:
        notes.append(Check(None, "the record is of an older version. It does not hold the split, the columns, the number of "
                     "threads and the settings as they were given: flags and defaults stand for them"))  # fmt: skip
        known = {"method": name_by_title(record["method"]["name"]), "settings": record["method"]["hyperparameters"]}
        if record["method"]["preset"] is not None:
            known["settings"] = known["settings"] | {"preset": record["method"]["preset"]}
    if known["method"] not in list(METHODS):
        raise InputError("method", f"the record names {record['method']['name']!r}. Valid: {listing(METHODS, 30)}.")
    for name in ("image_column", "label_column"):
        if getattr(data_args, f"{name}_name") is None:
            setattr(data_args, f"{name}_name", known.get(name))
    data_args.streaming = data_args.streaming or "streamed" in record["dataset"]
    if data_args.train_split == "train" and known.get("split") is not None and data_args.dataset_name is not None:
        data_args.train_split = known["split"]
    config_class, trainer_class = load_method(known["method"])
    accepted = set(inspect.signature(config_class).parameters)
    unknown = sorted(set(known["settings"]) - accepted)
    if unknown:
        notes.append(Check(None, f"settings that this version does not have: {listing(unknown)}"))
    settings = {name: value for name, value in known["settings"].items() if name in accepted}
    return config_class, trainer_class, settings, notes


def name_by_title(title: str) -> str | None:
    """The name of the method whose trainer has this title, as records before `replay` give it."""
    return next((name for name in METHODS if load_method(name)[1]._name == title), None)


def check_images(
    record: dict,
    trainer: UnlearningTrainer,
    request: ForgetRequest | None,
    data_args: DataArguments,
    forget_dir: str | None,
    salt: bytes | None,
    number: int,
) -> Check:
    """Whether the images are those of the record: by their HMAC with the salt, by their number without."""
    expected = record["forgotten"]
    if salt is None:
        return Check(
            None if number == expected["images"] else False,
            f"{number} images are forgotten, {expected['images']} in the record",
        )
    folder = forget_dir or data_args.train_dir or data_args.dataset_name
    names = provenance_of(trainer, request, folder).forgotten
    # Paths depend on where the data lie. The pixels do not.
    pixels = [name for name in names if name.startswith("pixels:")]
    known = all(salted(salt, name) in expected["hmac_sha256"] for name in pixels)
    return Check(known and number == expected["images"], f"the {number} images are those of the record")


def check_versions(record: dict, trainer: UnlearningTrainer) -> Check:
    """Which versions, and what of the machine, are others than in the record."""
    now, then = environment(trainer), record["environment"]
    others = [f"{name} {then.get(name)} (now {now[name]})" for name in VERSIONS if now[name] != then.get(name)]
    if others:
        return Check(None, f"other than in the record: {', '.join(others)}")
    return Check(True, "versions and device are those of the record")


def check_settings(record: dict, trainer: UnlearningTrainer) -> Check:
    """Whether the run ended with the settings that the record states."""
    stated = record["method"]["hyperparameters"]
    # As they are after a way through JSON.
    own = json.loads(json.dumps(trainer.args.settings()))
    names = stated.keys() & own.keys() if record.get("replay") is None else stated.keys() | own.keys()
    others = sorted(name for name in names if stated.get(name) != own.get(name))
    if others:
        return Check(False, f"settings that the record states are not those of the run: {listing(others)}")
    return Check(True, "the settings are those that the record states")


@torch.no_grad()
def check_weights(record: dict, folder: Path, trainer: UnlearningTrainer, versions: Check) -> list[Check]:
    """Compares the weights of the run with those of the record and with those that lie with it."""
    after = record["weights"]["sha256_after"]
    again = trainer.weights_as_saved()
    checks = []
    saved = AutoModelForImageClassification.from_pretrained(folder, dtype="auto").state_dict()
    checks.append(Check(weights_sha256(saved) == after, "the saved model has the weights of the record"))
    if weights_sha256(again) == after:
        return [*checks, Check(True, "the run done again gives the weights of the record, bit for bit")]
    moved = {name: weight for name, weight in trainer.original.weights.items() if name in saved}

    def norm(tensors: Generator[torch.Tensor, None, None]) -> float:
        return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5

    apart = norm(again[name].cpu().float() - saved[name].float() for name in moved)
    way = norm(saved[name].float() - weight.cpu() for name, weight in moved.items())
    share = f"{100 * apart / way:.3g} % of the way that the weights of the saved model went" if way else f"{apart:.3g}"
    reason = (
        "Other versions or another machine can be the reason if it is small."
        if versions.holds is None
        else "Versions and device are the same: the settings, the images or the weights are not those of the run."
    )
    return [*checks, Check(False, f"the run done again gives other weights; distance: {share}. {reason}")]


@contextmanager
def threads_of(record: dict) -> Generator[None, None, None]:
    """As many threads as the record says: sums are cut by them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, record.get("replay", {}).get("threads", threads)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_parser() -> "HfArgumentParser":
    """Makes the parser of the flags of `hf-unlearn record replay`."""
    from transformers import HfArgumentParser

    # No class is of the type that the parser says it takes.
    parser = HfArgumentParser(
        cast(Any, (ModelArguments, DataArguments, ReplayArguments)),
        prog="hf-unlearn record replay",
        usage="hf-unlearn record replay DIR [--model_name_or_path ORIGINAL] [--dataset_name DATA] [flags]",
        description="Carry a run out again with the settings of its record, and compare the weights.",
    )
    parser.add_argument("models", nargs=1, metavar="DIR", help="The --output_dir of the run.")
    return parser
