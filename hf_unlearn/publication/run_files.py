"""Writes what a run leaves beside its model: report, pictures, card, record and, for whoever ran it, the request."""

from pathlib import Path

from ..request.forget_request import ForgetRequest
from .facts import name_of_dataset, provenance_of, run_facts
from .files import REQUEST
from .plots import save_figures
from .record import Provenance, write_record
from .report import UnlearningReport, forget_set_report


def write_run_files(
    trainer,
    report: UnlearningReport | None,
    request: ForgetRequest | None,
    dataset_name: str | None,
    provenance: Provenance | None,
) -> None:
    """
    Called on all processes, after the model was saved; the first one writes.

    Args:
        trainer ([`UnlearningTrainer`]):
            Has been trained.

        For the others see [`~unlearning.publishing.PublishingTrainer.save_report`].
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
        # Stays here: the hub never sees who or what was forgotten.
        request.to_file(folder / REQUEST)
