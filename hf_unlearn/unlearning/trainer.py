"""What all unlearning methods share: the Trainer that feeds the forget set to a loss and keeps the update exact."""

import copy
import math
import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path

import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, rotate_checkpoints
from transformers.utils import logging

from ..data.forget_kind import kind_of_labels, kind_of_request
from ..data.image_dataset import ImageDataset
from ..data.labels import find_label_column, match_labels
from ..data.splits import check_dataset, source_of
from ..data.training_set import PhasedSampler, PositionsCollator, TrainingSet
from ..errors import CollapsedModelError, InputError, SaveError, listing
from ..publication.energy import EnergyMeter
from ..publication.facts import name_of_dataset, provenance_of, run_facts
from ..publication.files import REQUEST
from ..publication.hub import push_folder
from ..publication.model_card import write_model_card
from ..publication.plots import save_figures
from ..publication.record import Provenance, reseal, write_record
from ..publication.report import forget_set_report, weights_sha256
from ..request.forget_request import ForgetRequest
from ..terminal import say
from .compatibility import check_image_processor, check_logits, check_model
from .config import UnlearningConfig
from .guard import CHANGE_LIMIT, NUM_IMAGES, Guard
from .method_names import forget_only_methods
from .precision import cast, in_types, rounded, stored_in_16_bits
from .step_size import norm


logger = logging.get_logger(__name__)

# An image with fewer pixels makes the convolutions of a model slower channels-last: `layout` in docs/performance.md.
CHANNELS_LAST_PIXELS_PER_WEIGHT = 1 / 1000
# Of the largest activation of a forward pass without a gradient: enough to fill the device, and on a CPU small enough to
# stay near the processor: `chunks` in docs/performance.md. That of a GPU was not measured.
ACTIVATION_BYTES_CPU = 2**24
ACTIVATION_BYTES_GPU = 2**28


