"""What a wheel ships, the name it must not take, and the import rules."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_kernels_folder_is_not_a_package():
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would hide Hugging Face's kernels from transformers"
    assert not (ROOT / "tests" / "kernels").exists(), "so would this one, on some runners' sys.path"


def test_every_package_is_listed_in_pyproject():
    here = [ROOT / "medvlm_cli", ROOT / "kernels" / "medvlm_kernels"]
    found = {
        ".".join(init.parent.relative_to(ROOT).parts).removeprefix("kernels.")
        for folder in here
        for init in folder.rglob("__init__.py")
    }
    assert len(found) == 11
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"medvlm_cli.configs"}


def test_a_wheel_holds_both_packages_the_presets_and_nothing_else(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"medvlm_cli", "medvlm_kernels"}
    assert "medvlm_cli/core/report.html" in names
    assert {"medvlm_cli/configs/tiny.yaml", "medvlm_cli/configs/deepspeed/zero2.json"} <= set(names)
    assert {"medvlm_cli/app.py", "medvlm_kernels/reference.py", "medvlm_kernels/py.typed"} <= set(names)


def test_the_import_rules_hold():
    lint = str(Path(sys.executable).with_name("lint-imports"))
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 kept, 0 broken" in done.stdout


def test_the_lock_names_versions_and_hashes_but_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    assert len(re.findall(r"^[a-z0-9._-]+==", lock, re.MULTILINE)) > 100
    assert "://" not in lock
    assert all("--hash=sha256:" in part for part in re.split(r"\n(?=[a-z])", lock) if "==" in part)


def test_every_direct_dependency_is_locked():
    lock = (ROOT / "requirements.lock").read_text()
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["train"] + extras["medical"] + extras["dev"]
    names = {re.split(r"[<>=;\s]", line)[0].lower().replace("_", "-") for line in wanted}
    locked = set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE))
    assert names <= locked
