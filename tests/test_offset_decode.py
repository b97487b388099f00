"""Decoders of regressed offsets (HIH, appendix) against plain loops, and the values' twin."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import CROP, graph, save
from heatmap_samples import KINDS, maps_of, spec_of
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from facemark_sdk import LandmarkModel
from facemark_sdk.decode import DECODERS, make_decoder
from facemark_sdk.errors import ModelError

SIDE, LANDMARKS = 128, 68


def loop_peak(values):
    best, cell = -np.inf, (0, 0)
    for r in range(len(values)):
        for c in range(len(values[0])):
            if values[r, c] > best:
                best, cell = values[r, c], (c, r)
    return cell, best


def drawn(kind, faces, landmarks, size, seed=0):
    """Heatmaps of a kind, offset maps and offset values."""
    rng = np.random.default_rng(seed)
    return {
        "heatmaps": maps_of(kind, rng, (faces, landmarks, *size)),
        "offset_maps": rng.normal(0.5, 0.5, (faces, 2, *size)).astype(np.float32),
        "offset_values": rng.normal(0.5, 0.5, (faces, landmarks, 2)).astype(np.float32),
    }


@pytest.mark.parametrize("decoder", ["offset_map", "offset_value"])
@pytest.mark.parametrize("kind", KINDS)
def test_batched_decode_equals_the_plain_loop(decoder, kind):
    height, width = 6, 9
    outputs = drawn(kind, 3, 5, (height, width))
    found = make_decoder(spec_of(decoder))(outputs)
    for n in range(3):
        for k in range(5):
            (c, r), best = loop_peak(outputs["heatmaps"][n, k])
            if decoder == "offset_map":
                dx, dy = outputs["offset_maps"][n, :, r, c]
            else:
                dx, dy = outputs["offset_values"][n, k]
            expected = [(c + dx) / width, (r + dy) / height]
            np.testing.assert_allclose(found.points[n, k], expected, atol=1e-6)
            assert found.scores[n, k] == np.clip(best, 0, 1)
    assert found.points.dtype == found.scores.dtype == np.float32
    assert found.covariances is None


def test_landmarks_that_peak_in_one_cell_share_its_offset_in_the_map_only():
    heatmaps = np.zeros((1, 2, 4, 4), np.float32)
    heatmaps[0, :, 2, 1] = 0.9, 0.8
    maps = np.zeros((1, 2, 4, 4), np.float32)
    maps[0, :, 2, 1] = 0.25, 0.75
    found = make_decoder(spec_of("offset_map"))({"heatmaps": heatmaps, "offset_maps": maps})
    np.testing.assert_allclose(found.points[0], [[1.25 / 4, 2.75 / 4]] * 2)
    values = np.float32([[[0.25, 0.75], [0.5, 0.0]]])
    found = make_decoder(spec_of("offset_value"))({"heatmaps": heatmaps, "offset_values": values})
    np.testing.assert_allclose(found.points[0], [[1.25 / 4, 2.75 / 4], [1.5 / 4, 2.0 / 4]])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([4, 7, 32]))
def test_true_offsets_give_the_points_back(seed, faces, side):
    rng = np.random.default_rng(seed)
    places = rng.permutation(side * side)[:8]  # no two landmarks in one cell
    cells = np.stack((places % side, places // side), -1)
    within = rng.random((faces, 8, 2)).astype(np.float32)
    heatmaps = np.zeros((faces, 8, side, side), np.float32)
    heatmaps[:, np.arange(8), cells[:, 1], cells[:, 0]] = 1
    maps = np.zeros((faces, 2, side, side), np.float32)
    maps[:, :, cells[:, 1], cells[:, 0]] = within.swapaxes(1, 2)
    outputs = {"heatmaps": heatmaps, "offset_maps": maps, "offset_values": within}
    for decoder in ("offset_map", "offset_value"):
        found = make_decoder(spec_of(decoder))(outputs)
        np.testing.assert_allclose(found.points, (cells + within) / side, atol=1e-6)
        np.testing.assert_array_equal(found.scores, np.ones((faces, 8)))


def test_no_faces_give_no_points():
    for decoder in ("offset_map", "offset_value"):
        found = make_decoder(spec_of(decoder))(drawn("noise", 0, 5, (8, 8)))
        assert found.points.shape == (0, 5, 2)
        assert found.scores.shape == (0, 5)


@pytest.mark.parametrize(
    ("decoder", "output", "shape"),
    [
        *(
            ("offset_map", "offset_maps", shape)
            for shape in ((1, 2, 4, 4), (3, 1, 4, 4), (3, 2, 4, 1), (3, 2, 8, 8), (3, 1, 2, 4, 4))
        ),
        *(
            ("offset_value", "offset_values", shape)
            for shape in ((1, 5, 2), (3, 1, 2), (3, 5, 1), (3, 2, 5), (2,), (3, 1, 5, 2))
        ),
    ],
)
def test_offsets_of_another_shape_are_refused(decoder, output, shape):
    """Rather than stretched or cut to fit."""
    outputs = {"heatmaps": np.zeros((3, 5, 4, 4), np.float32), output: np.zeros(shape, np.float32)}
    with pytest.raises(ValueError, match=rf"{output} should be \(3, "):
        make_decoder(spec_of(decoder))(outputs)


@pytest.mark.parametrize(
    ("decoder", "output", "shape"),
    [("offset_map", "offset_maps", (2, 4, 4)), ("offset_value", "offset_values", (LANDMARKS, 2))],
)
def test_a_model_says_which_of_its_outputs_is_misshapen(tmp_path, decoder, output, shape):
    maps = {"heatmaps": (1, LANDMARKS, 4, 4), output: (1, *shape)}
    constants = {f"{name}_0": np.zeros(sides, np.float32) for name, sides in maps.items()}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["mean"], ["any"], axes=[0], keepdims=0),
        *(helper.make_node("Mul", ["any", f"{name}_0"], [name]) for name in maps),
    ]
    file = tmp_path / "model.onnx"
    save(graph(nodes, constants, ["N", CROP, CROP, 3], maps), spec_of(decoder), file)
    model = LandmarkModel(file, backend="cpu", threads=1)
    right = {name: np.zeros((3, *sides[1:]), np.float32) for name, sides in maps.items()}
    assert model.decode(right).points.shape == (3, LANDMARKS, 2)
    with pytest.raises(ModelError, match=rf"'{decoder}' cannot read .*: {output} should be \(3, "):
        model.decode({**right, output: right[output][:1]})


def test_what_they_read():
    assert DECODERS["offset_map"].outputs == ("heatmaps", "offset_maps")
    assert DECODERS["offset_value"].outputs == ("heatmaps", "offset_values")


@pytest.mark.parametrize("faces", [1, 3, 17])
def test_the_twin_of_the_values_agrees_with_the_numpy_decoder(faces):
    """That of the maps is in test_decode_graph, with all twins that read nothing but maps."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxslim")
    import onnx
    import onnxruntime as ort

    from facemark_export.decode_graph import decode_model

    spec = spec_of("offset_value")
    spec = dataclasses.replace(spec, input=dataclasses.replace(spec.input, width=SIDE, height=SIDE))
    shapes = {"heatmaps": (LANDMARKS, 16, 16), "offset_values": (LANDMARKS, 2)}
    model = decode_model(spec, shapes)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.name for entry in model.graph.input] == list(shapes)
    assert [entry.name for entry in model.graph.output] == ["points", "scores"]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = drawn("ties", faces, LANDMARKS, (16, 16), seed=faces)
    points, scores = session.run(None, {name: outputs[name] for name in shapes})
    expected = make_decoder(spec)(outputs)
    np.testing.assert_allclose(points, expected.points * SIDE, atol=1e-4)
    np.testing.assert_array_equal(scores, expected.scores)
