"""A staged job whose worker is killed: another one goes on at the stage where it was, with the results of before.

    $ python examples/staged_job.py
    a worker was killed with -9 while the stage 'measure' was running
    find: completed, started 1 time
    measure: completed, started ... times
    report: completed, started 1 time
    the standard library's modules a to m: ... functions in ... files, the most in ...
    the job is finished, exit code 0

The first stage looks for source files, the second measures them in a batch of four calls side by side, the third takes
the results of both: its arguments are templates. The job's record says how each stage stands, and how it ended.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import eventq

if __name__ == "__main__" and sys.argv[1:] != ["worker"]:  # a store for this run alone, which its workers share
    room = tempfile.TemporaryDirectory()
    os.environ.setdefault("EVENTQ_URL", room.name)

app = eventq.App()


@app.task(name="find")
def find(first: str, last: str) -> list[str]:
    """The modules whose names begin with these letters or with one in between."""
    modules = Path(sysconfig.get_paths()["stdlib"]).glob("*.py")
    return sorted(str(path) for path in modules if first <= path.name[0] <= last)


@app.task(name="measure")
def measure(paths: list[str], part: int) -> dict[str, int]:
    """How many functions each of a quarter of the files defines."""
    trees = {Path(path).stem: ast.parse(Path(path).read_bytes()) for path in paths[part::4]}
    return {name: sum(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)) for name, tree in trees.items()}


@app.task(name="report")
def report(title: str, parts: list[dict[str, int]]) -> str:
    counts = {name: count for part in parts for name, count in part.items()}
    most = max(counts, key=lambda name: (counts[name], name))
    return f"{title}: {sum(counts.values())} functions in {len(counts)} files, the most in {most}"


job = app.job(
    "survey",
    {
        "find": (find, "{first}", "{last}"),
        "measure": [(measure, "{find}", part) for part in range(4)],
        "report": (report, "the standard library's modules {first} to {last}", "{measure}"),
    },
    keywords={"first": "a", "last": "z"},
    max_retries=2,
    description="what the standard library consists of",
)


def worker() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "worker"])


def stage(name: str) -> eventq.StageReport:
    """How a stage stands now."""
    said = job.report()
    assert said is not None
    return next(each for each in said.stages if each.name == name)


def main() -> int:
    run = job.start(last="m")
    first = worker()
    while stage("measure").state not in ("claimed", "completed"):
        time.sleep(0.005)
    first.kill()
    first.wait()
    print("a worker was killed with -9 while the stage 'measure' was running")
    second = worker()
    try:
        result = run.result(timeout=60)
    finally:
        second.terminate()
        second.wait()
    said = job.report()
    assert said is not None
    for each in said.stages:
        print(f"{each.name}: {each.state}, started {each.attempts} time{'s' if each.attempts > 1 else ''}")
    print(result[-1])
    print(f"the job is {said.state}, exit code {said.exit_code}")
    return said.exit_code or 0


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        sys.exit(app.worker(concurrency=2).run())
    with room, app:
        code = main()
    sys.exit(code)
