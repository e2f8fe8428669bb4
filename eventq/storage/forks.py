"""Forks: what a process has opened is its own, so in a forked child it all begins anew, before anything else runs."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that a forked child must not share with its parent."""

    def after_fork(self) -> None:
        """In the child: leave what is the parent's alone, and begin anew."""


_forked: weakref.WeakKeyDictionary[Forked, None] = weakref.WeakKeyDictionary()
"""In the order in which they were made: what is made first is used by what is made after it."""


def follow(thing: Forked) -> None:
    """Have this begin anew in every child, as long as it exists."""
    _forked[thing] = None


def forget(thing: Forked) -> None:
    """Leave it as it is: it has nothing open any more."""
    _forked.pop(thing, None)


def _after_fork() -> None:
    for thing in list(_forked):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
