"""How every command line here ends: at a fault with one sentence for the user, when it is asked to stop, and with an
exit code for scripts."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """The user's input is at fault. The message is one sentence: what is wrong and what to do about it."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviated options and whose errors are one line, exit code 2."""

    def __init__(self, **kwargs) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


class Stop:
    """Ctrl-C and SIGTERM ask for a stop; the loop leaves after the iteration at hand, with its state saved."""

    def __enter__(self):
        self.asked = False
        self.before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, *_):
        if self.asked:  # asked twice: leave at once
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call main() and leave with its exit code (None is 0); UserError: its sentence and 2, Ctrl-C: 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be no text
    try:
        code = main()
        sys.stdout.flush()  # a reader that has left is noticed here, and not after the last line of Python
        sys.exit(code)
    except BrokenPipeError:  # who reads the output has enough of it, as `head` has: end as other programs do
        leave(128 + signal.SIGPIPE)
    except UserError as fault:
        print(f"error: {' '.join(str(fault).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as fault:
        if not fault.strerror:
            raise
        place = str(fault.filename or "the disk")
        print(f"error: cannot read or write {place[:200]}: {fault.strerror}", file=sys.stderr)
        leave(2)
    except MemoryError as fault:
        print(f"error: this machine's memory is not enough: {fault}", file=sys.stderr)
        sys.exit(2)
    except Exception as fault:
        if type(fault).__name__ != "ResourceExhaustedError":  # TensorFlow's, which is not imported here
            raise
        remedy = "lower --metabatch, or add --remat in training; what was saved before is whole"
        print(f"error: the device's memory is not enough: {remedy}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def leave(code: int) -> NoReturn:
    """Exit, without what standard output cannot take any more: Python would say so again, with a code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
