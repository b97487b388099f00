r"""PIPNet ResNet-18 with 98 points on a GPU: ONNX Runtime beside PyTorch, transfers shown.

    python benchmarks/gpu_rates.py --json gpu_rates.json
    python benchmarks/gpu_rates.py --device cpu --batches 1 2 --rounds 1 --runs 2    # a rehearsal

Times are from uint8 crops in host memory to points in host memory, everything included. Ours is
`LandmarkModel.predict_crops`, with the decoder in numpy and in the graph; more crops than
`landmark_model.MAX_BATCH` go through its network in several runs, as users get it, and in a row of
their own in one. PyTorch normalises and decodes (COMPAT 1.4, all points at a time) on the device;
compiled is all of that. fp32 is fp32 on both sides; PyTorch by itself rounds convolutions to TF32,
which has its own rows.

After each run that counts, its stages are timed one by one, each to its end: their sum is more than
the whole. "in" and "out" are the copies, through page-locked memory where cuda-python (or pycuda)
gives it to ours, always for PyTorch; "device" is what runs on arrays that lie on the device; "host"
is the decoder in numpy.

All of one batch size take turns in one process, every other round backwards. Seeded weights, seeded
noise. "x eager" is how many times as fast as PyTorch eager in fp32: the median over the rounds of
the quotient of the two turns' medians. "same" is the share of points within 0.1 px of its points.

The JSON is written after each batch size, so that a run that is cut off leaves what it has.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import onnxruntime as ort
import torch
import tyro
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "side_by_side"))  # as Python does for the folder

from eager import LANDMARKS, NEIGHBOURS, SEED, decode_batch, made_up_face, opinion_table
from turns import Measured, quotient

from facemark_export.export import export_checkpoint
from facemark_export.making import Form
from facemark_export.networks.normalise import Normalise
from facemark_export.networks.pipnet import build_pipnet
from facemark_export.source import Choices, read_source
from facemark_sdk import BackendError, LandmarkModel, bench
from facemark_sdk.backends import create_backend
from facemark_sdk.backends.cuda import open_cuda
from facemark_sdk.cli.console import write_whole
from facemark_sdk.cli.progress import show_progress
from facemark_sdk.models import resolve_model

Device = Literal["cuda", "cpu"]
Precision = Literal["fp32", "fp16"]
Decode = Literal["numpy", "graph"]
Crops = NDArray[np.uint8]

DECODES: tuple[Decode, ...] = ("numpy", "graph")
OURS, EAGER, COMPILED, REPLAYED = (
    "ONNX Runtime",
    "PyTorch eager",
    "PyTorch compiled",
    "PyTorch compiled, CUDA graphs",
)
REFERENCE = f"{EAGER}, fp32"
PROBE = "pipnet_lite0_68"
"""A bundled model, to see whether the runtime starts before anything is made."""
TOTAL, IN, ON_DEVICE, OUT, HOST = "total", "in", "device", "out", "host"
SAME_PX = 0.1
MIB = 2**20
WIDTH = 140
"""Columns of the output: where it is no terminal, rich would cut the tables to 80."""


def main(
    device: Device = "cuda",
    batches: tuple[int, ...] = (1, 16, 128),
    precisions: tuple[Precision, ...] = ("fp32", "fp16"),
    compiled: bool = True,
    size: int = 256,
    threads: int | None = None,
    rounds: int = 10,
    runs: int = 20,
    work: Path = Path("out/gpu_rates"),
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Measure, and print a table for each batch size.

    Args:
        device: cuda; cpu rehearses the same on the CPU.
        batches: Crops of one call.
        precisions: Of the files, and of PyTorch, whose fp32 always runs.
        compiled: Also PyTorch compiled, which needs a C++ compiler.
        size: Side of the crops in pixels.
        threads: CPU threads of each; None leaves them to it.
        rounds: Turns of each contender.
        runs: Runs of a turn that count.
        work: Folder of the checkpoint and the ONNX files; kept.
        json_file: Write all times here.
    """
    if min(rounds, runs, threads or 1, *batches) < 1:
        sys.exit("gpu_rates: --batches, --threads, --rounds and --runs must be at least 1")
    _require(device)
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True  # ONNX Runtime, too, tries all of cuDNN's ways
    made = _make(work, size, precisions)
    models = {
        key: LandmarkModel(path, backend=device, threads=threads)
        for key, path in made.files.items()
    }
    protocol = bench.Protocol(repeat=rounds * runs, turn=runs)
    content = {
        "kind": "facemark-gpu-rates",
        "machine": bench.describe_machine(),
        "device": device,
        "torch": _describe_torch(device),
        "page_locked": _page_locked(device),
        "size": size,
        "threads": threads,
        "rounds": rounds,
        "runs": runs,
        "same_px": SAME_PX,
        "times": [],
        "not_measured": [],
    }
    console = Console(highlight=False, width=WIDTH)
    for batch in batches:
        crops = np.random.default_rng(SEED).integers(0, 256, (batch, size, size, 3), np.uint8)
        field = _field(made, models, crops, device, precisions, compiled)
        ready, missing = _start(list(field))
        rows = _measured(ready, protocol, batch)
        console.print(_table(f"batch {batch}", rows))
        for name, why in missing.items():
            console.print(f"not measured: {name}: {why}", markup=False)
        content["times"] += rows
        content["not_measured"] += [
            {"batch": batch, "name": name, "why": why} for name, why in missing.items()
        ]
        if json_file is not None:
            write_whole(json_file, (json.dumps(content, indent=2) + "\n").encode())
        del ready
        torch.compiler.reset()  # it compiles for so many batch sizes only, and then no longer
        if device == "cuda":
            torch.cuda.empty_cache()
    machine = content["machine"]
    console.print(f"{', '.join(machine['gpus']) or 'no GPU'}; {machine['cpu']}", markup=False)


