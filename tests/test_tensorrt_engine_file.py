from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import pytest
from conftest import landmark_spec

from facemark_sdk import BackendError, ModelError
from facemark_sdk.backends import create_backend, describe_file
from facemark_sdk.backends.base import TensorInfo
from facemark_sdk.backends.tensorrt.engine_file import (
    Built,
    EngineRecord,
    is_engine,
    read_engine,
    read_record,
    write_engine,
)
from facemark_sdk.backends.tensorrt.profile import Profile, default_profile
from facemark_sdk.models import read_spec

PLAN = bytes(range(256)) * 40
HEAD = 8 + 4 + 4 + 32


@pytest.fixture
def record(mean_face: object) -> EngineRecord:
    return EngineRecord(
        spec=landmark_spec(mean_face).to_json(),
        inputs=(TensorInfo("image", "uint8", ("batch", 128, 128, 3)),),
        outputs=(
            TensorInfo("points", "float", ("batch", 68, 2)),
            TensorInfo("s", "float", (None,)),
        ),
        profile=Profile((1, 8, 64)),
        built=Built("11.4.0.106", "NVIDIA H100", "9.0", "Linux x86_64"),
        onnx_sha256="ab" * 32,
    )


@pytest.fixture
def engine(tmp_path: Path, record: EngineRecord) -> Path:
    path = tmp_path / "face.engine"
    write_engine(path, record, PLAN)
    return path


def test_what_is_written_is_read(engine: Path, record: EngineRecord) -> None:
    assert read_engine(engine) == (record, PLAN)
    assert read_record(engine) == record
    assert is_engine(engine)


def test_layout_of_the_file(engine: Path, record: EngineRecord) -> None:
    """Read with struct and json alone, as a program in another language would."""
    content = engine.read_bytes()
    magic, version, length = struct.unpack_from("<8sII", content)
    text = content[HEAD : HEAD + length]
    assert (magic, version) == (b"FACEMARK", 1)
    assert content[16:48] == hashlib.sha256(text).digest()
    assert content[HEAD + length :] == PLAN
    found = json.loads(text)
    assert found["spec"]["name"] == "tiny_landmarks"
    assert found["plan_sha256"] == hashlib.sha256(PLAN).hexdigest()
    assert [output["name"] for output in found["outputs"]] == ["points", "s"]
    assert found["built"]["capability"] == "9.0"


def test_the_spec_is_read_without_tensorrt(engine: Path, mean_face: object) -> None:
    described = describe_file(engine)
    assert read_spec(described, engine) == landmark_spec(mean_face)
    assert described.inputs[0].shape == ("batch", 128, 128, 3)


@pytest.mark.parametrize("length", [8, 20, HEAD, HEAD + 5, -1, -len(PLAN)])
def test_truncated(engine: Path, length: int) -> None:
    engine.write_bytes(engine.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"face\.engine.* truncated.*build it again"):
        read_engine(engine)
    with pytest.raises(ModelError, match="truncated"):
        read_record(engine)


def test_longer_than_it_says(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes() + b"more")
    with pytest.raises(ModelError, match="too long"):
        read_engine(engine)


def test_one_bit_of_the_plan(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[-100] ^= 4
    engine.write_bytes(content)
    with pytest.raises(ModelError, match="plan's checksum"):
        read_engine(engine)
    assert read_record(engine)  # the record itself is whole


@pytest.mark.parametrize("offset", [20, HEAD, HEAD + 300])
def test_one_bit_of_the_record(engine: Path, offset: int) -> None:
    content = bytearray(engine.read_bytes())
    content[offset] ^= 1
    engine.write_bytes(content)
    with pytest.raises(ModelError, match="record's checksum"):
        read_record(engine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_bytes": "10240"}, "plan_bytes must be a whole number"),
        ({"plan_bytes": None}, "plan_bytes must be a whole number"),
        ({"plan_sha256": 5}, "must be text"),
        ({"onnx_sha256": None}, "must be text"),
        ({"built": {"tensorrt": 11, "gpu": "", "capability": "", "platform": ""}}, "must be text"),
        ({"built": "H100"}, "values"),
        ({"built": {}}, "tensorrt"),
        ({"inputs": []}, "inputs must be one image"),
        ({"outputs": []}, "outputs one or more"),
        ({"inputs": [{"name": "i", "dtype": "int7", "shape": [1]}]}, "int7"),
        ({"inputs": [{"name": "i", "dtype": None, "shape": [1]}]}, "dtype must be text"),
        ({"inputs": [{"name": "i", "dtype": "object", "shape": [1]}]}, "one of numbers"),
        ({"inputs": [{"name": 3, "dtype": "uint8", "shape": [1]}]}, "name and dtype"),
        ({"inputs": [{"name": "i", "dtype": "uint8", "shape": [1.5]}]}, "whole numbers"),
        ({"inputs": [{"name": "i", "dtype": "uint8", "shape": 4}]}, "not iterable"),
        ({"profile": {"batch": [1, 2], "sides": None}}, "unpack"),
        ({"profile": {"batch": "abc", "sides": None}}, "rising whole numbers"),
    ],
)
def test_records_that_are_none_with_a_right_checksum(
    engine: Path, changes: dict[str, object], message: str
) -> None:
    content = engine.read_bytes()
    length = struct.unpack_from("<I", content, 12)[0]
    text = json.dumps({**json.loads(content[HEAD : HEAD + length]), **changes}).encode()
    head = struct.pack("<8sII32s", b"FACEMARK", 1, len(text), hashlib.sha256(text).digest())
    engine.write_bytes(head + text + content[HEAD + length :])
    for read in (read_record, read_engine):
        with pytest.raises(ModelError, match=rf"face\.engine.*not readable.*{message}"):
            read(engine)


