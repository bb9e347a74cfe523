"""What a bare GPU machine lacks to run `make bench-gpu`, as wheels in a folder that git ignores: `make gpu-kit`.

Machines with a GPU often have no network. The kit is for Linux on x86-64 with Python 3.12 and, already there, PyTorch,
torchvision, accelerate, numpy, scipy and safetensors. It holds only what the library imports on the way to a training
and a detection, so no scikit-learn, scikit-image, matplotlib or pytorch-metric-learning.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "build" / "gpu-kit"
MOST_BYTES = 60 << 20
PYTHON, PLATFORMS = "3.12", [f"manylinux{kind}_x86_64" for kind in ("_2_28", "_2_27", "_2_17", "2014", "_2_12", "2010")]
NAMES = [
    "absl-py",
    "annotated-types",
    "certifi",
    "charset-normalizer",
    "facenet-pytorch",
    "idna",
    "joblib",
    "markupsafe",
    "mypy-extensions",
    "packaging",
    "pandas",
    "pandera",
    "pillow",
    "platformdirs",
    "pooch",
    "protobuf",
    "pydantic",
    "pydantic-core",
    "python-dateutil",
    "pyyaml",
    "requests",
    "six",
    "tensorboard",
    "timm",
    "tqdm",
    "typeguard",
    "typing-extensions",
    "typing-inspect",
    "typing-inspection",
    "urllib3",
    "werkzeug",
]


def pinned(lock: str, names: list[str]) -> str:
    """The part of a requirements.lock about `names` on Python 3.12 and Linux, as a requirements file with hashes.

    Raises SystemExit where a name is not in the lock, since its hash could not be checked then.
    """
    from packaging.requirements import Requirement

    machine = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "sys_platform": "linux"}
    machine |= {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    machine |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    found = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock):
        line, *more = entry.split("\n")
        requirement = Requirement(line.removesuffix("\\").strip())
        name = requirement.name.lower().replace("_", "-")
        if name in names and (requirement.marker is None or requirement.marker.evaluate(machine)):
            hashes = [word for word in " ".join(more).split() if word.startswith("--hash=")]
            found[name] = " ".join([f"{name}{requirement.specifier}", *hashes])
    if missing := sorted(set(names) - found.keys()):
        sys.exit(
            f"error: {', '.join(missing)}: not in requirements.lock: run make lock, or correct NAMES in {__file__}"
        )
    return "\n".join(found[name] for name in names) + "\n"


def gather() -> None:
    """Fill KIT with the wheels whose hashes requirements.lock holds; exits with an error above MOST_BYTES."""
    KIT.mkdir(parents=True, exist_ok=True)
    for wheel in KIT.glob("*.whl"):
        wheel.unlink()  # an older version beside a newer one would be unpacked over it
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "kit.txt"
        wanted.write_text(pinned((ROOT / "requirements.lock").read_text(encoding="utf-8"), NAMES), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
        command += [word for platform in PLATFORMS for word in ("--platform", platform)]
        subprocess.run([*command, "-d", KIT, "-r", wanted], check=True)
    sizes = {wheel.name: wheel.stat().st_size for wheel in sorted(KIT.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total / 2**20:8.2f} MiB in {len(sizes)} wheels, all with the hashes of requirements.lock: {KIT}")
    if len(sizes) != len(NAMES) or total > MOST_BYTES:
        sys.exit(f"error: the kit should be {len(NAMES)} wheels of at most {MOST_BYTES >> 20} MiB together")


def unpack(folder: Path) -> int:
    """Unpack all wheels of the kit into `folder`; returns how many there were. A folder of wheels needs no pip."""
    wheels = sorted(KIT.glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return len(wheels)


if __name__ == "__main__":
    gather()