def _require(device: Device) -> None:
    """End with one line where the device is not there for both sides."""
    try:
        create_backend(device, resolve_model(PROBE))
    except BackendError as error:
        sys.exit(f"gpu_rates: {error}")
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"gpu_rates: PyTorch {torch.__version__} finds no GPU")


@dataclass(frozen=True)
class Made:
    """The checkpoint, how to read it, and our files of it by precision and decoder."""

    ckpt: Path
    choices: Choices
    files: dict[tuple[Precision, Decode], Path]


def _make(folder: Path, size: int, precisions: Sequence[Precision]) -> Made:
    """Make what is not there yet, from the seed of `side_by_side`."""
    folder.mkdir(parents=True, exist_ok=True)
    ckpt, meanface = folder / "r18.pth", folder / "meanface.txt"
    if not ckpt.exists():
        torch.manual_seed(SEED)
        meanface.write_text(" ".join(f"{value:.6f}" for value in made_up_face().ravel()))
        torch.save(build_pipnet("resnet18", LANDMARKS, NEIGHBOURS).state_dict(), ckpt)
    choices = Choices(meanface=meanface, layout="wflw98", size=size)
    files = {
        (precision, decode): folder / f"r18_98_{size}_{precision}_{decode}.onnx"
        for precision in precisions
        for decode in DECODES
    }
    for (precision, decode), path in show_progress(list(files.items()), "exporting"):
        if not path.exists():
            export_checkpoint(ckpt, path, choices, Form(precision, decode))
    return Made(ckpt, choices, files)


class Contender(Protocol):
    """Crops in host memory to points in host memory, whole and stage by stage.

    Attributes:
        bytes_in: That go to the device in a run.
        bytes_out: That come back.
        network_runs: In how many parts the batch goes through the network.
    """

    bytes_in: int
    bytes_out: int
    network_runs: int

    def points(self) -> NDArray[np.float32]:
        """The whole: (N, L, 2) in crop units."""

    def stages(self) -> dict[str, float]:
        """Milliseconds of each stage, run to its end before the next begins."""


class Ours:
    """`LandmarkModel`; its stages through bindings like `BoundSession`'s, on the same session."""

    def __init__(
        self, model: LandmarkModel, crops: Crops, device: Device, at_once: bool = False
    ) -> None:
        """Bind buffers.

        Args:
            model: Loaded for the device.
            crops: The batch.
            device: Where the buffers are.
            at_once: All crops in one run of the network, however many.
        """
        self._model, self._crops, self._at_once = model, crops, at_once
        batches = [(0, len(crops))] if at_once else model._batches(len(crops))
        parts = [crops[start:end] for start, end in batches]
        self._bound = [_Bound(model._backend._session, part, device) for part in parts]
        outputs = [array for bound in self._bound for array in bound.read().values()]
        self.bytes_in, self.bytes_out = crops.nbytes, sum(array.nbytes for array in outputs)
        self.network_runs = len(parts)

    def points(self) -> NDArray[np.float32]:
        """As users get them, or all at once."""
        if self._at_once:
            return self._model.decode(self._model.infer(self._crops)).points
        return self._model.predict_crops(self._crops).points

    def stages(self) -> dict[str, float]:
        """The copies, the network, and the decoder in numpy or what checks the graph's points."""
        times = dict.fromkeys((IN, ON_DEVICE, OUT, HOST), 0.0)
        for bound in self._bound:
            spent, outputs = _spent(bound.write, bound.run, bound.read)
            spent += _spent(lambda found=outputs: self._model.decode(found))[0]
            for name, value in zip(times, spent, strict=True):
                times[name] += value
        return times


