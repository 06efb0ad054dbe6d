"""Stopping at the end of an iteration when asked to."""

import signal
import sys
from types import FrameType, TracebackType

_MESSAGE = "stopping at the end of this iteration; Ctrl-C again to stop at once"


class StopRequest:
    """Context in which the first Ctrl-C, or a batch system's SIGTERM, only takes a note.

    An iteration that is interrupted halfway leaves a state that is neither the old nor the new one, so the
    loop asks `requested` between iterations. The second signal interrupts at once.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            self._raise(number)
        self._signal = number
        print(_MESSAGE, file=sys.stderr)

    @staticmethod
    def _raise(number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._signal is not None

    def leave(self) -> None:
        """End the program as the signal would have."""
        assert self._signal is not None
        self._raise(self._signal)
