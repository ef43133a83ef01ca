"""
Inside the sandbox: the server. It never touches hostile input itself, its children do.
"""
import functools
import gc
import gzip
import hashlib
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
import subprocess
import sys
import time
from collections import Counter, OrderedDict

import numpy as np

import drawing
from confine import drop_capabilities, landlock, limit_resources, prctl, seccomp
from drawing import MAX_DETAILS, MAX_PIXELS, Crash, Figure, Rejected, check_size, describe, draw_svg, on_white, oversized, pdf_pixels, read_pdf

MAX_TEXTS = 1 << 18                     # bytes of the strings that come back with an image
HEADER = 4096                           # bytes in front of the pixels in the shared memory
SHARED = HEADER + 3 * MAX_PIXELS + MAX_TEXTS + MAX_DETAILS
OK, ERROR, REJECTED, FIGURE = 1, 2, 3, 4      # what a confined child leaves in the header; 0: nothing


COMMON = ["charts", "numpy.random", "PIL.Image", "PIL.PngImagePlugin"]
CHART = COMMON + ["matplotlib.pyplot", "matplotlib.backends.backend_agg", "mpl_toolkits.mplot3d"]
FAMILIES = {        # what each imports before it forks
    "svg": ["numpy", "cairosvg.surface"],
    "latex": ["latex", "pypdfium2"],
    "html": ["chromium", "PIL.Image", "PIL.PngImagePlugin"],
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
    """Talks to the slot outside (class Sandbox) over a socket and the shared memory."""

    def __init__(self, setup):
        self.__dict__.update(setup)       # family, control, shared, scratch, cache, readable, ...
        prctl(1, signal.SIGKILL)                                  # die with the slot
        prctl(4, 0)                                               # PR_SET_DUMPABLE: no child may look in here
        sys.path += [path for path in self.packages if path not in sys.path]
        self.control = socket.socket(fileno=self.control)
        self.memory = mmap.mmap(self.shared, SHARED)
        self.runner, self.seen, self.formats = None, Counter(), OrderedDict()
        for name in FAMILIES[self.family]:
            try:
                importlib.import_module(name)
            except ImportError:                   # an optional library: the program that needs it says so itself
                pass
        os.chdir(self.scratch)
        getattr(self, "warm_" + self.family, lambda: None)()
        self.clean()
        gc.collect(), gc.freeze()                 # what is here now is never collected, so never copied by a child

    def warm_svg(self):
        draw_svg('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text>a</text></svg>', (9, 9))

    def warm_chart(self):
        import matplotlib.pyplot as plt
        figure, (left, right) = plt.subplots(1, 2)
        left.plot([1, 2], label="x$\\alpha^2$")
        left.set_title("t", fontweight="bold")
        left.legend()
        right.bar(["a"], [1])
        figure.tight_layout()
        figure.savefig(io.BytesIO(), bbox_inches="tight")
        plt.close("all")
    warm_science = warm_chart

    def warm_chemistry(self):
        try:
            drawing.draw_smiles("CCO", None)
        except ImportError:
            pass

    def warm_html(self):
        from chromium import Browser
        self.confine(alone=False)                 # the browser and its helpers inherit it
        self.browser = Browser(self.chromium, self.scratch)

    def warm_latex(self):
        """Debian keeps its formats gzipped: inflating one costs more than half of a small document."""
        found = subprocess.run([self.texbin + "/kpsewhich", "-engine=pdftex", "pdflatex.fmt"], capture_output=True,
                               text=True, env=self.tex_environment()).stdout.strip()
        with open(found, "rb") as file, open(self.cache + "/base.fmt", "wb") as raw:
            data = file.read()
            raw.write(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)

    def tex_environment(self):
        return dict(PATH=self.texbin + ":/usr/bin:/bin", HOME=self.scratch, TEXMFVAR=self.scratch, openin_any="p",
                    openout_any="p", MKTEXPK="0", MKTEXTFM="0", max_print_line="1000", SOURCE_DATE_EPOCH="1750000000",
                    FORCE_SOURCE_DATE="1")

    def serve(self):
        """Per job: '+' when ready, then a line of JSON and the program in, a line of JSON out."""
        jobs = self.control.makefile("rb")
        while self.control.sendall(b"+\n") is None and (line := jobs.readline()):
            job = json.loads(line)
            code = jobs.read(job["bytes"]).decode()
            start = time.monotonic()
            run = getattr(self, "run_" + self.family, self.run_python)
            self.inspect = dict(inspect=True) if job["inspect"] else {}
            answer = run(job["language"], code, job["size"] and tuple(job["size"]), start + job["timeout"])
            reply = json.dumps(dict(answer=answer, seconds=time.monotonic() - start))
            self.control.sendall(reply.encode() + b"\n")
            getattr(self, "tidy_" + self.family, lambda: None)()
            if not self.clean():
                return                            # a fresh sandbox is the surest broom

    # how a program is run: each returns None when the shared memory holds the outcome, else what went wrong

    def run_python(self, language, code, size, deadline):
        if language == "python":
            from charts import draw_python
            draw = functools.partial(draw_python, **self.inspect)
        else:
            draw = getattr(drawing, "draw_" + language)
        return self.run_child(lambda: self.deliver(draw, code, size), deadline)

    def run_svg(self, language, code, size, deadline):
        if not self.runner:
            jobs, send = os.pipe()
            receive, done = os.pipe()
            self.runner = self.fork(self.serve_svg, keep=(jobs, done), memory=2 << 30), send, receive
            os.close(jobs), os.close(done)
        child, send, receive = self.runner
        job = json.dumps([code, size]).encode()
        try:
            with open(os.dup(send), "wb") as pipe:
                pipe.write(struct.pack("I", len(job)) + job)
            late = not select.select([receive], [], [], max(0, deadline - time.monotonic()))[0]
            if not late and os.read(receive, 1):
                return None
        except BrokenPipeError:
            late = False
        _, status = self.end(child, 0)
        os.close(send), os.close(receive)
        self.runner = None
        return "timeout" if late else ended(status)

    def serve_svg(self):
        with os.fdopen(3, "rb") as jobs:
            while head := jobs.read(4):
                self.deliver(draw_svg, *json.loads(jobs.read(struct.unpack("I", head)[0])))
                os.write(4, b".")

    def run_html(self, language, code, size, deadline):
        self.browser.deadline = deadline
        try:
            draw = functools.partial(self.browser.draw, **self.inspect)
            self.deliver(self.browser.draw_figure if language == "plotly" else draw, code, size)
        except TimeoutError:
            self.browser.lost = True
            return "timeout"
        except Crash as reason:
            self.browser.lost = True
            return str(reason)

    def tidy_html(self):
        try:
            if not self.browser.lost:
                return self.browser.tidy()
        except (TimeoutError, Crash, EOFError, OSError, RuntimeError):
            pass
        self.kill(self.browser.pid)
        self.end(self.browser.pid, 0)
        self.clean()
        self.browser = type(self.browser)(self.chromium, self.scratch)

    def run_latex(self, language, code, size, deadline):
        from latex import split_tex
        self.preamble, self.body = split_tex(code)
        self.key = hashlib.sha256(self.preamble.encode()).hexdigest()[:16]
        problem = self.typeset(self.formats.get(self.key), deadline)
        if problem is None:
            self.seen[self.key] += 1
            problem = self.rasterise(size, deadline)
        elif problem.startswith("LaTeX"):
            problem = self.write(ERROR, problem.encode())
        return problem

    def rasterise(self, size, deadline):
        """poppler draws as the targets of the field were drawn: pdfium, though three times as fast, reproduces them
        to an SSIM of .97 only, since it does not snap thin lines to pixels. It reads the page's size and texts here."""
        def read():
            _, dpi, texts = read_pdf("job.pdf", size)
            with open("job.json", "w") as file:
                json.dump(texts, file)
            os.execv(self.pdftoppm, ["pdftoppm", "-r", str(dpi), "-singlefile", "job.pdf", "job"])

        def take():
            from PIL import Image
            with open("job.json") as file:
                return on_white(Image.open("job.ppm", formats=["PPM"])), json.load(file)
        problem = self.run_child(lambda: self.deliver(read), deadline, may_exec=True)
        if problem or self.memory[0]:                                     # it failed, or left an error of its own
            return problem
        return self.run_child(lambda: self.deliver(take), deadline)

    def typeset(self, format_, deadline):
        """a PDF in job.pdf -> None, else what went wrong"""
        from latex import tex_message
        with open(os.open("job.tex", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW), "w") as file:
            file.write(self.body if format_ else self.preamble + self.body)
        for _ in range(2):
            answer, log = self.tex(["-fmt=" + (format_ or self.cache + "/base.fmt"), "job.tex"], deadline)
            if answer == "exit 1" or not answer and not os.path.isfile("job.pdf"):
                return tex_message(log)
            if answer or not re.search(r"Rerun to get|rerun LaTeX", log):
                return answer

    def tex(self, arguments, deadline):
        command = ["pdflatex", "-interaction=nonstopmode", "-no-shell-escape", *arguments]
        answer = self.run_child(lambda: os.execvpe(self.texbin + "/pdflatex", command, self.tex_environment()),
                                deadline, may_exec=True)
        try:
            with open(os.open("job.log", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), errors="replace") as log:
                return answer, log.read(1 << 20)
        except OSError:
            return answer, ""

    def tidy_latex(self):
        """A preamble seen for the third time is dumped as a format of its own (the exact preamble, so that a missing
        \\usepackage stays missing) and used if it reproduces this document's pixels."""
        if self.seen[self.key] != 3 or self.key in self.formats or not self.preamble:
            return
        self.seen[self.key] += 1
        made, deadline = self.cache + "/" + self.key + ".fmt", time.monotonic() + 5
        os.rename("job.pdf", "plain.pdf")
        with open("job.tex", "w") as file:
            file.write(self.preamble + "\\dump\n")
        answer, _ = self.tex(["-ini", "-jobname=job", "&" + self.cache + "/base", "job.tex"], deadline)
        if not answer and os.path.isfile("job.fmt"):
            with open("job.fmt", "rb") as file, open(made, "wb") as raw:
                data = file.read()
                raw.write(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
            same = lambda: os._exit(0 if np.array_equal(*(
                pdf_pixels(*read_pdf(name, None)[:2]) for name in ("job.pdf", "plain.pdf"))) else 1)
            if not self.typeset(made, deadline) and not self.run_child(same, deadline):
                self.formats[self.key] = made
                if len(self.formats) > 8:
                    os.unlink(self.formats.popitem(last=False)[1])

    # children

    def fork(self, act, keep=(), memory=4 << 30, seconds=None, may_exec=False):
        """A confined child that acts and ends. keep: descriptors that it finds as 3, 4, ..."""
        child = os.fork()
        if child:
            return child
        try:
            null = os.open("/dev/null", os.O_RDWR)
            for fd, source in enumerate((null, null, null, *[os.dup(k) for k in keep])):
                os.dup2(source, fd)
            os.closerange(3 + len(keep), 4096)    # the control socket above all: a reply cannot be forged
            os.setpgid(0, 0)
            prctl(1, signal.SIGKILL)
            limit_resources(seconds, memory)
            self.confine(may_exec=may_exec)
            act()
            os._exit(0)
        finally:
            os._exit(97)

    def confine(self, alone=True, may_exec=False):
        drop_capabilities()
        if "landlock" in self.parts:
            landlock(self.readable + ([] if alone else ["/proc", "/sys/devices/system/cpu"]), [self.scratch, "/dev/null"])
        if "seccomp" in self.parts:
            seccomp(alone, may_exec)

    def run_child(self, act, deadline, may_exec=False):
        """-> None if the child ended well and in time, else 'timeout', 'exit N' or 'signal N'"""
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
        for target in (-1,) if self.own_pids else (-child, child):
            try:
                os.kill(target, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

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

    # the shared memory: status, height, width, bytes of pixels, texts, details; from HEADER the pixels (or the message),
    # then the texts, then the details

    def write(self, status, payload, height=0, width=0, texts=b"", details=b""):
        start = HEADER
        for part in (payload, texts, details):
            self.memory[start:start + len(part)] = part
            start += len(part)
        self.memory[:24] = struct.pack("6I", status, height, width, len(payload), len(texts), len(details))

    def deliver(self, draw, *args):
        """Draw; leave the pixels or a one-line message in the shared memory."""
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
        except (TimeoutError, Crash, EOFError) if self.family == "html" else ():
            raise
        except BaseException as error:
            self.write(ERROR, describe(error).encode(errors="replace"))


def ended(status):
    code = os.waitstatus_to_exitcode(status)
    return None if code == 0 else f"exit {code}" if code > 0 else f"signal {-code}"


if __name__ == "__main__":
    Server(json.loads(sys.argv[1])).serve()
