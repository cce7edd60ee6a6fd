"""What all unlearning methods share: the Trainer that feeds the forget set to a loss and keeps the update exact."""

import copy
import math
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cached_property, partial

import torch
from torch import nn
from transformers.trainer_utils import IntervalStrategy

from ..data.image_dataset import ImageDataset
from ..data.splits import source_of
from ..data.training_set import PhasedSampler, PositionsCollator, TrainingSet
from ..errors import InputError
from ..publication.energy import EnergyMeter
from ..publication.report import weights_sha256
from ..request.forget_request import ForgetRequest
from .config import UnlearningConfig
from .guard import CHANGE_LIMIT
from .inputs import check_inputs, compute_accuracy, find_forget_kind, prepare_dataset
from .layout import even_batch_size, images_at_once, laid_out, memory_format
from .mode import make_deterministic
from .original import ObserveOriginal, Original, check_collapse, round_weights
from .precision import cast, in_types, stored_in_16_bits
from .publishing import PublishingTrainer


class UnlearningTrainer(PublishingTrainer):
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
      `saved_in_16_bits`; `seconds` and `energy_kwh`.

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
        needs_retain = self._name if self.needs_retain else None
        check_inputs(model, processing_class, forget_dataset, retain_dataset, eval_dataset, needs_retain)
        id2label = model.config.id2label
        self.source = source_of(forget_dataset)
        self.request = request or (self.source.request if self.source is not None else None)
        # The configuration may serve other requests as well.
        args = copy.copy(args)
        if args.forget_kind is None:
            retained = retain_dataset
            if retained is None and isinstance(eval_dataset, dict):
                retained = eval_dataset.get("retain")
            args.forget_kind = find_forget_kind(
                self.request, self.source, forget_dataset, retained, label_column, id2label
            )
        # Small steps would be lost in 16 bits.
        self.stored_in_16_bits = stored_in_16_bits(model)
        cast(model, dict.fromkeys(self.stored_in_16_bits, torch.float32))
        retain_dataset = retain_dataset if self.needs_retain else None
        if processing_class is not None:
            # The image processor runs in the datasets below; what is left to collate are tensors.
            columns = {"image_column": image_column, "label_column": label_column}
            prepare = partial(prepare_dataset, id2label=id2label, image_processor=processing_class, **columns)
            forget_dataset, retain_dataset = prepare(forget_dataset), prepare(retain_dataset)
            for dataset in (forget_dataset, retain_dataset):
                if isinstance(dataset, ImageDataset):
                    # Every pass but the first finds the images ready.
                    dataset.keep()
            if isinstance(eval_dataset, dict):
                eval_dataset = {name: prepare(dataset) for name, dataset in eval_dataset.items()}
            else:
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
        self.training_set = self.make_training_set(forget_dataset, retain_dataset)
        # Some forwards of transformers accept loss arguments and ignore them; evaluation must not rely on it.
        self.model_accepts_loss_kwargs = False
        self.model.add_model_tags([*self._tag_names])
        self.original = self.answers = self.start = self.share = self.original_logits = self.guard = None
        self.forget_share = self.step = self.change = self.energy_kwh = None
        self.passes = 0
        self._sums = {}
        self.add_callback(ObserveOriginal(self))

    # ---- What a method implements or changes ----

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
        make_deterministic(model, self.args.recomputes_activations)

    def prepare(self) -> None:
        """What a method does once, with the original weights in the model, before the first update or a resumed one."""

    def finish(self) -> None:
        """What a method does after the last batch, when weights may still move."""

    def forward_again(self, number: int) -> Callable[[list[int], torch.Tensor], torch.Tensor]:
        """
        For images that pass again and again: maps their positions, between 0 and `number` − 1, and their pixel values
        to logits. A method whose weights move late in the network need not start anew each time.
        """
        return lambda positions, pixel_values: self.model(pixel_values=pixel_values).logits

    # ---- The update ----

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
            self.original = Original(self.model)
        self.passes, self.has_report, self.is_saved, self.saved_in_16_bits = 0, False, False, {}
        self.sha256_before = weights_sha256(in_types(self.model.state_dict(), self.stored_in_16_bits))
        self.started, start = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
        with EnergyMeter() as energy, laid_out(self.model, self.memory_format()):
            result = super().train(*args, **kwargs)
            self.finish()
            self.model.eval()
            round_weights(self)
            check_collapse(self)
        self.energy_kwh = energy.kwh
        self.seconds = time.perf_counter() - start
        return result

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are spread over the processes, each of which then needs the others for a forward pass."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def memory_format(self) -> torch.memory_format:
        """The order of the weights in memory to update them in, see [`~unlearning.layout.memory_format`]."""
        # Sharding wants weights in the usual order.
        return torch.contiguous_format if self.is_sharded else memory_format(self.model, self.first_image())

    def first_image(self) -> torch.Tensor:
        """The first forget image, of shape `(1, C, H, W)`, where the model is."""
        return self.train_dataset[0]["pixel_values"][None].to(next(self.model.parameters()).device)

    # ---- Looking at the forget set ----

    @cached_property
    def images_at_once(self) -> int:
        """How many images share a forward pass without a gradient, see [`~unlearning.layout.images_at_once`]."""
        if self.is_sharded:
            return self.args.train_batch_size
        number = images_at_once(self.model, self.first_image(), at_least=self.args.train_batch_size)
        return int(self.accelerator.gather(torch.tensor([number], device=self.args.device)).min())

    @property
    def forget_batch_size(self) -> int:
        """Of the batches in which the forget set is only looked at."""
        return even_batch_size(len(self.train_dataset), self.accelerator.num_processes, self.images_at_once)

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
        for batch in self.dataloader(self.train_dataset, self.forget_batch_size):
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
        """How far the weights that may move went, relative to their norm."""
        return self.original.distance(self.model)
