"""
Untrusted code in, pixels out: Python charts, HTML, SVG, LaTeX and SMILES, confined and pooled.

    with Renderer() as renderer:
        render = renderer.submit("svg", code, size=(336, 336)).result()     # Render(image, status, message, ...)

    python render.py chart.py -o chart.png      # draw one file (.py .html .svg .tex .smi)
    python render.py --doctor                   # which engines are here, what is missing, how to install it
    python render.py --attack                   # hostile programs against the sandbox, minutes

What each language gets (`size` is the target's (width, height) in pixels, or None):

svg     cairosvg at the target's width and the drawing's own aspect ratio, on white. A drawing that names no size of
        its own (no width and height, or 100 %) fills the target's box, as the standard says. External references
        are ignored, `data:` ones are drawn.
html    Chromium at the target's width. The layout viewport is at most 720 high (what `100vh` means to a page whose
        full-length screenshot is the target), the image at least as high as the target and as long as the page, cut
        at 8192. Taken when half a second of the page's own clock has passed and `load` has fired; CSS animations are
        taken at their end, endless ones at their start. Math.random is seeded. No network, popups and dialogs closed.
python  The program runs as it is, seeded, in an empty folder; saving and showing are patched, its source never. The
        result is the last image saved (matplotlib, Pillow, plotly), else the newest image file in the folder
        (RDKit, Indigo, OpenCV write their own), else the last figure shown, else the current figure: so saving twice
        gives the second, saving into a buffer counts, and a program that drew nothing is an error. An exit code
        other than 0 is an error. plotly figures are drawn by the browser.
latex   pdflatex; poppler draws the first page at 150 dpi (less where it would be larger than the target). A snippet
        without \\documentclass goes into TEX_TEMPLATE. A TeX error is an error even where a PDF came out: a missing
        macro must not pass. A second run where the log asks for one.
smiles  RDKit's own drawing at the target's size (400 x 400 without one).

How: one slot per core. A slot starts one sandbox per family of programs when the first of them arrives: bubblewrap
(no network, no host files but the engines read-only, own process ids, no environment, sized tmpfs), in it a small
server that has imported the engine and never touches hostile input. For every python, latex and smiles program it
forks a child that gives up its rights (rlimits, landlock, seccomp: no new processes, no sockets, no signals, one
writable folder), and after it everything else in the sandbox is killed. SVG cannot run code: its confined child
serves until a program crashes or overstays. HTML goes to a warm Chromium without network in its own sandbox, a clean
document for each page. Pixels come back through shared memory, with a size check, erased after reading (a page's are
not: no page reaches that memory). The clock starts when the job does; the deadline kills the whole process tree.

Covered (tests/attacks.py attacks all of it, between positive controls): reading host files, environment,
other processes, other renders' pixels; writing outside the scratch folder; network and sockets; fork bombs and children
that stay; memory, disk and output floods; spins that ignore signals; killing, stopping, tracing the server; oversized,
symlink, fifo and bomb results; forged replies; TeX file access and shell escape; XML bombs; script bombs, reload loops,
popups.
Not covered: a hole in the kernel or in Chromium (its own inner sandbox is off, ours is around it); side channels
such as timing; a program that draws a copy of an image that it has learnt by heart.

Without bubblewrap (no user namespaces, many containers) landlock and seccomp still hold, and all attacks but one are
stopped: a program can fill the host's disk until its deadline. This is announced on stderr and named in
`Renderer.confinement`. Where they are missing too, python, latex and html are refused unless `unsafe=True`.

In reading order, none imports one before it: render.py (the pool, the command line), sandbox.py (a sandbox from
outside), server.py (inside), what draws: charts.py, latex.py, chromium.py, drawing.py, and confine.py (what a process
gives up).

Status: ok | error (the program failed) | timeout | rejected (too large) | infra (a worker was lost twice: not the
program's fault, leave the sample out). Source of the idea: VinciCoder, arXiv 2511.00391, section 3.3.
"""
import argparse
import importlib.util
import itertools
import json
import math
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import numpy as np