def test_newer_format(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[8:12] = struct.pack("<I", 2)
    engine.write_bytes(content)
    with pytest.raises(ModelError, match=r"format 2.*reads 1"):
        read_engine(engine)


def test_plans_and_others_are_no_engines(tmp_path: Path, landmark_file: Path) -> None:
    plan = tmp_path / "trtexec.engine"
    plan.write_bytes(b"ftrt" + bytes(100))
    assert not is_engine(plan)
    assert not is_engine(landmark_file)
    assert not is_engine(tmp_path / "none.engine")
    with pytest.raises(ModelError, match=r"no facemark engine.*facemark-export --engine"):
        read_engine(plan)
    with pytest.raises(ModelError, match="cannot be read"):
        read_record(tmp_path / "none.engine")


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_other_backends_say_what_the_file_is(engine: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"is a TensorRT engine.*backend='tensorrt'"):
        create_backend(name, engine)


def test_profile_shapes() -> None:
    free = TensorInfo("image", "uint8", ("N", "H", "W", 3))
    fixed = TensorInfo("image", "uint8", ("N", 256, 192, 3))
    one = TensorInfo("image", "uint8", (1, 640, 640, 3))
    assert Profile((1, 8, 64)).shapes(fixed) == [
        (1, 256, 192, 3),
        (8, 256, 192, 3),
        (64, 256, 192, 3),
    ]
    assert Profile((1, 2, 4), (32, 640, 1280)).shapes(free) == [
        (1, 32, 32, 3),
        (2, 640, 640, 3),
        (4, 1280, 1280, 3),
    ]
    assert Profile((1, 1, 8)).shapes(one) == [(1, 640, 640, 3)] * 3
    with pytest.raises(ModelError, match="--engine-sides"):
        Profile((1, 1, 8)).shapes(free)
    with pytest.raises(ModelError, match=r"256 x 192.*leave out --engine-sides"):
        Profile((1, 1, 8), (32, 64, 128)).shapes(fixed)


def test_a_fixed_batch_is_the_profiles() -> None:
    free = TensorInfo("image", "uint8", ("N", 256, 192, 3))
    three = TensorInfo("image", "uint8", (3, "H", "W", 3))
    profile = Profile((1, 8, 64), (32, 64, 128))
    assert profile.for_input(free) is profile
    assert profile.for_input(three) == Profile((3, 3, 3), (32, 64, 128))


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 4), (1, 8, 4), (1, 2, 5000), (1.0, 2, 3)])
def test_bad_profiles(batch: tuple[int, int, int]) -> None:
    with pytest.raises(BackendError, match="batch must be three rising whole numbers"):
        Profile(batch)
    with pytest.raises(BackendError, match="sides must be"):
        Profile((1, 1, 1), (64, 32, 128))


def test_default_profiles(mean_face: object) -> None:
    """A detector is tuned for its det_size, in whole strides of 32 pixels."""
    faces = landmark_spec(mean_face)
    detector = dataclasses.replace(
        faces,
        task="detection",
        input=dataclasses.replace(faces.input, width=0, height=0),
        decoder_params={"det_size": 500},
    )
    assert default_profile(faces) == Profile((1, 8, 64))
    assert default_profile(detector) == Profile((1, 1, 8), (32, 512, 1024))
