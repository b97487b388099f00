"""Tables of rows that are read by several decoders, and of faces made harder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spreads import Run, difference, markdown, spread

DECODERS = {
    "argmax": "arg-max",
    "quarter_shift": "quarter shift",
    "dark": "DARK",
    "local_soft_argmax": "local soft-argmax",
    "barycentre": "GET_BC",
    "barycentre_sum": "GET_BC, no softmax",
    "hih": "decimal maps",
    "offset_map": "offset maps",
    "offset_value": "offset values",
    "regression": "the network itself",
}
"""Decoders as the reader knows them; a quarter shift is the Wasserstein paper's GET_MAX and HIH's
WSM, a barycentre is GET_BC."""
_ON_VIDEO = ("0.10", "0.20")
"""Of the thresholds of FR^L, those stated for the other set too: Table 10 is of large errors."""
_FIGURES = {"nme": ("NME %", 2), "failures": ("FR 0.10 %", 1)}


def table(by_row: Mapping[str, Sequence[Run]]) -> str:
    """Markdown: a line a row and reading, the recipe's own reading first."""
    readings = _readings(by_row)
    first = readings[0]
    heads = ["", "read by", *_heads(first[2]), "NME % on video"]
    heads += [f"FR^L {t} % on video" for t in _ON_VIDEO]
    heads += [f"NME less that of {first[0]}", "seeds"]
    lines = []
    for name, decoder, runs in readings:
        lines.append(
            [
                name,
                DECODERS[decoder],
                *_cells(runs),
                spread([run["other_nme"] for run in runs], 2),
                *_rates(runs, "other_landmark_failures", _ON_VIDEO),
                "" if runs is first[2] else difference(runs, first[2]),
                str(len(runs)),
            ]
        )
    return markdown(heads, lines, words=2)


def perturbed(by_row: Mapping[str, Sequence[Run]]) -> str:
    """Markdown: a line a protocol and row, each read by the recipe's own decoder."""
    some = next(iter(by_row.values()))
    protocols = some[0]["perturbed"]
    heads = ["photos", "", "read by", *_heads([*protocols.values()]), "seeds"]
    lines = []
    for protocol in protocols:
        for name, runs in by_row.items():
            harder = [run["perturbed"][protocol] for run in runs]
            words = [protocol.replace("-", ", "), name, DECODERS[runs[0]["decoder"]]]
            lines.append([*words, *_cells(harder), str(len(runs))])
    return markdown(heads, lines, words=3)


def _readings(by_row: Mapping[str, Sequence[Run]]) -> list[tuple[str, str, Sequence[Run]]]:
    """Name, decoder and runs of each line."""
    lines: list[tuple[str, str, Sequence[Run]]] = []
    for name, runs in by_row.items():
        lines.append((name, runs[0]["decoder"], runs))
        for decoder in runs[0].get("readings", ()):
            lines.append((name, decoder, [run["readings"][decoder] for run in runs]))
    return lines


def _heads(runs: Sequence[Run]) -> list[str]:
    rates = [f"FR^L {t} %" for t in runs[0]["landmark_failures"]]
    return [*(head for head, _ in _FIGURES.values()), *rates]


def _cells(runs: Sequence[Run]) -> list[str]:
    plain = [spread([run[key] for run in runs], digits) for key, (_, digits) in _FIGURES.items()]
    return [*plain, *_rates(runs, "landmark_failures", runs[0]["landmark_failures"])]


def _rates(runs: Sequence[Run], key: str, thresholds: Iterable[str]) -> list[str]:
    return [spread([run[key][t] for run in runs], 2) for t in thresholds]