from chromium import find_chromium
from confine import landlock_version
from drawing import MAX_CODE, describe
from latex import find_tex
from sandbox import Outcome, Sandbox, confinement, safe
from server import ERROR, FIGURE, OK, REJECTED, family_of

ENDINGS = {".py": "python", ".html": "html", ".htm": "html", ".svg": "svg", ".tex": "latex", ".smi": "smiles"}
LANGUAGES = tuple(dict.fromkeys(ENDINGS.values()))
HARMLESS = ("svg", "smiles")            # pictures, not programs: may be drawn without a filter of system calls


@dataclass
class Render:
    """What became of one program. Only of status ok is there an image."""
    image: np.ndarray | None            # uint8 [H, W, 3]
    status: str                         # ok | error | timeout | rejected | infra
    message: str = ""                   # one line, for the user and for the refinement prompt
    seconds: float = 0.0                # of the job itself, without its wait in the queue
    texts: list | None = None           # [(string, (x0, y0, x1, y1) in pixels)], None where the engine cannot tell
    details: dict | None = None         # inspect=True: what DETAILS describes; None where there are none (message)


# What inspect=True tells of a drawing: its parts as JSON values. traced.py compares them as the benchmarks do.
DETAILS = {
    "python": dict(                     # matplotlib figures
        texts=[str],                    # lines of text drawn, without the labels of x and y ticks
        types={str: int},               # plotting function -> outermost calls
        layout=[dict(nrows=int, ncols=int, row_start=int, row_end=int, col_start=int, col_end=int)],     # of each Axes
        colors=[(str, str)]),           # (plotting function, "#RRGGBB" or the name of a colormap), each once
    "html": dict(
        blocks=[dict(text=str, box=(float,) * 4, color=(float,) * 3)],   # x, y, width, height as parts of the page; RGB
        trees=[str])}                   # parent_child1_child2 of every element with children, each once


def available():
    """language -> None where it is usable, else one line: what is missing and how to get it."""
    def modules(*names):
        absent = [name for name in names if importlib.util.find_spec(name.split(".")[0]) is None]
        return absent and "pip install " + " ".join({"PIL": "pillow"}.get(name, name) for name in absent)

    fence = None if safe() else f"cannot be confined here ({confinement()}): apt install bubblewrap"
    tex = None if find_tex() else "no pdflatex: apt install texlive-latex-extra texlive-pictures texlive-science"
    if not tex:
        files = {"standalone.cls": "texlive-latex-extra", "preview.sty": "preview-latex-style",
                 "pgfplots.sty": "texlive-pictures", "chemfig.sty": "texlive-science",
                 "simplekv.tex": "texlive-plain-generic", "sfrm0900.pfb": "cm-super"}
        found = subprocess.run([find_tex() + "/kpsewhich", *files], capture_output=True, text=True).stdout
        absent = [package for file, package in files.items() if file not in found]
        absent += [] if shutil.which("pdftoppm") else ["poppler-utils"]
        tex = absent and "incomplete TeX: apt install " + " ".join(absent)
    chromium = None if find_chromium() else "no Chromium: apt install chromium-headless-shell fonts-liberation"
    others = {language: None if language in HARMLESS else fence for language in LANGUAGES}
    return {**others, "python": modules("matplotlib", "PIL") or fence, "svg": modules("cairosvg") or None,
            "html": modules("PIL") or chromium or fence or None, "smiles": modules("rdkit", "PIL") or None,
            "latex": modules("pypdfium2") or tex or fence or None}


def parse_texts(data):
    """The JSON comes from the sandbox, so it may be anything: [(str, (x0, y0, x1, y1))], finite numbers, or None."""
    try:
        texts = [(str(string), tuple(float(v) for v in box)) for string, box in json.loads(data) if len(box) == 4]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return [(string, box) for string, box in texts if all(map(math.isfinite, box))]


