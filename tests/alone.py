"""An environment with only the built wheel of pwl_lite and its requirements: what a reader on Colab has."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

BUILT_FROM = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "pwl_lite",
    "data/results",
    "data/weights",
    "data/benchmarks",
    "data/plans",
    "data/published.csv",
)


def pip(command: str, *arguments: str) -> None:
    """Call pip; neither other packages nor an index are needed for what we do here."""
    call = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *arguments]
    subprocess.run(call, check=True)


def build_wheel(root: Path, folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that nothing is left in the checkout."""
    source = folder / "source"
    for name in BUILT_FROM:
        path = root / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            source.mkdir(exist_ok=True)
            shutil.copy(path, source / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(source))
    (built,) = (folder / "dist").glob("pwl_lite-*.whl")
    return built


def make_environment(wheel: Path, folder: Path) -> Path:
    """A new virtual environment: the wheel inside, other packages from the environment that runs the tests.

    The others come in through a .pth file. The folders that it names are searched for modules, but their own
    .pth files are not read, so an editable installation of the checkout stays out of reach.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    answer = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
    site = Path(answer.stdout.strip())
    pip("install", "--target", str(site), str(wheel))
    others = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return python


def clean_environment() -> dict[str, str]:
    """The variables of this process without what would lead to the checkout, its data or another address."""
    hidden = ("PYTHONPATH", "PWL_INSTALL_SPEC", "PWL_DATA_DIR", "VIRTUAL_ENV", "JUPYTER_PATH")
    return {name: value for name, value in os.environ.items() if name not in hidden}
