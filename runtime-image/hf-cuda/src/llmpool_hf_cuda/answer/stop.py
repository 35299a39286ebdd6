"""Finds stop strings in text that comes in pieces."""


def overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that `marker` begins with, shorter than `marker`."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0


class StopDetector:
    """What may still become a stop string is held back, so no part of one ever leaves."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that is certain, and whether a stop string ended it: the rest belongs to nobody then."""
        seen = self._held + piece
        # By its end, so that the cut of the pieces does not matter.
        found = [(at + len(stop), at) for stop in self._stops if (at := seen.find(stop)) != -1]
        if found:
            self._held = ""
            return seen[: min(found)[1]], True
        certain = len(seen) - max((overlap(seen, stop) for stop in self._stops), default=0)
        self._held = seen[certain:]
        return seen[:certain], False

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        rest, self._held = self._held, ""
        return rest