def parse_details(data, shape):
    """-> (details, "") or (None, one line: why there are none). shape: a value of DETAILS; as with the texts the JSON
    may be anything."""
    def fits(value, shape):
        match shape:
            case dict() if str in shape:
                return isinstance(value, dict) and all(fits(v, shape[str]) for v in value.values())
            case dict():
                same = isinstance(value, dict) and value.keys() == shape.keys()
                return same and all(fits(value[k], shape[k]) for k in shape)
            case list():
                return isinstance(value, list) and all(fits(v, shape[0]) for v in value)
            case tuple():
                return isinstance(value, list) and len(value) == len(shape) and all(map(fits, value, shape))
        return isinstance(value, str) if shape is str else type(value) in (int, shape) and 0 <= value <= 1e6
    try:
        details = json.loads(data)
    except (ValueError, RecursionError):
        details = data and ["not JSON"]
    if isinstance(details, dict) and fits(details, shape):
        return details, ""
    if isinstance(details, str):
        return None, " ".join(details.split())[:300]
    return None, "the details are malformed" if details else "nothing to inspect: not drawn by matplotlib"


class Renderer:
    """A pool of `workers` slots (default: one per core) that draws untrusted programs.

    timeout: seconds per program, from its own start. unsafe: draw python, latex and html even where they cannot be
    confined. cache: results kept (identical jobs share one future; treat their images as read-only); 0: none.
    A picture (HARMLESS), drawn in a millisecond, goes before the programs that wait; else it is first come, first
    served. Threads may share it; so may forked children, which get slots of their own. Nothing is started before the
    first job of its kind. Raises RuntimeError on systems other than Linux.
    """

    def __init__(self, workers=None, timeout=10.0, unsafe=False, cache=0):
        if not sys.platform.startswith("linux"):
            raise RuntimeError("render.py confines programs by Linux means (bubblewrap, landlock, seccomp): "
                               "run it in a Linux container or virtual machine")
        self.workers = workers or len(os.sched_getaffinity(0))
        self.timeout, self.unsafe, self.cache = timeout, unsafe, cache
        self.confinement = confinement()
        if self.confinement != "bwrap+landlock+seccomp":
            print(f"render.py: WARNING: programs are confined by {self.confinement} only (best: bwrap+landlock+"
                  f"seccomp). `python render.py --doctor` says why.", file=sys.stderr)
        self._start()

    def _start(self):
        self.pid, self.lock, self.known, self.closed = os.getpid(), threading.Lock(), OrderedDict(), False
        self.jobs, self.numbers = queue.PriorityQueue(maxsize=8192), itertools.count()   # (slow, number, key, future)
        self.sandboxes = [{} for _ in range(self.workers)]                # one dict per slot: family -> Sandbox
        self.threads = [threading.Thread(target=self._slot, args=(mine,), daemon=True) for mine in self.sandboxes]
        for thread in self.threads:
            thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def submit(self, language, code, size=None, inspect=False):
        """-> Future[Render]. size: (width, height) of the target in pixels. inspect: tell what was drawn, too
        (Render.details, html and matplotlib only); the picture is the same. Details are data, checked for their form;
        that they are true is not: a hostile python program can say of its own drawing what it likes, a page (whose
        scripts are kept out of it) only what its elements say. Waits while 8192 jobs are queued. Raises ValueError on
        an unknown language, RuntimeError when closed or where it would run unconfined."""
        if language not in LANGUAGES:
            raise ValueError(f"unknown language {language!r}: one of {', '.join(LANGUAGES)}")
        if language not in HARMLESS and not (safe() or self.unsafe):
            raise RuntimeError(f"{language} cannot be confined on this machine ({self.confinement}): install "
                               f"bubblewrap, see `python render.py --doctor`, or accept the risk with --unsafe-render")
        if self.pid != os.getpid():
            self._start()                                                 # threads do not survive a fork
        if self.closed:
            raise RuntimeError("this Renderer is closed")
        key, future = (language, code, size and (int(size[0]), int(size[1])), bool(inspect)), Future()
        with self.lock:
            if key in self.known:
                self.known.move_to_end(key)
                return self.known[key]
            if self.cache:
                self.known[key] = future
                while len(self.known) > self.cache:
                    self.known.popitem(last=False)
        self.jobs.put((language not in HARMLESS, next(self.numbers), key, future))
        if self.closed:
            future.cancel()
        return future

    def render_many(self, jobs):
        """Jobs, tuples of the arguments of `submit` -> list of Render in the same order. Raises as `submit`."""
        return [future.result() for future in [self.submit(*job) for job in jobs]]

    def _slot(self, sandboxes):
        while True:
            *_, key, future = self.jobs.get()
            if not future:
                break
            if not future.set_running_or_notify_cancel():
                continue
            try:
                render = self._render(sandboxes, *key)
            except Exception as error:                                    # ours: never the program's fault
                render = Render(None, "infra", describe(error))
            if render.status == "infra":
                with self.lock:
                    self.known.pop(key, None)
            future.set_result(render)
        for sandbox in sandboxes.values():
            sandbox.close()

    def _render(self, sandboxes, language, code, size, inspect):
        code = code.encode(errors="replace")
        if len(code) > MAX_CODE:
            return Render(None, "rejected", f"a program of {len(code)} bytes: at most {MAX_CODE} are taken")
        o = self._attempt(sandboxes, family_of(language, code.decode()), language, code, size, inspect, self.timeout)
        if not o.problem and o.status == FIGURE:               # plotly's: the browser draws it in the time that is left
            before = o.seconds
            o = self._attempt(sandboxes, "html", "plotly", o.payload, None, False, max(0.1, self.timeout - before))
            o.seconds += before
        if o.problem == "timeout":
            return Render(None, "timeout", f"no image within {self.timeout:g} s", o.seconds)
        if o.problem == "infra":
            return Render(None, "infra", o.payload, o.seconds)
        if o.status == OK and not o.problem:
            details, message = None, ""
            if inspect and language in DETAILS:
                details, message = parse_details(o.details, DETAILS[language])
            return Render(o.payload, "ok", message, o.seconds, parse_texts(o.texts), details)
        if o.status in (ERROR, REJECTED):
            message = o.payload.decode(errors="replace").replace("\n", " ")[:1000]
            return Render(None, "rejected" if o.status == REJECTED else "error", message, o.seconds)
        return Render(None, "error", f"the program ended before its image ({o.problem or 'exit 0'})", o.seconds)

    def _attempt(self, sandboxes, family, language, code, size, inspect, timeout):
        """Sandbox.run with one retry in a fresh sandbox when the server, not the program, was lost."""
        for _ in range(2):
            try:
                if family in sandboxes:
                    try:
                        sandboxes[family].ready(10)
                    except OSError:                                       # it ended while tidying up
                        sandboxes.pop(family).close()
                if family not in sandboxes:
                    sandboxes[family] = Sandbox(family)
                    sandboxes[family].ready(60)
                start = time.monotonic()
                try:
                    return sandboxes[family].run(language, code, size, inspect, timeout)
                except TimeoutError:
                    sandboxes.pop(family).close()
                    return Outcome("timeout", time.monotonic() - start)
            except (OSError, ValueError) as error:
                if family in sandboxes:
                    sandboxes.pop(family).close()
                reason = describe(error)
                if self.closed:
                    break
        return Outcome("infra", payload=reason)

    def close(self):
        """Drop what is queued (its futures are cancelled), stop what runs, end every process."""
        if self.closed or self.pid != os.getpid():
            return
        self.closed = True
        while not self.jobs.empty():
            try:
                *_, future = self.jobs.get_nowait()
                future.cancel()
            except queue.Empty:
                break
        for _ in self.threads:
            self.jobs.put((True, next(self.numbers), None, None))
        for thread, sandboxes in zip(self.threads, self.sandboxes):
            while thread.is_alive():
                for sandbox in list(sandboxes.values()):
                    sandbox.kill()
                thread.join(0.2)


