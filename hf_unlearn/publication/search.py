"""The outcome of the automatic step. The log, the report and the model card show it."""

from dataclasses import dataclass


# Of classes and sub-classes forgotten with the defaults: up to which change elsewhere nine of ten runs lost at most how many
# points of accuracy on what stays. Measured in docs/auto_step.md, by scripts/benchmarks/architectures/guard.py.
LOST_BY_CHANGE = ((0.15, 0.4), (0.20, 0.9), (0.25, 1.3))


@dataclass
class Search:
    """
    The outcome of the automatic step (`step_rule="auto"` of [`JiTConfig`]).

    Args:
        target (`float`):
            Accuracy on the forget set to reach, between 0 and 1.
        start (`float`):
            Accuracy on the forget set before the step, between 0 and 1.
        accuracy (`float`):
            Accuracy on the forget set after the step, between 0 and 1.
        length (`float`, *optional*, defaults to 0.0):
            Length of the step, ‖Δθ‖ / ‖θ‖ over the weights that move.
        evaluations (`int`, *optional*, defaults to 0):
            Number of step lengths that were tried. Each takes a forward pass over the forget set.
        reached (`bool`, *optional*, defaults to `False`):
            Whether `accuracy` is at most `target`.
        kind (`str`, *optional*, defaults to `"step"`):
            `"step"` for a step along one direction, `"head"` for a change of the head (the last linear layer) alone,
            `"surroundings"` for single images that get the answer of a changed copy, `"advisers"` for a part of a class that
            gets the answers of networks that learned from retained images alone.
        stage_change (`float`, *optional*):
            Change elsewhere of the step of the last stage, where a step of the head was taken in its place.
        slope (`float`, *optional*):
            How much the model's sureness of single images follows that of changed copies of them: near 1 if it knows nothing
            of the images alone. `None` where it was not told.
        moved (`int`, *optional*, defaults to 0):
            How many single images got the answer of a changed copy; with advisers, from how many retained images they learned.
    """

    target: float
    start: float
    accuracy: float
    length: float = 0.0
    evaluations: int = 0
    reached: bool = False
    kind: str = "step"
    stage_change: float | None = None
    slope: float | None = None
    moved: int = 0

    def likely_loss(self, change: float) -> str | None:
        """
        What a change elsewhere of so much meant in the runs that were measured, as a sentence; `None` where it meant next to
        nothing, and where nothing was measured.
        """
        known = [(most, lost) for most, lost in LOST_BY_CHANGE if change <= most]
        if self.kind != "step" or self.length == 0 or not known or known[0] == LOST_BY_CHANGE[0]:
            return None
        return (
            f"Of the measured runs that changed the answers elsewhere by about {change:.2f}, one in ten lost more than "
            f"{known[0][1]} points of accuracy on what stays. Measure it on retained images."
        )

    def in_short(self) -> str:
        """The outcome in a few words, for a line of the log."""
        accuracies = f"forget set {100 * self.start:.1f} → {100 * self.accuracy:.1f} %"
        if self.kind == "surroundings":
            return f"{self.moved} images get another answer, {accuracies}"
        if self.kind == "advisers":
            return f"taught by {self.moved:,} retained images, {accuracies}"
        if self.kind == "head":
            return f"the head was solved for, {accuracies}"
        if self.length == 0:
            return f"no step, {accuracies}"
        head = " of the head" if self.stage_change is not None else ""
        return f"{self.evaluations} trials, step{head} {100 * self.length:.2g} %, {accuracies}"

    def describe(self) -> str:
        """Describes the outcome in one or two sentences, for the log and the model card."""
        if self.kind == "surroundings":
            return self.describe_surroundings()
        if self.kind == "advisers":
            return (
                f"Networks that learned from {self.moved:,} retained images alone name the label of {100 * self.target:.1f} % of "
                f"the images to forget. The model was taught to answer as they do, and its answers to the retained images were "
                f"held: accuracy on the forget set {100 * self.start:.1f} → {100 * self.accuracy:.1f} %. That is an estimate of "
                "what a model trained without them would say."
            )
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
        instead = (
            f"A step of the last stage changed the answers elsewhere by {self.stage_change:.2f}; the head alone was moved "
            "in its place, which changes less and leaves the features as they are. "
            if self.stage_change is not None
            else ""
        )
        return instead + (
            f"The smallest step that suffices, found in {self.evaluations} trials, is {100 * self.length:.2g} % of the norm of "
            f"the weights that move: accuracy on the forget set {100 * self.start:.1f} → "
            f"{100 * self.accuracy:.1f} % (target: at most {100 * self.target:.1f} %)."
        )

    def describe_surroundings(self) -> str:
        """The same of single images."""
        if self.slope is None:
            follows = "The images are too few, or too much alike, to tell what the model knows of them alone. "
        else:
            follows = (
                "How sure the model was of these images followed how sure it is of changed copies of them with a slope of "
                f"{self.slope:.2f} (1: it knows nothing of the images alone; 0: it knows them by heart). "
            )
        if self.moved == 0:
            return follows + (
                "So there is little to forget that its answers would show, and no weight has moved: accuracy on the "
                f"forget set is {100 * self.start:.1f} %."
            )
        missed = "" if self.reached else " It was not reached: the forgetting is incomplete."
        return follows + (
            f"{self.moved} of them got the answer that the model gives to a changed copy, its other answers were held: "
            f"accuracy on the forget set {100 * self.start:.1f} → {100 * self.accuracy:.1f} % (target: "
            f"{100 * self.target:.1f} %).{missed} Whether they now look as images never seen is told by attacks on unseen "
            "images alone."
        )
