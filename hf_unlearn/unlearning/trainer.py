"""What all unlearning methods share: the Trainer that feeds the forget set to a loss and keeps the update exact."""

import copy
import math
import time
import typing
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PrinterCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import IntervalStrategy, TrainOutput

from ..data.image_dataset import ImageDataset
from ..data.rows import Rows
from ..data.splits import ForgetSource, source_of
from ..data.training_set import PositionsCollator, TrainingSet
from ..errors import CollapsedModelError, InputError
from ..publication.energy import EnergyMeter
from ..publication.report import weights_sha256
from ..publication.search import Search
from ..request.forget_request import ForgetRequest
from ..terminal import Stage
from .batches import BatchingTrainer
from .compatibility import id2label_of
from .config import UnlearningConfig
from .guard import CHANGE_LIMIT, Guard
from .inputs import check_inputs, compute_accuracy, find_forget_kind, prepare_dataset
from .layout import laid_out
from .method_names import name_of_method
from .mode import make_deterministic
from .original import ObserveOriginal, Original, check_collapse, round_weights
from .precision import cast, in_types, stored_in_16_bits
from .progress import Concluding, Progress


if TYPE_CHECKING:
    from transformers import BaseImageProcessor
    from typing_extensions import Unpack

    from .compatibility import ImageClassifier
    from .inputs import PassedOn


