"""The regression decoder: mean shape and displacement; its twin in the graph; what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import landmark_spec

from facemark_sdk.decode import DECODERS, make_decoder
from facemark_sdk.errors import ModelError

pytest.importorskip("torch")
pytest.importorskip("onnxslim")

from facemark_export.decode_graph import decode_model

SIDE, LANDMARKS = 128, 68


@pytest.fixture
def mean_shape():
    return np.random.default_rng(0).uniform(0.1, 0.9, (LANDMARKS, 2)).round(6)


@pytest.fixture
def spec(mean_shape):
    base = landmark_spec(mean_shape)
    return dataclasses.replace(
        base, decoder="regression", decoder_params={"mean_shape": mean_shape.tolist()}
    )


def drawn_displacements(faces):
    return np.random.default_rng(faces).normal(0, 0.2, (faces, 2 * LANDMARKS)).astype(np.float32)


@pytest.mark.parametrize("faces", [0, 1, 5])
def test_points_are_the_mean_shape_and_the_displacement(spec, mean_shape, faces):
    displacement = drawn_displacements(faces)
    found = make_decoder(spec)({"displacement": displacement})
    assert found.points.shape == (faces, LANDMARKS, 2)
    assert found.points.dtype == found.scores.dtype == np.float32
    for n in range(faces):
        for i in range(LANDMARKS):
            x = mean_shape[i][0] + displacement[n, 2 * i]
            y = mean_shape[i][1] + displacement[n, 2 * i + 1]
            np.testing.assert_allclose(found.points[n, i], [x, y], atol=1e-6)
    assert found.covariances is None


def test_the_network_says_nothing_of_certainty_so_every_score_is_one(spec):
    found = make_decoder(spec)({"displacement": drawn_displacements(3)})
    np.testing.assert_array_equal(found.scores, np.ones((3, LANDMARKS)))


def test_it_reads_one_output():
    assert DECODERS["regression"].outputs == ("displacement",)


@pytest.mark.parametrize("faces", [1, 3, 17])
def test_the_twin_agrees_with_the_numpy_decoder(spec, faces):
    model = decode_model(spec, {"displacement": (2 * LANDMARKS,)})
    onnx.checker.check_model(model, full_check=True)
    assert [entry.name for entry in model.graph.input] == ["displacement"]
    assert [entry.name for entry in model.graph.output] == ["points", "scores"]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    displacement = drawn_displacements(faces)
    points, scores = session.run(None, {"displacement": displacement})
    expected = make_decoder(spec)({"displacement": displacement})
    np.testing.assert_allclose(points, expected.points * SIDE, atol=1e-4)
    np.testing.assert_array_equal(scores, expected.scores)


@pytest.mark.parametrize(
    "shape",
    [
        None,
        "face",
        [[0.5, 0.5]] * 67,
        [[0.5, 0.5, 0.5]] * 68,
        [0.5] * 136,
        [[0.5, float("nan")]] * 68,
        [[0.5, 11.0]] * 68,
        [[0.5, "x"]] * 68,
        [[0.5, {}]] * 68,
    ],
)
def test_unusable_mean_shapes_are_refused(spec, shape):
    params = {} if shape is None else {"mean_shape": shape}
    with pytest.raises(ModelError, match="mean_shape"):
        make_decoder(dataclasses.replace(spec, decoder_params=params))


@pytest.mark.parametrize("columns", [2, 134, 137])
def test_outputs_of_another_size_do_not_pass_for_landmarks(spec, columns):
    with pytest.raises(ValueError, match="reshape"):
        make_decoder(spec)({"displacement": np.zeros((2, columns), np.float32)})
