"""
`hf-unlearn run` with a clock at each of its stages; started by stages.py, with whichever hf_unlearn is on the path:

    PYTHONPATH=checkout python scripts/benchmarks/real_models/timed_command.py REPORT.json --model_name_or_path ...

REPORT.json gets seconds by the clock and of the processor for each stage, without the stages inside it, and the peak memory.
"""

import json
import resource
import sys
import time

import psutil


class Clocks:
    """Where the time goes: to the innermost stage that runs."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = {}
        self.running = ["imports"]
        # Since the process began.
        self.last = [psutil.Process().create_time(), 0.0]

    def to(self, stage: str) -> None:
        """Gives a stage the time since the last call."""
        now = [time.time(), time.process_time()]
        of_stage = self.seconds.setdefault(stage, [0.0, 0.0])
        for number in (0, 1):
            of_stage[number] += now[number] - self.last[number]
        self.last = now

    def measure(self, owner: object, name: str, stage: str) -> None:
        """From now on the time of a function of a module or class goes to this stage; nothing where there is none."""
        function = getattr(owner, name, None)
        if function is None:
            return

        def timed(*args, **kwargs):
            self.to(self.running[-1])
            self.running.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.to(stage)
                self.running.pop()

        setattr(owner, name, timed)


def main() -> None:
    report, flags = sys.argv[1], sys.argv[2:]
    clocks = Clocks()
    from hf_unlearn.commands import main as command
    from hf_unlearn.commands import run
    from hf_unlearn.methods import jit
    from hf_unlearn.unlearning import guard, original

    clocks.to("imports")
    clocks.running = ["other"]
    for name in ("load_model", "load_splits"):
        clocks.measure(run, name, "reading")
    clocks.measure(jit.JiTTrainer, "train", "update")
    for name in ("freeze_early_weights", "find_early_features"):
        clocks.measure(jit.JiTTrainer, name, "looking")
    clocks.measure(original, "find_answers", "looking")
    for name in ("__init__", "look", "change"):
        clocks.measure(guard.Guard, name, "guard")
    clocks.measure(jit, "search_length", "search")
    clocks.measure(jit, "forget_by_surroundings", "single images")
    clocks.measure(jit.JiTTrainer, "save_model", "card")
    clocks.measure(jit.JiTTrainer, "save_report", "card")
    # The metrics are imported late; that is a part of the imports.
    import_evaluation(clocks)
    code = command.main(["run", *flags])
    clocks.to("other")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with open(report, "w", encoding="utf-8") as file:
        json.dump({"seconds": clocks.seconds, "peak_mib": peak, "code": code}, file)
    sys.exit(code)


def import_evaluation(clocks: Clocks) -> None:
    from hf_unlearn.evaluation import evaluate

    clocks.to("imports")
    clocks.measure(evaluate, "evaluate_unlearning", "evaluation")


if __name__ == "__main__":
    main()
