"""fastgw with a configuration that may be ahead of it."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.peers.fastgw import Fastgw
from bench.peers.peer import LeftOut

ANY_PORT = 9  # `check` connects to nothing


@dataclass(frozen=True)
class AheadFastgw(Fastgw):
    """Takes part as soon as it knows every word of its configuration. Other mistakes are told when it is started."""

    def version(self) -> str | None:
        told = super().version()
        if told is not None and (unknown := self._unknown()):
            raise LeftOut(f"not yet: {', '.join(unknown)} unknown to this fastgw")
        return told

    def _unknown(self) -> list[str]:
        with TemporaryDirectory(prefix="bench-") as folder:
            file = Path(folder) / "fastgw.json"
            file.write_text(json.dumps(self._configuration(ANY_PORT, file.with_name("access.log"))))
            checked = subprocess.run(
                [*self.command, "check", file, "--format", "json"], stdout=subprocess.PIPE, text=True, cwd=folder
            )
        problems = json.loads(checked.stdout)["problems"]
        names = (problem["path"].rpartition(".")[2] for problem in problems if problem["wrong"].startswith("unknown "))
        return list(dict.fromkeys(names))
