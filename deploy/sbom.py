"""The software bill of materials of the environment that runs this: CycloneDX 1.6 in JSON, the same each time.

It needs fastgw alone, as it runs where nothing else is installed. The digests of what was installed
are in requirements.lock.
"""

import json
import re
import sys
from importlib.metadata import Distribution, distributions

from fastgw.http.http2.session import describe

LICENSE_MARK = "License :: "


def normalized(name: str) -> str:
    """The name by which packages are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def license_of(package: Distribution) -> list[object]:
    told = package.metadata
    if expression := told.get("License-Expression"):
        return [{"expression": expression}]
    named = [each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or () if each.startswith(LICENSE_MARK)]
    return [{"license": {"name": each}} for each in sorted(set(named))]


def component(package: Distribution) -> dict[str, object]:
    name = normalized(package.metadata["Name"])
    reference = f"pkg:pypi/{name}@{package.version}"
    about: dict[str, object] = {"bom-ref": reference, "name": name, "version": package.version, "purl": reference}
    licenses = license_of(package)
    return {"type": "library", **about, **({"licenses": licenses} if licenses else {})}


def http2_library() -> list[dict[str, object]]:
    """libnghttp2, which comes along as a file beside the packages."""
    name, _, version = describe().partition(" ")
    if name != "libnghttp2":
        return []
    reference = f"pkg:generic/nghttp2@{version}"
    return [{"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}]


def required_by(package: Distribution, known: set[str]) -> list[str]:
    names = {normalized(found[0]) for each in package.requires or () if (found := re.match(r"[\w.-]+", each))}
    return sorted(names & known)


def main() -> None:
    packages = sorted(distributions(), key=lambda each: normalized(each.metadata["Name"]))
    versions = {normalized(each.metadata["Name"]): each.version for each in packages}
    components = [component(each) for each in packages]
    (product,) = [each for each in components if each["name"] == "fastgw"]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product | {"type": "application"}},
        "components": [*(each for each in components if each is not product), *http2_library()],
        "dependencies": [
            {
                "ref": f"pkg:pypi/{normalized(each.metadata['Name'])}@{each.version}",
                "dependsOn": [f"pkg:pypi/{name}@{versions[name]}" for name in required_by(each, {*versions})],
            }
            for each in packages
        ],
    }
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
