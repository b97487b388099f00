"""Decoders inside the graph: each twin agrees with its numpy decoder, through real ONNX files."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from heatmap_samples import BARYCENTRES, KINDS, maps_of, spec_of

from facemark_sdk.decode import DECODERS, find_decoder, make_decoder
from facemark_sdk.decode.pip import nearest_neighbours
from facemark_sdk.errors import ModelError

pytest.importorskip("torch")
pytest.importorskip("onnxslim")

from facemark_export.decode_graph import TWINS, decode_model, make_decode_graph

TOLERANCE_PX = 1e-3
LANDMARKS, NEIGHBOURS, SIDE, GRID, CELLS = 68, 10, 256, 8, 32
ELSEWHERE = {"regression", "offset_value"}  # test_regression_decode, test_offset_decode
IN_GRAPH = sorted(set(DECODERS) - {"graph", *ELSEWHERE})
PARAMS = {
    "pip": {
        "neighbours": nearest_neighbours(
            np.random.default_rng(0).random((LANDMARKS, 2)), NEIGHBOURS
        ).tolist()
    },
    "quarter_shift": {"origin": 0.75},
    "dark": {"origin": 0.5, "blur_sigma": 1.0},
    "local_soft_argmax": {"window": 7, "temperature": 8.0},
    "barycentre": {"temperature": 3.0, "origin": 0.5},
}


def spec_for(decoder):
    spec = spec_of(decoder, **PARAMS.get(decoder, {}))
    return dataclasses.replace(spec, input=dataclasses.replace(spec.input, width=SIDE, height=SIDE))


def shapes_for(decoder):
    shapes = {
        **dict.fromkeys(("cls", "x", "y"), (LANDMARKS, GRID, GRID)),
        **dict.fromkeys(("nb_x", "nb_y"), (LANDMARKS * NEIGHBOURS, GRID, GRID)),
        "heatmaps": (LANDMARKS, CELLS, CELLS),
        "offsets": (LANDMARKS, 8, 8),
        "offset_maps": (2, CELLS, CELLS),
    }
    return {name: shapes[name] for name in DECODERS[decoder].outputs}


@cache
def model_for(decoder):
    return decode_model(spec_for(decoder), shapes_for(decoder))


@cache
def session_for(decoder):
    return ort.InferenceSession(
        model_for(decoder).SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("decoder", IN_GRAPH)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("faces", [1, 3, 17])
def test_the_twin_agrees_with_the_numpy_decoder(decoder, kind, faces):
    rng = np.random.default_rng(faces)
    outputs = {
        name: maps_of(kind, rng, (faces, *shape)) for name, shape in shapes_for(decoder).items()
    }
    expected = make_decoder(spec_for(decoder))(outputs)
    session = session_for(decoder)
    got = dict(
        zip((o.name for o in session.get_outputs()), session.run(None, outputs), strict=True)
    )
    np.testing.assert_allclose(got["points"], expected.points * SIDE, atol=TOLERANCE_PX, rtol=0)
    np.testing.assert_allclose(got["scores"], expected.scores, atol=1e-5)
    assert got["points"].shape == (faces, LANDMARKS, 2)
    assert ("covariances" in got) == (expected.covariances is not None)
    if expected.covariances is not None:
        spread = expected.covariances * SIDE**2
        np.testing.assert_allclose(got["covariances"], spread, rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("decoder", IN_GRAPH)
def test_the_file_is_small_float32_and_of_the_versions_we_promise(decoder):
    model = model_for(decoder)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    types |= {tensor.data_type for tensor in inferred.initializer}
    assert onnx.TensorProto.DOUBLE not in types
    assert model.ByteSize() < 400_000

    assert [entry.name for entry in model.graph.input] == list(DECODERS[decoder].outputs)
    third = ["covariances"] if decoder in BARYCENTRES else []
    assert [entry.name for entry in model.graph.output] == ["points", "scores", *third]
    for entry in (*model.graph.input, *model.graph.output):
        assert entry.type.tensor_type.shape.dim[0].dim_param
        assert entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("decoder", ["argmax", "quarter_shift", "pip", "hih", "offset_map"])
def test_many_ties_go_to_the_lowest_row_major_cell(decoder):
    # Values 0 and 1 alone: half of all cells tie, in vectors and at their ends.
    rng = np.random.default_rng(5)
    outputs = {
        name: rng.integers(0, 2, (8, *shape)).astype(np.float32)
        for name, shape in shapes_for(decoder).items()
    }
    points, _ = session_for(decoder).run(None, outputs)[:2]
    expected = make_decoder(spec_for(decoder))(outputs).points * SIDE
    np.testing.assert_allclose(points, expected, atol=TOLERANCE_PX)


@pytest.mark.parametrize("decoder", IN_GRAPH)
def test_the_graph_decoder_reads_what_the_twin_writes(decoder):
    rng = np.random.default_rng(9)
    outputs = {n: maps_of("bump", rng, (2, *shape)) for n, shape in shapes_for(decoder).items()}
    session = session_for(decoder)
    names = [entry.name for entry in session.get_outputs()]
    spec = dataclasses.replace(
        spec_for(decoder), decoder="graph", decoder_params={"covariances": "covariances" in names}
    )
    got = make_decoder(spec)(dict(zip(names, session.run(None, outputs), strict=True)))
    expected = make_decoder(spec_for(decoder))(outputs)
    np.testing.assert_allclose(got.points, expected.points, atol=1e-5)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)
    assert (got.covariances is None) == (expected.covariances is None)
    if got.covariances is not None:
        np.testing.assert_allclose(got.covariances, expected.covariances, atol=1e-5)


def test_the_graph_decoder_by_hand():
    spec = dataclasses.replace(
        spec_for("argmax"), decoder="graph", decoder_params={"covariances": True}
    )
    decode = make_decoder(spec)
    outputs = {
        "points": np.float32([[[64, 128]]]),
        "scores": np.float32([[1.5]]),
        "covariances": np.float32([[[[16, 0], [0, 4]]]]),
    }
    found = decode(outputs)
    np.testing.assert_array_equal(found.points, [[[0.25, 0.5]]])
    np.testing.assert_array_equal(found.scores, [[1.0]])
    np.testing.assert_allclose(found.covariances[0, 0] * SIDE**2, [[16, 0], [0, 4]])
    assert found.points.dtype == found.scores.dtype == found.covariances.dtype == np.float32
    del outputs["covariances"]
    with pytest.raises(ModelError, match="covariances"):
        decode(outputs)


@pytest.mark.parametrize("width", [0, SIDE])
def test_the_graph_decoder_refuses_unusable_specs(width):
    spec = spec_for("argmax")
    spec = dataclasses.replace(
        spec,
        decoder="graph",
        decoder_params={"covariances": "yes" if width else False},
        input=dataclasses.replace(spec.input, width=width),
    )
    with pytest.raises(ModelError, match="covariances" if width else "fixed input size"):
        make_decoder(spec)


def test_every_decoder_but_graph_has_a_twin():
    assert sorted(TWINS) == sorted([*IN_GRAPH, *ELSEWHERE])
    assert find_decoder(spec_for("graph")).outputs == ("points", "scores")


def test_decoders_without_a_twin_and_wrong_shapes_are_refused():
    with pytest.raises(ModelError, match="cannot go into the graph"):
        make_decode_graph(spec_for("graph"))
    with pytest.raises(ModelError, match="unheard"):
        make_decode_graph(spec_for("unheard"))
    with pytest.raises(ModelError, match="offsets"):
        decode_model(spec_for("hih"), {"heatmaps": (68, 64, 64)})
    anywhere = spec_for("argmax")
    anywhere = dataclasses.replace(
        anywhere, input=dataclasses.replace(anywhere.input, width=0, height=0)
    )
    with pytest.raises(ModelError, match="any input size"):
        make_decode_graph(anywhere)
