"""Programs as people write them: tasks in `__main__`, and a worker that imports the module (W1, W2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.programs import TERM, ended, run, started, write
from tasks.running import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

SHOP = """
import dataclasses
import eventq

app = eventq.App("store", sync=False)

@dataclasses.dataclass
class Order:
    number: int

@app.task(max_attempts=3, timeout=30)
def thumbnail(path: str, width: int = 128) -> str:
    return f"{path} at {width}"

@app.task
async def ship(order: Order) -> Order:
    return Order(order.number + 1)

if __name__ == "__main__":
    print(thumbnail.name, ship.name)
    handle = thumbnail.enqueue("cat.png", width=64)
    shipped = ship.enqueue(Order(1))
    print(thumbnail("dog.png"))
    print(handle.result(timeout=20), shipped.result(timeout=20))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "shop.py", SHOP)
    return tmp_path


@pytest.mark.parametrize("arguments", [("shop.py",), ("-m", "shop")])
def test_enqueued_by_a_script_and_run_by_a_worker_that_imports_it(folder: Path, arguments: tuple[str, ...]) -> None:
    with started(folder, "-c", "import shop, sys; sys.exit(shop.app.worker().run())") as worker:
        out = run(folder, *arguments)
        worker.send_signal(TERM)
        assert ended(worker)[0] == 0
    assert out.splitlines() == [
        "shop.thumbnail shop.ship", "dog.png at 128", "cat.png at 64 Order(number=2)"
    ]  # fmt: skip


def test_a_script_that_is_its_own_worker(folder: Path) -> None:
    (folder / "shop.py").write_text(
        SHOP.replace("    print(handle.result", "    app.worker().run(burst=True)\n    print(handle.result")
    )
    assert "cat.png at 64 Order(number=2)" in run(folder, "shop.py")


def test_enqueued_by_name_from_a_program_without_the_code(folder: Path) -> None:
    write(
        folder,
        "sender.py",
        """
        import eventq
        app = eventq.App("store", sync=False)
        handle = app.task_named("shop.thumbnail").enqueue("cat.png", width=32)
        print(handle.result(timeout=20))
        """,
    )
    with started(folder, "-c", "import shop; shop.app.worker().run()") as worker:
        assert run(folder, "sender.py") == "cat.png at 32\n"
        worker.send_signal(TERM)
        worker.wait(PATIENCE)


@pytest.mark.exhaustive
def test_in_a_package(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    write(tmp_path, "shop/__init__.py", "")
    write(tmp_path, "shop/jobs.py", SHOP)
    write(tmp_path, "shop/__main__.py", "from shop.jobs import thumbnail, app\nprint(thumbnail.name)\n")
    assert run(tmp_path, "-m", "shop") == "shop.jobs.thumbnail\n"
    with started(tmp_path, "-c", "import shop.jobs; shop.jobs.app.worker().run()") as worker:
        out = run(tmp_path, "-m", "shop.jobs")
        worker.send_signal(TERM)
        worker.wait(PATIENCE)
    assert out.splitlines()[0] == "shop.jobs.thumbnail shop.jobs.ship"


def test_readme_style(tmp_path: Path) -> None:
    """As the shortest program that shows all of it."""
    write(
        tmp_path,
        "program.py",
        """
        import eventq
        from eventq import Context, Reject, Retry

        app = eventq.App("memory://")

        @app.task(max_attempts=5, retry_delay=0, bind=True)
        def charge(context: Context, order: int, amount: float) -> str:
            if amount < 0:
                raise Reject("nothing to charge")
            if context.attempt < 3:
                raise Retry(0)
            return f"{order}: {amount} at attempt {context.attempt}"

        @app.task
        async def notify(user: str) -> None: ...

        good, bad = charge.enqueue(1, 2.5), charge.enqueue(2, -1.0)
        told = notify.using(priority=5).enqueue("ann")
        app.worker().run(burst=True)
        print(good.result(), "|", bad.exception(), "|", told.result())
        """,
    )
    out = run(tmp_path, "program.py")
    assert out.startswith("1: 2.5 at attempt 3 | event ")
    assert "nothing to charge" in out
    assert out.endswith("| None\n")


CHILDREN = """
import multiprocessing
import dataclasses
import eventq

app = eventq.App("store", sync=False)

@dataclasses.dataclass
class Order:
    number: int

@app.task(executor="process", bind=True)
def first(context, number: int) -> list[str]:
    return [context.task, second.enqueue(number).id]

@app.task
def second(number: int) -> int:
    return number + 1

def work() -> None:
    assert app.worker().run(burst=True) == 0
    print(app.queue(Order).name)

if __name__ == "__main__":
    handle = first.enqueue(1)
    assert app.worker().run(burst=True) == 0
    name, followed = handle.result(0)
    print(name, app.handle(followed).result(0), app.queue(Order).name)
    handle = second.enqueue(2)
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    print(handle.result(0))
"""


def test_names_are_the_same_in_child_processes(tmp_path: Path) -> None:
    """Where multiprocessing runs the script again as `__mp_main__`; what was enqueued there was run by nobody."""
    write(tmp_path, "shop.py", CHILDREN)
    assert run(tmp_path, "shop.py").splitlines() == ["shop.first 2 shop.Order", "shop.Order", "3"]
