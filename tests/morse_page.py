"""What docs/morse.md says of stored results: blocks between two comments, made from JSON files.

<!-- morse: NAME -->
...
<!-- end of NAME -->
"""

import re
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from geocollapse.papers.morse.cells import Cells
from geocollapse.papers.morse.claims import CHOSEN_ON, SETS
from geocollapse.papers.registry import benchmark_papers
from stored_blocks import ROOT, verdict_table

PAGE = ROOT / "docs" / "morse.md"
CELLS = ROOT / "benchmarks" / "results" / "ood.json"
ANSWER = ROOT / "benchmarks" / "results" / "ood_answer.txt"
FIGURES = ("ood-scores.png", "ood-reliability.png")
COMMAND = """geocollapse ood examples/cifar_resnet.py:resnet20@resnet20-12fca82f.th cifar10 \\
    --against cifar100 --subset 2000 --plot ood-scores.png --reliability ood-reliability.png
"""
BLOCK = re.compile(r"<!-- morse: (\S+) -->\n(.*?)<!-- end of \1 -->", re.DOTALL)
HEADS = ("CIFAR-100", "Fashion-MNIST", "MNIST", "Gaussian noise", "uniform noise")
NETWORKS = {f"resnet{depth}": f"ResNet-{depth}" for depth in (20, 32, 44, 56)}


@dataclass(frozen=True)
class Entry:
    """A mean over seeds with the half-width of its 95 % interval."""

    mean: float
    half: float

    def text(self, is_best):
        shown = f"{self.mean:.3f} ± {self.half:.3f}"
        return f"**{shown}**" if is_best else shown


def entry(cells, name):
    """Student's interval over seeds; DeLong's for a detector that is not fitted."""
    values = [cell.auroc[name] for cell in cells]
    if len(values) == 1:
        return Entry(values[0], 1.96 * cells[0].auroc_stderr[name])
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Entry(float(np.mean(values)), float(half))


def detector_rows(cells, network):
    """The rows of one network; a star for what is not fitted, the best of a column in bold."""
    names = [name for name in cells.detectors if cells.of(network, name)]
    found = {name: [entry(cells.of(network, name), one) for one in SETS] for name in names}
    best = [max(round(row[i].mean, 3) for row in found.values()) for i in range(len(SETS))]
    for name in names:
        of_name = cells.of(network, name)
        star = "*" if len(of_name) == 1 else ""
        entries = [
            one.text(round(one.mean, 3) == top) for one, top in zip(found[name], best, strict=True)
        ]
        seconds = "" if star else number(np.median([cell.fit_seconds for cell in of_name]))
        a_piece = number(np.median([cell.microseconds_per_image for cell in of_name]))
        yield f"| {name}{star} | {' | '.join([*entries, seconds, a_piece])} |"


def number(value):
    """Two significant digits, without an exponent."""
    return f"{float(f'{value:.2g}'):g}"


def is_whole(cells, network):
    """True for a network with all detectors, of the same seeds where they are fitted."""
    once = [name for name in cells.detectors if len(cells.of(cells.networks[0], name)) == 1]
    return cells.has(network, [name for name in cells.detectors if name not in once], once)


def detectors(path=CELLS):
    """A table for each network that is stored with all detectors."""
    cells = Cells.read(path)
    for network in filter(lambda one: is_whole(cells, one), cells.networks):
        yield f"\n**{NETWORKS[network]}**\n"
        yield f"| detector | {' | '.join(HEADS)} | fit [s] | µs an image |"
        yield "|---" * (len(HEADS) + 3) + "|"
        yield from detector_rows(cells, network)
    yield ""


def verdicts(path=CELLS):
    """The verdicts, and the networks that they are passed on."""
    found = benchmark_papers()["morse"].judge(path)
    cells = Cells.read(path)
    judged = [NETWORKS[one] for one in cells.networks if one != CHOSEN_ON and is_whole(cells, one)]
    yield f"\nJudged on {' and '.join(judged) or 'no network yet'}.\n"
    yield from verdict_table(found)
    yield from ("", *dict.fromkeys(one.note for one in found if one.note))
    yield ""


def answer():
    """The command, and what it printed on the machine of the benchmarks."""
    yield f"\n```console\n$ {COMMAND}{ANSWER.read_text(encoding='utf-8').rstrip()}\n```\n"


BLOCKS = {"answer": answer, "detectors": detectors, "verdicts": verdicts}


def block(name):
    return "\n".join([*BLOCKS[name](), ""])


def rewritten(text):
    return BLOCK.sub(
        lambda found: f"<!-- morse: {found[1]} -->\n{block(found[1])}<!-- end of {found[1]} -->",
        text,
    )
