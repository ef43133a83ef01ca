"""
Inside the sandbox: the server of one family of programs. It imports their engine once and never touches a hostile
program itself: its confined children do.

    python server.py SETUP      # started by sandbox.py, which says what SETUP (JSON) holds

An engine is made with the server and has run(language, code, size, inspect, deadline) and tidy(), called after each
run. code: str; size: (width, height) in pixels or None; deadline: seconds of time.monotonic(). run returns None when
the shared memory holds the outcome, else what went wrong, a str (see sandbox.Outcome.problem). Here: Programs and
Drawings; in files that only their own servers import: Pages (chromium.py) and Documents (latex.py).
"""
import functools
import gc
import importlib
import io
import json
import mmap
import os
import re
import select
import shutil
import signal
import socket
import struct
import sys
import time

import numpy as np

import drawing
from confine import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, drop_capabilities, landlock, limit_resources, prctl, seccomp
from drawing import MAX_DETAILS, MAX_PIXELS, MAX_TEXTS, Figure, Rejected, check_size, describe, oversized

HEADER = 4096                           # bytes in front of the pixels in the shared memory
SHARED = HEADER + 3 * MAX_PIXELS + MAX_TEXTS + MAX_DETAILS
OK, ERROR, REJECTED, FIGURE = 1, 2, 3, 4      # what a confined child leaves in the header; 0: nothing

COMMON = ["charts", "numpy.random", "PIL.Image", "PIL.PngImagePlugin"]
CHART = COMMON + ["matplotlib.pyplot", "matplotlib.backends.backend_agg", "mpl_toolkits.mplot3d"]
FAMILIES = {        # what each imports before it forks
    "svg": ["cairosvg.surface"],
    "latex": ["pypdfium2"],
    "html": ["PIL.Image", "PIL.PngImagePlugin"],
    "chart": CHART,
    "chemistry": COMMON + ["rdkit.Chem.Draw", "rdkit.Chem.AllChem", "rdkit.Chem.Draw.rdMolDraw2D", "indigo.renderer"],
    "science": CHART + ["pandas", "scipy.stats", "scipy.interpolate", "scipy.spatial", "scipy.cluster.hierarchy",
                        "seaborn", "networkx", "plotly.graph_objects", "plotly.express", "plotly.subplots",
                        "plotly.figure_factory", "plotly.offline"]}


def family_of(language, code):
    """Which server draws it: a pure function of the program, so that no render depends on its neighbours. A smaller
    server forks faster (a fork copies its page tables), so the heavy libraries are there for who names them."""
    if language != "python":
        return {"smiles": "chemistry", "plotly": "html"}.get(language, language)
    if re.search(r"\b(pandas|seaborn|scipy|networkx|plotly)\b", code):
        return "science"
    chemistry = re.search(r"\b(rdkit|indigo)\b", code) and "matplotlib" not in code
    return "chemistry" if chemistry else "chart"


