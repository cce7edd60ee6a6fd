"""How the images of a trainer are cut into batches: those of updates, and those in which they are only looked at."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, cast

import torch
from accelerate import DistributedType, PartialState
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, Dataset

from ..data.training_set import PhasedSampler, TrainingSet
from ..errors import InputError
from .compatibility import num_labels_of
from .layout import even_batch_size, images_at_once, memory_format
from .publishing import PublishingTrainer


class BatchingTrainer(PublishingTrainer):
    """
    A [`PublishingTrainer`] that goes through its images in batches. Its state is described with [`UnlearningTrainer`],
    which sets it.
    """

    train_dataset: TrainingSet
    training_set: TrainingSet
    answers: torch.Tensor
    forget_share: torch.Tensor
    passes: float

    @property
    def num_labels(self) -> int:
        """How many classes the model has."""
        return num_labels_of(self.model)

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are spread over the processes, each of which then needs the others for a forward pass."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def create_accelerator_and_postprocess(self) -> None:
        state = PartialState()
        asked = self.args.fsdp_plugin_args is not None or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
        if asked and state.distributed_type == DistributedType.MULTI_CPU:
            # Accelerate 1.15 shards what it takes for GPUs. Without this line every process would hold all weights, and
            # nothing would say so.
            state.distributed_type = DistributedType.MULTI_GPU
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled and cast(Any, self.accelerator.state.fsdp_plugin).cpu_ram_efficient_loading:
            raise InputError(
                "fsdp_cpu_ram_efficient_loading",
                "is true: the first process alone would have weights to look at before they are sharded. Valid: false.",
            )

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> tuple[nn.Module, DataLoader]:
        if not self.is_fsdp_enabled:
            return super()._prepare_for_training(*args, **kwargs)
        # Accelerate 1.15 shards the embeddings of words by themselves. ResNet is asked for them and raises an error, and
        # what ViT names is in a block that is sharded already.
        model = cast(Any, self.model)
        model.get_input_embeddings = lambda: None
        try:
            prepared = super()._prepare_for_training(*args, **kwargs)
        finally:
            del model.get_input_embeddings
        if isinstance(self.model, FSDPModule):
            # The outermost weights would stay whole after each pass without a gradient, and what moves them would be lost.
            self.model.set_reshard_after_forward(True)
        return prepared

    # ---- Updates ----

    def phases(self, shuffle: Callable) -> list[Sequence[int]]:
        """
        The positions of `training_set` that one epoch goes through, phase by phase; no update mixes two phases. All of
        them in one phase, unless a method says otherwise.

        Args:
            shuffle (`Callable`):
                Maps positions to a list of them in the order of this epoch.
        """
        return [shuffle(range(len(self.training_set)))]

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weight = torch.cat([batch["sample_weight"] for batch in batches])
        is_forget = torch.cat([batch["is_forget"] for batch in batches])
        counts = torch.stack([weight.sum(), (weight * is_forget).sum()]).to(device)
        num_images, num_forget = self.accelerator.reduce(counts, reduction="sum")
        self.forget_share = num_forget / num_images
        return batches, num_images

    def get_train_dataloader(self) -> DataLoader:
        return self.dataloader(self.training_set)

    def dataloader(self, dataset: TrainingSet, batch_size: int | None = None) -> DataLoader:
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

    def _get_train_sampler(self, train_dataset: Dataset | None = None, batch_size: int | None = None) -> PhasedSampler:
        dataset = train_dataset if isinstance(train_dataset, TrainingSet) else self.training_set
        of_updates = dataset is self.training_set
        at_once = (batch_size or self._train_batch_size) * self.accelerator.num_processes
        return PhasedSampler(
            self.phases if of_updates else lambda shuffle: [range(len(dataset))],
            num_images=len(dataset),
            multiple_of=at_once,
            update_size=at_once * self.args.gradient_accumulation_steps,
            shuffle=self.args.train_sampling_strategy != "sequential",
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
        )

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

    def forget_outputs(
        self, change: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        """(batch, logits) over this process's share of the forget set, padding included."""
        self.passes += 1
        self.model_wrapped.eval()
        for batch in self.dataloader(self.train_dataset, self.forget_batch_size):
            if change is None:
                yield batch, self.forget_logits(self.model_wrapped, batch)
            else:
                yield batch, self.model_wrapped(pixel_values=change(batch["pixel_values"])).logits

    def forget_logits(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        """The model's logits of forget images; a method whose weights move late in the network need not start anew."""
        return model(pixel_values=batch["pixel_values"]).logits
