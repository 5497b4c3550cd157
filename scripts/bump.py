"""Set the version of all four distributions: python scripts/bump.py 0.2.0

The four move together. Besides the versions, this sets the meta distribution's exact pins and the ranges in which the
packages ask for each other: one minor series while the major is 0, one major series after that.
"""

import re
import sys
from pathlib import Path

PROJECTS = (".", "dlbt_core", "dlbt_rules_vision", "dlbt_rules_nlp")


def series(version: str) -> str:
    """The range of versions that are compatible with `version`, as a requirement."""
    major, minor = map(int, version.split(".")[:2])
    return f">=0.{minor},<0.{minor + 1}" if major == 0 else f">={major}.0,<{major + 1}"


def bumped(text: str, version: str) -> str:
    """A pyproject.toml with its version and its requirements on our own packages set to `version`."""
    text, found = re.subn(r'^version = "[^"]*"$', f'version = "{version}"', text, flags=re.MULTILINE)
    if found != 1:
        raise SystemExit(f'expected one line `version = "..."` in a pyproject.toml, found {found}')
    text = re.sub(r'"(dlbt-[a-z-]+)==[^"]*"', rf'"\1=={version}"', text)
    return re.sub(r'"(dlbt-[a-z-]+)>=[^"]*"', rf'"\1{series(version)}"', text)


def bump(root: Path, version: str) -> None:
    """Write `version` into the four files under `root`: all of them, or none if one is not as expected."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise SystemExit(f"{version!r} is not a version like 0.2.0")
    files = [root / project / "pyproject.toml" for project in PROJECTS]
    texts = [bumped(file.read_text(encoding="utf-8"), version) for file in files]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    bump(Path(__file__).parents[1], sys.argv[1])
    print(f"Set to {sys.argv[1]}. Next: CHANGELOG.md, then `make test`.")
