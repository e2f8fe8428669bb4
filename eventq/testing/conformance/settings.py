"""A queue's settings, its pause, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventq.errors import ConfigError, StorageError
from eventq.model import Completed, Rejected, Settings, State
from eventq.testing.conformance.scene import fires

if TYPE_CHECKING:
    from eventq.testing.conformance.scene import Scene


class SettingsRules:
    def test_a_new_queue_has_the_defaults(self, scene: Scene) -> None:
        worker = scene.open()
        assert worker.settings("q") == Settings()
        scene.put(worker, 1)
        assert worker.settings("q") == Settings()

    def test_settings_are_stored_and_shared(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        changes = {"max_attempts": 7, "lease": 30.0, "keep": 5, "keep_count": 3}
        expected = Settings(max_attempts=7, lease=30.0, keep=5.0, keep_count=3)
        assert one.configure("q", changes) == expected
        scene.look(one, two)
        assert two.settings("q") == expected
        assert one.queues() == ["q"]
        one.close()
        assert scene.open().settings("q") == expected

    def test_what_is_not_given_stays(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        one.configure("q", {"max_attempts": 7})
        two.configure("q", {"keep": 5.0})
        assert two.configure("q", {}) == Settings(max_attempts=7, keep=5.0)

    def test_none_takes_a_limit_away(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"lease": 1.0, "keep_count": 1})
        assert worker.configure("q", {"lease": None, "keep_count": None}) == Settings()

    def test_the_least_that_settings_can_be(self, scene: Scene) -> None:
        worker = scene.open()
        least = {
            "max_attempts": 1, "max_crashes": 1, "retry_delay": 0.0, "retry_delay_max": 0.0, "keep": 0.0,
            "keep_count": 0, "keep_dead": 0.0, "keep_dead_count": 0, "lease": 0.001, "max_bytes": 1, "maxsize": 1,
        }  # fmt: skip
        assert worker.configure("q", least) == Settings(**least)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "changes",
        [
            {"max_atempts": 3},
            {"max_attempts": "3"},
            {"max_attempts": None},
            {"keep": "1h"},
            {"paused": 1},
            {"lease": []},
            {"max_attempts": 0},
            {"max_crashes": 0},
            {"retry_delay": -1},
            {"retry_delay_max": float("inf")},
            {"keep": -1},
            {"keep": float("nan")},
            {"keep_count": -1},
            {"keep_dead": -0.5},
            {"keep_dead_count": -1},
            {"lease": 0},
            {"max_bytes": 0},
            {"maxsize": 0},
            {"maxsize": 2.5},
        ],
        ids=repr,
    )
    def test_wrong_settings_are_refused_whole(self, scene: Scene, changes: dict[str, Any]) -> None:
        worker = scene.open()
        worker.configure("q", {"keep": 5.0})
        with pytest.raises(ConfigError, match=next(iter(changes))):
            worker.configure("q", {"max_crashes": 1, **changes})
        assert worker.settings("q") == Settings(keep=5.0)

    def test_settings_are_per_queue(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("a", {"keep": 5.0})
        assert worker.settings("A") == worker.settings("b") == Settings()

    # ---- pause

    def test_a_paused_queue_gives_nothing(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1)
        one.configure("q", {"paused": True})
        scene.look(one, two)
        assert one.claim("q") == two.claim("q") == []
        scene.put(one, 2)
        assert one.claim("q") == []
        assert two.stats("q").ready == 2
        two.configure("q", {"paused": False})
        scene.look(one, two)
        assert scene.drain(one) == [1, 2]

    def test_a_pause_spares_what_is_claimed(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, 2, 3)
        claimed = scene.claim(one)
        two.configure("q", {"paused": True})
        scene.look(one, two)
        assert one.claim("q") == []
        one.settle(claimed, Completed(b"1"))
        assert scene.record(one, claimed.id).state is State.COMPLETED
        assert one.stats("q").ready == 2

    def test_a_pause_may_end_by_itself(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        worker.configure("q", {"paused": True, "paused_until": scene.now() + 1.0})
        assert worker.claim("q") == []
        scene.wait(1.1)
        scene.look(worker)
        assert scene.drain(worker) == [1]

    def test_a_resume_wakes_a_claimer(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1)
        one.configure("q", {"paused": True})
        watch = two.watch("q")
        try:
            while fires(watch):
                watch.clear()
            one.configure("q", {"paused": False})
            assert scene.until(lambda: fires(watch) or two.claim("q"), two)
        finally:
            watch.close()

    # ---- drop

    def test_a_dropped_queue_is_gone(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep_dead": 100.0})
        ids = scene.put(worker, 1, 2)
        ids += scene.put(worker, 3, due=scene.now() + 100)
        (key_id, _) = scene.put_key(worker, "key")
        worker.settle(scene.claim(worker), Rejected())
        worker.give_back("q")
        scene.put(worker, "stays", queue="other")
        worker.drop("q")
        assert worker.queues() == ["other"]
        assert [worker.get(id) for id in [*ids, key_id]] == [None] * 4
        assert worker.settings("q") == Settings()
        assert worker.claim("q") == []
        assert scene.put_key(worker, "key")[1]
        assert scene.drain(worker) == ["k"]
        assert scene.drain(worker, "other") == ["stays"]

    def test_a_queue_with_claims_is_not_dropped(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1)
        claimed = scene.claim(one)
        with pytest.raises(StorageError):
            two.drop("q")
        one.settle(claimed, Completed(b"1"))
        assert scene.record(two, claimed.id).value == b"1"
        two.drop("q")
        assert two.queues() == []

    def test_dropping_an_unknown_queue_is_harmless(self, scene: Scene) -> None:
        worker = scene.open()
        worker.drop("never made")
        assert worker.queues() == []
