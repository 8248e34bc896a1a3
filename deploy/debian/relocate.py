"""Rewrite the paths of a virtual environment that was made in one place and is installed in another.

relocate.py TREE PLACE: TREE is where it is now, PLACE where it will be.
"""

import os
import shutil
import sys
from pathlib import Path

NEVER_INSTALLED = ("activate*", "Activate.ps1")
"""For shells that work in an environment: nobody does in this one."""


def main(tree: Path, place: str) -> None:
    here = os.fsencode(tree.resolve())
    for pattern in NEVER_INSTALLED:
        for each in tree.joinpath("bin").glob(pattern):
            each.unlink()
    for script in tree.joinpath("bin").iterdir():
        if script.is_symlink():
            continue
        if script.name == "fastgw":
            script.write_bytes(script.read_bytes().replace(here, place.encode()))
        else:
            script.unlink()  # commands of other packages: /usr/lib/fastgw is no place for a user's tools
    configuration = tree / "pyvenv.cfg"
    kept = [line for line in configuration.read_text().splitlines() if not line.startswith("command")]
    configuration.write_text("\n".join(kept) + "\n")
    shutil.rmtree(tree / "include", ignore_errors=True)
    for said in tree.rglob("direct_url.json"):
        said.unlink()  # where the wheel was, while it was built


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
