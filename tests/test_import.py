from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

HEAVY = {"torch", "onnx", "matplotlib", "rich", "tyro", "PIL", "scipy", "facemark_export"}


def test_import_is_light(run_python: Run) -> None:
    code = "import json, sys, facemark_sdk; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run_python("-c", code).stdout)
    assert not HEAVY & set(loaded)


def test_detection_is_light(
    run_python: Run, landmark_file: Path, detector_file: Path, photo: Path
) -> None:
    code = (
        "import json, sys; from facemark_sdk import Detector\n"
        "Detector(sys.argv[1], sys.argv[2], backend='cpu')(sys.argv[3])\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    result = run_python("-c", code, landmark_file, detector_file, photo)
    assert not HEAVY & set(json.loads(result.stdout))


@pytest.mark.parametrize(("module", "name"), [("cv2", "OpenCV"), ("onnxruntime", "ONNX Runtime")])
@pytest.mark.parametrize(
    "block",
    [
        "sys.modules['{module}'] = None",
        "import importlib.machinery as m; find = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = classmethod(\n"
        "    lambda cls, name, *a: None if name == '{module}' else find(name, *a))",
    ],
)
def test_missing_dependency_names_the_extras(
    run_python: Run, module: str, name: str, block: str
) -> None:
    code = f"import sys\n{block.format(module=module)}\nimport facemark_sdk"
    result = run_python("-c", code)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert name in last
    assert 'pip install "facemark-sdk[cpu]"' in last
    assert "[gpu]" in last


def test_folder_left_by_an_uninstall_is_not_installed(run_python: Run, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    result = run_python("-c", code + "import facemark_sdk._requirements")
    assert "ONNX Runtime" in result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("module", ["facemark_export", "facemark_export.training.cli"])
def test_training_without_torch_names_its_extras(run_python: Run, module: str) -> None:
    result = run_python("-c", f"import sys; sys.modules['torch'] = None\nimport {module}")
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: facemark_export needs PyTorch")
    assert "export]" in last
