"""Head only: a control that hides, DELETE's target with the last linear layer alone moving."""

from dataclasses import dataclass, field

from ..unlearning.head_edit import require_head
from .delete import DELETEConfig, DELETETrainer


@dataclass
class HeadOnlyConfig(DELETEConfig):
    r"""
    Configuration of [`HeadOnlyTrainer`].

    Parameters whose default differs from [`DELETEConfig`]. The rate is ours: one layer has to do what all do in DELETE.

    learning_rate (`float`, *optional*, defaults to 1e-3)
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "The initial learning rate."})


class HeadOnlyTrainer(DELETETrainer):
    r"""
    A control, not a method to use: the class leaves the outputs and stays in the features, which are the original's bit
    for bit. A measure that takes this for forgetting looks at outputs alone. The loss is that of [`DELETETrainer`],

        ℓ(x) = KL(m_y(p₀(x)) ‖ p(x)),

    and only the weight and bias of the last linear layer move. The idea is the head distillation of "An Information
    Theoretic Evaluation Metric For Strong Unlearning" ([arXiv 2405.17878](https://arxiv.org/abs/2405.17878)).

    Data: the forget images; `y` is their label or, without labels, the class that the original model names.
    """

    _name = "head-only"
    _paper = "https://arxiv.org/abs/2405.17878"
    _tag_names = ["unlearning", "machine-unlearning", "head-only"]

    def __init__(self, model, args, **kwargs):
        super().__init__(model, args, **kwargs)
        self.head = require_head(self.model, self.train_dataset, self._name)

    def train(self, *args, **kwargs):
        own = {id(parameter) for parameter in self.head.parameters()}
        frozen = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            return super().train(*args, **kwargs)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
