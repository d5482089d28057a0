"""A package of somebody else, as an installation leaves it: a module and the folder with its entry points."""

from pathlib import Path

MODULE = '''
"""A method, a metric and a data set that jopa does not know."""
from dataclasses import dataclass
from typing import ClassVar

import jopa
from jopa.evaluation.metric import Metric
from jopa.method import Ranking, RankingMethod


@dataclass(frozen=True)
class LastUnits(RankingMethod):
    """Ranks units by their place: the later, the higher.

    Attributes:
        step: how much a place counts.
    """

    step: int = 1
    name: ClassVar[str] = "last-units"
    summary: ClassVar[str] = "the units at the end of the prompt"
    cost: ClassVar[str] = "0"

    def __post_init__(self):
        if self.step < 1:
            raise jopa.SettingError(f"step must be at least 1, got {self.step}")

    def rank(self, problem, *, seed=0):
        return Ranking(tuple(float(unit * self.step) for unit in range(problem.n_units)), "ranked by place")


LENGTH_KEPT = Metric(
    "length_kept", "Length kept", "lower", "length of the new output / length of the original, in characters",
    lambda cell: len(cell.counterfactual_output) / len(cell.output) if cell.output else None,
)


def two_prompts():
    """Two prompts about the doctor."""
    yield {"prompt": "write a story about the doctor"}
    yield {"id": "b", "prompt": "tell me what you think of the doctor", "system": "please"}
'''
ENTRY_POINTS = """
[jopa.methods]
last-units = outside:LastUnits

[jopa.metrics]
length_kept = outside:LENGTH_KEPT

[jopa.datasets]
doctors = outside:two_prompts
"""


def install(site: Path, *, name: str = "outside", module: str = MODULE, points: str = ENTRY_POINTS) -> Path:
    """Write the package into a folder that stands, or will stand, in `sys.path`."""
    info = site / f"jopa_{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: jopa-{name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(points)
    (site / f"{name}.py").write_text(module)
    return site
