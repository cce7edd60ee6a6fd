"""GKT: a student learns from the model on generated images, but not on images of the classes to forget."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import nn

from ..data.rows import Rows
from ..data.training_set import TrainingSet
from ..errors import CollapsedModelError, InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.losses import kl_divergence
from ..unlearning.noise_images import ImageGenerator, NoiseSet, check_forget_kind
from ..unlearning.trainer import UnlearningTrainer


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


@dataclass
class GKTConfig(UnlearningConfig):
    r"""
    Configuration of [`GKTTrainer`].

    Args:
        num_pseudo_batches (`int`, *optional*, defaults to 1000):
            Number of batches of generated images. JiT's authors take 1000 for VGG11 and 101 for ViT.
        gate_threshold (`float`, *optional*, defaults to 0.01):
            An image is not used if the teacher gives more than this probability to a class to forget.
        attention_weight (`float`, *optional*, defaults to 5):
            β, the weight of the attention maps in the loss. GKT's authors take 250.
        generator_steps (`int`, *optional*, defaults to 1):
            Steps of the generator per batch.
        student_steps (`int`, *optional*, defaults to 10):
            Updates of the student per batch.
        generator_learning_rate (`float`, *optional*, defaults to 1e-3):
            Learning rate of the generator's Adam optimizer.

    The defaults are those of JiT's authors, and where these do not give a value, those of GKT's authors on MNIST. The
    same holds for the parameters whose default differs from [`UnlearningConfig`]:

    optim (`str`, *optional*, defaults to `"adamw_torch"`): without weight decay this is Adam.
    learning_rate (`float`, *optional*, defaults to 1e-3)
    max_grad_norm (`float`, *optional*, defaults to 5)
    per_device_train_batch_size (`int`, *optional*, defaults to 256)
    logging_steps (`float`, *optional*, defaults to 50)
    """

    num_pseudo_batches: int = field(default=1000, metadata={"help": "Batches of made-up images."})
    gate_threshold: float = field(default=0.01, metadata={"help": "Most that a class to forget may get."})
    attention_weight: float = field(default=5.0, metadata={"help": "Weight of the attention maps in the loss."})
    generator_steps: int = field(default=1, metadata={"help": "Steps of the generator for each batch."})
    student_steps: int = field(default=10, metadata={"help": "Updates of the student on each batch."})
    generator_learning_rate: float = field(default=1e-3, metadata={"help": "The learning rate of the generator."})
    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer to use."})
    learning_rate: float = field(default=1e-3, metadata={"help": "The learning rate of the student."})
    max_grad_norm: float = field(default=5.0, metadata={"help": "Maximum gradient norm, of the generator too."})
    per_device_train_batch_size: int = field(default=256, metadata={"help": "Images per device."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many updates."})

    def __post_init__(self):
        for name in ("num_pseudo_batches", "generator_steps", "student_steps"):
            if getattr(self, name) < 1:
                raise InputError(name, f"must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.gate_threshold < 1:
            raise InputError("gate_threshold", f"must lie between 0 and 1, got {self.gate_threshold}.")
        super().__post_init__()


class GKTTrainer(UnlearningTrainer):
    r"""
    Gated knowledge transfer (Chundawat et al., "Zero-shot machine unlearning",
    [arXiv 2201.05629](https://arxiv.org/abs/2201.05629)). The original model is the teacher t. The student s is a copy
    of it with newly drawn convolutions. A generator g makes images x = g(z), z ~ N(0, 1), on which teacher and student
    differ. A gate holds back images with t(x)_f > `gate_threshold` for a class f to forget. For each batch of z, the
    generator takes its steps first, then the student takes its steps on the same images:

        generator:  ℓ = −KL(t(x) ‖ s(x)) / K
        student:    ℓ = KL(t(x) ‖ s(x)) / K + β Σ_l mean (a_l(t) − a_l(s))²

    K is the number of classes. a_l(·) is the attention map of the l-th hidden state: the mean square over its
    channels, scaled to norm 1.

    Data: none. Only the classes and the shape of the forget images are used, so it forgets whole classes.

    Differences from the authors: a batch has the images of one update, over processes and accumulation steps. As in
    the code of JiT's authors, the student is a copy with new convolutions; GKT's authors start from a new network. The
    student keeps the BatchNorm running statistics of the original model, while the authors let them move. A resumed
    run starts with a new generator.

    Raises:
        [`InputError`]: for sub-classes and single images, if the weights are sharded, or if the model returns no
            hidden states.
        [`CollapsedModelError`]: if the generator makes only images of the classes to forget.
    """

    _name = "GKT"
    _paper = "https://arxiv.org/abs/2201.05629"
    _tag_names = ["unlearning", "machine-unlearning", "gkt-unlearning"]
    runs_sharded = False
    data_used = "the trained model, the class to forget and images made with the model"
    args: GKTConfig
    # What `make_images` made, and whether it may be learned from.
    images: torch.Tensor
    passes_gate: torch.Tensor

    def __init__(self, model: "ImageClassifier", args: GKTConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        check_forget_kind(self._name, self.args.forget_kind, ("class",))

    def make_training_set(self, forget: Rows, retain: Rows | None) -> TrainingSet:
        # One item per image of an update. The items stay empty: `make_images` makes new images for every batch.
        args = self.args
        num_images = args.train_batch_size * self.accelerator.num_processes * args.gradient_accumulation_steps
        return TrainingSet({"forget": forget, "generated": NoiseSet(num_images, ())})

    def phases(self, shuffle: Callable) -> list[Sequence[int]]:
        return [self.training_set.positions("generated")] * (self.args.num_pseudo_batches * self.args.student_steps)

    def prepare(self) -> None:
        """Makes the teacher, and the generator, which starts with the same weights on every process."""
        self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False)
        image = self.train_dataset[0]["pixel_values"][None].to(self.args.device)
        if self.teacher(pixel_values=image, output_hidden_states=True).hidden_states is None:
            raise InputError(
                "method", f"{self._name} compares hidden states, which a {type(self.model).__name__} does not return."
            )
        self.vanishing = self.answers.unique()
        self.random = torch.Generator().manual_seed(self.args.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.args.seed)
            self.generator = ImageGenerator(self.train_dataset[0]["pixel_values"].shape).to(self.args.device)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=self.args.generator_learning_rate)
        # The number of the current batch.
        self.batch: int | None = None

    @torch.no_grad()
    def renew_convolutions(self) -> None:
        """Draws new weights for the convolutions of the student, by Glorot's uniform initialisation."""
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
                start = nn.init.xavier_uniform_(torch.empty(module.weight.shape), generator=self.random)
                module.weight.copy_(start)

    def make_images(self) -> None:
        """Takes the generator's steps on a new batch of z, and then makes the images of this batch."""
        num_images = len(self.training_set.parts["generated"])
        for _ in range(100):
            z = torch.randn(num_images, ImageGenerator.z_dim, generator=self.random).to(self.args.device)
            if self.gate(self.generator(z)).any():
                break
        else:
            raise CollapsedModelError("the generator makes nothing but images of the class to forget.")
        for _ in range(self.args.generator_steps):
            images = self.generator(z)
            passes_gate = self.gate(images)
            if not passes_gate.any():
                break
            divergence = kl_divergence(
                self.teacher(pixel_values=images).logits, self.model(pixel_values=images).logits
            )
            loss = -divergence[passes_gate].mean() / self.num_labels
            parameters = list(self.generator.parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            if self.args.max_grad_norm > 0:
                nn.utils.clip_grad_norm_(parameters, self.args.max_grad_norm)
            self.generator_optimizer.step()
        # All processes use the images of the first process.
        self.images = broadcast(self.generator(z).detach())
        self.passes_gate = broadcast(self.gate(self.images))

    @torch.no_grad()
    def gate(self, images: torch.Tensor) -> torch.Tensor:
        """
        Which images pass the gate: the teacher gives none of the classes to forget more than `gate_threshold`.

        Args:
            images (`torch.Tensor` of shape `(B, C, H, W)`):
                Generated images.

        Returns:
            `torch.Tensor` of shape `(B,)`: bool.
        """
        probabilities = self.teacher(pixel_values=images).logits.float().softmax(dim=-1)
        return (probabilities[:, self.vanishing] <= self.args.gate_threshold).all(dim=-1)

    def unlearning_loss(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = self.state.global_step // self.args.student_steps
        if batch != self.batch:
            if self.state.global_step == 0:
                self.renew_convolutions()
            with torch.enable_grad():
                self.make_images()
            self.batch = batch
        places = inputs["sample_index"] - self.training_set.start["generated"]
        images, weight = self.images[places], self.passes_gate[places].float()
        # The trainer takes the mean over all images of the update. This factor turns it into the mean over the images
        # that pass the gate.
        weight = weight * len(self.images) / self.passes_gate.sum().clamp(min=1)
        with torch.no_grad():
            teacher = self.teacher(pixel_values=images, output_hidden_states=True)
        student = model(pixel_values=images, output_hidden_states=True)
        divergence = kl_divergence(teacher.logits, student.logits) / self.num_labels
        attention = sum(
            (attention_map(theirs) - attention_map(own)).square().mean(dim=-1)
            for theirs, own in zip(teacher.hidden_states, student.hidden_states, strict=True)
        )
        loss = divergence + self.args.attention_weight * attention
        return loss * weight, {"divergence": divergence, "passes_gate": self.passes_gate[places].float()}


def attention_map(hidden_state: torch.Tensor) -> torch.Tensor:
    """
    The attention map of a hidden state: the mean square over its channels, flattened and scaled to norm 1.

    Args:
        hidden_state (`torch.Tensor` of shape `(B, C, H, W)` or `(B, T, C)`):
            The hidden state of each image.

    Returns:
        `torch.Tensor` of shape `(B, H * W)` or `(B, T)`.
    """
    channels = 1 if hidden_state.dim() == 4 else -1
    return F.normalize(hidden_state.float().square().mean(dim=channels).flatten(1))
