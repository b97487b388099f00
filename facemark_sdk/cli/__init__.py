"""The `facemark` command: bench, detect, eval, info, models.

Exit status 0 when all was done, 1 when a job failed (one line on stderr), 2 for wrong use.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import cv2
import tyro

from facemark_sdk.cli.bench import Bench
from facemark_sdk.cli.console import UsageError, complain
from facemark_sdk.cli.detect import Detect
from facemark_sdk.cli.eval import Eval
from facemark_sdk.cli.info import Info
from facemark_sdk.cli.models import Models
from facemark_sdk.errors import FacemarkError

DESCRIPTION = "Facial landmarks from photos: find the faces, place their points."
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line; wrong options end the process with status 2.

    Returns:
        The exit status.
    """
    # A damaged file is one line of ours, not several of OpenCV's.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    command: Bench | Detect | Eval | Info | Models = tyro.cli(
        Bench | Detect | Eval | Info | Models,
        prog="facemark",
        description=DESCRIPTION,
        args=args,
    )
    for stream in (sys.stdout, sys.stderr):  # file names may hold what a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command.run()
    except UsageError as error:
        complain(error)
        return WRONG_USE
    except FacemarkError as error:
        complain(error)
        return FAILED
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        complain(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
