"""What the search for a step found: shown in the log, the report and the card."""

from dataclasses import dataclass


@dataclass
class Search:
    """
    What a search found.

    Args:
        target (`float`): the accuracy on the forget set that was aimed at.
        start (`float`): the accuracy before the step.
        accuracy (`float`): the accuracy after it.
        length (`float`): of the step, ‖Δθ‖ / ‖θ‖ over the weights that move.
        kind (`str`): `"step"`, along one direction, or `"head"`, a change of the head alone.
        evaluations (`int`): passes over the forget set that the search took.
        reached (`bool`): whether the accuracy is at or below the target.
    """

    target: float
    start: float
    accuracy: float
    length: float = 0.0
    evaluations: int = 0
    reached: bool = False
    kind: str = "step"

    def describe(self) -> str:
        """In words for the log and the card."""
        if self.reached and self.length == 0:
            return (
                f"No step was taken and no weight has moved: accuracy on the forget set is {100 * self.start:.1f} %, "
                f"which is at the target already (at most {100 * self.target:.1f} %)."
            )
        if not self.reached:
            return (
                f"No step reached the target: accuracy on the forget set {100 * self.start:.1f} → "
                f"{100 * self.accuracy:.1f} %, and not {100 * self.target:.1f} %. The forgetting is incomplete."
            )
        if self.kind == "head":
            return (
                "The last layer was changed so that the images of which the model was least sure lose their class and "
                f"its answers to the others stay: accuracy on the forget set {100 * self.start:.1f} → "
                f"{100 * self.accuracy:.1f} % (target: at most {100 * self.target:.1f} %)."
            )
        return (
            f"The smallest step that suffices, found in {self.evaluations} trials, is {100 * self.length:.2g} % of the norm of "
            f"the weights that move: accuracy on the forget set {100 * self.start:.1f} → "
            f"{100 * self.accuracy:.1f} % (target: at most {100 * self.target:.1f} %)."
        )
