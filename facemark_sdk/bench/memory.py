"""Peak memory of a configuration: of a process of its own that does nothing else.

In the process that compares, configurations share what they free, so that none has a peak of its
own. Resident memory, the interpreter and the libraries included; without the graphics card's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.frames import Frame, open_frames
from facemark_sdk.bench.subject import Subject
from facemark_sdk.detect.face_detector import FaceDetector

_STATUS = Path("/proc/self/status")
_RUNS = 3
_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Peak:
    """Peak memory in 10^6 bytes, or None and why it is not known."""

    megabytes: float | None
    why: str = ""


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process so far, in 10^6 bytes; None where it is not told.

    Linux tells it as VmHWM. What getrusage says there counts the process that started this one,
    too, so that it is asked on macOS only (in bytes there).
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return None


def peak_memory_alone(
    configuration: Configuration, detector: str | None, frames: Sequence[Frame]
) -> Peak:
    """Peak memory of a process that loads a configuration and runs it a few times.

    Args:
        configuration: What to load.
        detector: Name or path of the detector that finds the faces; None is the backend's default.
        frames: The photos, from files.

    Returns:
        Not known where the system does not tell or the process failed.
    """
    task = {
        "configuration": dataclasses.asdict(configuration),
        "detector": detector,
        "frames": [str(frame.path.resolve()) for frame in frames],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps(task)],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        peak = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return Peak(None, f"the process that measures it took longer than {_SECONDS:.0f} s")
    except subprocess.CalledProcessError as error:
        return Peak(None, f"the process that measures it {_end_of(error)}")
    except (OSError, ValueError) as error:
        return Peak(None, f"the process that measures it gave no figure: {error}")
    return Peak(None, "this system does not tell it") if peak is None else Peak(float(peak))


def _end_of(error: subprocess.CalledProcessError) -> str:
    """How a process ended, with the last line that it wrote, which is a traceback's error."""
    code = error.returncode
    ended = f"was ended by signal {-code}" if code < 0 else f"failed with exit status {code}"
    lines = error.stderr.split("\n") if error.stderr else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{ended}: {last}" if last else ended


def _main(task_json: str) -> None:
    task = json.loads(task_json)
    configuration = Configuration(**task["configuration"])
    detector = FaceDetector(
        task["detector"], backend=configuration.backend, threads=configuration.threads
    )
    subject = Subject(configuration, detector, open_frames([Path(p) for p in task["frames"]]))
    for _ in range(_RUNS):
        subject()
    print(json.dumps(peak_memory_mb()))


if __name__ == "__main__":
    _main(sys.argv[1])
