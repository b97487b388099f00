"""From a checkpoint to a proven ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from facemark_export.graph import ExportGraph
from facemark_export.making import ExportReport, Form, Making, write_report
from facemark_export.onnx_file import network_model
from facemark_export.parity import torch_outputs
from facemark_export.samples import photo_batches, structured_batches
from facemark_export.source import Choices, read_source
from facemark_sdk.errors import CheckpointError
from facemark_sdk.files import replace_file


def export_checkpoint(
    ckpt: Path,
    out: Path,
    choices: Choices | None = None,
    form: Form | None = None,
    *,
    photos: Sequence[Path] = (),
    progress: Callable[[str], None] = lambda stage: None,
) -> ExportReport:
    """Export a checkpoint to one self-describing ONNX file, with its report beside it.

    Args:
        ckpt: What facemark-train wrote, or a published checkpoint (`read_source`).
        out: The ONNX file; ``OUT.report.json`` is written beside it.
        choices: What the checkpoint leaves open.
        form: What the file shall be; fp32 without a decoder by default.
        photos: Real images for the parity check.
        progress: Told what is being done.

    Raises:
        CheckpointError: The checkpoint cannot be read, is of no known kind, or leaves something
            open that `choices` do not say.
        ModelError: A choice is out of range or for another kind of model.
        ParityError: Out of tolerance; nothing is written then.
        PrecisionError: int8 loses more than is allowed; nothing is written then.
        DataError: The form's calibration cannot be used.
        BackendError: AMX is asked for on a CPU without it.
    """
    choices, form = choices or Choices(), form or Form()
    for source in (ckpt, choices.meanface):
        if source is not None and out.exists() and source.exists() and out.samefile(source):
            raise CheckpointError(f"{out} is the source itself; choose another file to write")
    progress("reading the checkpoint")
    network, spec = read_source(ckpt, choices)
    form.check(spec)
    graph = ExportGraph(network, spec).eval()
    images = structured_batches(spec), photo_batches(spec, photos)
    making = Making(out, spec, *images, progress)
    progress("running torch")
    reference = torch_outputs(graph, making.batches)

    def write(temporary: Path) -> None:
        progress("tracing the network")
        model = network_model(graph, spec)
        making.prove("fp32", model, reference, temporary)
        making.write(temporary, model, form, reference, lambda *_: spec)

    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, write)
    write_report(out, {"checkpoint": ckpt.name}, making.report())
    return making.report()