class UnlearningTrainer(Trainer):
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
            Training images to retain, with labels. Needed by methods that say so, and not looked at by others.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*):
            Evaluated by [`~transformers.Trainer.evaluate`], never used to update the weights.
        image_column (`str`, *optional*):
            Found from the features when not given.
        label_column (`str`, *optional*):
            Found from the features when not given.
        kwargs:
            Passed to [`~transformers.Trainer`].

    Raises:
        [`InputError`]: if the model, the image processor or a dataset does not fit (see [`~compatibility`]), or if the
            forget set, or the retained images that the method needs, are missing or empty.
    """

    _name = None
    _paper = None
    _tag_names = ["unlearning", "machine-unlearning"]

    # The loss is divided by the number of images of the whole update, accumulation steps included.
    loss_is_scaled_for_ga = True
    # With it, `retain_dataset` must be given, with labels.
    needs_retain = False
    # What a card says the update is made of, if not of the trained model and the images to forget alone.
    data_used = None
    # Whether `original_logits` is wanted: what the original model says of each image of the training set.
    needs_original_logits = False
    # How far the answers elsewhere, and the weights relative to their norm, may move before a result counts as destroyed.
    change_limit = CHANGE_LIMIT
    distance_limit = math.inf

    def __init__(
        self,
        model,
        args: UnlearningConfig,
        processing_class=None,
        forget_dataset=None,
        retain_dataset=None,
        eval_dataset=None,
        image_column: str | None = None,
        label_column: str | None = None,
        request: ForgetRequest | None = None,
        **kwargs,
    ):
        given = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
        for name, dataset in {**given, "forget_dataset": forget_dataset, "retain_dataset": retain_dataset}.items():
            check_dataset(name, dataset)
        check_model("model", model)
        if forget_dataset is None or len(forget_dataset) == 0:
            raise InputError("forget_dataset", "is empty: there is nothing to forget.")
        if self.needs_retain and (retain_dataset is None or len(retain_dataset) == 0):
            raise InputError(
                "retain_dataset",
                f"is missing: {self._name} needs images to retain. Methods that need none: "
                f"{listing(forget_only_methods())}.",
            )
        pixel_values = prepared_image(forget_dataset, processing_class)
        check_logits("model", model, pixel_values)
        self.source = source_of(forget_dataset)
        self.request = request or (self.source.request if self.source is not None else None)
        # The configuration may serve other requests as well.
        args = copy.copy(args)
        if args.forget_kind is None:
            retained = retain_dataset
            if retained is None and isinstance(eval_dataset, dict):
                retained = eval_dataset.get("retain")
            args.forget_kind = self.find_forget_kind(model, forget_dataset, retained, label_column)
        # Small steps would be lost in 16 bits.
        self.stored_in_16_bits = stored_in_16_bits(model)
        cast(model, dict.fromkeys(self.stored_in_16_bits, torch.float32))
        if processing_class is not None:
            # The image processor runs in the datasets below; what is left to collate are tensors.
            prepare = PrepareDatasets(model.config.id2label, processing_class, image_column, label_column)
            forget_dataset = prepare(forget_dataset)
            retain_dataset = prepare(retain_dataset) if self.needs_retain else None
            for dataset in (forget_dataset, retain_dataset):
                if isinstance(dataset, ImageDataset):
                    # Every pass but the first finds the images ready.
                    dataset.keep()
            if isinstance(eval_dataset, dict):
                eval_dataset = {name: prepare(dataset) for name, dataset in eval_dataset.items()}
            elif eval_dataset is not None:
                eval_dataset = prepare(eval_dataset)
        kwargs.setdefault("compute_metrics", compute_accuracy)
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=TrainingSet({"forget": forget_dataset}),
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self.data_collator = PositionsCollator(self.data_collator)
        # What updates are taken from; `train_dataset` is the forget set alone, which is what is looked at.
        self.training_set = self.make_training_set(forget_dataset, retain_dataset)
        # Some forwards of transformers accept loss arguments and ignore them; evaluation must not rely on it.
        self.model_accepts_loss_kwargs = False
        self.model.add_model_tags([*self._tag_names])
        # The class that each forget image is to lose, by position, and the accuracy by it; see `find_answers`.
        self.answers = self.start = None
        # This process's share of the forget set, in the order of `forget_outputs`: `sample_index`, `sample_weight` and
        # `positions`.
        self.share = None
        self.original_logits = None
        # Share of forget images among those of the update that is being computed.
        self.forget_share = None
        self.guard = self.change = None
        # Forward passes over the forget set, a backward pass counting as two.
        self.passes = 0
        # What a method that searches its step found.
        self.step = None
        self._original_weights = self._original_norm = None
        self._checkpoint_dir = None
        self._has_report = self._is_saved = False
        # Parameters and buffers that are saved in 16 bits, with their types; see `round_weights`.
        self.saved_in_16_bits = {}
        self.energy_kwh = None
        self._sums = {}
        self.add_callback(ObserveOriginal(self))

    def find_forget_kind(self, model, forget_dataset, retained, label_column: str | None) -> str:
        """`forget_kind` by the request or, without one, by the labels; the run says which it took it for."""
        id2label = model.config.id2label
        if self.request is not None:
            if isinstance(forget_dataset, Dataset) and "pixel_values" not in forget_dataset.column_names:
                label_column = find_label_column(forget_dataset, label_column, id2label)
            return kind_of_request(self.request, label_column, self.source)
        kind, reason = kind_of_labels(forget_dataset, retained, label_column, id2label)
        what = "a whole class" if kind == "class" else "single images"
        say(f"The forget set is taken for {what}: {reason}. A request or forget_kind says otherwise.")
        return kind

    # ---- The update ----

    def unlearning_loss(self, model: nn.Module, inputs: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
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

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
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
            total = total / num_items_in_batch
        # Data parallelism averages the gradients of the processes; the update needs their sum.
        return total * self.accelerator.num_processes

    def make_training_set(self, forget, retain) -> TrainingSet:
        """
        What the updates are taken from.

        Raises:
            [`InputError`]: if the retained images have no labels.
        """
        if not self.needs_retain:
            return self.train_dataset
        if "labels" not in retain[0]:
            raise InputError("retain_dataset", f"has no labels, which {self._name} needs.")
        return TrainingSet({"forget": forget, "retain": retain})

    def phases(self, shuffle: Callable) -> list[list[int]]:
        """
        The positions of `training_set` that one epoch goes through, phase by phase; no update mixes two phases. All of
        them in one phase, unless a method says otherwise.

        Args:
            shuffle (`Callable`):
                Maps positions to a list of them in the order of this epoch.
        """
        return [shuffle(range(len(self.training_set)))]

    def classes_of(self, inputs: dict) -> torch.Tensor:
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
        model.eval()
        if self.args.activation_checkpointing:
            # These layers recompute only in training mode. The flag is theirs alone: their submodules stay in eval.
            for module in model.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = True

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weight = torch.cat([batch["sample_weight"] for batch in batches])
        is_forget = torch.cat([batch["is_forget"] for batch in batches])
        counts = torch.stack([weight.sum(), (weight * is_forget).sum()]).to(device)
        num_images, num_forget = self.accelerator.reduce(counts, reduction="sum")
        self.forget_share = num_forget / num_images
        return batches, num_images

    def get_train_dataloader(self):
        return self.dataloader(self.training_set)

    def dataloader(self, dataset: TrainingSet, batch_size: int | None = None):
        """
        The batches of this process: of the training set by [`~UnlearningTrainer.phases`], of another as they come.

        Args:
            dataset ([`TrainingSet`]):
                The images.
            batch_size (`int`, *optional*, defaults to that of an update):
                Images of a batch.
        """
        batch_size = batch_size or self._train_batch_size
        sampler_fn = partial(self._get_train_sampler, batch_size=batch_size)
        return self._get_dataloader(dataset, "Training", batch_size, sampler_fn=sampler_fn, is_training=True)

    def _get_train_sampler(self, train_dataset, batch_size: int):
        of_updates = train_dataset is self.training_set
        at_once = batch_size * self.accelerator.num_processes
        return PhasedSampler(
            self.phases if of_updates else lambda shuffle: [range(len(train_dataset))],
            num_images=len(train_dataset),
            multiple_of=at_once,
            update_size=at_once * self.args.gradient_accumulation_steps,
            shuffle=self.args.train_sampling_strategy != "sequential",
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
        )

    def train(self, *args, **kwargs):
        """
        Unlearns. See [`~transformers.Trainer.train`].

        Raises:
            [`CollapsedModelError`]: if the guard takes the result for destroyed; the model has its original weights.
        """
        if not self.is_fsdp_enabled:
            self.keep_original()
        self.passes, self._has_report, self._is_saved = 0, False, False
        self.sha256_before = weights_sha256(in_types(self.model.state_dict(), self.stored_in_16_bits))
        self.started, start = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
        self.saved_in_16_bits = {}
        with EnergyMeter() as energy, self.laid_out():
            result = super().train(*args, **kwargs)
            self.finish()
            self.model.eval()
            self.round_weights()
            self.check_collapse()
        self.energy_kwh = energy.kwh
        self.seconds = time.perf_counter() - start
        return result

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are spread over the processes, each of which then needs the others for a forward pass."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def memory_format(self) -> torch.memory_format:
        """
        The order of the weights in memory to update them in: channels-last if an image has at least one pixel for each
        thousand weights. No clock decides, so that the same run gives the same bits.
        """
        pixels = math.prod(self.train_dataset[0]["pixel_values"].shape[-2:])
        num_weights = sum(parameter.numel() for parameter in self.model.parameters())
        is_large = pixels >= CHANNELS_LAST_PIXELS_PER_WEIGHT * num_weights
        return torch.channels_last if is_large else torch.contiguous_format

    @contextmanager
    def laid_out(self):
        """
        The weights in the order of [`~UnlearningTrainer.memory_format`] while they move. Afterwards they lie where they
        lay: kernels choose by order and alignment, and the outputs are to be those of the model when it is loaded again.
        """
        usual = {}
        # Sharding wants weights in the usual order.
        if not self.is_sharded and self.memory_format() is torch.channels_last:
            usual = {p: p.data for p in self.model.parameters() if p.dim() == 4}
        for parameter, data in usual.items():
            parameter.data = data.to(memory_format=torch.channels_last)
        try:
            yield
        finally:
            for parameter, data in usual.items():
                parameter.data = data.copy_(parameter.data)

    def moving_weights(self) -> dict[str, torch.Tensor]:
        """A copy of the weights that may move."""
        return {
            name: parameter.detach().clone()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def keep_original(self) -> None:
        """Keeps a copy of the weights that may move, to measure how far they went and to go back."""
        self._original_weights = self.moving_weights()
        self._original_norm = norm(self._original_weights.values())

    def finish(self) -> None:
        """What a method does after the last batch, when weights may still move."""

    def round_weights(self) -> None:
        """
        Rounds the weights of a model that was stored in 16 bits, which is what is saved then; leaves them in float32 if
        rounding brings back what was forgotten.
        """
        if not self.stored_in_16_bits:
            return
        kind = str(next(iter(self.stored_in_16_bits.values()))).removeprefix("torch.")
        if self.is_sharded:
            say(f"The model was stored in {kind} and is saved in float32: sharded weights are not rounded.")
            return
        before = self.forget_accuracy()
        # What the method aimed at, if it did, is reached all the same.
        limit = max(before, self.step.target) if self.step is not None else before
        exact = rounded(self.model, self.stored_in_16_bits)
        after = self.forget_accuracy()
        if after <= limit:
            self.saved_in_16_bits = self.stored_in_16_bits
            say(f"The model is saved in {kind}, as it was stored: accuracy on the forget set {100 * after:.1f} %.")
        else:
            self.swap_weights(exact)
            say(
                f"The model was stored in {kind} and is saved in float32: accuracy on the forget set is {100 * after:.1f} % "
                f"after rounding and {100 * before:.1f} % before."
            )

    # ---- The original model, and what became of it ----

    def observe_original(self) -> None:
        """Looks at the original model before it moves: its answers on the forget set, and the guard's probes."""
        resumed = self.state.global_step > 0 and not self.is_fsdp_enabled
        if self.is_fsdp_enabled:
            # Only now are the weights sharded as those they are compared with.
            self.keep_original()
        if resumed:
            moved = self.swap_weights(self._original_weights)
        # Looking must not disturb the random numbers of the run, dropout's for one.
        with torch.random.fork_rng(devices=[]):
            self.find_answers()
            if self.needs_original_logits:
                self.original_logits = self.find_logits(self.model_wrapped, TrainingSet(self.training_set.parts))
            every = max(1, len(self.train_dataset) // NUM_IMAGES)
            rows = range(0, len(self.train_dataset), every)[:NUM_IMAGES]
            pixel_values = torch.stack([self.train_dataset[row]["pixel_values"] for row in rows]).to(self.args.device)
            self.guard = Guard(
                # Not the wrapped model: the probes' gradients are none of data parallelism's business.
                lambda pixel_values: self.model(pixel_values=pixel_values).logits,
                pixel_values,
                self.model.config.num_labels,
                vanishing=set(self.answers.tolist()) if self.args.forget_kind == "class" else frozenset(),
                seed=self.args.seed,
                forward_again=self.forward_again,
            )
            self.prepare()
        if resumed:
            self.swap_weights(moved)

    def forward_again(self, number: int) -> Callable[[list[int], torch.Tensor], torch.Tensor]:
        """
        For images that pass again and again: maps their positions, between 0 and `number` − 1, and their pixel values
        to logits. A method whose weights move late in the network need not start anew each time.
        """
        return lambda positions, pixel_values: self.model(pixel_values=pixel_values).logits

    def prepare(self) -> None:
        """What a method does once, with the original weights in the model, before the first update or a resumed one."""

    @cached_property
    @torch.no_grad()
    def images_at_once(self) -> int:
        """
        How many images share a forward pass in float32 without a gradient. The number follows from the largest
        activation of one image, and not from a clock, so that the same run gives the same bits; where memory is refused it
        is halved until it is not.
        """
        batch_size = self.args.train_batch_size
        if self.is_sharded:
            return batch_size
        image = self.train_dataset[0]["pixel_values"][None].to(self.args.device)
        on_cpu = image.device.type == "cpu"
        was_training = self.model.training
        self.model.eval()
        size = 4 * largest_activation(self.model, image)
        number = max(1, (ACTIVATION_BYTES_CPU if on_cpu else ACTIVATION_BYTES_GPU) // size)
        if not on_cpu:
            # A CPU does not refuse memory, it takes it from others.
            number = most_that_fit(lambda n: self.model(pixel_values=image.expand(n, -1, -1, -1)), number, batch_size)
        self.model.train(was_training)
        return int(self.accelerator.gather(torch.tensor([number], device=image.device)).min())

    def even_batch_size(self, num_images: int) -> int:
        """Of batches for a forward pass without a gradient that need no more padding than they must."""
        of_process = math.ceil(num_images / self.accelerator.num_processes)
        return math.ceil(of_process / math.ceil(of_process / self.images_at_once))

    @torch.no_grad()
    def find_logits(self, model: nn.Module, dataset: TrainingSet) -> torch.Tensor:
        """What a model says of each image of a training set, of shape `(n, K)`; the same on all processes."""
        logits = torch.zeros(len(dataset), self.model.config.num_labels, device=self.args.device)
        model.eval()
        # Batches of the size of an update's: what is compared with itself there differs by nothing, not by rounding, which
        # Adam would take for a gradient.
        for batch in self.dataloader(dataset):
            outputs = model(pixel_values=batch["pixel_values"]).logits.float()
            logits.index_add_(0, batch["sample_index"], outputs * batch["sample_weight"][:, None])
        return self.accelerator.reduce(logits, reduction="sum")

    @torch.no_grad()
    def swap_weights(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Puts these weights into the model and returns those that were there."""
        parameters = dict(self.model.named_parameters())
        before = {name: parameters[name].detach().clone() for name in weights}
        for name, weight in weights.items():
            parameters[name].copy_(weight)
        return before

    def check_collapse(self) -> None:
        """
        Raises:
            [`CollapsedModelError`]: if the outputs elsewhere changed past the guard's limit, or the weights moved
            further than any good run did. The original weights are put back first.
        """
        self.change, distance = self.guard.change(), self.distance_moved()
        self.log({"change_elsewhere": self.change})
        # A distance that is not a number is past every limit.
        if (self.change > self.change_limit or not distance <= self.distance_limit) and not self.args.allow_collapse:
            self.swap_weights(self._original_weights)
            distance_limit = (
                f"limit {100 * self.distance_limit:.0f} %" if self.distance_limit < math.inf else "no limit"
            )
            raise CollapsedModelError(
                f"the model's answers elsewhere changed by {self.change:.2f} (0: untouched, 1: destroyed, limit "
                f"{self.change_limit}) and its weights by {100 * distance:.1f} % ({distance_limit}). It has "
                "its original weights again and nothing is saved; --allow_collapse keeps the result all the same."
            )

    @torch.no_grad()
    def find_answers(self) -> None:
        """
        Finds the class that each forget image is to lose: its label; without labels, the original model's answer; and
        when a whole class is to vanish, the class that most of those answers name, for the few images that the model
        takes for another class would make that one vanish as well.
        """
        num_labels = self.model.config.num_labels
        self.answers = torch.full((len(self.train_dataset),), -1, device=self.args.device)
        counts = torch.zeros(num_labels, device=self.args.device)
        at_once = self.even_batch_size(len(self.train_dataset))
        num_batches = math.ceil(len(self.train_dataset) / (at_once * self.accelerator.num_processes))
        # Made before the loop: what stays of each batch would lie between the batches and keep their memory from being used
        # again, a gigabyte for 100,000 images.
        index, answers = torch.zeros(2, num_batches * at_once, dtype=torch.long, device=self.args.device)
        weight, positions = torch.zeros(num_batches * at_once, device=self.args.device), []
        for batch, logits in self.forget_outputs():
            own = logits.argmax(dim=-1)
            rows = slice(len(positions), len(positions) + len(own))
            index[rows], answers[rows], weight[rows] = batch["sample_index"], own, batch["sample_weight"]
            positions += batch["positions"]
            self.answers[batch["sample_index"]] = batch.get("labels", own)
            counts += torch.bincount(own, weights=batch["sample_weight"], minlength=num_labels)
        labelled = "labels" in batch
        if not labelled and self.args.forget_kind == "class":
            self.answers[:] = self.accelerator.reduce(counts, reduction="sum").argmax()
        self.share = {"sample_index": index, "sample_weight": weight, "positions": positions}
        hits = ((answers == self.answers[index]) * weight).sum()
        self.start = self.accelerator.reduce(hits, reduction="sum").item() / len(self.train_dataset)
        # Each process has seen its own share; every one needs the answers to all.
        self.answers = self.accelerator.gather(self.answers[None]).amax(dim=0)

    @torch.no_grad()
    def forget_accuracy(self, change: Callable[[torch.Tensor], torch.Tensor] | None = None) -> float:
        """
        Share of the forget set that the model, as it is, still gives its class; the same on all processes.

        Args:
            change (`Callable`, *optional*):
                Applied to the images first.
        """
        hits = torch.zeros((), device=self.args.device)
        for batch, logits in self.forget_outputs(change):
            # An output that is not finite has forgotten nothing: it is broken.
            same = (logits.argmax(dim=-1) == self.answers[batch["sample_index"]]) | ~logits.isfinite().all(dim=-1)
            hits += (same * batch["sample_weight"]).sum()
        return self.accelerator.reduce(hits, reduction="sum").item() / len(self.train_dataset)

    def forget_outputs(self, change: Callable[[torch.Tensor], torch.Tensor] | None = None):
        """(batch, logits) over this process's share of the forget set, padding included."""
        self.passes += 1
        self.model_wrapped.eval()
        for batch in self.dataloader(self.train_dataset, self.even_batch_size(len(self.train_dataset))):
            if change is None:
                yield batch, self.forget_logits(self.model_wrapped, batch)
            else:
                yield batch, self.model_wrapped(pixel_values=change(batch["pixel_values"])).logits

    def forget_logits(self, model: nn.Module, batch: dict) -> torch.Tensor:
        """The model's logits of forget images; a method whose weights move late in the network need not start anew."""
        return model(pixel_values=batch["pixel_values"]).logits

    # ---- Logging ----

    def _get_grad_norm(self, model, grad_norm=None):
        """Of a log line; no update needs it, and it goes through all gradients."""
        step, args = self.state.global_step + 1, self.args
        by_steps = args.logging_strategy == IntervalStrategy.STEPS
        is_first = step == 1 and args.logging_first_step
        if grad_norm is None and by_steps and step % self.state.logging_steps != 0 and not is_first:
            return None
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def floating_point_ops(self, inputs) -> int:
        """None are counted: the estimate of transformers is for tokens, and goes through all modules at each step."""
        return 0

    def log(self, logs, start_time=None):
        if self._sums:
            names = sorted(self._sums)
            sums = self.accelerator.reduce(torch.stack([self._sums[name] for name in names]), reduction="sum")
            sums = dict(zip(names, sums.tolist(), strict=True))
            num_images = sums.pop("num_images")
            logs.update({name: value / num_images for name, value in sums.items()})
            logs["distance_moved"] = self.distance_moved()
            self._sums = {}
        super().log(logs, start_time)

    def distance_moved(self) -> float:
        """‖θ − θ₀‖₂ / ‖θ₀‖₂ over the weights that may move, θ₀ being those before unlearning."""
        parameters = dict(self.model.named_parameters())
        moved = norm(parameters[name] - original for name, original in self._original_weights.items())
        return moved / self._original_norm

    # ---- Saving and pushing ----

    def weights_as_saved(self) -> dict[str, torch.Tensor]:
        """
        All parameters and buffers in the types in which they are saved, put together where they are sharded over
        processes; called on all of them.
        """
        model = self.model_wrapped if self.is_deepspeed_enabled else self.model
        return in_types(self.accelerator.get_state_dict(model), self.saved_in_16_bits)

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call)
        # On every process, also those that write nothing.
        self._is_saved = self._is_saved or output_dir in (None, self.args.output_dir)

    def _save(self, output_dir=None, state_dict=None):
        """Writes the model aside first and then moves it, so that no interruption leaves what looks like a model."""
        if not self.args.should_save:
            return
        self.check_finite(state_dict if state_dict is not None else dict(self.model.named_parameters()))
        folder = Path(output_dir or self.args.output_dir)
        aside = folder / "incomplete"
        shutil.rmtree(aside, ignore_errors=True)
        cast(self.model, self.saved_in_16_bits)
        try:
            super()._save(str(aside), state_dict)
        except (OSError, SafetensorError) as error:
            raise SaveError(f"the model could not be written to {folder}: {error}") from error
        finally:
            cast(self.model, dict.fromkeys(self.saved_in_16_bits, torch.float32))
        # A pickle, which nobody needs: the report holds every setting.
        (aside / "training_args.bin").unlink()
        move_model(aside, folder)

    def _save_checkpoint(self, model, trial):
        """Writes the checkpoint aside first, for the same reason."""
        folder = Path(self.args.output_dir)
        self._checkpoint_dir = folder / "incomplete"
        if self.args.should_save:
            shutil.rmtree(self._checkpoint_dir, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            shutil.rmtree(folder / name, ignore_errors=True)
            (self._checkpoint_dir / name).rename(folder / name)
            shutil.rmtree(self._checkpoint_dir)
            rotate_checkpoints(str(folder), self.args.save_total_limit)
        self._checkpoint_dir = None

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # transformers 5.23 saves some models (ViT) under older weight names, which its Trainer does not translate when
        # it resumes: the weights stay as they are, with a warning. `from_pretrained` does translate them.
        if isinstance(self.model, PreTrainedModel) and not self.is_fsdp_enabled:
            saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
            self.model.load_state_dict(saved.state_dict())
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _get_output_dir(self, trial):
        return str(self._checkpoint_dir) if self._checkpoint_dir else super()._get_output_dir(trial)

    def check_finite(self, weights: dict[str, torch.Tensor]) -> None:
        """
        Raises:
            [`CollapsedModelError`]: if a weight is NaN or infinite; such a model is never written.
        """
        broken = [name for name, weight in weights.items() if not weight.isfinite().all()]
        if broken:
            raise CollapsedModelError(
                f"{len(broken)} weight tensors are not finite after unlearning (first: {broken[0]}); nothing is saved. "
                "The step is too large."
            )

    def save_report(
        self, report=None, request=None, dataset_name: str | None = None, provenance: Provenance | None = None
    ) -> None:
        """
        Writes the model, if that was not done, `report.json`, the pictures, the model card and the record into
        `output_dir`, after training.

        Args:
            report ([`UnlearningReport`], *optional*):
                What [`evaluate_unlearning`] returned. Without it, the accuracy on the forget set is all that is known.
            request ([`ForgetRequest`], *optional*, defaults to that of the trainer):
                What was forgotten; the card describes it in words that name no record.
            dataset_name (`str`, *optional*):
                Hub id or path of the dataset, defaults to what the request or the dataset itself says.
            provenance ([`Provenance`], *optional*):
                Where the images and the model come from. Without it, the record holds what the forget set says.
        """
        request = request or self.request
        if not self._is_saved:
            self.save_model(_internal_call=True)
        if report is None:
            accuracies = {"original": self.start, "unlearned": self.forget_accuracy()}
            report = forget_set_report(accuracies, len(self.train_dataset))
        provenance = provenance or provenance_of(self, request)
        report.run = run_facts(self, request, dataset_name or name_of_dataset(self.source, request), provenance)
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            report.to_json(folder / "report.json")
            save_figures(report, folder / "figures")
            write_record(folder, report, request, provenance)
            self.create_model_card()
            if request is not None:
                # Stays here: the hub never sees who or what was forgotten.
                request.to_file(folder / REQUEST)
        self._has_report = True

    def init_hf_repo(self, token=None, private=None):
        # Nothing is created on the hub before there is something to push.
        self.hub_model_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.push_in_progress = None

    def create_model_card(self, **kwargs):
        """Writes `README.md` from the report in `output_dir`, and its hash into the record."""
        write_model_card(self.args.output_dir, self.hub_model_id or self.args.hub_model_id)
        reseal(self.args.output_dir)

    def push_to_hub(
        self,
        commit_message="Unlearned model",
        token=None,
        revision=None,
        private=None,
        create_pr=False,
        tag=None,
        **kwargs,
    ):
        """
        Saves the model and pushes weights, config, image processor, card, report and pictures in one commit.

        Args:
            commit_message (`str`, *optional*):
                Message of the commit.
            token (`str`, *optional*):
                Token with write permission, defaults to `args.hub_token`, then to the one of the login.
            revision (`str`, *optional*):
                Branch to push to, defaults to `args.hub_revision`, then to the main branch.
            private (`bool`, *optional*):
                Whether a new repository is private, defaults to `args.hub_private_repo`.
            create_pr (`bool`, *optional*, defaults to `False`):
                Whether to open a pull request.
            tag (`str`, *optional*):
                Name to give to the commit.

        Returns:
            `str`: URL of the commit or the pull request; `None` on every process but the first.

        Raises:
            [`HubPushError`]: if the hub fails. Everything is on disk then.
        """
        self.save_model(_internal_call=True)
        if not self._has_report:
            self.save_report()
        if not self.is_world_process_zero():
            return None
        self.init_hf_repo()
        self.create_model_card()
        return push_folder(
            self.args.output_dir,
            self.hub_model_id,
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            create_pr=create_pr,
            tag=tag,
        )


def prepared_image(dataset, image_processor) -> torch.Tensor:
    """
    The shape in which the model gets its images, as an image of it, of shape `(1, C, H, W)`.

    Raises:
        [`InputError`]: if there are no pixel values and nothing that makes them.
    """
    if image_processor is not None:
        return check_image_processor("processing_class", image_processor)
    first = dataset[0]
    if "pixel_values" not in first:
        raise InputError(
            "processing_class",
            "is missing: the forget set has raw images, which the model's image processor prepares.",
        )
    pixel_values = torch.as_tensor(first["pixel_values"])
    if pixel_values.dim() != 3:
        raise InputError(
            "forget_dataset",
            f"has pixel_values of shape {list(pixel_values.shape)}; (channels, height, width) is needed.",
        )
    return pixel_values[None]


class ObserveOriginal(TrainerCallback):
    """
    Has the trainer look at the original model when training begins: the model is on its device then and wrapped for
    its processes, also when a resumed run has no batch left.
    """

    def __init__(self, trainer: UnlearningTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.observe_original()


class PrepareDatasets:
    """Turns datasets with raw images into [`ImageDataset`]s; leaves those with `pixel_values` as they are."""

    def __init__(self, id2label, image_processor, image_column, label_column):
        self.id2label = id2label
        self.image_processor = image_processor
        self.image_column = image_column
        self.label_column = label_column

    def __call__(self, dataset):
        if isinstance(dataset, ImageDataset) or "pixel_values" in dataset[0]:
            return dataset
        label_column = find_label_column(dataset, self.label_column, self.id2label)
        label_ids = match_labels(dataset, label_column, self.id2label) if label_column else None
        return ImageDataset(dataset, self.image_processor, self.image_column, label_column, label_ids)


def move_model(aside: Path, folder: Path) -> None:
    """
    Moves a model that was written aside into its place. What `from_pretrained` looks for first, the configuration of
    the model or adapter, goes first and comes last: at no moment does the folder hold one without its weights.
    """
    configurations = ("config.json", "adapter_config.json")
    for name in configurations:
        (folder / name).unlink(missing_ok=True)
    names = {path.name for path in aside.iterdir()}
    for stale in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]:
        if stale.name not in names:
            stale.unlink()
    for name in sorted(names, key=lambda name: name in configurations):
        (aside / name).replace(folder / name)
    aside.rmdir()


def largest_activation(model: nn.Module, pixel_values: torch.Tensor) -> int:
    """Elements of the largest tensor that a module of the model gives for one image, of shape `(1, C, H, W)`."""
    sizes = [pixel_values.numel()]
    hooks = [
        module.register_forward_hook(
            lambda module, args, output: sizes.append(output.numel()) if isinstance(output, torch.Tensor) else None
        )
        for module in model.modules()
    ]
    model(pixel_values=pixel_values)
    for hook in hooks:
        hook.remove()
    return max(sizes)


def most_that_fit(forward: Callable[[int], object], number: int, at_least: int) -> int:
    """
    The most images that a forward pass has memory for, of `number`, half of it, a quarter, …; `at_least` are not tried.

    Args:
        forward (`Callable`):
            Passes so many images.
        number (`int`):
            How many to try first.
        at_least (`int`):
            What fits in any case.
    """
    while number > at_least:
        try:
            forward(number)
            return number
        except torch.OutOfMemoryError:
            number = max(number // 2, at_least)
    return number


def freeze_batch_norm(model: nn.Module) -> None:
    """Puts every BatchNorm layer in eval mode: its running statistics are used and not updated."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def compute_accuracy(prediction) -> dict[str, float]:
    """Default metric of [`~transformers.Trainer.evaluate`]."""
    return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}