class Server:
    """Jobs come one by one over a socket from class Sandbox outside, outcomes leave through the shared memory."""

    def __init__(self, setup):
        self.__dict__.update(setup)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)   # die with the slot
        prctl(PR_SET_DUMPABLE, 0)                 # no child may look in here
        sys.path += [path for path in self.packages if path not in sys.path]
        self.control = socket.socket(fileno=self.control)
        self.memory = mmap.mmap(self.shared, SHARED)
        for name in FAMILIES[self.family]:
            try:
                importlib.import_module(name)
            except ImportError:                   # an optional library: the program that needs it says so itself
                pass
        os.chdir(self.scratch)
        if self.family == "html":
            from chromium import Pages as Engine
        elif self.family == "latex":
            from latex import Documents as Engine
        else:
            Engine = Drawings if self.family == "svg" else Programs
        self.engine = Engine(self)
        self.clean()
        gc.collect(), gc.freeze()                 # what is here now is never collected, so never copied by a child

    def serve(self):
        """Per job: '+' when ready, then a line of JSON and the program in, a line of JSON out."""
        jobs = self.control.makefile("rb")
        while self.control.sendall(b"+\n") is None and (line := jobs.readline()):
            job = json.loads(line)
            code = jobs.read(job["bytes"]).decode(errors="replace")      # a plotly figure may be forged
            start = time.monotonic()
            size = job["size"] and tuple(job["size"])
            answer = self.engine.run(job["language"], code, size, job["inspect"], start + job["timeout"])
            reply = json.dumps(dict(answer=answer, seconds=time.monotonic() - start))
            self.control.sendall(reply.encode() + b"\n")
            self.engine.tidy()
            if not self.clean():
                return                            # a fresh sandbox is the surest broom

    def clean(self):
        """Empty the scratch folder. False where that did not work or would take long."""
        keep = "profile" if self.family == "html" else None
        entries = [entry for entry in os.scandir(self.scratch) if entry.name != keep]
        if len(entries) > 1000:
            return False
        for entry in entries:
            try:
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
            except (OSError, RecursionError):
                return False
        return True

    # children

    def fork(self, act, keep=(), memory=4 << 30, seconds=None, may_exec=False):
        """A confined child that acts and ends -> its process id. keep: descriptors that it finds as 3, 4, ...; memory:
        bytes; seconds: of CPU time."""
        child = os.fork()
        if child:
            return child
        try:
            null = os.open("/dev/null", os.O_RDWR)
            for fd, source in enumerate((null, null, null, *[os.dup(k) for k in keep])):
                os.dup2(source, fd)
            os.closerange(3 + len(keep), 4096)    # the control socket above all: a reply cannot be forged
            os.setpgid(0, 0)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            limit_resources(seconds, memory)
            self.confine(may_exec=may_exec)
            act()
            os._exit(0)
        finally:
            os._exit(97)

    def confine(self, alone=True, may_exec=False):
        """The calling process gives up its rights. alone: as a program, else as the browser (see confine.py)."""
        drop_capabilities()
        if "landlock" in self.parts:
            of_browser = [] if alone else ["/proc", "/sys/devices/system/cpu"]
            landlock(self.readable + of_browser, [self.scratch, "/dev/null"])
        if "seccomp" in self.parts:
            seccomp(alone, may_exec)

    def run_child(self, act, deadline, may_exec=False):
        """-> None if the child ended well and in time, else 'timeout', 'exit N' or 'signal N'."""
        seconds = int(deadline - time.monotonic()) + 2
        in_time, status = self.end(self.fork(act, seconds=seconds, may_exec=may_exec), deadline)
        return ended(status) if in_time else "timeout"

    def end(self, child, deadline):
        """Wait for the child, then kill whatever is left of it. -> (in time, wait status)"""
        fd = os.pidfd_open(child)
        in_time = bool(select.select([fd], [], [], max(0, deadline - time.monotonic()))[0])
        os.close(fd)
        self.kill(child)
        status = os.waitpid(child, 0)[1]
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        return in_time, status

    def kill(self, child):
        """With process ids of its own the server kills all others, else the child and its group."""
        for target in (-1,) if self.own_pids else (-child, child):
            try:
                os.kill(target, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    # the shared memory: status, height, width, bytes of pixels, texts, details; from HEADER the pixels (or the
    # message), then the texts, then the details

    def write(self, status, payload, height=0, width=0, texts=b"", details=b""):
        """Leave an outcome there. payload: of OK the pixels, uint8 [height, width, 3], else text; all bytes."""
        start = HEADER
        for part in (payload, texts, details):
            self.memory[start:start + len(part)] = part
            start += len(part)
        self.memory[:24] = struct.pack("6I", status, height, width, len(payload), len(texts), len(details))

    def fail(self, message):
        """The program's own failure, one line for who wrote it."""
        self.write(ERROR, message.encode(errors="replace"))

    def deliver(self, draw, *args, lost=()):
        """Leave what draw(*args) -> (pixels uint8 [H, W, 3], texts[, details]) returns in the shared memory, or a
        one-line message. lost: exceptions that are not the program's; they are raised."""
        try:
            image, texts, *details = draw(*args)                          # uint8 [H, W, 3]
            image = np.ascontiguousarray(image, dtype=np.uint8)
            height, width, _ = image.shape
            check_size(width, height)
            texts = json.dumps(texts).encode()
            details = json.dumps(details[0]).encode() if details else b""
            self.write(OK, memoryview(image).cast("B"), height, width, texts if len(texts) <= MAX_TEXTS else b"null",
                       details if len(details) <= MAX_DETAILS else json.dumps(oversized(len(details))).encode())
        except Rejected as reason:
            self.write(REJECTED, str(reason).encode())
        except Figure as figure:
            self.write(FIGURE, json.dumps(figure.args).encode()[:3 * MAX_PIXELS])
        except lost:
            raise
        except BaseException as error:
            self.fail(describe(error))


def ended(status):
    """A wait status in words; None for exit code 0."""
    code = os.waitstatus_to_exitcode(status)
    return None if code == 0 else f"exit {code}" if code > 0 else f"signal {-code}"


class Programs:
    """A confined child for each program. Python's draw_python is in charts.py, draw_LANGUAGE of all others in
    drawing.py."""

    def __init__(self, server):
        self.server = server
        if server.family == "chemistry":
            try:
                drawing.draw_smiles("CCO", None)
            except ImportError:
                pass
        elif server.family in ("chart", "science"):
            warm_matplotlib()

    def run(self, language, code, size, inspect, deadline):
        """Draw the program in a child of its own."""
        if language == "python":
            from charts import draw_python
            draw = functools.partial(draw_python, inspect=inspect)
        else:
            draw = getattr(drawing, "draw_" + language)
        return self.server.run_child(lambda: self.server.deliver(draw, code, size), deadline)

    def tidy(self):
        """Nothing: the child was killed, the server empties the scratch folder."""


def warm_matplotlib():
    """Fonts, caches and lazy imports that every figure needs, once for all children."""
    import matplotlib.pyplot as plt
    figure, (left, right) = plt.subplots(1, 2)
    left.plot([1, 2], label="x$\\alpha^2$")
    left.set_title("t", fontweight="bold")
    left.legend()
    right.bar(["a"], [1])
    figure.tight_layout()
    figure.savefig(io.BytesIO(), bbox_inches="tight")
    plt.close("all")


class Drawings:
    """SVG cannot run code: one confined child draws program after program, until one makes it crash or overstays."""

    def __init__(self, server):
        self.server, self.child = server, None    # (process id, pipe to it, pipe from it)
        drawing.draw_svg('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text>a</text></svg>', (9, 9))

    def run(self, language, code, size, inspect, deadline):
        """Have the child draw the program; one that does not answer in time is ended, the next job gets another."""
        if not self.child:
            jobs, send = os.pipe()
            receive, done = os.pipe()
            self.child = self.server.fork(self.serve, keep=(jobs, done), memory=2 << 30), send, receive
            os.close(jobs), os.close(done)
        child, send, receive = self.child
        job = json.dumps([code, size]).encode()
        try:
            with open(os.dup(send), "wb") as pipe:
                pipe.write(struct.pack("I", len(job)) + job)
            late = not select.select([receive], [], [], max(0, deadline - time.monotonic()))[0]
            if not late and os.read(receive, 1):
                return None
        except BrokenPipeError:
            late = False
        _, status = self.server.end(child, 0)
        os.close(send), os.close(receive)
        self.child = None
        return "timeout" if late else ended(status)

    def serve(self):
        """The child: it reads jobs from 3 and answers on 4."""
        with os.fdopen(3, "rb") as jobs:
            while head := jobs.read(4):
                self.server.deliver(drawing.draw_svg, *json.loads(jobs.read(struct.unpack("I", head)[0])))
                os.write(4, b".")

    def tidy(self):
        """Nothing: a drawing leaves nothing behind."""


if __name__ == "__main__":
    Server(json.loads(sys.argv[1])).serve()
