"""The lock, environment.yml and pyproject.toml say the same, and none of them names a download host."""

import importlib.metadata
import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from face3d_lib.base.paths import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = {Requirement(line.rstrip(" \\")) for line in re.findall(r"^[a-z0-9].*\\$", LOCK, re.MULTILINE)}


def conda_requirements():
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert pip[-1] == "--editable ."
    return {Requirement(line) for line in pip[:-1]}


def test_environment_yml_pins_exactly_what_the_lock_pins():
    assert len(LOCKED) > 100
    assert conda_requirements() == LOCKED


def test_every_locked_package_has_a_hash_and_no_host_is_named():
    assert LOCK.count("--hash=sha256:") >= len(LOCKED)
    assert "://" not in LOCK
    assert "index-url" not in LOCK


def test_the_lock_satisfies_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    wanted = [Requirement(line) for lines in [*groups, project["dependency-groups"]["dev"]] for line in lines]
    locked = {canonicalize_name(r.name): str(next(iter(r.specifier)).version) for r in LOCKED}
    for requirement in wanted:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_this_environment_is_the_locked_one():
    here = [r for r in LOCKED if r.marker is None or r.marker.evaluate()]
    wrong = [r.name for r in here if importlib.metadata.version(r.name) not in r.specifier]
    assert wrong == []
