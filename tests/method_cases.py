"""A tiny unlearning run of any method, and what the definitions in the tests compare it with."""

import torch
from conftest import make_model, make_split
from transformers import ViTImageProcessorPil

from hf_unlearn.methods import load_method


FORGET_SET, RETAIN_SET = make_split(6, seed=0), make_split(9, seed=1)


def image_processor():
    return ViTImageProcessorPil(size={"height": 16, "width": 16})


def make_trainer(method: str, folder, architecture: str = "resnet", retain=None, forget=FORGET_SET, **settings):
    """
    A trainer of the method on the CPU, in one batch per update unless the settings say otherwise, in the order of the
    images, with the guard off: destroying the model may be what the definition asks for.
    """
    config_class, trainer_class = load_method(method)
    settings = {
        "forget_kind": "class",
        "per_device_train_batch_size": 16,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "allow_collapse": True,
        "disable_tqdm": True,
        "use_cpu": True,
        **settings,
    }
    if trainer_class.needs_retain and retain is None:
        retain = RETAIN_SET
    return trainer_class(
        model=make_model(architecture),
        args=config_class(output_dir=str(folder), **settings),
        processing_class=image_processor(),
        forget_dataset=forget,
        retain_dataset=retain,
        label_column="label" if "label" in forget.column_names else None,
    )


def tensors(split) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values and labels of a split, as the model sees them."""
    pixel_values = image_processor()(list(split["image"]), return_tensors="pt")["pixel_values"]
    return pixel_values, torch.tensor(split["label"])


def sgd_step(model, loss: torch.Tensor, learning_rate: float) -> None:
    """θ ← θ − η ∇loss, by hand."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= learning_rate * gradient


def assert_same_weights(model, expected, tolerance: float = 1e-5) -> None:
    """Equal to a relative 1e-5 per tensor: float32 sums in another order differ by about 1e-7 per operation."""
    expected = expected.state_dict()
    for name, tensor in model.state_dict().items():
        difference = (tensor.double() - expected[name].double()).norm()
        assert difference <= tolerance * expected[name].double().norm(), f"{name}: {difference}"


def image_gradients(model, objective):
    """The gradient of each image's objective, one image at a time, by name of the weights."""
    for number in objective:
        gradients = torch.autograd.grad(number, list(model.parameters()), retain_graph=True, allow_unused=True)
        yield {
            name: torch.zeros_like(parameter) if gradient is None else gradient
            for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True)
        }
