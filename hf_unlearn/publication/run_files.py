"""
Writes the files of a run beside its model: report, figures, model card and record, and two that are never published, the
salt of the record and the request.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ..request.forget_request import ForgetRequest
from .facts import name_of_dataset, provenance_of, run_facts
from .files import REQUEST
from .plots import save_figures
from .record import Provenance, write_record
from .report import UnlearningReport, forget_set_report


if TYPE_CHECKING:
    from ..unlearning.trainer import UnlearningTrainer


def write_run_files(
    trainer: "UnlearningTrainer",
    report: UnlearningReport | None,
    request: ForgetRequest | None,
    dataset_name: str | None,
    provenance: Provenance | None,
) -> None:
    """
    Writes the files of a run into its output folder. Must be called on all processes, after the model was saved; only
    the main process writes.

    Args:
        trainer ([`UnlearningTrainer`]):
            A trainer whose `train` has ended.
        report ([`UnlearningReport`] or `None`):
            The measurements; if `None`, the accuracy on the forget set is measured and reported alone.
        request ([`ForgetRequest`] or `None`):
            What was forgotten; `None` if the forget set came without a request.
        dataset_name (`str` or `None`):
            Hub id or path of the dataset; if `None`, it is taken from the request or the dataset.
        provenance ([`~publication.record.Provenance`] or `None`):
            Where the forgotten images and the model come from; if `None`, it is taken from the trainer and its forget
            set.
    """
    if report is None:
        accuracies = {"original": trainer.start, "unlearned": trainer.forget_accuracy()}
        report = forget_set_report(accuracies, len(trainer.train_dataset))
    provenance = provenance or provenance_of(trainer, request)
    report.run = run_facts(trainer, request, dataset_name or name_of_dataset(trainer.source, request), provenance)
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    report.to_json(folder / "report.json")
    save_figures(report, folder / "figures")
    write_record(folder, report, request, provenance)
    trainer.create_model_card()
    if request is not None:
        # The request is never pushed: it can name the forgotten images and who asked.
        request.to_file(folder / REQUEST)
