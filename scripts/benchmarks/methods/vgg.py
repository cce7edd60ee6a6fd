"""
A VGG-like network without BatchNorm for the benchmarks, since transformers has none: importing this file makes it known
to `AutoConfig` and `AutoModelForImageClassification` as the model type `plain_vgg`.
"""

from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class PlainVGGConfig(PreTrainedConfig):
    """
    Args:
        hidden_sizes (`list[int]`, *optional*, defaults to `[32, 64, 128]`):
            Channels of each stage: two 3×3 convolutions with ReLU, then max pooling by two.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the images.
    """

    model_type = "plain_vgg"

    def __init__(self, hidden_sizes=(32, 64, 128), num_channels=3, **kwargs):
        super().__init__(**kwargs)
        self.hidden_sizes = list(hidden_sizes)
        self.num_channels = num_channels


class PlainVGGForImageClassification(PreTrainedModel):
    """Stages of convolutions, the mean over what is left of the image, one hidden layer and a linear head."""

    config_class = PlainVGGConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        stages, channels = [], config.num_channels
        for size in config.hidden_sizes:
            stages.append(
                nn.Sequential(
                    nn.Conv2d(channels, size, 3, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(size, size, 3, padding=1),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
            )
            channels = size
        self.stages = nn.Sequential(*stages)
        self.hidden = nn.Linear(channels, channels)
        self.classifier = nn.Linear(channels, config.num_labels)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)

    def forward(self, pixel_values, labels=None, output_hidden_states=False, **kwargs):
        hidden_states = [pixel_values]
        for stage in self.stages:
            hidden_states.append(stage(hidden_states[-1]))
        features = hidden_states[-1].mean(dim=(2, 3))
        logits = self.classifier(self.hidden(features).relu())
        loss = cross_entropy(logits, labels) if labels is not None else None
        return ImageClassifierOutputWithNoAttention(
            loss=loss, logits=logits, hidden_states=tuple(hidden_states[1:]) if output_hidden_states else None
        )


AutoConfig.register("plain_vgg", PlainVGGConfig)
AutoModelForImageClassification.register(PlainVGGConfig, PlainVGGForImageClassification)
