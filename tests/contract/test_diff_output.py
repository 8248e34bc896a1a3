"""What `fastgw diff` says of two files, to people and to programs. The files in `diff/` are the contract."""

from pathlib import Path

import msgspec

from fastgw import config
from fastgw.diff import as_text, differences
from fastgw.filters import TYPES

FOLDER = Path(__file__).parent / "diff"


def test_the_words_and_the_json_of_a_difference():
    old, new = (config.load(str(FOLDER / f"{name}.yaml"), TYPES) for name in ("old", "new"))
    told = differences(old, new)
    written = msgspec.json.format(msgspec.json.encode(told)).decode() + "\n"
    assert f"{as_text(told)}\n" == (FOLDER / "expected.txt").read_text()
    assert written == (FOLDER / "expected.json").read_text()
    assert "secret" not in f"{as_text(told)}{written}"
