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
        late_shrink (`float`, *optional*, defaults to 0.6):
            α, how far the weights of the last stage and the head are moved towards new ones: 0 keeps them, 1 starts them
            anew. More removes more and loses more.
        shrink (`float`, *optional*, defaults to 0.0):
            The same for all weights before the last stage, which do not move at all at 0: what they say of an image is
            computed once for the original and the copy. 0.6, with 2,400 updates, takes out more of what they hold of the class,
            and of everything else.
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
    late_shrink: float = field(
        default=0.6, metadata={"help": "How far the last stage and the head move towards new weights, 0 to 1."}
    )
    shrink: float = field(default=0.0, metadata={"help": "The same for all weights before; at 0 they do not move."})
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
        for name in ("late_shrink", "shrink"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(name, f"must lie between 0 and 1, got {getattr(self, name)}.")
        if self.num_updates < 1:
            raise InputError("num_updates", f"must be at least 1, got {self.num_updates}.")
        super().__post_init__()
