"""The settings of rebuild."""

from dataclasses import dataclass, field

from ..errors import InputError
from ..unlearning.config import UnlearningConfig
from ..unlearning.surrogates import NUM_IMAGES


@dataclass
class RebuildConfig(UnlearningConfig):
    r"""
    Configuration of [`RebuildTrainer`].

    Args:
        max_accuracy_lost (`float`, *optional*, defaults to 1.5):
            Points of accuracy on the other classes that may be lost, as estimated without any image of them. A round of
            updates follows another until the estimate is below, four at most.
        shrink (`float`, *optional*, defaults to 0.3):
            α, how far the weights before the last stage are moved towards new ones: 0 keeps them, 1 starts anew, as the
            last stage and the head always do.
        num_updates (`int`, *optional*, defaults to 800):
            Updates of a round.

    Parameters whose default differs from [`UnlearningConfig`]:

    optim (`str`, *optional*, defaults to `"adamw_torch"`)
    weight_decay (`float`, *optional*, defaults to 0.01)
    learning_rate (`float`, *optional*, defaults to 2e-3): the highest of a round, in which it rises and falls once.
    per_device_train_batch_size (`int`, *optional*, defaults to 128): an update always has 128 images. Fewer per device
        take less memory, in more passes.
    logging_steps (`float`, *optional*, defaults to 50)
    """

    max_accuracy_lost: float = field(
        default=1.5, metadata={"help": "Points of accuracy on the other classes that may be lost, as estimated."}
    )
    shrink: float = field(default=0.3, metadata={"help": "How far early weights move towards new ones, 0 to 1."})
    num_updates: int = field(default=800, metadata={"help": "Updates of a round, of which there are four at most."})
    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer to use."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay, biases and norms left out."})
    learning_rate: float = field(default=2e-3, metadata={"help": "The highest learning rate of a round."})
    per_device_train_batch_size: int = field(
        default=NUM_IMAGES, metadata={"help": f"Images per pass and device; an update has {NUM_IMAGES}."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every so many updates."})

    def __post_init__(self):
        if self.max_accuracy_lost <= 0:
            raise InputError("max_accuracy_lost", f"must be greater than 0, got {self.max_accuracy_lost}.")
        if not 0 <= self.shrink <= 1:
            raise InputError("shrink", f"must lie between 0 and 1, got {self.shrink}.")
        if self.num_updates < 1:
            raise InputError("num_updates", f"must be at least 1, got {self.num_updates}.")
        super().__post_init__()
