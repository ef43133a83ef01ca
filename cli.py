"""What the command lines share: numbers with bounds, Ctrl-C, a progress bar, worker processes."""
import argparse
import atexit
import math
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread


def whole(least=0):
    """-> what argparse calls to read a whole number of at least `least`."""
    def read(text):
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least {least} is wanted")
        return number
    return read


def real(least=0.0, most=math.inf, above=False):
    """-> what argparse calls to read a finite number from `least` to `most`; above: `least` itself is too little."""
    def read(text):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most and not (above and number == least)):
            bounds = f"{'above' if above else 'of at least'} {least:g}"
            bounds += f" and at most {most:g}" if most < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text!r}: a number {bounds} is wanted")
        return number
    return read


def name(text):
    """What argparse calls to read a path or hub id: not the empty one that an unset variable of a shell leaves.

    Here as with `whole` and `real` argparse ends the program where the text is none such (ArgumentTypeError).
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("a name is wanted, not an empty one")
    return text


def end_quietly():
    """From here on what is no bug ends this program in one line, not in a traceback.

    That is: Ctrl-C, no permission, a full disk, no such file or module; in no line when the reader goes away
    (`| head`). The exit code stays what it was: killed by SIGINT, or 1.
    """
    def nobody_reads():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the rest in the buffer of stdout goes

    def hook(kind, error, trace):
        if issubclass(kind, KeyboardInterrupt):
            print("\ninterrupted", file=sys.stderr)
        elif issubclass(kind, BrokenPipeError):
            nobody_reads()
        elif issubclass(kind, ModuleNotFoundError):
            print(f"error: {error}. bash run.sh setup installs what is needed into .venv: source .venv/bin/activate",
                  file=sys.stderr)
        elif issubclass(kind, OSError):
            print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    def flush():
        try:
            if sys.stdout:  # None where it was closed from the start
                sys.stdout.flush()
        except BrokenPipeError:
            nobody_reads()
    sys.excepthook = hook
    atexit.register(flush)


BARS = []  # what `progress_bar` has made: an error begins a line of its own where they are closed before


def progress_bar(name, steps, seconds, step, elapsed, shown):
    """A tqdm bar with an ETA over `steps`, or over `seconds` of training where those are the limit (> 0).

    It begins at `step`, or at `elapsed` seconds; shown: False on all processes but one. `distributed.run` closes it.
    """
    from tqdm import tqdm
    total, initial, unit = (seconds, elapsed, "s") if seconds else (steps, step, "steps")
    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"
    BARS.append(tqdm(total=total, initial=initial, desc=name, unit=unit, disable=not shown, mininterval=1,
                     bar_format=layout))
    return BARS[-1]


def begin(start, arguments):
    """What a process of a Pool does first: see to it that it ends with its parent, then start(*arguments), if any."""
    parent = parent_process()  # nobody else tells it that the main process was killed: it would wait for ever
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    if start:
        start(*arguments)


class Pool(ProcessPoolExecutor):
    """Spawned processes that end with the one that started them and leave Ctrl-C to it.

    An exception inside its `with` block ends them, whatever they do. start(*arguments) is called in each of them first.
    """

    def __init__(self, workers, start=None, arguments=()):
        super().__init__(workers, get_context("spawn"), begin, (start, arguments))

    def submit(self, *args, **options):
        """As that of ProcessPoolExecutor; a process that it starts is deaf to Ctrl-C."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by a process that this starts
        try:
            return super().submit(*args, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(self, kind, error, trace):
        if kind:
            for process in list((self._processes or {}).values()):
                process.terminate()
        self.shutdown(cancel_futures=kind is not None)
