"""Ends of networks other than one linear layer on one row: two heads, heads on a token, and what cannot be cut."""

import pytest
import torch
from conftest import LABELS, make_split
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    LevitConfig,
    LevitForImageClassificationWithTeacher,
    PerceiverConfig,
    PerceiverForImageClassificationLearned,
    PvtConfig,
    PvtForImageClassification,
    SwiftFormerConfig,
    SwiftFormerForImageClassification,
    ViTImageProcessor,
)

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.commands.main import main
from hf_unlearn.unlearning.early_features import find_cut
from hf_unlearn.unlearning.head_edit import find_head, find_heads, head_inputs, head_weight, put_head
from hf_unlearn.unlearning.step_size import last_stage_and_head


def deit():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return DeiTForImageClassificationWithTeacher(DeiTConfig(image_size=32, patch_size=8, **sizes, **LABELS))


def levit():
    return LevitForImageClassificationWithTeacher(LevitConfig(image_size=64, **LABELS))


def swiftformer():
    return SwiftFormerForImageClassification(
        SwiftFormerConfig(image_size=64, depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32], **LABELS)
    )


def perceiver():
    return PerceiverForImageClassificationLearned(
        PerceiverConfig(
            num_latents=8, d_latents=16, d_model=32, num_blocks=1, num_self_attends_per_block=1,
            num_self_attention_heads=2, num_cross_attention_heads=1, image_size=32, **LABELS,
        )
    )  # fmt: skip


def pvt():
    """Its last stage has one block: what comes before the cut goes into a gradient, by a factor of zero."""
    return PvtForImageClassification(
        PvtConfig(
            image_size=32, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4],
            mlp_ratios=[2, 2, 2, 2], **LABELS,
        )
    )  # fmt: skip


SIZES = {deit: 32, levit: 64, swiftformer: 64, perceiver: 32, pvt: 32}


def built(make):
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize(("make", "number"), [(deit, 2), (levit, 2), (swiftformer, 2), (perceiver, 1), (pvt, 1)])
def test_heads_as_one_matrix_give_the_logits(make, number):
    model, images = built(make), torch.randn(3, 3, SIZES[make], SIZES[make])
    heads = find_heads(model, images[:1])
    assert len(heads) == number and (find_head(model, images[:1]) is None) == (number == 2)
    weight = head_weight(heads)
    for matrix in (weight, weight + 0.1 * torch.randn_like(weight)):
        put_head(heads, matrix)
        with torch.no_grad(), head_inputs(heads) as seen:
            logits = model(pixel_values=images).logits
        features = torch.nn.functional.pad(seen.pop().double(), (0, 1), value=1.0)
        # Tolerance of float32.
        torch.testing.assert_close((features @ matrix.T).float(), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", SIZES)
def test_cut_gives_the_gradients_of_the_whole_pass(make):
    model, images = built(make), torch.randn(2, 3, SIZES[make], SIZES[make])
    moving = last_stage_and_head(model, images[:1])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in moving)
    cut = find_cut(model, images[:1])
    if cut is None:
        pytest.skip("no module at which it can be cut: every pass is a whole one")
    seen = []
    hook = cut.split.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    whole = model(pixel_values=images).logits
    hook.remove()
    late = cut.late_logits(model, seen[0])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for one, other in zip(
        torch.autograd.grad(whole.square().sum(), parameters, allow_unused=True),
        torch.autograd.grad(late.square().sum(), parameters, allow_unused=True),
        strict=True,
    ):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", SIZES)
def test_single_images_are_forgotten_by_the_heads_alone(make, tmp_path):
    model = built(make)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    heads = find_heads(model, torch.randn(1, 3, SIZES[make], SIZES[make]))
    own = {id(parameter) for head in heads for parameter in head.parameters()}
    size = {"height": SIZES[make], "width": SIZES[make]}
    # Without labels the classes to lose are the model's own answers, which it gives to all images before.
    forget = make_split(12, seed=0).select_columns(["image"])
    config = JiTConfig(
        str(tmp_path),
        forget_kind="images",
        moving_weights="head",
        forget_target=0.5,
        disable_tqdm=True,
        allow_collapse=True,
    )
    trainer = JiTTrainer(model, config, processing_class=ViTImageProcessor(size=size), forget_dataset=forget)
    trainer.train()
    assert trainer.args.moving_weights == "head" and trainer.step.kind == "head"
    assert trainer.step.start == 1 and trainer.step.accuracy <= 0.5
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved and all(id(dict(model.named_parameters())[name]) in own for name in moved)


@pytest.mark.parametrize("make", [deit, levit, perceiver])
def test_command_knows_architectures_with_several_classes(make, saved_dataset, tmp_path):
    """transformers lists several image classifiers for each of them."""
    built(make).save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": SIZES[make], "width": SIZES[make]}).save_pretrained(tmp_path / "model")
    flags = ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", saved_dataset, "--forget_class", "cat"]
    flags += ["--output_dir", str(tmp_path / "out"), "--allow_collapse", "--disable_tqdm", "True"]
    assert main(["run", *flags]) == 0
    assert main(["record", "verify", str(tmp_path / "out")]) == 0
