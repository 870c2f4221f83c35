"""The end of a command: one sentence if the user's input is wrong, and an exit code for scripts."""

import argparse
import errno
import io
import os
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

# What to do about a fault of the operating system's.
REMEDIES = {
    errno.EACCES: "change its permissions, or choose another one", errno.EPERM: "choose another one",
    errno.EROFS: "choose a folder on another disk", errno.ENOSPC: "free some space", errno.EDQUOT: "free some space",
}  # fmt: skip
HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none


class UserError(Exception):
    """The user's input is wrong. The message is one sentence: it says what is wrong and what to do about it."""


@contextmanager
def user_error(what: str, remedy: str, *kinds: type[Exception]) -> Iterator[None]:
    """Replace an exception of these kinds by a UserError: `what (the exception's message): remedy`."""
    try:
        yield
    except kinds as fault:
        raise UserError(f"{what} ({reason(fault)}): {remedy}") from fault


def reason(fault: Exception) -> str:
    """Return the first line of an exception's message, without the parts that only TensorFlow's authors can read."""
    if isinstance(fault, KeyError):
        return f"it lacks {fault}"
    text = getattr(fault, "strerror", None) or next(iter(str(fault).splitlines()), type(fault).__name__)
    return re.sub(r"\{\{.*?\}\} | \[Op:\w+\]|/proc/self/fd/\d+/", "", text)


def printable(text: str) -> str:
    """Return the text with Python's escapes in place of control characters, which a terminal would obey, and of bytes
    that are not UTF-8."""
    escaped = {one: ascii(one)[1:-1] for one in set(text) if unicodedata.category(one) in ("Cc", "Cs")}
    return "".join(one if one in "\n\t" else escaped.get(one, one) for one in text)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviated options, and reports an error in one line, with exit code 2."""

    def __init__(self, **kwargs) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's does not know -1e-3

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)} (see --help)\n")


class Unfailing:
    """A text stream in place of standard error: it discards what cannot be written, because the reader has ended or the
    disk is full. Otherwise a message or a progress bar would end a command that still has its work to save."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class Stop:
    """In its `with` block the first Ctrl-C, SIGTERM or SIGHUP (the terminal was closed) sets `asked`, so that a loop
    can finish its iteration and save; the second one raises KeyboardInterrupt. SIGHUP stays ignored under nohup; Ctrl-C
    counts also where a shell ignores it, in a job with `&`. Outside of the main thread Python handles no signal."""

    def __enter__(self):
        self.asked, self.before = False, {}
        if threading.current_thread() is threading.main_thread():
            under_nohup = signal.getsignal(HANGUP) is signal.SIG_IGN
            numbers = [signal.SIGINT, signal.SIGTERM, *([] if under_nohup else [HANGUP])]
            self.before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def _ask(self, *_):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call main() and exit with its code (None is 0), with 2 if the user or the machine is at fault, or with 130 after
    Ctrl-C."""
    sys.stderr = Unfailing(sys.stderr or open(os.devnull, "w"))  # noqa: SIM115 (open until the process ends)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like stderr: a file name may not be UTF-8
    try:
        code = main()
        flush()
    except BrokenPipeError:  # the reader has enough, as `head` has: exit as other programs do
        code = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except Exception as fault:
        if not (sentence := explanation(fault)):
            raise
        print(f"error: {printable(sentence)}", file=sys.stderr)
        code = 2
    try:
        flush()
    except OSError:  # discard the rest of the output: Python would try again, and exit with another code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def flush() -> None:
    """Write what is printed so far, unless standard output was closed."""
    if sys.stdout is not None:
        sys.stdout.flush()


@contextmanager
def stderr_silenced() -> Iterator[int | None]:
    """In a `with` block discard what libraries write to file descriptor 2. Yield a copy of the descriptor, which still
    reaches the user, or None if the process has no standard error."""
    try:
        kept = os.dup(2)
    except OSError:
        yield None
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
        try:
            yield kept
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def explanation(fault: Exception) -> str | None:
    """Return one sentence for the user, or None if the exception is a defect of this program."""
    if isinstance(fault, UserError):
        return " ".join(str(fault).split())
    if isinstance(fault, OSError) and fault.strerror:
        remedy = f": {REMEDIES[fault.errno]}" if fault.errno in REMEDIES else ""
        return f"cannot read or write {str(fault.filename or 'the disk')[:200]}: {fault.strerror}{remedy}"
    if isinstance(fault, MemoryError):
        return f"this machine does not have enough memory: {fault}"
    # TensorFlow's and JAX's, which are not imported here
    if type(fault).__name__ == "ResourceExhaustedError" or str(fault).startswith("RESOURCE_EXHAUSTED"):
        return (
            "the device does not have enough memory: give fewer pictures or classes, lower --metabatch, or train with "
            "--remat"
        )
    return None
