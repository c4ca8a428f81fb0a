"""Settings for every way of calling pytest in this checkout, `pytest --nbval book/` included, from any
folder."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
NBVAL_DEFAULT_TIMEOUT = 2000


def pytest_configure(config: pytest.Config) -> None:
    # Kernels started by the tests import the pwl_lite of this checkout, installed or not.
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ.setdefault("PWL_PROGRESS", "0")  # progress bars would be outputs that differ at every run
    option = config.option
    if getattr(option, "nbval", False):
        option.nbval_current_env = not option.nbval_kernel_name
        option.nbval_sanitize_with = option.nbval_sanitize_with or str(ROOT / "nbval_sanitize.cfg")
        if option.nbval_cell_timeout == NBVAL_DEFAULT_TIMEOUT:
            option.nbval_cell_timeout = 300


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built as `pip install .` builds it."""
    from alone import build_wheel

    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel of pwl_lite; nothing of the checkout is in reach of it."""
    from alone import make_environment

    return make_environment(wheel, tmp_path_factory.mktemp("alone"))
