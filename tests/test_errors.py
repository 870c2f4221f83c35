"""How a command ends: its exit code and its one sentence."""

import errno
import io
import signal
import threading

import pytest

import errors
from errors import UserError


def run(main, capsys):
    """Return the exit code and the standard error of a command."""
    with pytest.raises(SystemExit) as exited:
        errors.run(main)
    return exited.value.code, capsys.readouterr().err


def raiser(fault):
    def main():
        raise fault

    return main


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (UserError("the first line\n   and the second"), 2, "error: the first line and the second\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError("6 GiB"), 2, "error: this machine does not have enough memory: 6 GiB\n"),
        (ResourceExhaustedError("OOM when allocating\na tensor"), 2, "error: the device does not have enough memory: "),
        (
            OSError(errno.EACCES, "Permission denied", "/a/b"),
            2,
            "error: cannot read or write /a/b: Permission denied: change its permissions, or choose another one\n",
        ),
        (OSError(errno.EIO, "Input/output error"), 2, "error: cannot read or write the disk: Input/output error\n"),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), 2, "error: the device does not have enough memory: give"),
    ],
)
def test_a_fault_is_one_sentence_and_an_exit_code(fault, code, words, capsys):
    exit_code, message = run(raiser(fault), capsys)
    assert exit_code == code and message.startswith(words) and message.count("\n") == 1


@pytest.mark.parametrize("fault", [ValueError("a defect"), OSError("without a number")])
def test_a_defect_is_a_traceback(fault):
    with pytest.raises(type(fault)):
        errors.run(raiser(fault))


def test_a_command_exits_with_its_code(capsys):
    assert run(lambda: None, capsys) == (None, "") and run(lambda: 130, capsys) == (130, "")


def test_a_command_ends_well_where_nobody_listens(monkeypatch):
    """Python has no sys.stdout where a job closes it."""
    monkeypatch.setattr(errors.sys, "stdout", None)
    with pytest.raises(SystemExit) as exited:
        errors.run(lambda: 0)
    assert exited.value.code == 0


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self):
        self.write("")


def test_standard_error_that_cannot_be_written_ends_nothing(monkeypatch):
    """Its reader has ended, its disk is full, or there is none at all."""
    for stream in (Full(), None):
        monkeypatch.setattr(errors.sys, "stderr", stream)
        done = []

        def main(done=done):
            print("a message", file=errors.sys.stderr)
            errors.sys.stderr.flush()
            done.append(errors.sys.stderr.isatty())
            raise UserError("and a sentence")

        with pytest.raises(SystemExit) as exited:
            errors.run(main)
        assert exited.value.code == 2 and done == [False]


def test_what_a_terminal_would_obey_is_escaped(capsys):
    def refuse():
        raise UserError("there is no \033]0;title\a\0x/é 猫")

    assert run(refuse, capsys) == (2, "error: there is no \\x1b]0;title\\x07\\x00x/é 猫\n")
    with pytest.raises(SystemExit):
        errors.Parser(prog="main.py").parse_args(["\033[31m"])
    assert "\033" not in capsys.readouterr().err


def test_a_signal_that_is_ignored_stays_so_and_other_threads_handle_none():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with errors.Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)
    seen = []

    def work():
        with errors.Stop() as stop:
            seen.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize("text", ["-1", "-0.5", "-.5", "-1e-3"])
def test_a_negative_number_is_a_value(text):
    parser = errors.Parser()
    parser.add_argument("--rate", type=float)
    assert parser.parse_args(["--rate", text]).rate == float(text)


def test_options_are_not_abbreviated(capsys):
    parser = errors.Parser(prog="main.py")
    parser.add_argument("--savedir")
    assert parser.parse_args(["--savedir", "a"]).savedir == "a"
    with pytest.raises(SystemExit) as exited:
        parser.parse_args(["--save", "a"])
    assert exited.value.code == 2
    assert capsys.readouterr().err == "main.py: unrecognized arguments: --save a (see --help)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_for_a_stop_and_the_second_one_interrupts(number):
    """Ctrl-C also where it is ignored, as a shell does for a job with `&`."""
    found, kind = signal.getsignal(number), signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL
    try:
        signal.signal(number, kind)
        with errors.Stop() as stop:
            assert not stop.asked and signal.getsignal(number) is not kind
            signal.raise_signal(number)
            assert stop.asked
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) is kind
    finally:
        signal.signal(number, found)


def test_an_exception_becomes_a_user_error():
    def read(fault):
        with errors.user_error("f cannot be read", "write it again", ValueError, KeyError):
            raise fault

    with pytest.raises(UserError, match=r"^f cannot be read \(it lacks 'a'\): write it again$"):
        read(KeyError("a"))
    with pytest.raises(TypeError):
        read(TypeError())


def test_a_reason_is_one_readable_line():
    text = "{{function_node __wrapped__SaveV2 _device_/CPU:0}} /proc/self/fd/12/ckpt-1.index; Full [Op:SaveV2]\nmore"
    assert errors.reason(ValueError(text)) == "ckpt-1.index; Full"
    assert errors.reason(ValueError()) == "ValueError"
    assert errors.reason(OSError(errno.EIO, "Input/output error", "/a")) == "Input/output error"
