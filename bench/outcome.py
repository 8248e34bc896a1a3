"""Result of a scenario: stored as JSON with every sample, and read again for tables and plots."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.measure import Effort
from bench.samples import Measured, Sample
from bench.scenarios import SCENARIOS
from bench.scenarios.scenario import Scenario

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Outcome:
    scenario: Scenario
    effort: Effort
    contestants: Sequence[Measured]
    about: Mapping[str, str]
    """Machine, versions, revision and date."""

    @property
    def void(self) -> list[str]:
        """Reasons why the result is void; empty = it is valid."""
        return [why for each in self.contestants for why in each.void]

    def under(self, load: str) -> list[Measured]:
        """Contestants that were measured under this load."""
        return [each for each in self.contestants if each.under(load)]


def write(outcome: Outcome, file: Path) -> None:
    kept = {
        "scenario": outcome.scenario.name,
        "about": outcome.about,
        "effort": asdict(outcome.effort),
        "void": outcome.void,
        "contestants": [asdict(each) for each in outcome.contestants],
    }
    file.write_text(json.dumps(kept, indent=1) + "\n")


def read(file: Path) -> Outcome:
    """Read a file written by `write`. Raises `KeyError` for a scenario that no longer exists."""
    kept = json.loads(file.read_text())
    contestants = [
        replace(Measured(**each), samples=[Sample(**sample) for sample in each["samples"]])
        for each in kept["contestants"]
    ]
    return Outcome(SCENARIOS[kept["scenario"]], Effort(**kept["effort"]), contestants, kept["about"])


def newest(scenario: str, folder: Path = RESULTS) -> Path | None:
    """Return the latest result of a scenario; names sort by time."""
    return max(folder.glob(f"{scenario}-[0-9]*.json"), default=None)
