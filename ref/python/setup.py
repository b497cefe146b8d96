"""What pyproject.toml cannot say: the version is msa.h's, the library and the program beside it are those that `make build`
has made (MSA_LIBRARY names another library), and what pip writes on the way goes to build/ too. Nothing is compiled here."""
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before 70.1 it was a package of its own
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path(os.environ.get("MSA_LIBRARY") or ROOT / "build" / "libmsa.so")
PROGRAM = LIBRARY.with_name("msa")
BUILD = ROOT / "build" / "python"


class with_binaries(build_py):
    def run(self):
        for what, path in ("library", LIBRARY), ("program", PROGRAM):
            if not path.is_file():
                sys.exit(f"{path}: expected the {what}, found none; `make build` makes it")
        super().run()
        self.copy_file(str(LIBRARY), os.path.join(self.build_lib, "msa", "libmsa.so"))
        self.copy_file(str(PROGRAM), os.path.join(self.build_lib, "msa", "msa"))


class Compiled(Distribution):
    def has_ext_modules(self):
        return True


class for_any_python(bdist_wheel):
    """... of one kind of machine: the library knows nothing of Python."""

    def get_tag(self):
        return "py3", "none", re.sub("[^A-Za-z0-9]", "_", sysconfig.get_platform())


shutil.rmtree(BUILD, ignore_errors=True)
BUILD.mkdir(parents=True)
setup(distclass=Compiled,
      version=re.search('MSA_VERSION "(.*)"', (ROOT / "ref" / "msa.h").read_text())[1],
      cmdclass={"build_py": with_binaries, "bdist_wheel": for_any_python},
      options={"build": {"build_base": str(BUILD)}, "egg_info": {"egg_base": str(BUILD)}})
