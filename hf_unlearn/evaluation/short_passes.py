"""
Passes of several models over the same images, made short: BatchNorm is part of the convolution before it, and what two models
have in common runs once.
"""

from collections.abc import Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..unlearning.compatibility import logits_of
from ..unlearning.early_features import Cut, find_cut
from ..unlearning.layout import laid_out, memory_format
from ..unlearning.precision import in_float32
from .logits_cache import function_of


@contextmanager
def batch_norm_folded(model: nn.Module, pixel_values: torch.Tensor) -> Generator[None, None, None]:
    """
    Meanwhile each BatchNorm that directly follows a convolution is part of it, which saves a pass over its output. The model
    is the same function up to rounding, which is tried and not read off the architecture: where it is not, nothing changes.

    Args:
        model (`nn.Module`): in eval mode.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): any images.
    """
    pairs = find_pairs(model, pixel_values)
    places = {
        module: (parent, name)
        for parent in model.modules()
        for name, module in parent.named_children()
        if any(module in pair for pair in pairs)
    }
    before = logits_of(model(pixel_values=pixel_values), "model", type(model).__name__) if pairs else None
    replaced = {}
    for convolution, norm in pairs:
        replaced |= {convolution: fuse_conv_bn_eval(convolution, norm), norm: nn.Identity()}
    try:
        for module, other in replaced.items():
            parent, name = places[module]
            parent._modules[name] = other
        if before is not None:
            after = logits_of(model(pixel_values=pixel_values), "model", type(model).__name__)
            if not torch.allclose(before, after, rtol=1e-4, atol=1e-4 * before.abs().max().item()):
                put_back(places)
        yield
    finally:
        put_back(places)


def put_back(places: dict[nn.Module, tuple[nn.Module, str]]) -> None:
    for module, (parent, name) in places.items():
        parent._modules[name] = module


def find_pairs(model: nn.Module, pixel_values: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution whose output is the input of a BatchNorm with frozen statistics, both run once, and that BatchNorm."""
    came_from: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    pairs, calls = [], []

    def after(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        calls.append(module)
        if isinstance(module, nn.Conv2d):
            # With the output, so that no other one gets its id.
            came_from[id(output)] = (module, output)
        elif args and id(args[0]) in came_from and module.running_mean is not None:
            pairs.append((came_from[id(args[0])][0], module))

    hooks = [
        module.register_forward_hook(after)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) or type(module) is nn.BatchNorm2d
    ]
    model(pixel_values=pixel_values)
    for hook in hooks:
        hook.remove()
    return [pair for pair in pairs if all(calls.count(module) == 1 for module in pair)]


@dataclass
class Shared:
    """
    What a model has in common with another one.

    Args:
        base (`str`): name of the other one, which runs first.
        split (`nn.Module`, *optional*): of the other one, the first module of the late part; `None` where both are the same.
        cut ([`~unlearning.early_features.Cut`], *optional*): of the model, at the module of the same name.
    """

    base: str
    split: nn.Module | None = None
    cut: Cut | None = None


def find_shared(base: str, models: Mapping[str, nn.Module], name: str, pixel_values: torch.Tensor) -> Shared | None:
    """
    What the model `name` has in common with the model `base`: all, if no weight differs, or all up to the first module whose
    weights do, where the network can be cut before it ([`~unlearning.early_features.find_cut`]). The features there are the
    same to the last bit, for the same weights have made them of the same images. `None` where there is nothing in common.
    """
    one, other = models[base], models[name]
    if type(one) is not type(other) or function_of(one) != function_of(other):
        return None
    weights, others = dict(one.named_parameters()), dict(other.named_parameters())
    states, other_states = one.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    if states.keys() != other_states.keys() or any(states[k].shape != other_states[k].shape for k in states):
        return None
    if any(states[key].device != other_states[key].device for key in states):
        return None
    differ = {key for key in states if not torch.equal(states[key], other_states[key])}
    if not differ:
        return Shared(base)
    if not differ <= weights.keys():
        # A statistic of BatchNorm, for one.
        return None
    required = {key: weight.requires_grad for key, weight in others.items()}
    for key, weight in others.items():
        weight.requires_grad_(key in differ)
    cut = find_cut(other, pixel_values)
    for key, weight in others.items():
        weight.requires_grad_(required[key])
    if cut is None:
        return None
    place = next(key for key, module in other.named_modules() if module is cut.split)
    return Shared(base, one.get_submodule(place), cut)


def is_sharded(model: nn.Module) -> bool:
    """Whether a process has but a part of the weights: by FSDP2, or by DeepSpeed."""
    return any(isinstance(weight, DTensor) or hasattr(weight, "ds_id") for weight in model.parameters())


class ShortPasses:
    """
    Runs models over images, in eval mode. On a CPU they are meanwhile as [`batch_norm_folded`] and
    [`~unlearning.layout.laid_out`] make them: their logits differ from those of the models as they are by rounding.

    Args:
        models (`dict[str, nn.Module]`): by name.
    """

    def __init__(self, models: Mapping[str, nn.Module]):
        self.models = models
        self.shared: dict[str, Shared] = {}
        self.is_prepared = False
        self.stack = ExitStack()

    def __enter__(self) -> "ShortPasses":
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()
        self.shared, self.is_prepared = {}, False

    def prepare(self, pixel_values: torch.Tensor) -> None:
        """Once, with any image of shape `(1, C, H, W)`; all is put back when the `with` ends."""
        self.stack.enter_context(in_float32(*self.models.values()))
        for model in self.models.values():
            self.stack.callback(model.train, model.training)
            model.eval()
            if next(model.parameters()).device.type == "cpu" and not is_sharded(model):
                self.stack.enter_context(batch_norm_folded(model, pixel_values))
                self.stack.enter_context(laid_out(model, memory_format(model, pixel_values)))
        # Weights of which a process has a part can neither be compared nor written.
        names = [name for name, model in self.models.items() if not is_sharded(model)]
        for number, name in enumerate(names):
            image = pixel_values.to(next(self.models[name].parameters()).device)
            for base in names[:number]:
                if base not in self.shared and (found := find_shared(base, self.models, name, image)) is not None:
                    self.shared[name] = found
                    break
        self.is_prepared = True

    @torch.no_grad()
    def logits(self, pixel_values: torch.Tensor, names: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): the images.
            names (`Collection[str]`, *optional*): of the models to run, all by default.

        Returns:
            `dict[str, torch.Tensor]`: the logits of each, of shape `(B, K)`, in float32.
        """
        if not self.is_prepared:
            self.prepare(pixel_values[:1].cpu())
        wanted = [name for name in self.models if names is None or name in names]
        shared = {
            name: self.shared[name] for name in wanted if name in self.shared and self.shared[name].base in wanted
        }
        logits, features = {}, {}
        hooks = [
            of_model.split.register_forward_pre_hook(
                lambda module, args, name=name: features.update({name: args[0]}), prepend=True
            )
            for name, of_model in shared.items()
            if of_model.split is not None
        ]
        try:
            for name in wanted:
                model, of_model = self.models[name], shared.get(name)
                if of_model is None:
                    output = model(pixel_values=pixel_values.to(next(model.parameters()).device))
                    logits[name] = logits_of(output, "model", type(model).__name__).float()
                elif of_model.cut is None:
                    logits[name] = logits[of_model.base]
                else:
                    logits[name] = of_model.cut.late_logits(model, features.pop(name)).float()
        finally:
            for hook in hooks:
                hook.remove()
        return logits
