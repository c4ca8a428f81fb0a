"""Lets the records, weights, benchmarks, plans and published numbers of data/ travel inside the package as pwl_lite/_data.

A chapter that runs alone (on Colab, say) has only the installed package and must find them there. An editable
install copies nothing: the checkout's own data/ is in reach. Everything else about the package stands in
pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("results", "weights", "benchmarks", "plans", "published.csv")


class BuildWithData(build_py):
    """build_py that also copies what is SHIPPED."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "pwl_lite" / "_data"
        shutil.rmtree(target, ignore_errors=True)  # no file of an earlier build may slip into the wheel
        for name in SHIPPED:
            source = Path(__file__).resolve().parent / "data" / name
            if source.is_file():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
            elif source.is_dir():
                shutil.copytree(source, target / name, ignore=shutil.ignore_patterns(".*", "*.tmp"))


setup(cmdclass={"build_py": BuildWithData})
