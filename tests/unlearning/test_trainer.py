import copy

import pytest
import torch
from conftest import CLASSES, make_model
from torch.overrides import TorchFunctionMode
from transformers import TrainerCallback, TrainingArguments

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, UnlearningReport, split_dataset
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.errors import CollapsedModelError, InputError
from hf_unlearn.unlearning.losses import KeyedNoise


@pytest.fixture
def forget_set(dataset):
    """The ten cats."""
    return split_dataset(dataset["train"], ForgetRequest(classes=["cat"]), "label")["forget"]


def make_trainer(model, forget_set, image_processor, tmp_path, **settings):
    settings = {
        "forget_kind": "class", "step_rule": "fixed", "learning_rate": 0.1, "per_device_train_batch_size": 4, "num_perturbations": 2,
        "disable_tqdm": True, "allow_collapse": True, **settings,
    }  # fmt: skip
    return JiTTrainer(
        model=model,
        args=JiTConfig(output_dir=str(tmp_path / "out"), **settings),
        processing_class=image_processor,
        forget_dataset=forget_set,
        label_column="label" if "label" in forget_set.column_names else None,
    )


def test_any_architecture_learns_to_forget_and_keeps_its_statistics(any_model, forget_set, image_processor, tmp_path):
    before = copy.deepcopy(any_model.state_dict())
    make_trainer(any_model, forget_set, image_processor, tmp_path).train()
    after = any_model.state_dict()
    buffers = {name for name, _ in any_model.named_buffers()}
    for name in buffers:
        assert torch.equal(before[name], after[name]), f"{name} moved"
    # JiT leaves the last bias alone: it cancels in f(x) − f(x + ξ).
    moved = [name for name in before.keys() - buffers if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.5 * len(before.keys() - buffers)
    assert not any_model.training


def test_update_is_plain_sgd_on_the_mean_ratio(resnet, forget_set, image_processor, tmp_path):
    """Three updates of 4, 4 and 2 images against a loop written from the definition."""
    model = copy.deepcopy(resnet)
    args = {"train_sampling_strategy": "sequential", "noise_clamp": "none", "sigma": 0.5, "seed": 3}
    make_trainer(resnet, forget_set, image_processor, tmp_path, **args).train()

    images = ImageDataset(forget_set, image_processor)
    for start in (0, 4, 8):
        rows = range(start, min(start + 4, 10))
        total = 0
        for row in rows:
            x = images[row]["pixel_values"][None]
            noise = KeyedNoise(3, [row], x, sigma=0.5)[0:2][:, 0]
            for xi in noise:
                with torch.no_grad():
                    perturbed = model(pixel_values=x + xi).logits
                total = total + (model(pixel_values=x).logits - perturbed).norm() / xi.norm() / 2
        gradients = torch.autograd.grad(total / len(rows), list(model.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    for (name, expected), actual in zip(model.named_parameters(), resnet.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_dropout_is_off(forget_set, image_processor, tmp_path):
    weights = []
    for dropout in (0.0, 0.5):
        model = make_model("vit", hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        make_trainer(model, forget_set, image_processor, tmp_path).train()
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_labels_are_not_needed(resnet, forget_set, image_processor, tmp_path):
    labelled, unlabelled = copy.deepcopy(resnet), copy.deepcopy(resnet)
    make_trainer(labelled, forget_set, image_processor, tmp_path).train()
    trainer = make_trainer(unlabelled, forget_set.select_columns(["image"]), image_processor, tmp_path)
    trainer.train()
    for name, value in labelled.state_dict().items():
        assert torch.equal(value, unlabelled.state_dict()[name]), name
    assert "forget_accuracy" not in trainer.state.log_history[0]


def test_forget_set_may_already_have_pixel_values(resnet, forget_set, image_processor, tmp_path):
    raw, ready = copy.deepcopy(resnet), copy.deepcopy(resnet)
    make_trainer(raw, forget_set, image_processor, tmp_path).train()
    images = ImageDataset(forget_set, image_processor)
    args = JiTConfig(
        output_dir=str(tmp_path), step_rule="fixed", learning_rate=0.1, per_device_train_batch_size=4,
        num_perturbations=2, disable_tqdm=True,
    )  # fmt: skip
    JiTTrainer(
        model=ready, args=args, processing_class=image_processor, forget_dataset=[images[row] for row in range(10)]
    ).train()
    for name, value in raw.state_dict().items():
        assert torch.equal(value, ready.state_dict()[name]), name


def test_each_step_logs_ratio_accuracy_and_distance(resnet, forget_set, image_processor, tmp_path):
    class Reporter(TrainerCallback):
        """What any integration named in `report_to` receives."""

        logs = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.logs.append(dict(logs))

    original = copy.deepcopy(resnet)
    trainer = make_trainer(resnet, forget_set, image_processor, tmp_path, logging_steps=1)
    trainer.add_callback(Reporter)
    trainer.train()
    steps = [entry for entry in Reporter.logs if "loss" in entry]
    assert len(steps) == 3
    for entry in steps:
        assert entry["jit_ratio"] == pytest.approx(entry["loss"], rel=1e-5)
        assert 0 <= entry["forget_accuracy"] <= 1
    moved = sum(((new - old) ** 2).sum() for new, old in zip(resnet.parameters(), original.parameters(), strict=True))
    size = sum((old**2).sum() for old in original.parameters())
    assert steps[-1]["distance_moved"] == pytest.approx((moved / size).sqrt().item(), rel=1e-4)


def test_accuracy_logged_is_that_of_the_model_before_the_step(resnet, forget_set, image_processor, tmp_path):
    images = ImageDataset(forget_set, image_processor)
    pixel_values = torch.stack([images[row]["pixel_values"] for row in range(10)])
    with torch.no_grad():
        expected = (resnet(pixel_values=pixel_values).logits.argmax(-1) == 0).float().mean().item()
    trainer = make_trainer(resnet, forget_set, image_processor, tmp_path, per_device_train_batch_size=10)
    trainer.train()
    assert trainer.state.log_history[0]["forget_accuracy"] == pytest.approx(expected)


def test_evaluation_is_ordinary(resnet, dataset, forget_set, image_processor, tmp_path):
    args = JiTConfig(output_dir=str(tmp_path), disable_tqdm=True)
    trainer = JiTTrainer(
        model=resnet,
        args=args,
        processing_class=image_processor,
        forget_dataset=forget_set,
        eval_dataset={"test": dataset["test"]},
        label_column="label",
    )
    metrics = trainer.evaluate()
    images = ImageDataset(dataset["test"], image_processor)
    pixel_values = torch.stack([images[row]["pixel_values"] for row in range(18)])
    labels = torch.tensor(dataset["test"]["label"][:])
    with torch.no_grad():
        output = resnet(pixel_values=pixel_values, labels=labels)
    assert metrics["eval_test_accuracy"] == pytest.approx((output.logits.argmax(-1) == labels).float().mean().item())
    assert metrics["eval_test_loss"] == pytest.approx(output.loss.item(), rel=1e-4)


def test_weights_that_are_not_finite_are_never_saved(resnet, forget_set, image_processor, tmp_path):
    trainer = make_trainer(resnet, forget_set, image_processor, tmp_path)
    trainer.train()
    with torch.no_grad():
        resnet.classifier[1].weight[0, 0] = float("nan")
    with pytest.raises(CollapsedModelError, match="1 weight tensors are not finite"):
        trainer.save_model()
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_saved_folder_holds_no_pickle(resnet, forget_set, image_processor, tmp_path):
    trainer = make_trainer(resnet, forget_set, image_processor, tmp_path)
    trainer.train()
    trainer.save_model()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json"
    }  # fmt: skip


def test_empty_forget_set_is_an_error(resnet, dataset, image_processor, tmp_path):
    with pytest.raises(InputError, match="forget_dataset: is empty"):
        make_trainer(resnet, dataset["train"].select([]), image_processor, tmp_path)


def test_activation_checkpointing_gives_the_same_weights(forget_set, image_processor, tmp_path):
    weights = []
    # What the field was called before transformers 5.23.
    new, old = "activation_checkpointing", "gradient_checkpointing"
    name = new if new in TrainingArguments.__dataclass_fields__ else old
    for checkpointing in (False, True):
        model = make_model("vit")
        make_trainer(model, forget_set, image_processor, tmp_path, **{name: checkpointing}).train()
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-6, atol=1e-8, msg=name)


def test_label_names_of_the_model_are_used(forget_set, image_processor, tmp_path):
    """The model orders its classes otherwise than the data: cats are its class 2."""
    model = make_model("resnet")
    model.config.id2label, model.config.label2id = {0: "owl", 1: "dog", 2: "cat"}, {"owl": 0, "dog": 1, "cat": 2}
    assert CLASSES[0] == "cat"
    trainer = make_trainer(model, forget_set, image_processor, tmp_path)
    assert {item["labels"] for item in (trainer.train_dataset[row] for row in range(10))} == {2}


def change(trained, original):
    """All weights' change as one vector."""
    pairs = zip(trained.parameters(), original.parameters(), strict=True)
    return torch.cat([(new - old).detach().flatten() for new, old in pairs])


def test_bf16_moves_the_weights_the_same_way(resnet, forget_set, image_processor, tmp_path):
    """bf16 has 8 bits of mantissa: outputs err by 0.4 %, differences of near outputs by more."""
    changes = []
    for bf16 in (False, True):
        model = copy.deepcopy(resnet)
        make_trainer(model, forget_set, image_processor, tmp_path, sigma=2.0, bf16=bf16).train()
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        changes.append(change(model, resnet))
    assert torch.cosine_similarity(*changes, dim=0) > 0.95


def test_compiled_model_gives_the_same_weights(resnet, forget_set, image_processor, tmp_path):
    changes = []
    for compiled in (False, True):
        model = copy.deepcopy(resnet)
        make_trainer(model, forget_set, image_processor, tmp_path, torch_compile=compiled).train()
        changes.append(change(model, resnet))
    # Fused kernels round otherwise: float32 differences of near outputs.
    torch.testing.assert_close(*changes, rtol=1e-3, atol=1e-6)


def test_adapter_moves_and_its_base_stays(forget_set, image_processor, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base = make_model("vit")
    model = get_peft_model(copy.deepcopy(base), LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                # An adapter starts as the identity; a trained one is not.
                parameter.normal_(std=0.1)
    before = copy.deepcopy(model.state_dict())
    trainer = make_trainer(model, forget_set, image_processor, tmp_path)
    trainer.train()
    adapter = [name for name in before if "lora_" in name]
    assert adapter and all(not torch.equal(before[name], model.state_dict()[name]) for name in adapter)
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in before.keys() - set(adapter))
    assert trainer.distance_moved() > 0

    trainer.save_model()
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "out")
    x = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    torch.testing.assert_close(loaded.eval()(pixel_values=x).logits, model.eval()(pixel_values=x).logits)
    # The base was never stored: its configuration does not say what it is.
    trainer.save_report()
    report = UnlearningReport.from_json(tmp_path / "out" / "report.json")
    assert report.run["architecture"] == "ViTForImageClassification"


class Reads(TorchFunctionMode):
    """Notes what brings a value of a tensor to Python: on a GPU each waits until the device is done."""

    names = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")

    def __init__(self):
        super().__init__()
        self.seen, self.in_updates = [], False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if self.in_updates and function.__name__ in self.names:
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


class NoteUpdates(TrainerCallback):
    """Has reads noted from the first update to the end of the third, before anything is logged."""

    def __init__(self, reads):
        self.reads = reads

    def on_step_begin(self, args, state, control, **kwargs):
        self.reads.in_updates = True

    def on_step_end(self, args, state, control, **kwargs):
        self.reads.in_updates = state.global_step < 3


@pytest.mark.parametrize("settings", [{"step_rule": "fixed", "learning_rate": 1e-3}, {"forget_kind": "subclass"}])
def test_updates_wait_for_no_value_of_the_device(settings, resnet, dataset, image_processor, tmp_path):
    reads = Reads()
    args = JiTConfig(
        output_dir=str(tmp_path), num_perturbations=3, per_device_train_batch_size=4, disable_tqdm=True,
        allow_collapse=True, **settings,
    )  # fmt: skip
    forget = dataset["train"].select(range(12))
    jit_trainer = JiTTrainer(model=resnet, args=args, processing_class=image_processor, forget_dataset=forget)
    jit_trainer.add_callback(NoteUpdates(reads))
    with reads:
        jit_trainer.train()
        assert jit_trainer.state.global_step == 3 and reads.seen == []
        # What would be noted.
        reads.in_updates = True
        torch.ones(1).item()
    assert reads.seen == ["item"]


@pytest.mark.parametrize(
    ("settings", "logged"),
    [({"logging_steps": 2}, [2, 4]), ({"logging_steps": 3, "logging_first_step": True}, [1, 3])],
)
def test_gradient_norm_is_computed_for_log_lines_alone(
    settings, logged, resnet, dataset, image_processor, tmp_path, monkeypatch
):
    args = JiTConfig(
        str(tmp_path), step_rule="fixed", learning_rate=1e-6, num_train_epochs=4, use_cpu=True, **settings
    )
    forget = dataset["train"].select(range(8))
    jit_trainer = JiTTrainer(resnet, args, processing_class=image_processor, forget_dataset=forget)
    norms, clip = [], jit_trainer.accelerator.clip_grad_norm_
    monkeypatch.setattr(
        jit_trainer.accelerator, "clip_grad_norm_", lambda *args: norms.append(clip(*args)) or norms[-1]
    )
    jit_trainer.train()
    found = {entry["step"]: entry["grad_norm"] for entry in jit_trainer.state.log_history if "grad_norm" in entry}
    assert found == dict(zip(logged, [norm.item() for norm in norms], strict=True))


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_nothing_is_pushed_during_a_run(strategy, tmp_path):
    """The Trainer would push all of the folder, with the salt and the request of an earlier run."""
    with pytest.raises(InputError, match=f"hub_strategy: got '{strategy}'. Valid: end"):
        JiTConfig(str(tmp_path), hub_strategy=strategy)