# ---------------------------------------------------------------------------------------------------------------------
# Command line

def doctor():
    """Print what is here and what is missing -> exit code: 1 where a language is unavailable."""
    def version(*command):
        try:
            lines = (subprocess.run(command, capture_output=True, text=True, timeout=20).stdout or "?").splitlines()
            return lines[0].strip()
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)

    def package(name):
        import importlib.metadata
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"missing: pip install {name}"
    print(f"confinement  {confinement()}" + ("" if safe() else "  -> python, latex, html only with --unsafe-render"))
    where = shutil.which("bwrap") or "not found: apt install bubblewrap"
    print(f"  bubblewrap {version('bwrap', '--version')} ({where})"
          + ("" if "bwrap" in confinement() else ": does not work here (needs user namespaces and mounting /proc)"))
    print(f"  landlock   version {landlock_version()}" + ("" if landlock_version() else ": the kernel has none"))
    print(f"  seccomp    {'yes' if 'seccomp' in confinement() else 'no'} ({platform.machine()}, {platform.release()})")
    print(f"python       {sys.version.split()[0]} ({sys.executable})")
    for name in ("matplotlib", "seaborn", "plotly", "pandas", "scipy", "networkx", "rdkit", "epam.indigo", "pillow",
                 "cairosvg", "pypdfium2"):
        print(f"  {name:10} {package(name)}")
    chromium, tex = find_chromium(), find_tex()
    print(f"chromium     {version(chromium, '--version') if chromium else 'not found'} ({chromium})")
    print(f"pdflatex     {version(tex + '/pdflatex', '--version') if tex else 'not found'} ({tex})")
    print(f"pdftoppm     {shutil.which('pdftoppm') or 'not found: apt install poppler-utils'}")
    missing = available()
    for language, problem in missing.items():
        print(f"{language:12} {problem or 'ok'}")
    return int(any(missing.values()))


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False, description="Draw one program, confined.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("file", nargs="?", help=f"program: {' '.join(ENDINGS)}")
    parser.add_argument("-o", "--output", default="render.png", help="where to write the image (PNG)")
    parser.add_argument("--size", help="the target's size in pixels, as WIDTHxHEIGHT")
    parser.add_argument("--timeout", type=cli.real(above=True), default=10.0, help="seconds")
    parser.add_argument("--unsafe-render", action="store_true",
                        help="draw python, latex and html even where they cannot be confined")
    parser.add_argument("--doctor", action="store_true", help="list the engines and what is missing; exit code 1 if a "
                        "language is unavailable")
    parser.add_argument("--attack", action="store_true", help="run hostile programs against the sandbox and print what "
                        "it stopped; exit code 1 if it did not stop one")
    args = parser.parse_args()
    if args.doctor:
        return doctor()
    if args.attack:
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "tests"))
        import attacks
        return attacks.main()
    language = ENDINGS.get(os.path.splitext(args.file or "")[1].lower())
    if not language:
        parser.error(f"name a file that ends in one of {' '.join(ENDINGS)}, or --doctor or --attack")
    size = re.fullmatch(r"(\d+)x(\d+)", args.size or "1x1")
    if not size:
        parser.error(f"--size {args.size}: write it as 640x480")
    try:
        with open(args.file, encoding="utf-8", errors="replace") as file:
            code = file.read()
    except OSError as error:
        parser.error(f"cannot read {args.file}: {error.strerror}")
    with Renderer(1, args.timeout, args.unsafe_render) as renderer:
        try:
            size = tuple(map(int, size.groups())) if args.size else None
            render = renderer.submit(language, code, size).result()
        except RuntimeError as error:
            parser.error(str(error))
    print(f"{render.status} {render.message} ({render.seconds:.2f} s)", file=sys.stderr)
    if render.image is None:
        return 1
    from PIL import Image
    try:
        Image.fromarray(render.image).save(args.output)
    except (OSError, ValueError) as error:                                # no such folder; an ending of no image format
        parser.error(f"cannot write {args.output}: {error}. Give it the ending .png, in a folder that is there")


if __name__ == "__main__":
    sys.exit(main())
