"""What is exported: pixels in, named outputs out, normalisation and probability in the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facemark_export.networks.normalise import Normalise
from facemark_export.networks.stages import last_stage
from facemark_sdk.decode import find_decoder
from facemark_sdk.detect.retinaface import OUTPUT_NAMES as DETECTION_OUTPUTS
from facemark_sdk.spec import ModelSpec


class ExportGraph(nn.Module):
    """uint8 BGR (N, H, W, 3) to the outputs that the SDK's decoder reads.

    Attributes:
        outputs: Names of the outputs, in order.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.normalise, self.network = Normalise(spec.input), network
        self.family = spec.family
        # Hard-negative mining shows the classifier far fewer backgrounds than photos hold, so its
        # raw scores are too high: the one with the best F1 is made to read 0.5.
        midpoint = float(spec.decoder_params.get("score_midpoint", 0.5))
        self.shift = math.log(midpoint / (1 - midpoint))
        self.outputs = DETECTION_OUTPUTS if spec.task == "detection" else find_decoder(spec).outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The outputs in the order of `outputs`."""
        return self._named(self.network(self.normalise(image)))[: len(self.outputs)]

    def _named(self, outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The network's outputs as decoders read them; a decoder may leave out the last."""
        if isinstance(outputs, Tensor):
            return (last_stage(outputs),)
        if self.family == "retinaface":
            loc, logits, landms = outputs
            return loc, torch.sigmoid(logits[..., 1] - logits[..., 0] - self.shift), landms
        return tuple(last_stage(output) for output in outputs)


def example_image(spec: ModelSpec, batch: int, seed: int = 0) -> Tensor:
    """Random pixels (N, H, W, 3) of the input's size; 256 x 320 where any size is taken."""
    height, width = spec.input.height or 256, spec.input.width or 320
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, height, width, 3), generator=generator, dtype=torch.uint8)
