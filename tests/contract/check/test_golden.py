"""What `fastgw check` says of thirty errors, of more than ten kinds, in a file and three that it includes.

`expected.txt` is the contract: a change of it is a decision.
"""

from pathlib import Path

import pytest

from fastgw import config
from fastgw.filters import TYPES


@pytest.mark.parametrize("form", ["yaml", "toml", "json"])
def test_every_error_is_one_line_with_its_place(form, monkeypatch):
    folder = Path(__file__).parent / form
    monkeypatch.chdir(folder)
    with pytest.raises(config.ConfigError) as caught:
        config.load(f"gateway.{form}", TYPES)
    lines = [str(problem) for problem in caught.value.problems]
    assert lines == folder.joinpath("expected.txt").read_text().splitlines()
    assert len(lines) == 30
