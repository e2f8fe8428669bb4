"""What is known of a folder whose files may be claimed."""

from __future__ import annotations


class Listing:
    """Names of one folder that may be claimed, the next one last."""

    __slots__ = ("folder", "names", "priority")

    def __init__(self, priority: int, folder: str, names: list[str] | None) -> None:
        self.priority: int = priority
        self.folder: str = folder
        self.names: list[str] | None = names

    def __lt__(self, other: Listing) -> bool:
        return self.priority < other.priority
