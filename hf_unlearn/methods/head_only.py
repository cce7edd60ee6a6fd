"""
Head only: a control that hides instead of forgetting. It is DELETE with only the head (the last linear layer) trained.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import TrainOutput

from ..unlearning.head_edit import require_head
from .delete import DELETEConfig, DELETETrainer


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..unlearning.compatibility import ImageClassifier
    from ..unlearning.inputs import Given


@dataclass
class HeadOnlyConfig(DELETEConfig):
    r"""
    Configuration of [`HeadOnlyTrainer`].

    Parameters whose default differs from [`DELETEConfig`]. The learning rate is our choice: it is higher because a
    single layer is trained instead of all.

    learning_rate (`float`, *optional*, defaults to 1e-3)
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "The initial learning rate."})


class HeadOnlyTrainer(DELETETrainer):
    r"""
    A control, not a method to use. The class disappears from the outputs but stays in the features, which are those of
    the original model, bit for bit. A metric that takes this for forgetting looks at outputs alone. The loss is that
    of [`DELETETrainer`],

        ℓ(x) = KL(m_y(p₀(x)) ‖ p(x))

    and only the weight and the bias of the head (the last linear layer) are trained. The idea is the head distillation
    of "An Information Theoretic Evaluation Metric For Strong Unlearning"
    ([arXiv 2405.17878](https://arxiv.org/abs/2405.17878)).

    Data: the forget images. `y` is the label of the image or, without labels, the class that the original model
    predicts.
    """

    _name = "head-only"
    _paper = "https://arxiv.org/abs/2405.17878"
    _tag_names = ["unlearning", "machine-unlearning", "head-only"]
    args: HeadOnlyConfig

    def __init__(self, model: "ImageClassifier", args: HeadOnlyConfig, **kwargs: "Unpack[Given]"):
        super().__init__(model, args, **kwargs)
        self.head = require_head(self.model, self.train_dataset, self._name)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        own = {id(parameter) for parameter in self.head.parameters()}
        frozen = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
