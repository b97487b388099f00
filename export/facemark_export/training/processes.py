"""Several training processes that share every batch, as ``torchrun`` starts and ends them.

Plain `torch.distributed`: one sum over the gradients a step keeps the processes' weights equal.
DistributedDataParallel (which accelerate wraps, too) wants every output and weight to take part in
every step's loss, which a `Task` does not promise: a curriculum's losses change, and a part of a
batch may hold nothing for one of them.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facemark_export.training.loop_recipe import TrainingError

# The others wait for so long while the first one validates.
_PATIENCE = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: Its number, from 0.
        count: Of the processes.
        device: Where it computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that validates, logs and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values`, contiguous, replaced by their sum over the processes.

        Raises:
            TrainingError: Another process has ended.
        """
        if self.count > 1:
            try:
                dist.all_reduce(values)
            except RuntimeError as error:
                raise TrainingError(
                    f"process {self.rank} stops: another of the {self.count} has ended ({error})"
                ) from None
        return values

    def sum_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its sum; a weight that no process used keeps none."""
        if self.count == 1:
            return
        weights = [p for p in network.parameters() if p.requires_grad]
        sizes = [p.numel() for p in weights]
        used = torch.tensor([float(p.grad is not None) for p in weights], device=self.device)
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        flat = self.sum(torch.cat([*(p.grad.flatten() for p in weights), used]))
        *parts, used = flat.split([*sizes, len(weights)])
        for weight, part, times in zip(weights, parts, used.tolist(), strict=True):
            if times:
                weight.grad.copy_(part.view_as(weight))
            else:
                weight.grad = None

    def wait(self) -> None:
        """Wait until all processes have come so far: the first one's files are written then."""
        self.sum(torch.zeros(1, device=self.device))

    def equalise(self, network: nn.Module) -> None:
        """Give every process the first one's weights and statistics."""
        if self.count == 1:
            return
        for value in network.state_dict().values():
            same = value.contiguous()
            dist.broadcast(same, 0)
            value.copy_(same)


def join(wanted: str) -> Processes:
    """Join the processes that torchrun started; without it, be the only one.

    Args:
        wanted: The recipe's device: auto, cpu or cuda.

    Raises:
        TrainingError: There is no CUDA, or fewer GPUs than processes.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device is cuda, but PyTorch finds no CUDA; use auto or cpu")
    cuda = wanted != "cpu" and torch.cuda.is_available()
    count = int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1
    if count == 1:
        return Processes(0, 1, torch.device("cuda" if cuda else "cpu"))
    device = torch.device("cpu")
    if cuda:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise TrainingError(
                f"process {local} has no GPU: there are {torch.cuda.device_count()}; start as "
                "many processes, or add --device cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    return Processes(dist.get_rank(), dist.get_world_size(), device)


def leave() -> None:
    """End the group that `join` joined, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()