class _Bound:
    """A session with its inputs and outputs on the device; every step ends before it returns."""

    def __init__(self, session: ort.InferenceSession, crops: Crops, device: Device) -> None:
        self._session, self._crops = session, crops
        self._staged = _page_locked_like(crops) if _page_locked(device) else crops
        self._image = ort.OrtValue.ortvalue_from_shape_and_type(crops.shape, np.uint8, device)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("image", self._image)
        self._names = [tensor.name for tensor in session.get_outputs()]
        for name in self._names:
            self._binding.bind_output(name, device)  # allocated by the first run
        self.write()
        self.run()
        self._outputs = self._binding.get_outputs()
        for name, value in zip(self._names, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def write(self) -> None:
        if self._staged is not self._crops:
            np.copyto(self._staged, self._crops)
        self._image.update_inplace(self._staged)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def read(self) -> dict[str, NDArray[np.float32]]:
        return {name: value.numpy() for name, value in zip(self._names, self._outputs, strict=True)}


class PyTorch:
    """A module from uint8 crops to points, on the device."""

    network_runs = 1

    def __init__(
        self, module: Callable[[Tensor], Tensor], crops: Crops, device: Device, tf32: bool
    ) -> None:
        """Reserve memory.

        Args:
            module: On the device, eager or compiled.
            crops: The batch.
            device: Where it runs.
            tf32: Let convolutions round to TF32.
        """
        self._module, self._crops, self._device, self._tf32 = module, crops, device, tf32
        self._staged = _page_locked_like(crops) if device == "cuda" else crops
        self.bytes_in, self.bytes_out = crops.nbytes, len(crops) * LANDMARKS * 2 * 4

    def points(self) -> NDArray[np.float32]:
        """Crops to points, waited for once."""
        return self._to_host(self._run(self._to_device()))

    def stages(self) -> dict[str, float]:
        """The copies and the module."""
        image = points = None

        def write() -> None:
            nonlocal image
            image = self._to_device()
            self._wait()

        def run() -> None:
            nonlocal points
            points = self._run(image)
            self._wait()

        self._wait()
        spent, _ = _spent(write, run, lambda: self._to_host(points))
        return dict(zip((IN, ON_DEVICE, OUT), spent, strict=True))

    def _to_device(self) -> Tensor:
        if self._staged is not self._crops:
            np.copyto(self._staged, self._crops)
        return torch.from_numpy(self._staged).to(self._device, non_blocking=True)

    @torch.inference_mode()
    def _run(self, image: Tensor) -> Tensor:
        torch.backends.cudnn.allow_tf32 = self._tf32
        return self._module(image)

    def _to_host(self, points: Tensor) -> NDArray[np.float32]:
        return points.cpu().numpy()

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


class CropsToPoints(nn.Module):
    """PIPNet between its normalisation and the published decode: (N, L, 2) in crop units."""

    def __init__(self, made: Made, dtype: torch.dtype) -> None:
        super().__init__()
        network, spec = read_source(made.ckpt, made.choices)
        self.normalise, self.network = Normalise(spec.input), network.to(dtype)
        self.dtype, self.side = dtype, spec.input.width
        assert made.choices.meanface is not None
        pairs = opinion_table(np.loadtxt(made.choices.meanface).reshape(-1, 2))
        self.register_buffer("pairs", pairs)

    def forward(self, crops: Tensor) -> Tensor:
        """uint8 BGR crops (N, S, S, 3)."""
        maps = self.network(self.normalise(crops).to(self.dtype))
        return decode_batch([each.float() for each in maps], self.pairs) * self.side


def _field(
    made: Made,
    models: dict[tuple[Precision, Decode], LandmarkModel],
    crops: Crops,
    device: Device,
    precisions: Sequence[Precision],
    compiled: bool,
) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Names and what makes them; the reference is the first."""
    ways: dict[str, dict[str, Any] | None] = {EAGER: None}
    if compiled:
        ways[COMPILED] = {}
        if device == "cuda":
            ways[REPLAYED] = {"mode": "reduce-overhead"}
    for precision in dict.fromkeys(("fp32", *precisions)):
        dtype = torch.float32 if precision == "fp32" else torch.float16
        module = CropsToPoints(made, dtype).eval().to(device)
        for way, options in ways.items():
            # fullgraph: an error where a part would run uncompiled
            function = (
                module
                if options is None
                else torch.compile(module, dynamic=False, fullgraph=True, **options)
            )
            yield f"{way}, {precision}", partial(PyTorch, function, crops, device, tf32=False)
            # what a CUDA graph replays is rounded as when it was recorded
            if precision == "fp32" and device == "cuda" and way != REPLAYED:
                yield f"{way}, TF32", partial(PyTorch, function, crops, device, tf32=True)
    for (precision, decode), model in models.items():
        name = f"{OURS}, {precision}, decode in {decode}"
        yield name, partial(Ours, model, crops, device)
        if len(crops) > model._most:
            yield f"{name}, one run", partial(Ours, model, crops, device, at_once=True)


@dataclass(frozen=True)
class Ready:
    """A contender that has run once."""

    name: str
    contender: Contender
    points: NDArray[np.float32]

    def __call__(self) -> dict[str, float]:
        """One run for `bench.measure`: milliseconds of the whole and of its stages."""
        (total,), _ = _spent(self.contender.points)
        return {TOTAL: total, **self.contender.stages()}


def _start(
    field: Sequence[tuple[str, Callable[[], Contender]]],
) -> tuple[list[Ready], dict[str, str]]:
    """Run each once; and why others cannot."""
    ready, missing = [], {}
    for name, make in show_progress(field, "starting"):
        try:
            contender = make()
            ready.append(Ready(name, contender, contender.points()))
        except Exception as error:  # whatever a compiler or a driver raises is the answer
            if name == REFERENCE:
                raise
            missing[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return ready, missing


def _measured(ready: Sequence[Ready], protocol: bench.Protocol, batch: int) -> list[dict[str, Any]]:
    """A row for each contender, JSON-safe."""
    times = bench.measure(ready, protocol, lambda turns: show_progress(turns, "measuring"))
    by_turn = [_by_turn(each, protocol.turns) for each in times]
    reference = ready[0].points
    return [
        {
            "batch": batch,
            "name": each.name,
            "network_runs": each.contender.network_runs,
            "fps": batch / measured.percentile(50) * 1e3,
            "p50_ms": measured.percentile(50),
            "p95_ms": measured.percentile(95),
            "x_eager": quotient(by_turn[0], measured),
            "same": float((np.abs(each.points - reference).max(2) <= SAME_PX).mean()),
            "stages_ms": {name: measured.inner_median(name) for name in measured.inner},
            "bytes_in": each.contender.bytes_in,
            "bytes_out": each.contender.bytes_out,
            "wall_ms": measured.wall,
        }
        for each, measured in zip(ready, by_turn, strict=True)
    ]


def _by_turn(times: Sequence[dict[str, float]], turns: Sequence[int]) -> Measured:
    ends = list(accumulate(turns, initial=0))
    series = {
        name: [[run[name] for run in times[start:end]] for start, end in pairwise(ends)]
        for name in times[0]
    }
    return Measured("", series.pop(TOTAL), [], series)


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(title, overflow="fold", min_width=24)
    stages = (IN, ON_DEVICE, OUT, HOST)
    headings = ("FPS", "p50 ms", "p95 ms", "x eager", *(f"{name} ms" for name in stages))
    for heading in (*headings, "MiB in", "out", "runs", "same"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        spent = row["stages_ms"]
        table.add_row(
            row["name"],
            f"{row['fps']:.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p95_ms']:.2f}",
            f"{row['x_eager']:.2f}",
            *(f"{spent[name]:.2f}" if name in spent else "-" for name in stages),
            f"{row['bytes_in'] / MIB:.2f}",
            f"{row['bytes_out'] / MIB:.3f}",
            str(row["network_runs"]),
            f"{100 * row['same']:.1f} %",
        )
    return table


def _spent(*steps: Callable[[], Any]) -> tuple[list[float], Any]:
    """Milliseconds of steps done one after the other, and what the last gave."""
    times, result = [], None
    for step in steps:
        start = time.perf_counter()
        result = step()
        times.append((time.perf_counter() - start) * 1e3)
    return times, result


def _page_locked(device: Device) -> bool:
    """Whether our `cuda` backend has page-locked memory for its inputs."""
    try:
        return device == "cuda" and bool(open_cuda())
    except BackendError:
        return False


def _page_locked_like(crops: Crops) -> Crops:
    return torch.empty(crops.shape, dtype=torch.uint8, pin_memory=True).numpy()


def _describe_torch(device: Device) -> dict[str, Any]:
    on_gpu = device == "cuda"
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
    }


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
