"""The program `msa`: what of it has no function in the library, layers of checkpoints and maps, Python asks it for."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, List

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


_PREFIX = "msa-python-"
_AGE = 60  # seconds after which its maker has had the time to lock a directory


def _remove_dead() -> None:
    for left in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                made = os.fstat(lock)
                if made.st_uid == os.getuid() and time.time() - made.st_mtime > _AGE:
                    shutil.rmtree(left)
            finally:
                os.close(lock)


@contextlib.contextmanager
def directory() -> Iterator[str]:
    """A directory for the files of one call, which is removed at its end. A process that a signal ends leaves it, and a later
    call removes it: whether its maker lives is told by the lock on it, which the system drops with the process."""
    _remove_dead()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as path:
        lock = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then nobody removes leftovers either
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield path
        finally:
            os.close(lock)


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
