"""The four distributions: what they declare, and what their wheels hold."""

import importlib.util
import re
import runpy
import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from email import message_from_string
from email.message import Message
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"dlbt_core": "dlbt-core", "dlbt_rules_vision": "dlbt-rules-vision", "dlbt_rules_nlp": "dlbt-rules-nlp"}
PROJECTS = {".": "dlbt", **PACKAGES}
PLUGINS = {"dlbt_rules_vision": "vision", "dlbt_rules_nlp": "nlp"}


def project(folder: str, root: Path = ROOT) -> dict[str, Any]:
    text = (root / folder / "pyproject.toml").read_text(encoding="utf-8")
    declared: dict[str, Any] = tomllib.loads(text)["project"]
    return declared


def requirements(folder: str, root: Path = ROOT) -> list[Requirement]:
    """What a project asks for, its extras included."""
    declared = project(folder, root)
    lists = [declared["dependencies"], *declared.get("optional-dependencies", {}).values()]
    return [Requirement(text) for text in chain.from_iterable(lists)]


def own_requirements(folder: str, root: Path = ROOT) -> list[Requirement]:
    return [r for r in requirements(folder, root) if r.name.startswith("dlbt")]


def lines(file: str) -> list[str]:
    """The lines of a requirements file that are neither empty nor comments nor paths."""
    return [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#", "-")]


# -- what is declared --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "name"), PROJECTS.items())
def test_name_python_and_licence(folder: str, name: str) -> None:
    declared = project(folder)
    assert declared["name"] == name
    assert declared["requires-python"] == ">=3.11"
    assert declared["license"] == "Apache-2.0"


def test_one_version() -> None:
    assert len({project(folder)["version"] for folder in PROJECTS}) == 1


def test_meta_pins_every_package_at_its_own_version() -> None:
    version = project(".")["version"]
    assert sorted(project(".")["dependencies"]) == sorted(f"{name}=={version}" for name in PACKAGES.values())


@pytest.mark.parametrize("folder", PROJECTS)
def test_own_requirements_admit_the_current_version(folder: str) -> None:
    version = project(folder)["version"]
    for requirement in own_requirements(folder):
        assert requirement.specifier.contains(version), requirement


def test_every_dependency_is_pinned_at_a_version_that_is_asked_for() -> None:
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines("constraints.txt")}
    asked = [*chain.from_iterable(map(requirements, PROJECTS)), *map(Requirement, lines("requirements-dev.txt"))]
    for requirement in asked:
        if not requirement.name.startswith("dlbt"):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_what_comes_without_its_dependencies_is_pinned_once_with_its_hash() -> None:
    pinned = [re.fullmatch(r"([\w-]+)==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines("requirements-no-deps.txt")]
    names = [canonicalize_name(match[1]) for match in pinned if match]
    assert len(names) == len(pinned) == 2
    assert not {canonicalize_name(line.split("==")[0]) for line in lines("constraints.txt")} & set(names)


@pytest.mark.parametrize(("folder", "plugin"), PLUGINS.items())
def test_bundled_plugins_declare_their_entry_point(folder: str, plugin: str) -> None:
    assert project(folder)["entry-points"] == {"dlbt.plugins": {plugin: f"{folder}.plugin"}}
    assert any(r.name == "dlbt-core" for r in own_requirements(folder))


@pytest.mark.parametrize("folder", [".", "dlbt_core"])
def test_the_others_declare_none(folder: str) -> None:
    assert "entry-points" not in project(folder)


def test_the_command_is_the_core_s() -> None:
    assert project("dlbt_core")["scripts"] == {"dlbt": "dlbt_core.cli:main"}


def test_licences_are_equal() -> None:
    texts = {(ROOT / folder / "LICENSE").read_bytes() for folder in PROJECTS}
    assert len(texts) == 1
    assert b"Version 2.0, January 2004" in texts.pop()


@pytest.mark.parametrize("package", PACKAGES)
def test_typed(package: str) -> None:
    assert (ROOT / package / "src" / package / "py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_installed_package_is_this_one_and_not_its_folder(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT / package / "src" / package / "__init__.py"), (
        "the folder, not the package: run make test"
    )


# -- what is built -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], zipfile.ZipFile]:
    """The wheel of a project, built from its sdist, so that a path out of the project shows."""
    built: dict[str, zipfile.ZipFile] = {}

    def build(folder: str) -> zipfile.ZipFile:
        if folder not in built:
            out = tmp_path_factory.mktemp("wheel")
            sdist = Path(next(SdistBuilder(str(ROOT / folder)).build(directory=str(out))))
            with tarfile.open(sdist) as archive:
                archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from 3.11.4
                archive.extractall(out)
            unpacked = out / sdist.name.removesuffix(".tar.gz")
            built[folder] = zipfile.ZipFile(next(WheelBuilder(str(unpacked)).build(directory=str(out))))
        return built[folder]

    return build


def members(wheel: zipfile.ZipFile, *, code: bool) -> set[str]:
    return {name for name in wheel.namelist() if (".dist-info/" not in name) == code}


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_string(wheel.read(name).decode())


@pytest.mark.parametrize("folder", PROJECTS)
def test_wheel_has_the_licence_and_the_version(folder: str, wheel: Callable[[str], zipfile.ZipFile]) -> None:
    built = wheel(folder)
    version = project(folder)["version"]
    prefix = f"{PROJECTS[folder].replace('-', '_')}-{version}.dist-info"
    assert built.read(f"{prefix}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert metadata(built)["Version"] == version
    assert metadata(built)["License-Expression"] == "Apache-2.0"


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_has_the_whole_package_and_nothing_else(package: str, wheel: Callable[[str], zipfile.ZipFile]) -> None:
    source = ROOT / package / "src"
    files = {p.relative_to(source).as_posix() for p in (source / package).rglob("*.py")}
    code = members(wheel(package), code=True)
    assert f"{package}/py.typed" in code
    assert files <= code
    assert {name.split("/")[0] for name in code} == {package}


def test_wheel_of_the_core_has_the_template_of_new_plugin(wheel: Callable[[str], zipfile.ZipFile]) -> None:
    template = ROOT / "plugins_template"
    kept = [p for p in template.rglob("*") if p.is_file() and "cache" not in str(p)]
    built = wheel("dlbt_core")
    for path in kept:
        assert built.read(f"dlbt_core/_template/{path.relative_to(template).as_posix()}") == path.read_bytes()
    assert len(kept) > 10


def test_meta_wheel_has_no_code(wheel: Callable[[str], zipfile.ZipFile]) -> None:
    assert members(wheel("."), code=True) == set()


def test_wheel_metadata_names_no_path_of_the_machine_it_was_built_on(
    wheel: Callable[[str], zipfile.ZipFile],
) -> None:
    for folder in PROJECTS:
        assert "file:" not in " ".join(metadata(wheel(folder)).get_all("Requires-Dist", []))


# -- scripts/bump.py ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for folder in PROJECTS:
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(ROOT / folder / "pyproject.toml", tmp_path / folder)
    return tmp_path


@pytest.fixture(scope="module")
def bump() -> Callable[[Path, str], None]:
    function: Callable[[Path, str], None] = runpy.run_path(str(ROOT / "scripts" / "bump.py"))["bump"]
    return function


@pytest.mark.parametrize(
    ("version", "range_"), [("0.1.1", ">=0.1,<0.2"), ("0.7.0", ">=0.7,<0.8"), ("1.4.2", ">=1.0,<2")]
)
def test_bump_sets_versions_pins_and_ranges(
    bump: Callable[[Path, str], None], copied: Path, version: str, range_: str
) -> None:
    bump(copied, version)
    assert {project(folder, copied)["version"] for folder in PROJECTS} == {version}
    assert {str(r.specifier) for r in own_requirements(".", copied)} == {f"=={version}"}
    for folder in PACKAGES:
        for requirement in own_requirements(folder, copied):
            assert requirement.specifier == Requirement(f"x{range_}").specifier


def test_bump_to_the_current_version_changes_nothing(bump: Callable[[Path, str], None], copied: Path) -> None:
    bump(copied, project(".")["version"])
    for folder in PROJECTS:
        written = (copied / folder / "pyproject.toml").read_bytes()
        assert written == (ROOT / folder / "pyproject.toml").read_bytes()


@pytest.mark.parametrize("version", ["0.2", "v0.2.0", "0.2.0rc1", ""])
def test_bump_refuses_what_is_not_a_version_and_writes_nothing(
    bump: Callable[[Path, str], None], copied: Path, version: str
) -> None:
    with pytest.raises(SystemExit, match="is not a version like"):
        bump(copied, version)
    assert project(".", copied) == project(".")


def test_bump_writes_nothing_when_one_file_is_not_as_expected(bump: Callable[[Path, str], None], copied: Path) -> None:
    (copied / "dlbt_rules_nlp" / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="expected one line"):
        bump(copied, "0.9.0")
    assert project(".", copied) == project(".")
