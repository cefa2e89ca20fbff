"""What is shipped: the locks agree with pyproject.toml, the wheel holds what it should, importing starts nothing."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from securellm import __version__

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PYTHONS = ("3.11", "3.12", "3.13")

# The module that a distribution is imported as, where the name differs.
MODULE_OF = {"quart-trio": "quart_trio", "prometheus-client": "prometheus_client"}


def _locked(name: str) -> dict[str, list[tuple[str, Marker | None]]]:
    """Distribution -> its pinned versions with the marker of each."""
    pins: dict[str, list[tuple[str, Marker | None]]] = {}
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line.partition(" --hash=")[0])
        (specifier,) = requirement.specifier
        pins.setdefault(canonicalize_name(requirement.name), []).append((specifier.version, requirement.marker))
    return pins


def _environment(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.1"}


def _unmet(requirements: list[Requirement], lock: str) -> list[str]:
    """The requirements that the lock does not pin, or pins otherwise, on any supported Python."""
    pins, unmet = _locked(lock), []
    for python in PYTHONS:
        for requirement in requirements:
            if requirement.marker and not requirement.marker.evaluate(_environment(python)):
                continue
            versions = [
                version
                for version, marker in pins.get(canonicalize_name(requirement.name), [])
                if marker is None or marker.evaluate(_environment(python))
            ]
            if len(versions) != 1 or not requirement.specifier.contains(versions[0], prereleases=True):
                unmet.append(f"{python}: {requirement} is {versions}")
    return unmet


def _runtime() -> list[Requirement]:
    return [Requirement(line) for line in PROJECT["dependencies"]]


def _extra(name: str) -> list[Requirement]:
    return [Requirement(line) for line in PROJECT["optional-dependencies"][name]]


def test_serve_lock_pins_what_the_project_needs() -> None:
    """requirements/serve.lock pins each dependency and the extra redis, as pyproject.toml allows, on every Python."""
    assert _unmet([*_runtime(), *_extra("redis")], "serve.lock") == []


def test_build_lock_pins_what_the_build_needs() -> None:
    """requirements/build.lock pins what builds the wheel; it is what pyproject.toml asks for, and wheel."""
    build = [
        Requirement(line)
        for line in (ROOT / "requirements" / "build.in").read_text().splitlines()
        if not line.startswith("#")
    ]
    asked = [Requirement(line) for line in PYPROJECT["build-system"]["requires"]]
    assert {requirement.name for requirement in asked} < {requirement.name for requirement in build}
    assert _unmet([*asked, *build], "build.lock") == []


def test_test_lock_pins_what_the_tests_need() -> None:
    """requirements/test.lock pins the dependencies and the extras test and dev."""
    extras = PROJECT["optional-dependencies"]
    requirements = [Requirement(line) for line in [*extras["test"], *extras["dev"]]]
    assert _unmet([*_runtime(), *requirements], "test.lock") == []


def test_tests_run_on_what_is_served() -> None:
    """Whatever is served or builds it is tested in the same version."""
    test = _locked("test.lock")
    for name, pins in [*_locked("serve.lock").items(), *_locked("build.lock").items()]:
        assert {version for version, _ in pins} == {version for version, _ in test[name]}, name


def test_what_serves_does_not_hold_what_builds() -> None:
    """setuptools, whose .pth file runs code at every start, and the compiler stay out of the serving environment."""
    assert set(_locked("serve.lock")) & set(_locked("build.lock")) <= {"packaging"}


@pytest.mark.parametrize("name", ["serve.lock", "build.lock", "test.lock"])
def test_locks_pin_content_and_name_no_place(name: str) -> None:
    """Every pin has hashes; no lock names an index, a host or a path."""
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"https?://|file:|^\s*-[^-]|--(extra-)?index|--find-links|(^|\s)/", text, re.MULTILINE)
    for entry in re.split(r"\n(?=\S)", text.replace("\\\n", " ")):
        if "==" in entry:
            assert "--hash=sha256:" in entry, entry


def test_dependencies_are_those_that_are_imported() -> None:
    """src/ imports every declared dependency, and nothing else that is not in the standard library."""
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    declared = {MODULE_OF.get(name, name) for name in (canonicalize_name(entry.name) for entry in _runtime())}
    declared |= {"redis"}  # the extra, imported when a URL of Redis is set; hiredis is redis-py's business
    # httpcore is httpx's own transport, and comes with it; wsproto, h2 and the like are Hypercorn's business.
    # psycopg is an extra: it is imported when the store is on PostgreSQL, and whoever has none is told.
    assert imported - set(sys.stdlib_module_names) - {"securellm", "httpcore", "psycopg"} == declared


def test_nix_names_the_same_dependencies() -> None:
    """nix/flake.nix has the version of the package and lists what pyproject.toml does."""
    text = (ROOT / "nix" / "flake.nix").read_text()
    (listed,) = re.findall(r"\bdependencies = with [^;]+; \[([^\]]+)\]", text)
    assert set(listed.split()) == {canonicalize_name(entry.name) for entry in [*_runtime(), *_extra("redis")]}
    assert f'version = "{__version__}";' in text


def test_every_dependency_has_its_reason() -> None:
    """Each requirement in pyproject.toml is followed by a comment that says what it is for."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    bare = [line.strip() for line in lines if re.match(r'\s+"[A-Za-z0-9-]+[><=].*",', line) and "#" not in line]
    assert bare == []


