"""
Attacks on the outputs alone: a class that is hidden by a low logit is raised again by a constant, or told from the
others by that logit.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..metrics.membership_inference.membership_inference import area_under_curve


# The largest share of the attacker's images of other classes that the constant may turn into a forgotten class.
FALSE_POSITIVES = 0.01


@dataclass
class Outputs:
    """
    Outputs of a model for images.

    Args:
        logits (`torch.Tensor` of shape `(n, K)`): one row for each image.
        labels (`torch.Tensor` of shape `(n,)`): label ids of the images.
    """

    logits: torch.Tensor
    labels: torch.Tensor

    def leads(self, classes: list[int]) -> np.ndarray:
        """
        By how much the largest logit of `classes` is above the largest of the other classes: with a constant larger
        than minus this number, the answer is one of `classes`. An output that is not finite is below all. Float64 of
        shape `(n,)`.
        """
        logits = self.logits.double()
        inside = torch.zeros(logits.shape[1], dtype=torch.bool)
        inside[classes] = True
        leads = logits[:, inside].amax(dim=1) - logits[:, ~inside].amax(dim=1)
        return torch.where(logits.isfinite().all(dim=1), leads, -torch.inf).numpy()

    def own_class_leads(self, classes: list[int]) -> np.ndarray:
        """Whether the largest logit among `classes` is that of the image's own class. Bool of shape `(n,)`."""
        best = torch.tensor(classes)[self.logits[:, classes].argmax(dim=1)]
        return (best == self.labels).numpy()


def choose_constant(others: Outputs, classes: list[int]) -> float:
    """
    The constant that an attacker adds to the logits of the forgotten classes: the largest with which at most the share
    `FALSE_POSITIVES` of the attacker's images of other classes gets a forgotten class. The attacker needs no forget
    image for it. With a limit on the false positives, the share of forget images that are found is comparable between
    models; with the best balanced accuracy it is not, see docs/verification.md.

    Args:
        others ([`Outputs`]): outputs for the images of other classes that the attacker has.
        classes (`list[int]`): label ids of the forgotten classes.

    Returns:
        `float`: 0 at least.
    """
    highest_first = np.sort(others.leads(classes))[::-1]
    # Rounding can leave the product just below a whole number.
    allowed = int(FALSE_POSITIVES * len(highest_first) + 1e-9)
    return max(0.0, -float(highest_first[allowed]))


def found_with(constant: float, images: Outputs, classes: list[int]) -> float:
    """The share of images of forgotten classes that get their own class with this constant on the logits of `classes`."""
    return float((images.own_class_leads(classes) & (images.leads(classes) > -constant)).mean())


def false_positives(constant: float, others: Outputs, classes: list[int]) -> float:
    """The share of images of other classes that get a forgotten class with this constant on the logits of `classes`."""
    return float((others.leads(classes) > -constant).mean())


def logit_auroc(images: Outputs, others: Outputs) -> float:
    """
    How well the logit of a forgotten class tells its images from those of other classes: the area under the ROC curve,
    for several classes their mean, each with the weight of its images. 0.5 if it does not tell; 0 if it is lower for
    every image of the class than for every other, which is as easy to see as 1.

    Args:
        images ([`Outputs`]): outputs for images of the forgotten classes.
        others ([`Outputs`]): outputs for images of other classes.
    """
    areas = []
    for label in images.labels.unique().tolist():
        members, rest = (
            outputs.logits[:, label].double().nan_to_num(nan=-torch.inf).numpy()
            for outputs in (Outputs(images.logits[images.labels == label], images.labels), others)
        )
        areas.append(len(members) * area_under_curve(members, rest))
    return sum(areas) / len(images.labels)
