"""TAP of the tests in Python, as tap.sh has it for those in the shell."""
import sys

n = failed = 0


def check(ok, name, why=""):
    """A line; before one that failed the end of what `why` says."""
    global n, failed
    n, failed = n + 1, failed + (not ok)
    print("".join(f"# {line}\n" for line in why.splitlines()[-20:] if not ok) + f"{'ok' if ok else 'not ok'} {n} - {name}")


def skip(name, why):
    check(True, f"{name} # SKIP {why}")


def check_refused(says, call, error):
    """That a call raises this error, whose one line holds one of the words of `says` between |."""
    try:
        call()
        check(False, f"refused: {says}")
    except error as e:
        print(f"# {e}")
        check("\n" not in str(e) and any(word in str(e) for word in says.split("|")), f"refused: {says}")


def finish():
    """The plan and the exit status: the last line of a script."""
    print(f"1..{n}")
    sys.exit(failed > 0)
