"""What comes after training: the model is saved whole, and published with its report, card and record."""

import shutil
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, Trainer
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..errors import CollapsedModelError, SaveError
from ..publication.hub import push_folder
from ..publication.model_card import write_model_card
from ..publication.record import Provenance, reseal
from ..publication.run_files import write_run_files
from ..request.forget_request import ForgetRequest
from .config import UnlearningConfig
from .precision import cast, in_types


if TYPE_CHECKING:
    from ..publication.report import UnlearningReport
    from .compatibility import ImageClassifier
    from .trainer import UnlearningTrainer


class PublishingTrainer(Trainer):
    """
    A [`~transformers.Trainer`] that writes models whole or not at all, and publishes them.

    State, beside that of the base class; nothing else changes it:

    - `saved_in_16_bits`: the parameters and buffers that are saved in 16 bits, with their types; set when the weights
      have been rounded, see [`~unlearning.original.round_weights`].
    - `has_report`, `is_saved`: whether `output_dir` has the report and the model of this training; set by saving, and
      unset when training begins.
    - `_checkpoint_dir`: where a checkpoint is written before it is moved to its place; `None` in between.
    """

    args: UnlearningConfig
    model: "ImageClassifier"
    model_wrapped: nn.Module
    request: ForgetRequest | None

    def __init__(self, *args: Any, **kwargs: Any):
        self.saved_in_16_bits: dict[str, torch.dtype] = {}
        self.has_report = self.is_saved = False
        self._checkpoint_dir: Path | None = None
        super().__init__(*args, **kwargs)

    # ---- Saving ----

    def weights_as_saved(self) -> dict[str, torch.Tensor]:
        """
        All parameters and buffers in the types in which they are saved, put together where they are sharded over
        processes; called on all of them. The main process gets them, the others may get none.
        """
        model = self.model_wrapped if self.is_deepspeed_enabled else self.model
        return in_types(self.accelerator.get_state_dict(model) or {}, self.saved_in_16_bits)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        plugin = typing.cast(Any, getattr(self.accelerator.state, "fsdp_plugin", None))
        if plugin is not None and "SHARDED" in str(plugin.state_dict_type):
            # transformers writes no model then, and says nothing.
            self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
        # On every process, also those that write nothing.
        self.is_saved = self.is_saved or output_dir in (None, self.args.output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Writes the model aside first and then moves it, so that no interruption leaves what looks like a model."""
        if not self.args.should_save:
            return
        if getattr(self.model.config, "model_args", {}) is None:
            # A timm model: timm itself reads no configuration that says `null` here.
            self.model.config.model_args = {}
        check_finite(state_dict if state_dict is not None else dict(self.model.named_parameters()))
        folder = Path(output_dir or self.args.output_dir)
        aside = folder / "incomplete"
        shutil.rmtree(aside, ignore_errors=True)
        cast(self.model, self.saved_in_16_bits)
        try:
            super()._save(str(aside), state_dict)
        except (OSError, SafetensorError) as error:
            raise SaveError(f"the model could not be written to {folder}: {error}") from error
        finally:
            cast(self.model, dict.fromkeys(self.saved_in_16_bits, torch.float32))
        # A pickle, which nobody needs: the report holds every setting.
        (aside / "training_args.bin").unlink()
        move_model(aside, folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes the checkpoint aside first, for the same reason."""
        folder = Path(self.args.output_dir)
        self._checkpoint_dir = folder / "incomplete"
        if self.args.should_save:
            shutil.rmtree(self._checkpoint_dir, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            shutil.rmtree(folder / name, ignore_errors=True)
            (self._checkpoint_dir / name).rename(folder / name)
            shutil.rmtree(self._checkpoint_dir)
            rotate_checkpoints(str(folder), self.args.save_total_limit)
        self._checkpoint_dir = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # transformers 5.23 saves some models (ViT) under older weight names, which its Trainer does not translate when
        # it resumes: the weights stay as they are, with a warning. `from_pretrained` does translate them.
        if isinstance(self.model, PreTrainedModel) and not self.is_fsdp_enabled:
            saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
            self.model.load_state_dict(saved.state_dict())
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        optimizer = getattr(self.optimizer, "optimizer", None)
        has_state = type(optimizer) is not torch.optim.SGD or any(
            group["momentum"] for group in optimizer.param_groups
        )
        if checkpoint is None or has_state or not self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # torch 2.13 raises an error for an optimizer on sharded weights that has nothing to load but its learning rate.
        scheduler = typing.cast(LRScheduler, self.lr_scheduler)
        scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._checkpoint_dir) if self._checkpoint_dir else super()._get_output_dir(trial)

    # ---- Publishing ----

    def save_report(
        self,
        report: "UnlearningReport | None" = None,
        request: ForgetRequest | None = None,
        dataset_name: str | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        """
        Writes the model, if that was not done, `report.json`, the pictures, the model card and the record into
        `output_dir`, after training.

        Args:
            report ([`UnlearningReport`], *optional*):
                What [`evaluate_unlearning`] returned. Without it, the accuracy on the forget set is all that is known.
            request ([`ForgetRequest`], *optional*, defaults to that of the trainer):
                What was forgotten; the card describes it in words that name no record.
            dataset_name (`str`, *optional*):
                Hub id or path of the dataset, defaults to what the request or the dataset itself says.
            provenance ([`Provenance`], *optional*):
                Where the images and the model come from. Without it, the record holds what the forget set says.
        """
        if not self.is_saved:
            self.save_model(_internal_call=True)
        # No other class stands on this one.
        trainer = typing.cast("UnlearningTrainer", self)
        write_run_files(trainer, report, request or self.request, dataset_name, provenance)
        self.has_report = True

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        # Nothing is created on the hub before there is something to push.
        self.hub_model_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.push_in_progress = None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes `README.md` from the report in `output_dir`, and its hash into the record."""
        write_model_card(self.args.output_dir, self.hub_model_id or self.args.hub_model_id)
        reseal(self.args.output_dir)

    def push_to_hub(  # ty: ignore[incompatible-method-override]  of a pull request there is an address, no commit
        self,
        commit_message: str = "Unlearned model",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        tag: str | None = None,
        **kwargs: Any,
    ) -> str | None:
        """
        Saves the model and pushes weights, config, image processor, card, report and pictures in one commit.

        Args:
            commit_message (`str`, *optional*):
                Message of the commit.
            blocking (`bool`, *optional*, defaults to `True`):
                Of [`~transformers.Trainer.push_to_hub`]; a push is always waited for.
            token (`str`, *optional*):
                Token with write permission, defaults to `args.hub_token`, then to the one of the login.
            revision (`str`, *optional*):
                Branch to push to, defaults to `args.hub_revision`, then to the main branch.
            private (`bool`, *optional*):
                Whether a new repository is private, defaults to `args.hub_private_repo`.
            create_pr (`bool`, *optional*, defaults to `False`):
                Whether to open a pull request.
            tag (`str`, *optional*):
                Name to give to the commit.

        Returns:
            `str`: URL of the commit or the pull request; `None` on every process but the first.

        Raises:
            [`HubPushError`]: if the hub fails. Everything is on disk then.
        """
        self.save_model(_internal_call=True)
        if not self.has_report:
            self.save_report()
        if not self.is_world_process_zero():
            return None
        self.init_hf_repo()
        self.create_model_card()
        return push_folder(
            self.args.output_dir,
            typing.cast(str, self.hub_model_id),
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            create_pr=create_pr,
            tag=tag,
        )


def check_finite(weights: dict[str, torch.Tensor]) -> None:
    """
    Raises:
        [`CollapsedModelError`]: if a weight is NaN or infinite; such a model is never written.
    """
    broken = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if broken:
        raise CollapsedModelError(
            f"{len(broken)} weight tensors are not finite after unlearning (first: {broken[0]}); nothing is saved. "
            "The step is too large."
        )


def move_model(aside: Path, folder: Path) -> None:
    """
    Moves a model that was written aside into its place. What `from_pretrained` looks for first, the configuration of
    the model or adapter, goes first and comes last: at no moment does the folder hold one without its weights.
    """
    configurations = ("config.json", "adapter_config.json")
    for name in configurations:
        (folder / name).unlink(missing_ok=True)
    names = {path.name for path in aside.iterdir()}
    for stale in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]:
        if stale.name not in names:
            stale.unlink()
    for name in sorted(names, key=lambda name: name in configurations):
        (aside / name).replace(folder / name)
    aside.rmdir()