@pytest.mark.parametrize(
    "script", ["scripts/serve", "scripts/test", "scripts/bench", "scripts/soak", "scripts/lock", ".ci/run"]
)
def test_scripts_can_be_run(script: str) -> None:
    """Each script is executable and free of syntax errors, as are the parts that it reads."""
    assert os.access(ROOT / script, os.X_OK)
    for path in (ROOT / script, ROOT / "scripts" / "environment.sh", ROOT / ".ci" / "clean-clone"):
        result = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=30)
        assert (result.returncode, result.stderr) == (0, "")


def test_importing_starts_nothing() -> None:
    """Importing every module of the package opens no socket, starts no thread and reaches no network."""
    program = """
import importlib, pkgutil, sys, threading

def hook(event, args):
    if event.startswith("socket.") and event not in ("socket.gethostname",):
        opened.append(event)

opened = []
sys.addaudithook(hook)
import securellm
assert not [name for name in sys.modules if name.split(".")[0] in ("trio", "httpx", "quart")], "imported too much"
for module in pkgutil.walk_packages(securellm.__path__, "securellm."):
    if not module.name.endswith("__main__") and not module.name.endswith("_c"):
        importlib.import_module(module.name)
assert not opened, opened
assert threading.active_count() == 1, threading.enumerate()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=_clean_environment()
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    """The pure wheel is py3-none-any, has every module and data file, no test, no generated C and no .pth."""
    wheel = _build(tmp_path, {"SECURELLM_NO_EXTENSIONS": "1"})
    assert wheel is not None
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "securellm").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so", ".c")
    }
    assert held == expected


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["/bin/false", "no-such-compiler"])
def test_without_a_compiler_the_pure_twins_are_installed(tmp_path: Path, compiler: str) -> None:
    """A missing or broken compiler ends in a wheel without extensions, and in an error where they are required."""
    wheel = _build(tmp_path, {"CC": compiler})
    assert wheel is not None
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith(".so")] == []
    assert _build(tmp_path, {"CC": compiler, "SECURELLM_REQUIRE_EXTENSIONS": "1"}) is None


def _build(directory: Path, settings: dict[str, str]) -> Path | None:
    """The wheel that is built with these variables, None when the build fails."""
    source = directory / "source"
    shutil.rmtree(source, ignore_errors=True)
    _copy_sources(source)
    environment = {name: value for name, value in _clean_environment().items() if not name.startswith("SECURELLM_")}
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    result = subprocess.run(
        [*command, "-w", str(directory), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment | settings,
    )
    if result.returncode != 0:
        return None
    (wheel,) = directory.glob("*.whl")
    return wheel


def _copy_sources(target: Path) -> None:
    """What the build reads, copied, so that it leaves nothing in the work tree."""
    for path in [*(ROOT / "src" / "securellm").rglob("*"), *(ROOT / name for name in _BUILD_FILES)]:
        if path.is_file() and path.suffix not in (".pyc", ".so", ".c"):
            copy = target / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


_BUILD_FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


def _clean_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
