"""Attention by matrix products, of passes in bfloat16 on a CPU: where it is used, and that it is attention."""

import types

import pytest
import torch
from conftest import make_model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.unlearning import attention


def make_inputs(positions=17, dtype=torch.bfloat16, heads_of_keys=2):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, heads, positions, 8) for heads in (2, heads_of_keys, heads_of_keys)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.fixture
def encoder():
    """What the function is told of the layer: one of images, in which each position sees all."""
    return types.SimpleNamespace(is_causal=False, num_key_value_groups=1)


@pytest.fixture
def fused_calls(monkeypatch):
    """Calls that go to the library's own function."""
    calls, fused = [], attention.sdpa_attention_forward

    def spy(*args, **kwargs):
        calls.append(1)
        return fused(*args, **kwargs)

    monkeypatch.setattr(attention, "sdpa_attention_forward", spy)
    return calls


def test_it_is_the_mean_of_values_weighed_by_the_softmax_of_products(encoder, fused_calls):
    query, key, value = make_inputs()
    output, _ = attention.softmax_of_products(encoder, query, key, value, None, scaling=0.3)
    scores = torch.einsum("bhqd,bhkd->bhqk", query.double(), key.double()) * 0.3
    expected = torch.einsum("bhqk,bhkd->bqhd", scores.exp() / scores.exp().sum(-1, keepdim=True), value.double())
    assert not fused_calls
    # Query, scores, weights and output are rounded to 8 bits of mantissa; a score of 5 errs by 0.01.
    torch.testing.assert_close(output.double(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("inputs", "settings"),
    [
        ({"dtype": torch.float32}, {}),
        ({"positions": 33}, {}),
        ({"heads_of_keys": 1}, {}),
        ({}, {"attention_mask": torch.ones(1, 1, 17, 17, dtype=torch.bool).tril()}),
        ({}, {"is_causal": True}),
        ({}, {"dropout": 0.1}),
        ({}, {"scaling": None}),
        ({}, {"position_bias": torch.zeros(1, 2, 17, 17, dtype=torch.bfloat16)}),
    ],
    ids=["float32", "positions", "shared keys", "mask", "causal", "dropout", "no scaling", "bias"],
)
def test_what_is_more_than_plain_attention_is_left_to_the_library(encoder, fused_calls, inputs, settings):
    encoder.num_key_value_groups = 2 // inputs.get("heads_of_keys", 2)
    settings = {"attention_mask": None, "scaling": 0.3, **settings}
    outputs = []
    for function in (attention.softmax_of_products, ALL_ATTENTION_FUNCTIONS["sdpa"]):
        torch.manual_seed(0)
        outputs.append(function(encoder, *make_inputs(**inputs), **settings)[0])
    assert len(fused_calls) == 1
    assert torch.equal(*outputs)


def test_a_gradient_is_left_to_the_library(encoder, fused_calls):
    query, key, value = make_inputs()
    attention.softmax_of_products(encoder, query.requires_grad_(), key, value, None, scaling=0.3)
    assert len(fused_calls) == 1


@pytest.mark.parametrize(("bf16_perturbations", "autocast"), [(False, False), (True, False), (False, True)])
def test_perturbed_passes_in_bf16_take_it_and_no_other(
    fused_calls, dataset, image_processor, tmp_path, monkeypatch, bf16_perturbations, autocast
):
    """`autocast` is what the Trainer puts around its model with `--bf16`."""
    model, by_products, softmax = make_model("vit"), [], torch.Tensor.softmax
    args = JiTConfig(
        str(tmp_path), step_rule="fixed", num_perturbations=3, use_cpu=True, bf16_perturbations=bf16_perturbations
    )
    trainer = JiTTrainer(model, args, processing_class=image_processor, forget_dataset=dataset["train"])
    trainer.answers = torch.zeros(30, dtype=torch.long)
    batch = next(iter(trainer.get_train_dataloader()))
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    monkeypatch.setattr(
        torch.Tensor, "softmax", lambda *args, **named: by_products.append(1) or softmax(*args, **named)
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        trainer.compute_loss(model, batch, num_items_in_batch=8)
    # Perturbations are joined to one pass, in which each layer attends once; the clean pass asks for neither.
    layers = model.config.num_hidden_layers
    assert (len(by_products), len(fused_calls)) == ((layers, 0) if bf16_perturbations or autocast else (0, layers))
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before


def test_after_an_error_attention_is_the_librarys_again():
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with pytest.raises(ZeroDivisionError), attention.attention_by_products():
        raise ZeroDivisionError
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
