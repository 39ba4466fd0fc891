"""What is installed: each pin's version is the one that is there, and its licence one that may be used.

`make sbom` lists the same of all packages, for people and their tools.
"""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

PINS = [
    line.partition("==")[::2]
    for line in (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
]

# Permissive ones, and the Mozilla Public License, which asks something of who changes its files.
ALLOWED = {
    "0bsd",
    "apache 2.0",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsl-1.0",
    "cc0-1.0",
    "cnri-python",
    "isc",
    "llvm-exception",
    "mit",
    "mit-0",
    "mit-cmu",
    "mpl 2.0",
    "psf-2.0",
    "zlib",
}
# The words of trove classifiers and of people, where they are not those of SPDX.
SAID_OTHERWISE = {
    "3-clause bsd license": "bsd-3-clause",
    "apache": "apache 2.0",
    "apache-2.0": "apache 2.0",
    "apache 2.0 license": "apache 2.0",
    "apache software license": "apache 2.0",
    "bsd license": "bsd",
    "isc license (iscl)": "isc",
    "mit license": "mit",
    "mozilla public license 2.0 (mpl 2.0)": "mpl 2.0",
    "mpl-2.0": "mpl 2.0",
    "python software foundation license": "psf-2.0",
}
EXCEPTIONS = {
    "text-unidecode": "the GPL or the Artistic License, as its user chooses; Prefect brings it, through python-slugify",
}


def licences(of: Distribution) -> set[str]:
    """As its own metadata say: in SPDX's words, else by classifiers, else the first line of what was written."""
    classifiers = [each for each in of.metadata.get_all("Classifier") or [] if each.startswith("License ::")]
    written = (of.metadata.get("License") or "").strip().partition("\n")[0]
    if classifiers and not of.metadata.get("License-Expression"):
        parts = [each.split(" :: ")[-1] for each in classifiers]
    else:
        parts = re.split(r" AND | OR | WITH |[()]", of.metadata.get("License-Expression") or written)
    # "DFSG approved" says of a licence that Debian takes it.
    words = {part.strip().lower() for part in parts if part.strip()} - {"dfsg approved"}
    return {SAID_OTHERWISE.get(each, each) for each in words}


def installed() -> Iterator[tuple[str, str, Distribution]]:
    """Name, pin and package of each pin that is there: extras such as Ray need not be."""
    for name, pin in PINS:
        try:
            yield name, pin, distribution(name)
        except PackageNotFoundError:
            continue


def test_every_pin_that_is_installed_has_a_licence_that_may_be_used() -> None:
    found = {name: licences(package) for name, _, package in installed()}
    assert len(found) > 200
    refused = {name: said for name, said in found.items() if not said or said - ALLOWED}
    assert set(refused) == set(EXCEPTIONS), refused


def test_what_is_installed_is_what_is_pinned() -> None:
    # Torch names the index that it came from behind a plus.
    other = {
        name: package.version for name, pin, package in installed() if package.version.split("+")[0] != pin
    }
    assert other == {}
