"""What models cost on this machine: stage by stage, configurations taking turns.

`Subject` is a configuration that is loaded, `load` loads all that can run here, `measure` runs
several in turns, `record` makes the JSON of `facemark bench`, `read_record` reads it again and
`compare` sets two of them side by side.
"""

from facemark_sdk.bench.compare import compare
from facemark_sdk.bench.configuration import Configuration, bundled_models, combine
from facemark_sdk.bench.finder import Finder, finder_of
from facemark_sdk.bench.frames import BUNDLED_FRAME, Frame, open_frames
from facemark_sdk.bench.loading import load
from facemark_sdk.bench.machine import describe_machine
from facemark_sdk.bench.measure import Protocol, measure
from facemark_sdk.bench.memory import Peak, peak_memory_alone
from facemark_sdk.bench.reading import read_record
from facemark_sdk.bench.record import LeftOut, Result, record
from facemark_sdk.bench.subject import STAGES, Subject, Unable
from facemark_sdk.bench.summary import Summary, summarise

__all__ = [
    "BUNDLED_FRAME",
    "STAGES",
    "Configuration",
    "Finder",
    "Frame",
    "LeftOut",
    "Peak",
    "Protocol",
    "Result",
    "Subject",
    "Summary",
    "Unable",
    "bundled_models",
    "combine",
    "compare",
    "describe_machine",
    "finder_of",
    "load",
    "measure",
    "open_frames",
    "peak_memory_alone",
    "read_record",
    "record",
    "summarise",
]
