"""PROTOCOL.md says what is so: its names parse, its lines are read, its commands run, its states come about."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import eventq.storage.file
from eventq.ids import ID_PATTERN, stem_of
from eventq.model import Completed, Dropped, Failure, Outcome, PutOptions, Rejected, Requeue, Retried, State
from eventq.storage.file import FileStorage, disk, fsck, line
from eventq.storage.file.format import FOLDERS
from eventq.storage.file.layout import (
    BLOCKED_FILE,
    BUCKET,
    CLAIM_FILE,
    DELAYED_FILE,
    EVENT_FILE,
    KEYED_DRAFT,
    PRIORITY,
    bucket_of,
    decode_queue,
    encode_queue,
)
from eventq.storage.file.presence import INNER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.testing import FakeClock

PROTOCOL = Path(eventq.storage.file.__file__).with_name("PROTOCOL.md").read_text("utf-8")
BOOM = Failure("ValueError", "boom")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PROTOCOL, re.DOTALL | re.MULTILINE)


# ---------------------------------------------------------------- names and lines


def names() -> dict[str, list[str]]:
    """The examples of the table of names, by what they are examples of."""
    rows = re.findall(r"^\| `(<\w+>)` \|.*\| ([^|]+) \|$", PROTOCOL, re.MULTILINE)
    return {part: re.findall(r"`([^`]+)`", examples) for part, examples in rows}


def test_the_names_that_are_shown_are_legal() -> None:
    shown = names()
    queue, encoded, plain, dotted, name = shown.pop("<queue>")
    assert (decode_queue(queue), encode_queue(plain), encode_queue(name)) == (queue, encoded, dotted)
    legal = {
        "<priority>": PRIORITY, "<worker>": fsck.WORKER, "<stem>": fsck.STEM, "<id>": ID_PATTERN, "<file>": EVENT_FILE,
        "<due>": re.compile(r"[0-9a-f]{16}\Z"), "<bucket>": BUCKET,
        "<places>": re.compile(r"\d{1,5}(-[0-9a-f]{1,16})?\Z"), "<until>": re.compile(r"[0-9a-f]{16}\Z"),
    }  # fmt: skip
    assert shown.keys() == legal.keys()
    for part, examples in shown.items():
        assert examples, part
        assert [example for example in examples if not legal[part].match(example)] == [], part
    assert shown["<bucket>"] == [bucket_of(shown["<stem>"][0])]
    assert DELAYED_FILE.match(f"{shown['<due>'][0]}~{shown['<priority>'][1]}~{shown['<file>'][0]}")
    assert BLOCKED_FILE.match("~".join(shown[part][0] for part in ("<places>", "<until>", "<priority>", "<file>")))
    assert CLAIM_FILE.match(f"{queue}~{shown['<priority>'][1]}~{shown['<file>'][0]}")
    assert KEYED_DRAFT.match(f"key~{queue}~0~{shown['<due>'][0]}~{shown['<stem>'][0]}")


def test_the_lines_that_are_shown_are_read() -> None:
    events, steps = (block.encode() for block in blocks("jsonl"))
    read = 0
    for stem in {text[7:45].decode() for text in events.splitlines()}:
        folded = line.fold(b"".join(text + b"\n" for text in events.splitlines() if text[7:45] == stem.encode()), stem)
        assert folded.bad == []
        assert [line.payload_of(folded.event(index)) for index in folded.lines]
        read += len(folded.lines)
    assert read == len(events.splitlines())
    records = [line.decode_record(text) for text in steps.splitlines()]
    assert all(line.is_sealed(text) for text in steps.splitlines())
    assert {record.step for record in records} == fsck.STEPS | {"moved"}
    assert all(fsck.TARGET.match(record.to) for record in records if record.step == "moved")


def test_what_the_shown_steps_lead_to() -> None:
    events, steps = (block.encode() for block in blocks("jsonl"))
    stem = events[7:45].decode()
    texts = steps.splitlines(keepends=True)
    opened = [line.fold(events + b"".join(texts[:count]), stem).open_indexes() for count in range(len(texts) + 1)]
    # started, released, skipped, failed: still open; then 1 moves on, 0 is settled (twice), and requeued
    assert opened == [[0, 1], [0, 1], [0, 1], [0, 1], [0, 1], [0], [], [], [0]]


def test_the_folders_that_are_shown_are_those_of_a_store(tmp_path: Path) -> None:
    (layout,) = [block for block in blocks("text") if block.startswith("store/")]
    with FileStorage(tmp_path / "store", sync=False) as storage:
        storage.put("q", [b"1"], PutOptions())
        assert sorted(disk.listdir(storage.root)) == sorted([*FOLDERS, "FORMAT", "ballast"])
        inside = [*disk.listdir(storage.root), *disk.listdir(storage.root + "/queues/q")]
        for name in [*inside, *INNER, "lock", "info.json"]:
            assert re.search(rf"(^|[ /]){re.escape(name)}\b", layout, re.MULTILINE), f"{name} is not in the layout"


def test_everything_is_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with FileStorage(tmp_path / "store", sync=False) as storage:
            storage.put_key("q", b"1", PutOptions(key="k"))
            (claimed,) = storage.claim("q")
            storage.note(claimed, "progress", b"1")
            storage.watch(id=claimed.id).close()
            root = Path(storage.root)
            assert [path for path in [root, *root.rglob("*")] if path.lstat().st_mode & 0o077] == []
    finally:
        os.umask(old)


# ---------------------------------------------------------------- from a shell


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], str]:
    """Runs a script as a user would, in a folder of its own, with `eventq` on the path."""
    program = tmp_path / "bin/eventq"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m eventq "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "EVENTQ_URL": str(tmp_path / "store"), "PATH": path}

    def run(script: str) -> str:
        command = ["/bin/sh", "-eu", "-c", script]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_commands_run(shell: Callable[[str], str], tmp_path: Path) -> None:
    publish, look, consume = blocks("sh")
    shell(publish)
    shown = shell(look)
    assert "no dead letters" in shown
    assert re.search(r"^events\.\d+$", shown, re.MULTILINE)
    assert [found for found in fsck.check(str(tmp_path / "store")) if found.severity == "error"] == []
    shell(consume)
    sent = (tmp_path / "store.sent").read_text().split()
    assert sorted(sent) == sorted(['{"to":"urgent"}', '{"to":"first"}', '{"to":"ada"}', '{"to":"bob"}'])
    assert sent[0] == '{"to":"urgent"}'
    assert [found for found in fsck.check(str(tmp_path / "store")) if found.severity == "error"] == []


@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs coreutils' timeout")
def test_a_shell_wakes_a_claimer(shell: Callable[[str], str], tmp_path: Path) -> None:
    (command,) = re.findall(r"`(timeout .*)`", PROTOCOL)
    with FileStorage(tmp_path / "store", sync=False) as storage:
        watch = storage.watch("mail")
        shell(f'cd "$EVENTQ_URL/queues/mail/ready/0" && {command}')
        assert os.read(watch.fileno(), 10) == b"\n"
        watch.close()


# ---------------------------------------------------------------- the states


def row(state: str) -> str:
    (found,) = re.findall(rf"^\| ({state} .*) \|$", PROTOCOL, re.MULTILINE)
    return str(found)


class Died(BaseException):
    """The process, in the middle of a call."""


class Place:
    """A store, and which of its files are where."""

    def __init__(self, root: Path, clock: FakeClock) -> None:
        self.root = root
        self.clock = clock
        self.storage = FileStorage(root, sync=False, clock=clock)
        self.dead: list[FileStorage] = []

    def put(self, *payloads: bytes, **options: object) -> list[str]:
        return self.storage.put("q", list(payloads), PutOptions(**options))  # type: ignore[arg-type]

    def files(self) -> set[str]:
        """Event files, shortened: stems and ids as `<stem>` and `<id>`, buckets and rooms as `*`."""
        found = set()
        for path in [*self.root.glob("queues/q/*/*/*"), *self.root.glob("workers/*/claims/*"),
                     *self.root.glob("workers/*/drafts/*")]:  # fmt: skip
            text = str(path.relative_to(self.root))
            text = re.sub(r"[0-9a-f]{64}", "*", text)
            text = re.sub(r"[0-9a-f]{38}\.[0-9a-f]{5}", "<id>", text)
            text = re.sub(r"[0-9a-f]{38}", "<stem>", text)
            text = re.sub(r"\b[0-9a-f]{16}(?=~)", "<due>", text)
            found.add(re.sub(r"/([0-9a-f]{7}|[0-9a-f]{16})/", "/*/", text.removeprefix("queues/q/")))
        return found

    def errors(self) -> list[str]:
        return [f"{found.path}: {found.problem}" for found in fsck.check(str(self.root)) if found.severity == "error"]

    @contextlib.contextmanager
    def dying(self, call: str, when: Callable[..., bool]) -> Iterator[None]:
        """The worker dies in the first disk call of a kind for which `when` holds; the dead make no calls."""
        dead: list[str] = []

        def until_death(name: str, real: Callable[..., object]) -> Callable[..., object]:
            def instead(*args: object) -> object:
                if dead or (name == call and when(*args)):
                    dead.append(name)
                    raise Died
                return real(*args)

            return instead

        maintenance = self.storage._joined().maintenance
        if maintenance is not None:
            maintenance.stop()  # it dies as well, and must not finish what the test has interrupted
        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "link", "unlink", "rmdir", "pwrite", "truncate", "create", "open_file"):
                patch.setattr(disk, name, until_death(name, getattr(disk, name)))
            with pytest.raises(Died):
                yield
        self.kill()

    def kill(self) -> None:
        self.storage.abandon()
        self.storage = FileStorage(self.root, sync=False, clock=self.clock)

    def bury(self) -> None:
        self.clock.advance(1.0)
        self.storage.recover()


@pytest.fixture
def place(tmp_path: Path, clock: FakeClock) -> Iterator[Place]:
    place = Place(tmp_path / "store", clock)
    yield place
    place.storage.close()


def test_ready_and_delayed(place: Place, clock: FakeClock) -> None:
    """S2, S3."""
    place.put(b"1")
    place.put(b"2", priority=-7)
    place.put(b"3", due=clock.now() + 9)
    assert place.files() == {"ready/0/<stem>", "ready/-7/<stem>", "delayed/*/<due>~0~<stem>"}
    assert place.errors() == []


def test_claimed_and_back(place: Place) -> None:
    """S4 and S5, and S7 after a death, which counts a crash for what was started only."""
    place.put(b"1", b"2")
    (claimed,) = place.storage.claim("q")
    assert place.files() == {"workers/*/claims/q~0~<stem>"}
    assert place.errors() == []
    place.kill()
    assert place.errors() == []
    place.bury()
    assert place.files() == {"ready/0/<stem>+"}
    assert place.errors() == []
    again = {claim.id: claim.crashes for claim in place.storage.claim("q", 2)}
    assert again == {claimed.id: 1, stem_of(claimed.id) + ".00001": 0}


def test_on_the_move(place: Place) -> None:
    """S6: the record is written, the rename is not done; whoever buries the mover does it."""
    place.put(b'"one"', b'"two"')
    (first, _) = place.storage.claim("q", 2)
    with place.dying("rename", lambda source, target: "/drafts/" in source and "/delayed/" in target):
        place.storage.settle(first, Retried(5.0, BOOM))
    assert place.files() == {"workers/*/claims/q~0~<stem>", "workers/*/drafts/<due>~0~<id>"}
    assert place.errors() == []
    place.bury()
    assert place.files() == {"ready/0/<stem>+", "delayed/*/<due>~0~<id>"}
    assert place.errors() == []
    record = place.storage.get(first.id)
    assert record is not None
    assert (record.state, record.failures, record.crashes) == (State.DELAYED, 1, 0)


def test_a_draft_without_its_record_is_dropped(place: Place) -> None:
    """S1 on the way to S6: nothing has happened."""
    place.put(b'"one"', b'"two"')
    (first, _) = place.storage.claim("q", 2)
    with place.dying("pwrite", lambda fd, data, at: b'"moved"' in data):
        place.storage.settle(first, Rejected(BOOM))
    assert place.files() == {"workers/*/claims/q~0~<stem>", "workers/*/drafts/<id>"}
    assert place.errors() == []
    place.bury()
    assert place.files() == {"ready/0/<stem>+"}
    assert place.errors() == []


def test_ended_in_company_and_completed(place: Place) -> None:
    """S8, then S10."""
    (first, second) = place.put(b"1", b"2")
    one, two = place.storage.claim("q", 2)
    place.storage.settle(one, Completed(b'"value"'))
    record = place.storage.get(first)
    assert record is not None
    assert (record.state, record.value) == (State.COMPLETED, b'"value"')
    assert place.files() == {"workers/*/claims/q~0~<stem>"}
    assert place.errors() == []
    place.storage.settle(two, Completed())
    assert place.files() == {"completed/*/<stem>"}
    assert place.errors() == []
    assert place.storage.get(second) is None


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Completed(b"1"), State.COMPLETED),
        (Rejected(BOOM), State.DEAD),
        (Dropped(State.CANCELLED, "no"), State.CANCELLED),
    ],
)
def test_ended_and_not_yet_put_away(place: Place, outcome: Outcome, state: State) -> None:
    """S9, S7, and what the next claimer makes of it."""
    (id,) = place.put(b"1")
    (claimed,) = place.storage.claim("q")
    with place.dying("rename", lambda source, target: "/claims/" in source):
        place.storage.settle(claimed, outcome)
    assert place.errors() == []
    place.bury()
    assert place.files() == {"ready/0/<stem>+"}
    assert place.errors() == []
    assert place.storage.claim("q") == []
    record = place.storage.get(id)
    assert record is not None
    assert record.state is state
    assert place.files() == {f"{state}/*/<stem>" if state is State.COMPLETED else f"{state}/*/<id>"}
    assert place.errors() == []


def test_about_to_be_revived(place: Place) -> None:
    """S12: until the rename, the folder says what the event is."""
    (id,) = place.put(b"1")
    place.storage.settle(place.storage.claim("q")[0], Rejected(BOOM))
    with place.dying("rename", lambda source, target: "/dead/" in source):
        place.storage.edit("q", [id], Requeue())
    assert place.files() == {"dead/*/<id>"}
    assert place.errors() == []
    record = place.storage.get(id)
    assert record is not None
    assert record.state is State.DEAD
    assert place.storage.edit("q", [id], Requeue()) == [id]
    assert place.files() == {"delayed/*/<due>~0~<id>+"}
    assert place.errors() == []


def test_gone(place: Place) -> None:
    """S13: a kept file holds no open event, also for whoever finds it after a death."""
    place.put(b"1")
    place.storage.settle(place.storage.claim("q")[0], Completed())
    assert place.files() == {"workers/*/claims/q~0~<stem>"}
    assert place.errors() == []
    place.kill()
    place.bury()
    assert place.errors() == []
    assert place.storage.claim("q") == []
    assert place.storage.stats("q").ready == 0


@pytest.mark.parametrize("marked", [False, True])
def test_a_keyed_draft(place: Place, marked: bool) -> None:
    """S14, before and after its marker was linked."""
    call = "rename" if marked else "link"
    with place.dying(call, lambda source, target: "/ready/" in target or "/keys/" in target):
        place.storage.put_key("q", b"1", PutOptions(key="k"))
    assert place.errors() == []
    place.bury()
    assert place.errors() == []
    assert len(place.storage.claim("q")) == marked


@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("create", lambda path: "=" in path),
        ("unlink", lambda path: "/claims/" in path),
        ("rename", lambda source, target: "=" in source),
    ],
)
def test_being_adopted(place: Place, call: str, when: Callable[..., bool]) -> None:
    """S15, and S16 at each of its steps: nothing is lost, nothing comes twice."""
    place.put(b"0")
    place.storage.settle(place.storage.claim("q")[0], Completed())
    for name in ("a", "b"):
        (place.root / f"queues/q/ready/0/.{name}").write_bytes(b'"%b1"\n"%b2"' % (name.encode(), name.encode()))
        (place.root / f"queues/q/ready/0/.{name}").rename(place.root / f"queues/q/ready/0/{name}")
    assert {"ready/0/a", "ready/0/b"} < place.files()
    place.storage._joined().drafts.make_space()  # so that the draft is created, not recycled
    place.clock.advance(1.0)
    with place.dying(call, when):
        place.storage.claim("q")
    assert place.errors() == []
    place.bury()
    assert place.errors() == []
    payloads = []
    while claimed := place.storage.claim("q"):
        payloads.append(claimed[0].payload)
        place.storage.settle(claimed[0], Completed())
    assert sorted(payloads) == [b'"a1"', b'"a2"', b'"b1"', b'"b2"']


def test_blocked(place: Place) -> None:
    """S17, until a place is free; after a death between the two, the next look brings it back."""
    for payload in (b"1", b"2"):
        place.put(payload, limits={"c": 1})
        place.clock.advance(1.0)
    (claimed,) = place.storage.claim("q", 9)
    assert place.files() == {"workers/*/claims/q~0~<stem>", "blocked/*/1~<due>~0~<stem>+"}
    assert place.errors() == []
    with place.dying("rename", lambda source, _: "/blocked/" in source):
        place.storage.settle(claimed, Completed())
    assert place.files() == {"workers/*/claims/q~0~<stem>", "blocked/*/1~<due>~0~<stem>+"}
    assert place.errors() == []
    place.bury()
    assert place.files() == {"ready/0/<stem>+"}
    assert place.errors() == []
    payloads = []
    while claims := place.storage.claim("q"):
        payloads.append(claims[0].payload)
        place.storage.settle(claims[0], Completed())
    assert payloads == [b"2"]


def test_each_state_of_the_table_has_a_test() -> None:
    states = set(re.findall(r"^\| (S\d+) ", PROTOCOL, re.MULTILINE))
    tested = {
        state
        for name, test in globals().items()
        if name.startswith("test_") and test.__doc__
        for state in re.findall(r"S\d+", test.__doc__)
    }
    assert states == {f"S{number}" for number in range(1, 18)}
    assert states - tested == {"S11"}  # made by the tests of S9 and S12
