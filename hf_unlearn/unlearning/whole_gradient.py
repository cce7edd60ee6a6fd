"""A trainer that takes one step from the gradient over the whole forget set, however many batches that has."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import reduce
from torch import nn

from .step_size import GradientSum
from .trainer import UnlearningTrainer


class WholeGradientTrainer(UnlearningTrainer):
    """
    Adds up the gradients of all batches and moves nothing; what a method does with their sum is up to its `finish`. For the
    arguments see [`UnlearningTrainer`].
    """

    # Gradients by weight, where they are added up here and not in an optimizer.
    gradients: dict[torch.Tensor, torch.Tensor]

    @property
    def takes_one_step(self) -> bool:
        """Whether there is one step from the whole forget set, or one for each batch."""
        raise NotImplementedError

    @property
    def learns_answers(self) -> bool:
        """Whether the model learns other answers to the forget images in `finish`, so that no gradient is asked for."""
        return False

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.takes_one_step:
            model = self.model if model is None else model
            self.optimizer = GradientSum(parameter for parameter in model.parameters() if parameter.requires_grad)
            return self.optimizer
        return super().create_optimizer(model)

    @property
    def adds_up_itself(self) -> bool:
        """Whether gradients are added up here, and not in an optimizer: that of DeepSpeed gives none away."""
        return self.takes_one_step and self.is_deepspeed_enabled

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if not self.adds_up_itself:
            return super().training_step(model, inputs, num_items_in_batch)
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            # Not through DeepSpeed's engine, which would begin to put gradients together.
            loss = cast(torch.Tensor, self.compute_loss(self.model, inputs, False, num_items_in_batch))
        if not self.learns_answers:
            moving = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            for parameter, gradient in zip(moving, torch.autograd.grad(loss, moving, allow_unused=True), strict=True):
                if gradient is not None:
                    self.gradients[parameter] = self.gradients.get(parameter, 0) + gradient
        return loss.detach()

    def find_direction(self) -> dict[torch.Tensor, torch.Tensor]:
        """The gradient over the whole forget set of each weight that moves."""
        if self.adds_up_itself:
            # The loss is scaled for a mean over the processes.
            return {weight: reduce(gradient, reduction="mean") for weight, gradient in self.gradients.items()}
        # The one that `create_optimizer` made, inside Accelerate's.
        return cast(GradientSum, cast(AcceleratedOptimizer, self.optimizer).optimizer).direction()

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor]:
        batches, num_images = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.takes_one_step:
            # One update from the whole forget set: each batch adds its share of the mean.
            num_images = torch.full_like(num_images, len(self.train_dataset))
        return batches, num_images
