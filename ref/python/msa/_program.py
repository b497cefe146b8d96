"""The program `msa`: what of it has no function in the library, layers of checkpoints and maps, Python asks it for."""

import os
import subprocess
import sys
from pathlib import Path
from typing import List

from . import _library
from ._arguments import Error


def find() -> Path:
    """The one that MSA_PROGRAM names, or that beside the library: of the build, of the wheel, or PREFIX/bin/msa."""
    library = _library.PATH.parent
    named = os.environ.get("MSA_PROGRAM")
    places = [Path(named).absolute()] if named else [library / "msa", library.parent / "bin" / "msa"]
    found = [place for place in places if place.is_file()]
    if not found:
        raise Error(f"the program msa: expected it in {' or '.join(map(str, places))}, found none; `make build` makes it")
    return found[0]


def run(arguments: List[str], home: str, verdict: bool = False) -> str:
    """What it prints, run in the directory `home`. What it refuses is an Error with its line, and so is a failed verdict
    that was not asked for."""
    done = subprocess.run([str(find()), *arguments], cwd=home, capture_output=True, text=True)
    if done.returncode and not (verdict and done.returncode == 1):
        said = done.stderr.strip().splitlines() or [f"msa {arguments[0]}: expected an answer, found exit {done.returncode}"]
        raise Error(said[-1])
    return done.stdout


def main() -> None:
    """The command that pip installs."""
    try:
        program = str(find())
    except Error as e:
        sys.exit(f"msa: {e}")
    os.execv(program, ["msa", *sys.argv[1:]])
