"""The notebooks of the book: cells, length, and what they print beside the chapters' programs. Prints TAP;
tests/test_notebooks.sh runs it."""
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tap import check, finish, skip

root = Path(__file__).resolve().parents[2]
home = root / "book" / "notebooks"


def near(a, b):
    """Numbers with as many decimals that differ by one in the last at most: other processors add in another order."""
    if not all(re.fullmatch(r"-?\d+\.\d+(e[+-]\d+)?", x) for x in (a, b)):
        return False
    digits = len(re.split("[.e]", a)[1])
    exponent = int(a.split("e")[1]) if "e" in a else 0
    return abs(float(a) - float(b)) <= 1.01 * 10.0 ** (exponent - digits)


def alike(a, b):
    if a.startswith("queries") and len(a) == len(b):  # a row of a map
        return sum(x != y for x, y in zip(a, b)) <= 2
    a, b = a.split(), b.split()
    return len(a) == len(b) and all(x == y or near(x, y) for x, y in zip(a, b))


def missing(printed, wanted):
    """Lines of the chapter's program that the notebook does not print, in that order."""
    lines = [line.rstrip() for line in printed.splitlines()]
    at, lost = 0, []
    for want in filter(None, (line.rstrip() for line in wanted.splitlines())):
        found = [i for i in range(at, len(lines)) if alike(want, lines[i])]
        at = found[0] + 1 if found else at
        lost += [] if found else [want]
    return lost


def cells(text):
    """Kind and lines of each cell of the percent format."""
    found = re.split(r"(?m)^# %%(.*)\n", text)
    return found[0], [(kind.strip(), body) for kind, body in zip(found[1::2], found[2::2])]


def run(command, **more):
    return subprocess.run([sys.executable, *command], cwd=home, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(root / "ref" / "python"), "MPLBACKEND": "agg", **more})


check(missing("a 0.50 7\nb", "a 0.51 7\nb") == [] and missing("a 0.50 7\nb", "a 0.52 7\nb") == ["a 0.52 7"] and
      missing("b\na 7", "a 8\nb") == ["a 8"] and missing("b\na", "a\nb") == ["b"], "what is missed is noticed")
for notebook in sorted(home.glob("[0-9]*.py")):
    text, name = notebook.read_text(), notebook.stem
    before, parts = cells(text)
    bad = [body for kind, body in parts if kind == "[markdown]" and not all(line.startswith("#") for line in body.split("\n") if line)]
    for kind, body in parts:
        if not kind:
            compile(body, name, "exec")
    check(not before and not bad and {kind for kind, _ in parts} == {"", "[markdown]"} and parts[0][1].startswith(f"# # Chapter {int(name[:2])}: "),
          f"{name}: cells of text and of code", "".join(bad))
    code = [line for kind, body in parts if not kind for line in body.split("\n") if line.strip() and not line.strip().startswith("#")]
    check(len(code) <= 100, f"... at most 100 lines of code: {len(code)}")
    done = run([str(notebook)])
    lost = missing(done.stdout, (root / "book" / "examples" / f"{name}.out").read_text())
    check(done.returncode == 0 and not lost, "... prints what the chapter's program prints", done.stderr + "\n".join(lost))
check(sorted(int(p.stem[:2]) for p in home.glob("[0-9]*.py")) == list(range(1, 10)), "chapters 1 to 9")
if find_spec("matplotlib"):
    bare = "import runpy, sys; sys.modules['matplotlib'] = None; sys.path.insert(0, '.'); runpy.run_path('01_attention.py')"
    done = run(["-c", bare])
    check("Multiply-adds by length:\n" in done.stdout, "without matplotlib pictures are numbers", done.stderr)
    check("Multiply-adds by length" not in run(["01_attention.py"]).stdout, "... and with it they are pictures")
if find_spec("jupytext") and find_spec("nbconvert") and find_spec("ipykernel"):
    with tempfile.TemporaryDirectory() as out:
        for name in sorted(p.stem for p in home.glob("[0-9]*.py"))[:None if "FULL" in os.environ else 1]:
            done = run(["-m", "jupytext", "--to", "ipynb", "--output", f"{out}/{name}.ipynb", f"{name}.py"])
            again = run(["-m", "nbconvert", "--to", "notebook", "--execute", f"{out}/{name}.ipynb", "--output", f"{name}-run.ipynb"],
                        PYTHONPATH=f"{root / 'ref' / 'python'}:{home}")
            check(done.returncode == 0 and again.returncode == 0, f"{name} runs in Jupyter", done.stderr + again.stderr)
else:
    skip("in Jupyter", "no jupytext, nbconvert and ipykernel here")
finish()
