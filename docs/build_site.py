"""Builds the documentation as a site that works offline: build/site/index.html.

`make docs` installs what it needs, and runs this. A dead link is an error.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
# What pages are in, and the files outside of it that they link to.
DIRECTORIES = ("docs", "benchmarks", "experiments", "deploy")
FILES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "saved_models/README.md",
    "stacked_rnn/reference.py",
)
_WRITTEN = shutil.ignore_patterns("runs", "saved_models", "__pycache__")


def build(site) -> int:
    """Builds the site in a directory; returns the exit code of mkdocs."""
    with tempfile.TemporaryDirectory() as temporary:
        pages = pathlib.Path(temporary, "pages")
        for name in DIRECTORIES:
            shutil.copytree(ROOT / name, pages / name, ignore=_WRITTEN)
        for name in FILES:
            (pages / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / name, pages / name)
        command = [
            *(sys.executable, "-m", "mkdocs", "build", "--strict"),
            *("--config-file", ROOT / "docs/mkdocs.yml", "--site-dir", site),
        ]
        environment = {"STACKED_RNN_PAGES": str(pages)}
        return subprocess.run(
            command, env=os.environ | environment, check=False
        ).returncode


def main(arguments) -> int:
    """Builds the site, in build/site or another directory."""
    site = pathlib.Path(arguments[0] if arguments else ROOT / "build/site")
    code = build(site.absolute())
    if code == 0:
        print(f"Open {site}/index.html")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