class UnlearningTrainer(BatchingTrainer):
    """
    Base of every method. A method implements [`~UnlearningTrainer.unlearning_loss`]: one value per forget image.

    The update does not depend on how the forget set is cut: losses are averaged over the true number of images in the
    update, over processes and accumulation steps, and the odd last batch is padded with images of weight zero, so
    that every process runs the same number of forward passes.

    Args:
        model (`PreTrainedModel`):
            An image classifier of transformers. It is changed in place.
        args ([`UnlearningConfig`]):
            The method's configuration.
        processing_class (`BaseImageProcessor`, *optional*):
            The model's image processor. Not needed when the forget set already has `pixel_values`.
        forget_dataset (`datasets.Dataset` or `torch.utils.data.Dataset`):
            The images to forget: raw ones in an image column, or `pixel_values`. Labels are not needed.
        request ([`ForgetRequest`], *optional*, defaults to the one that `forget_dataset` remembers from
            [`split_dataset`]):
            What was asked. It says whether a class, a part of one or single images are forgotten, and is what card and
            record tell of. Without any, a forget set counts as a class only if all its labels are one class and the
            retained images (`retain_dataset`, or `"retain"` of `eval_dataset`) have none of it.
        retain_dataset (`datasets.Dataset` or `torch.utils.data.Dataset`, *optional*):
            Training images to retain, with labels. Needed by methods that say so, of use to those that take them, and not
            looked at by others.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*):
            Evaluated by [`~transformers.Trainer.evaluate`], never used to update the weights.
        image_column (`str`, *optional*):
            Found from the features when not given.
        label_column (`str`, *optional*):
            Found from the features when not given.
        kwargs:
            Passed to [`~transformers.Trainer`].

    State that methods read, beside that of [`PublishingTrainer`]:

    - set once, in `__init__`: `training_set`, what updates are taken from (`train_dataset` is the forget set alone);
      `request` and `source`, what was asked and of which dataset; `stored_in_16_bits`, how the model was stored.
    - set when training begins, by [`~unlearning.original.observe_original`], and only read after it: `original`, the
      weights; `answers`, the class that each forget image is to lose, by position, and `start`, the accuracy by it;
      `share`, this process's part of the forget set in the order of `forget_outputs` (`sample_index`, `sample_weight`,
      `positions`); `original_logits`; `guard`.
    - changed by each update: `forget_share`, the share of forget images among those of the update.
    - counted: `passes`, forward passes over the forget set, a backward pass counting as two.
    - set at the end of training: `step`, what a search for the step found; `change`, the guard's estimate;
      `accuracy_lost`, in points on what stays, where a method estimates it;
      `saved_in_16_bits`; `seconds` and `energy_kwh`.

    Raises:
        [`InputError`]: if the model, the image processor or a dataset does not fit (see [`~compatibility`]), or if the
            forget set, or the retained images that the method needs, are missing or empty.
    """

    _name: str | None = None
    _paper: str | None = None
    _tag_names = ["unlearning", "machine-unlearning"]

    # The loss is divided by the number of images of the whole update, accumulation steps included.
    loss_is_scaled_for_ga = True
    # With the first, `retain_dataset` must be given, with labels; with the second, it may be.
    needs_retain, takes_retain = False, False
    # Whether weights may be spread over processes, and whether some may be frozen.
    runs_sharded, trains_frozen_weights = True, True
    # What a card says the update is made of, if not of the trained model and the images to forget alone.
    data_used: str | None = None
    # Whether `original_logits` is wanted: what the original model says of each image of the training set.
    needs_original_logits = False
    # How far the answers elsewhere, and the weights relative to their norm, may move before a result counts as destroyed.
    change_limit = CHANGE_LIMIT
    distance_limit = math.inf

    processing_class: "BaseImageProcessor | None"
    # There as soon as training begins, and not before.
    original: Original
    start: float
    original_logits: torch.Tensor
    guard: Guard
    first_stage: Stage
    started: str
    seconds: float
    sha256_before: str

    def __init__(
        self,
        model: "ImageClassifier",
        args: UnlearningConfig,
        processing_class: "BaseImageProcessor | None" = None,
        forget_dataset: Rows | None = None,
        retain_dataset: Rows | None = None,
        eval_dataset: Rows | dict[str, Any] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        request: ForgetRequest | None = None,
        **kwargs: "Unpack[PassedOn]",
    ):
        needs_retain = self._name if self.needs_retain else None
        check_inputs(model, processing_class, forget_dataset, retain_dataset, eval_dataset, needs_retain)
        # What is missing was refused.
        forget = typing.cast(Rows, forget_dataset)
        id2label = id2label_of(model)
        self.source: ForgetSource | None = source_of(forget)
        self.request = request or (self.source.request if self.source is not None else None)
        # The configuration may serve other requests as well.
        args = copy.copy(args)
        if args.forget_kind is None:
            retained = retain_dataset
            if retained is None and isinstance(eval_dataset, dict):
                retained = eval_dataset.get("retain")
            args.forget_kind = find_forget_kind(self.request, self.source, forget, retained, label_column, id2label)
        self.given = {"method": name_of_method(type(self)), "settings": args.as_given()}
        # Small steps would be lost in 16 bits.
        self.stored_in_16_bits = stored_in_16_bits(model)
        cast(model, dict.fromkeys(self.stored_in_16_bits, torch.float32))
        retain_dataset = retain_dataset if self.needs_retain or self.takes_retain else None
        if processing_class is not None:
            # The image processor runs in the datasets below; what is left to collate are tensors.
            columns = {"image_column": image_column, "label_column": label_column}
            prepare = partial(prepare_dataset, id2label=id2label, image_processor=processing_class, **columns)
            forget = typing.cast(Rows, prepare("forget_dataset", forget))
            retain_dataset = prepare("retain_dataset", retain_dataset)
            for dataset in (forget, retain_dataset):
                if isinstance(dataset, ImageDataset):
                    # Every pass but the first finds the images ready.
                    dataset.keep()
            if isinstance(eval_dataset, dict):
                eval_dataset = {name: prepare("eval_dataset", dataset) for name, dataset in eval_dataset.items()}
            else:
                eval_dataset = prepare("eval_dataset", eval_dataset)
        kwargs.setdefault("compute_metrics", compute_accuracy)
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=TrainingSet({"forget": forget}),
            eval_dataset=eval_dataset,
            **kwargs,
        )
        if not self.runs_sharded and self.is_sharded:
            raise InputError("method", f"{self._name} does not run on sharded weights. Use data parallelism.")
        if not self.trains_frozen_weights and not all(weight.requires_grad for weight in self.model.parameters()):
            raise InputError("model", f"has frozen weights, which would stay as they are. {self._name} moves all.")
        self.data_collator = PositionsCollator(self.data_collator)
        self.training_set = self.make_training_set(forget, retain_dataset)
        # Some forwards of transformers accept loss arguments and ignore them; evaluation must not rely on it.
        self.model_accepts_loss_kwargs = False
        self.model.add_model_tags([*self._tag_names])
        self.share: dict[str, Any] | None = None
        self.step: Search | None = None
        self.change: float | None = None
        self.accuracy_lost: float | None = None
        self.energy_kwh: float | None = None
        self.passes: float = 0
        self._sums: dict[str, torch.Tensor] = {}
        self.refusal: CollapsedModelError | InputError | None = None
        self.progress = Progress(self)
        self.remove_callback(PrinterCallback if self.args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)
        self.callback_handler.callbacks.insert(0, Concluding(self))
        self.add_callback(ObserveOriginal(self))
        self.add_callback(self.progress)

    # ---- What a method implements or changes ----

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        The loss of each forget image; what a method implements.

        Args:
            model (`nn.Module`):
                The model as Accelerate wrapped it. Always call this one, and the same number of times on every process.
            inputs (`dict`):
                `pixel_values` of shape `(B, C, H, W)` and, of shape `(B,)`: `sample_index`, the position in
                `training_set`, and `positions`, the same as a list on the host; `is_forget`; `answers`, the label of
                each image, and for forget images without labels the class that they are to lose; `labels`, if known;
                `sample_weight`, 0 for padding.

        Returns:
            The loss, of shape `(B,)`, and values to log, each of shape `(B,)`.
        """
        raise NotImplementedError

    def make_training_set(self, forget: Rows, retain: Rows | None) -> TrainingSet:
        """
        What the updates are taken from.

        Raises:
            [`InputError`]: if the retained images have no labels.
        """
        if not self.needs_retain or retain is None:
            return self.train_dataset
        if "labels" not in retain[0]:
            raise InputError("retain_dataset", f"has no labels, which {self._name} needs.")
        return TrainingSet({"forget": forget, "retain": retain})

    def classes_of(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The label of each image, of shape `(B,)`; of a forget image without one, the class that it is to lose."""
        if len(self.training_set.parts) == 1:
            return self.answers[inputs["sample_index"]]
        own = self.answers[inputs["sample_index"].clamp(max=len(self.answers) - 1)]
        return torch.where(inputs["is_forget"], own, inputs["labels"])

    def set_mode(self, model: nn.Module) -> None:
        """
        Makes the model the deterministic function that is to be unlearned: dropout off and BatchNorm's statistics
        frozen. Called before each loss, since `Trainer.training_step` switches to training mode.
        """
        make_deterministic(model, self.args.recomputes_activations)

    def prepare(self) -> None:
        """What a method does once, with the original weights in the model, before the first update or a resumed one."""

    def finish(self) -> None:
        """
        What a method does after the last batch, when weights may still move. One that has asked the guard about the weights
        that it ends with leaves the answer in `change`.
        """

    @classmethod
    def prepares(cls) -> bool:
        """Whether the method does something before its first update."""
        return cls.prepare is not UnlearningTrainer.prepare

    def updates_of_round(self) -> int:
        """After how many updates a method may end; all of them for one that has no rounds."""
        return max(1, self.state.max_steps)

    def describe_updates(self) -> str:
        """What the line of the updates says of them."""
        return f"{self.state.global_step:,} updates"

    def forward_again(self, number: int) -> Callable[[list[int], torch.Tensor], torch.Tensor]:
        """
        For images that pass again and again: maps their positions, between 0 and `number` − 1, and their pixel values
        to logits. A method whose weights move late in the network need not start anew each time.
        """
        return lambda positions, pixel_values: self.model(pixel_values=pixel_values).logits

    # ---- The update ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        if return_outputs:
            # Only evaluation asks for outputs. There the loss is the cross-entropy.
            return super().compute_loss(model, inputs, return_outputs=True)
        self.set_mode(model)
        weight = inputs["sample_weight"]
        inputs["answers"] = self.classes_of(inputs)
        loss, to_log = self.unlearning_loss(model, inputs)
        for name, value in {**to_log, "num_images": torch.ones_like(weight)}.items():
            self._sums[name] = self._sums.get(name, 0) + (value.detach() * weight).sum()
        total = (loss * weight).sum()
        if self.args.loss_reduction == "mean":
            # Counted by `get_batch_samples`.
            total = total / typing.cast(torch.Tensor, num_items_in_batch)
        # Data parallelism averages the gradients of the processes; the update needs their sum.
        return total * self.accelerator.num_processes

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        Unlearns. See [`~transformers.Trainer.train`].

        Raises:
            [`CollapsedModelError`]: if the guard takes the result for destroyed; the model has its original weights.
        """
        self.first_stage, self.refusal = Stage("original"), None
        self.original = Original(self.model)
        self.passes, self.has_report, self.is_saved, self.saved_in_16_bits, self.change = 0, False, False, {}, None
        self.sha256_before = weights_sha256(in_types(self.model.state_dict(), self.stored_in_16_bits))
        self.started, start = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
        with EnergyMeter() as energy, laid_out(self.model, self.memory_format()):
            try:
                result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
            finally:
                self.progress.close()
            if self.refusal is not None:
                raise self.refusal
        self.energy_kwh = energy.kwh
        self.seconds = time.perf_counter() - start
        return result

    def conclude(self) -> None:
        """What comes after the last update, while trackers still listen. Errors go to `refusal`, which `train` raises."""
        self.progress.end_updates()
        self.finish()
        self.model.eval()
        round_weights(self)
        check_collapse(self)

    # ---- Logging ----

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float | None:
        """Of a log line; no update needs it, and it goes through all gradients."""
        step, args = self.state.global_step + 1, self.args
        by_steps = args.logging_strategy == IntervalStrategy.STEPS
        is_first = step == 1 and args.logging_first_step
        if grad_norm is None and by_steps and step % self.state.logging_steps != 0 and not is_first:
            return None
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None are counted: the estimate of transformers is for tokens, and goes through all modules at each step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._sums:
            names = sorted(self._sums)
            sums = self.accelerator.reduce(torch.stack([self._sums[name] for name in names]), reduction="sum")
            sums = dict(zip(names, sums.tolist(), strict=True))
            num_images = sums.pop("num_images")
            logs.update({name: value / num_images for name, value in sums.items()})
            logs["distance_moved"] = self.distance_moved()
            self._sums = {}
        super().log(logs, start_time)

    def describe_outcome(self) -> str:
        """What a command says when training has ended, in sentences; nothing if the method has nothing to tell."""
        return self.step.describe() if self.step is not None else ""

    def distance_moved(self) -> float:
        """How far the weights that may move went, relative to their norm."""
        return self.original.distance(self.model)
