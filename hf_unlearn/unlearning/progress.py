"""What a person sees of a training: a bar with what remains, and a line for each stage; no dictionaries."""

import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from ..errors import CollapsedModelError, InputError
from ..terminal import Stage, progress, say


if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from tqdm import tqdm
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from .trainer import UnlearningTrainer


# Where no bar is shown, a log says so often how far the updates are.
SECONDS_BETWEEN_LINES = 60


class Progress(TrainerCallback):
    """
    Takes the place of the callbacks by which the Trainer prints its logs as dictionaries. The numbers of the logs are for
    trackers (`report_to`) and in `state.log_history`; the last loss stands beside the bar.
    """

    def __init__(self, trainer: "UnlearningTrainer"):
        self.trainer = trainer
        self.stage: Stage | None = None
        self.bar: tqdm | None = None
        self.evaluation_bar: tqdm | None = None
        self.last_line = 0.0
        self.loss = ""

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self.loss, self.last_line = "", time.perf_counter()
        self.stage = Stage("update")
        self.bar = progress("update", total=self.trainer.updates_of_round(), hidden=args.disable_tqdm)
        self.show(state.global_step)

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self.show(state.global_step)

    def show(self, updates: int) -> None:
        """Moves the bar, which begins anew with each round; without one, says now and then how far the updates are."""
        if self.bar is None or self.stage is None:
            return
        of_round = self.trainer.updates_of_round()
        if updates > of_round:
            self.bar.set_description(f"update, round {(updates - 1) // of_round + 1}", refresh=False)
        done = (updates - 1) % of_round + 1 if updates else 0
        if done < self.bar.n:
            self.bar.reset()
        self.bar.update(done - self.bar.n)
        now = time.perf_counter()
        if self.bar.disable and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            say(f"{'':<10} {now - self.stage.start:8.1f} s  {updates:,} updates, {done:,} of {of_round:,}{self.loss}")

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if "loss" in logs:
            self.loss = f", loss {logs['loss']:.4g}"
            if self.bar is not None:
                self.bar.set_postfix_str(f"loss {logs['loss']:.4g}", refresh=False)
        measured = {
            name: value for name, value in logs.items() if name.endswith(("_accuracy", "_loss")) and "eval_" in name
        }
        if measured:
            say(
                f"Update {state.global_step:,}: {', '.join(f'{name} {value:.4g}' for name, value in measured.items())}"
            )

    def on_prediction_step(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        eval_dataloader: "DataLoader | None" = None,
        **kwargs: Any,
    ) -> None:
        if eval_dataloader is None or not has_length(eval_dataloader):
            return
        if self.evaluation_bar is None:
            self.evaluation_bar = progress("evaluation", total=len(eval_dataloader), hidden=args.disable_tqdm)
        self.evaluation_bar.update()

    def on_evaluate(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self.end_evaluation()

    def on_predict(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.end_evaluation()

    def end_evaluation(self) -> None:
        """Takes the bar of an evaluation away."""
        if self.evaluation_bar is not None:
            self.evaluation_bar.close()
        self.evaluation_bar = None

    def leave_out(self, seconds: float) -> None:
        """Of the time of the updates, what went into a stage that has a line of its own."""
        if self.stage is not None:
            self.stage.start += seconds

    def end_updates(self) -> None:
        """The line of the updates. Called when the last one has run."""
        self.close()
        if self.stage is not None:
            updates = self.trainer.state.global_step
            self.stage.end(self.trainer.describe_updates(), updates=updates)
        self.stage = None

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None


class Concluding(TrainerCallback):
    """
    Lets the trainer do what comes after its last update. It is the first of all callbacks: trackers close their logs when
    training ends, and what the search and the guard find belongs into them.
    """

    def __init__(self, trainer: "UnlearningTrainer"):
        self.trainer = trainer

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        try:
            self.trainer.conclude()
        except (CollapsedModelError, InputError) as error:
            # Trackers are to close their logs first.
            self.trainer.refusal = error
