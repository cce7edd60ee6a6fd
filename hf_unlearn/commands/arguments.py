"""The flags of the commands, as dataclasses."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..data.sampling import samples_for
from ..errors import InputError
from ..request.forget_request import ForgetRequest
from ..unlearning.method_names import METHODS


if TYPE_CHECKING:
    from transformers import BaseImageProcessor


@dataclass
class ModelArguments:
    """Which model is unlearned."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "The image classifier: a model id on the hub or a folder."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the hub."})
    image_processor_name: str | None = field(
        default=None, metadata={"help": "Image processor, if it does not lie with the model."}
    )
    retrained_model_name_or_path: list[str] | None = field(
        default=None,
        metadata={
            "help": "Models trained without the forget set: the first is a yardstick, further ones, with other seeds, give "
            "the band of what such models say. Never needed."
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    token: str | None = field(default=None, metadata={"help": "Token of the hub; default: the one of the login."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that lies with the model."})


@dataclass
class CheckpointArguments:
    """How `hf-unlearn compare` and `hf-unlearn verify` load and run their models."""

    image_processor_name: str | None = field(
        default=None, metadata={"help": "Image processor for all checkpoints; default: the one that lies with each."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    token: str | None = field(default=None, metadata={"help": "Token of the hub; default: the one of the login."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that lies with the models."})
    batch_size: int = field(default=64, metadata={"help": "Images per forward pass and process."})
    report_file: str | None = field(default=None, metadata={"help": "Write the report to this JSON file."})


@dataclass
class DataArguments:
    """
    Which images the model was trained on, and which unseen images it is measured on. With a folder of images to forget
    (`--forget_dir`), all of these are optional.
    """

    _argument_group_name = "data"

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Dataset id on the hub, a folder (images, save_to_disk, parquet) or a parquet/arrow file."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the dataset."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder with the training images."})
    validation_dir: str | None = field(default=None, metadata={"help": "Folder with unseen images."})
    holdout_dir: str | None = field(
        default=None,
        metadata={
            "help": "Unseen images, a subfolder per class: the forget set should do as well as these, not better."
        },
    )
    retain_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share of the retained training images to use: with --method rebuild to keep what stays, with jit to tell what to "
            "say of a part of a class."
        },
    )
    proxy_dir: str | None = field(
        default=None, metadata={"help": "With --method rebuild: a folder of any other images that help likewise."}
    )
    proxy_dataset: str | None = field(default=None, metadata={"help": "The same, of a dataset's train split."})
    train_split: str = field(default="train", metadata={"help": "Split that holds the images to forget."})
    test_split: str | None = field(
        default=None, metadata={"help": "Split of unseen images; default: test, else validation, if there is one."}
    )
    image_column_name: str | None = field(default=None, metadata={"help": "Default: the only image column."})
    label_column_name: str | None = field(
        default=None, metadata={"help": "Default: the column whose classes the model knows."}
    )
    labels_by_position: bool = field(
        default=False,
        metadata={"help": "For a model whose classes have no names: class i of the data is class i of the model."},
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={
            "help": "Measure the retain and test splits on at most so many random images each; 0: all. Default: 10000, fewer "
            "of images of more than 70x70 pixels, 1000 from 224x224 on."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Download only the columns of the labels and the images of the splits; for data that do not fit."
        },
    )
    skip_unreadable_images: bool = field(default=False, metadata={"help": "Leave out images that cannot be read."})


@dataclass
class ForgetArguments:
    """What to forget, in exactly one of several ways."""

    _argument_group_name = "what to forget"

    forget_class: list[str] | None = field(default=None, metadata={"help": "Whole classes, by name or id."})
    forget_column: str | None = field(default=None, metadata={"help": "Column to compare with --forget_value."})
    forget_value: list[str] | None = field(default=None, metadata={"help": "Values of that column."})
    forget_indices: list[int] | None = field(default=None, metadata={"help": "Row numbers of the train split."})
    forget_ids: list[str] | None = field(default=None, metadata={"help": "File names, or ids in --forget_id_column."})
    forget_id_column: str | None = field(default=None, metadata={"help": "Column that holds the ids."})
    forget_fraction: float | None = field(default=None, metadata={"help": "A random share of the train split."})
    forget_count: int | None = field(default=None, metadata={"help": "A random number of training images."})
    forget_seed: int = field(default=0, metadata={"help": "Seed of the random choice."})
    forget_dir: str | None = field(default=None, metadata={"help": "A folder of images."})
    forget_request: list[str] | None = field(
        default=None, metadata={"help": "A request file (YAML or JSON), or several, carried out one after the other."}
    )

    def to_request(self) -> ForgetRequest | None:
        """
        Makes the request, for a command that takes one only.

        Returns:
            [`ForgetRequest`] or `None`: `None` if `--forget_dir` names a folder of images.

        Raises:
            [`InputError`]: if no request, more than one request, or more than one way to name the images is given.
        """
        requests = self.to_requests()
        if len(requests) > 1:
            raise InputError("forget_request", f"takes one request here, got {len(requests)}.")
        return requests[0]

    def to_requests(self) -> list[ForgetRequest | None]:
        """
        Makes the requests, in the order in which they are carried out.

        Returns:
            `list[ForgetRequest | None]`: `[None]` if `--forget_dir` names a folder of images.

        Raises:
            [`InputError`]: if no way or more than one way to name the images is used.
        """
        ways = ("class", "column", "indices", "ids", "fraction", "count", "dir", "request")
        used = [f"--forget_{way}" for way in ways if getattr(self, f"forget_{way}") is not None]
        if len(used) != 1:
            raise InputError(
                used[1].lstrip("-") if used else "forget_request",
                f"say in exactly one way what to forget; got {', '.join(used) or 'none'}. "
                f"Choose one of {', '.join(f'--forget_{way}' for way in ways)}.",
            )
        if self.forget_dir is not None:
            return [None]
        if self.forget_request is not None:
            return [ForgetRequest.from_file(path) for path in self.forget_request]
        return [
            ForgetRequest(
                classes=self.forget_class,
                column=self.forget_column,
                values=self.forget_value,
                indices=self.forget_indices,
                ids=self.forget_ids,
                id_column=self.forget_id_column,
                fraction=self.forget_fraction,
                count=self.forget_count,
                seed=self.forget_seed,
            )
        ]


@dataclass
class RunArguments:
    """Which method is used, and how the command behaves."""

    _argument_group_name = "run"

    method: str = field(
        default="jit",
        metadata={"help": f"How to unlearn: {', '.join(METHODS)}. Its own flags follow from it. See docs/methods.md."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the run that lies in --output_dir."})
    create_pr: bool = field(default=False, metadata={"help": "Push as a pull request."})
    hub_tag: str | None = field(default=None, metadata={"help": "Tag the pushed commit with this name."})
    sign_key: str | None = field(
        default=None, metadata={"help": "PEM file with an Ed25519 private key that signs the record."}
    )
    quiet: bool = field(default=False, metadata={"help": "Print the outcome and errors alone."})
    json: bool = field(
        default=False,
        metadata={"help": "Print one JSON object a line for each stage and the result, all else to standard error."},
    )


def bound_samples(data_args: DataArguments, image_processor: "BaseImageProcessor") -> None:
    """
    Sets how many images are measured where no flag does, by the size of what the image processor makes.

    Args:
        data_args ([`DataArguments`]):
            The flags. They are changed in place.
        image_processor (`BaseImageProcessor`):
            The model's own.
    """
    if data_args.max_eval_samples is None:
        # Late: the flags alone must be there without torch.
        from ..unlearning.compatibility import check_image_processor

        image = check_image_processor("image_processor_name", image_processor)
        data_args.max_eval_samples = samples_for(image)


def fill_in(request: ForgetRequest, model_args: ModelArguments, data_args: DataArguments) -> None:
    """
    Takes the model and the dataset from the request if no flag names them.

    Args:
        request ([`ForgetRequest`]):
            The request.
        model_args ([`ModelArguments`]), data_args ([`DataArguments`]):
            The flags. They are changed in place.

    Raises:
        [`InputError`]: if a flag names another model or dataset than the request.
    """
    for args, name, value in (
        (model_args, "model_name_or_path", request.model),
        (model_args, "model_revision", request.model_revision),
        (data_args, "dataset_name", request.dataset),
        (data_args, "dataset_revision", request.dataset_revision),
    ):
        given, default = getattr(args, name), type(args).__dataclass_fields__[name].default
        if value is None or value == given:
            continue
        if given != default:
            raise InputError(name, f"is {given!r}, but the request is about {value!r}.")
        if name == "dataset_name" and data_args.train_dir is not None:
            raise InputError("train_dir", f"is {data_args.train_dir!r}, but the request is about {value!r}.")
        setattr(args, name, value)


# Arguments of [`ForgetRequest`] whose flag has another name.
FLAG_OF = {
    "classes": "forget_class",
    "column": "forget_column",
    "values": "forget_value",
    "indices": "forget_indices",
    "ids": "forget_ids",
    "id_column": "forget_id_column",
    "fraction": "forget_fraction",
    "count": "forget_count",
}


# Keys of a request file that have no flag.
REQUEST_KEYS = (
    "files",
    "image_sha256",
    "image_phash",
    "id",
    "date",
    "deadline",
    "reason",
    "requester",
    "model",
    "dataset",
    "seed",
)


def message_of(error: InputError) -> str:
    """The error in one line. It begins with the wrong flag or the wrong key of the request file."""
    if error.argument in REQUEST_KEYS:
        return f"request: {error.argument}: {error.message}"
    return f"--{FLAG_OF.get(error.argument, error.argument)}: {error.message}"
