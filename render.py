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

Status: ok | error (the program failed) | timeout | rejected (too large) | infra (a worker was lost twice: not the
program's fault, leave the sample out). Source of the idea: VinciCoder, arXiv 2511.00391, section 3.3.
"""
import argparse
import base64
import contextlib
import ctypes
import errno
import functools
import gc
import glob
import gzip
import hashlib
import importlib
import importlib.util
import io
import json
import mmap
import os
import platform
import queue
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections import Counter, OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

ENDINGS = {".py": "python", ".html": "html", ".htm": "html", ".svg": "svg", ".tex": "latex", ".smi": "smiles"}
LANGUAGES = tuple(dict.fromkeys(ENDINGS.values()))
HARMLESS = ("svg", "smiles")            # pictures, not programs: may be drawn without a filter of system calls
MAX_SIDE = 8192                         # pixels; a larger image is 'rejected'
MAX_PIXELS = 32 << 20
MAX_CODE = 1 << 20                      # bytes of one program
MAX_TEXTS = 1 << 18                     # bytes of the strings that come back with an image
MAX_DETAILS = 1 << 20                   # bytes of the details that come back with an image
HEADER = 4096                           # bytes in front of the pixels in the shared memory
SHARED = HEADER + 3 * MAX_PIXELS + MAX_TEXTS + MAX_DETAILS
OK, ERROR, REJECTED, FIGURE = 1, 2, 3, 4      # what a confined child leaves in the header; 0: nothing


@dataclass
class Render:
    image: np.ndarray | None            # uint8 [H, W, 3]
    status: str                         # ok | error | timeout | rejected | infra
    message: str = ""                   # one line, for the user and for the refinement prompt
    seconds: float = 0.0                # of the job itself, without its wait in the queue
    texts: list | None = None           # [(string, (x0, y0, x1, y1) in pixels)], None where the engine cannot tell
    details: dict | None = None         # what DETAILS describes, for a job with inspect=True; None where there are none (message)


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


class Rejected(Exception):
    """The program's image is larger than we take."""


class Figure(Exception):
    """The program drew a plotly figure: JSON that the browser turns into pixels."""


class Crash(Exception):
    """The program killed what ran it."""


# ---------------------------------------------------------------------------------------------------------------------
# Confinement of the calling process: rlimits, landlock, seccomp. Linux on x86_64 and aarch64, by bare system calls.

def syscall(number, *args):
    """A system call that Python has no name for. Raises OSError."""
    result = ctypes.CDLL(None, use_errno=True).syscall(
        ctypes.c_long(number), *[ctypes.c_void_p(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def prctl(option, *args):
    if ctypes.CDLL(None, use_errno=True).prctl(option, *args, *[0] * (4 - len(args))) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def limit_resources(seconds, memory):
    """CPU seconds (None: no limit) and bytes of address space; files of 128 MiB, 128 of them open; no core dumps."""
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0,
              resource.RLIMIT_FSIZE: 4 * MAX_PIXELS, resource.RLIMIT_NOFILE: 128, resource.RLIMIT_MSGQUEUE: 0}
    for kind, value in limits.items():
        if value is not None:
            resource.setrlimit(kind, (value, value))


@functools.cache
def landlock_version():
    """0 where the kernel has no landlock."""
    try:
        return syscall(444, 0, 0, 1)
    except OSError:
        return 0


def landlock(readable, writable):
    """From here on only these paths can be opened; no TCP; no signals or abstract sockets to processes outside.
    docs.kernel.org/userspace-api/landlock.html"""
    version = landlock_version()
    if not version:
        return
    every = sum(1 << bit for bit in range(13)) | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    rules = struct.pack("QQQ", every, 3 * (version >= 4), 3 * (version >= 6))
    rules = rules[:8 if version < 4 else 16 if version < 6 else 24]       # the struct grew with the versions
    ruleset = syscall(444, ctypes.create_string_buffer(rules, len(rules)), len(rules), 0)
    of_files = 1 | 2 | 4 | every & (1 << 14 | 1 << 15)                    # execute, write, read, truncate, ioctl
    for paths, rights in ((readable, 1 | 4 | 8), (writable, every)):      # execute, read, list
        for path in filter(os.path.exists, paths):
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", rights if os.path.isdir(path) else rights & of_files, fd)
            syscall(445, ruleset, 1, ctypes.create_string_buffer(rule, len(rule)), 0)
            os.close(fd)
    prctl(38, 1)                                                          # PR_SET_NO_NEW_PRIVS
    syscall(446, ruleset, 0)
    os.close(ruleset)


MACHINES = ("x86_64", "aarch64")
# name: number on x86_64, number on aarch64. Denied to every child...
DENIED = dict(
    ptrace=(101, 117), process_vm_readv=(310, 270), process_vm_writev=(311, 271), mount=(165, 40), umount2=(166, 39),
    unshare=(272, 97), setns=(308, 268), pivot_root=(155, 41), chroot=(161, 51), keyctl=(250, 219),
    add_key=(248, 217), request_key=(249, 218), bpf=(321, 280), perf_event_open=(298, 241), userfaultfd=(323, 282),
    io_uring_setup=(425, 425), pidfd_send_signal=(424, 424), pidfd_getfd=(438, 438), rt_sigqueueinfo=(129, 138),
    rt_tgsigqueueinfo=(297, 240), kcmp=(312, 272), open_by_handle_at=(304, 265), personality=(135, 92),
    swapon=(167, 224), reboot=(169, 142), init_module=(175, 105), finit_module=(313, 273), delete_module=(176, 106),
    kexec_load=(246, 104), kexec_file_load=(320, 294), acct=(163, 89), quotactl=(179, 60), settimeofday=(164, 170),
    clock_settime=(227, 112), sethostname=(170, 161), mknod=(133, None), mknodat=(259, 33), syslog=(103, 116),
    move_mount=(429, 429), fsopen=(430, 430), open_tree=(428, 428), mount_setattr=(442, 442), shmget=(29, 194),
    shmat=(30, 196), msgget=(68, 186), semget=(64, 190), mq_open=(240, 180), iopl=(172, None), ioperm=(173, None))
# ... and to a child that is a program: new processes and sockets, other processes' priorities and groups
ALONE = dict(fork=(57, None), vfork=(58, None), socket=(41, 198), socketpair=(53, 199), tkill=(200, 130),
             pidfd_open=(434, 434), setpriority=(141, 140), sched_setscheduler=(144, 119), sched_setparam=(142, 118),
             sched_setaffinity=(203, 122), setsid=(112, 157), setpgid=(109, 154), ioprio_set=(251, 30))


def seccomp(alone=True, may_exec=False):
    """A BPF filter over system calls. alone: one process for ever (threads are allowed), which may signal only
    itself; else (the browser) many processes, but no sockets other than unix ones. www.kernel.org/doc/html/latest/
    userspace-api/seccomp_filter.html. Raises OSError where the kernel refuses."""
    here = MACHINES.index(platform.machine())
    load, equal, any_bit, at_least, answer = 0x20, 0x15, 0x45, 0x35, 0x06
    allow, deny, absent = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    program = []

    def op(code, value, if_true=0, if_false=0):
        program.append(struct.pack("HBBI", code, if_true, if_false, value))

    def deny_unless_argument(number, test, *values):
        """Call `number` passes only if its first argument is one of the values (or has the bit)."""
        op(equal, number, 0, len(values) + 3), op(load, 16)
        for left, value in zip(range(len(values), 0, -1), values):
            op(test, value, left, 0)
        op(answer, deny), op(answer, allow)

    op(load, 4), op(equal, (0xC000003E, 0xC00000B7)[here], 1, 0), op(answer, 0x80000000)     # another ABI: die
    op(load, 0)
    if here == 0:
        op(at_least, 0x40000000, 0, 1), op(answer, absent)                                   # the x32 ABI
    forbidden = DENIED | (ALONE if alone else {})
    if alone and not may_exec:
        forbidden = forbidden | dict(execve=(59, 221), execveat=(322, 281))
    for numbers in forbidden.values():
        if numbers[here] is not None:
            op(equal, numbers[here], 0, 1), op(answer, deny)
    if alone:
        op(equal, 435, 0, 1), op(answer, absent)       # clone3 hides its flags in memory; libc falls back to clone
        deny_unless_argument((56, 220)[here], any_bit, 0x10000)                              # clone: CLONE_THREAD
        deny_unless_argument((62, 129)[here], equal, os.getpid())                            # kill
        deny_unless_argument((234, 131)[here], equal, os.getpid())                           # tgkill
        deny_unless_argument((302, 261)[here], equal, 0, os.getpid())                        # prlimit64
    else:
        deny_unless_argument((41, 198)[here], equal, socket.AF_UNIX)
    op(answer, allow)
    code = ctypes.create_string_buffer(b"".join(program))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    prctl(38, 1)                                                                             # NO_NEW_PRIVS
    prctl(22, 2, filter_)                                                                    # PR_SET_SECCOMP


def drop_capabilities():
    """Root in a container without user namespaces still holds them."""
    syscall((126, 91)[MACHINES.index(platform.machine())],
            ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0)), ctypes.create_string_buffer(24))


# ---------------------------------------------------------------------------------------------------------------------
# Inside the sandbox: the engines. Each returns (pixels uint8 [H, W, 3], texts or None), with inspect the details, too

def check_size(width, height):
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise Rejected(f"an image of {width:.0f} x {height:.0f} pixels: at most {MAX_SIDE} a side and "
                       f"{MAX_PIXELS} in all are taken")


def on_white(image):
    """PIL image or uint8 [H, W, 3 or 4] -> uint8 [H, W, 3]."""
    from PIL import Image
    if isinstance(image, np.ndarray):
        if (image[:, :, 3:] == 255).all():
            return image[:, :, :3]
        image = Image.fromarray(image)
    check_size(*image.size)
    if image.mode != "RGB":
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        image = ground.convert("RGB")
    return np.asarray(image)


def draw_svg(code, size):
    from cairosvg import surface, text, url
    from cairosvg.parser import Tree
    texts = []

    def record(drawing, node, *args):
        text.text(drawing, node, *args)
        if node.text and node.text.strip() and "text_bounding_box" in node:
            x, y, width, _ = node["text_bounding_box"]            # y: the baseline
            ascent, descent = drawing.context.font_extents()[:2]
            corners = [drawing.context.user_to_device(*c) for c in
                       ((x, y - ascent), (x + width, y - ascent), (x, y + descent), (x + width, y + descent))]
            texts.append((node.text.strip(), box_around(corners)))
    surface.TAGS.update(text=record, tspan=record, textPath=record)

    class Pixels(surface.PNGSurface):
        def _create_surface(self, width, height):
            check_size(width, height)                             # before the memory is taken
            return super()._create_surface(width, height)
    tree = Tree(bytestring=code.encode(), url_fetcher=url.safe_fetch)
    box = (None, None) if not size else (size[0], None)
    if size and all(tree.get(side, "%").strip().endswith("%") for side in ("width", "height")):
        box = size
    canvas = Pixels(tree, None, 96, output_width=box[0], output_height=box[1], background_color="white").cairo
    canvas.flush()
    height, width = canvas.get_height(), canvas.get_width()
    bgra = np.frombuffer(canvas.get_data(), np.uint8).reshape(height, -1, 4)      # uint8 [H, stride, 4]
    return bgra[:, :width, 2::-1].copy(), texts                   # a copy: the buffer dies with the surface


def box_around(points):
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def draw_smiles(code, size):
    from PIL import Image
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D
    width, height = size or (400, 400)
    check_size(width, height)
    molecule = Chem.MolFromSmiles(code.strip())
    if molecule is None:
        raise ValueError("not a SMILES string that RDKit can read")
    drawing = rdMolDraw2D.MolDraw2DCairo(width, height)
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, molecule)
    drawing.FinishDrawing()
    return on_white(Image.open(io.BytesIO(drawing.GetDrawingText()))), [(Chem.MolToSmiles(molecule), (0, 0, width, height))]


def read_pdf(file, size):
    """-> (pypdfium2 page, whole dots per inch to draw it with, texts) of the first page."""
    import pypdfium2
    page = pypdfium2.PdfDocument(file)[0]
    left, bottom, right, top = page.get_mediabox()                # points, 1/72 inch
    dpi = min(150, max(1, int(72 * max(size or (1e9,)) / max(right - left, top - bottom, 1e-3))))
    check_size(*(int(np.ceil(side * dpi / 72)) for side in (right - left, top - bottom)))
    words, texts = page.get_textpage(), []
    for i in range(min(words.count_rects(), 2000)):
        x0, y0, x1, y1 = words.get_rect(i)
        string = words.get_text_bounded(x0, y0, x1, y1).strip()
        if string:
            texts.append((string, tuple(dpi / 72 * v for v in (x0 - left, top - y1, x1 - left, top - y0))))
    return page, dpi, texts


def pdf_pixels(page, dpi):
    """-> uint8 [H, W, 3], drawn by pdfium."""
    return page.render(scale=dpi / 72, rev_byteorder=True).to_numpy()[:, :, :3]


# Python: save and show are patched, so that the program's pixels are seen without rewriting it

def draw_python(code, size, inspect=False):
    import random
    import types
    random.seed(0)
    np.random.seed(0)
    fresh_generator = np.random.default_rng
    np.random.default_rng = lambda seed=None: fresh_generator(0 if seed is None else seed)
    saved, shown, molecules = [], [], []      # of (image, texts, details) or Figure; SMILES strings
    patch_pillow(saved, shown)
    if "rdkit" in sys.modules or "indigo" in sys.modules:
        patch_molecules(molecules)
    if "matplotlib" in sys.modules:
        patch_matplotlib(saved, shown, inspect)
    if "plotly" in sys.modules:
        patch_plotly(saved, shown)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = "program.py"
    try:
        exec(compile(code, "program.py", "exec"), main.__dict__)
    except SystemExit as stop:
        if stop.code:
            raise
    if not saved:
        saved = read_image_files() or shown
    pyplot = sys.modules.get("matplotlib.pyplot")
    if not saved and pyplot and pyplot.get_fignums():
        pyplot.show()
        saved = shown
    if not saved:
        raise RuntimeError("the program drew nothing: it neither saved nor showed an image")
    if isinstance(saved[-1], Figure):
        raise saved[-1]
    image, texts, details = saved[-1]
    image = on_white(image)
    if molecules and not texts:
        texts = [(smiles, (0, 0, image.shape[1], image.shape[0])) for smiles in dict.fromkeys(molecules[-99:])]
    return image, texts, details


def patch_molecules(molecules):
    """What a drawing of a molecule says is the molecule: its canonical SMILES is its text, wherever the atoms have been put."""
    def noting(owner, name, smiles_of):
        plain = getattr(owner, name)

        def draw(*args, **options):
            for thing in args[:2]:               # the drawing itself comes first or not, as for a function or a method
                with contextlib.suppress(Exception):
                    molecules.extend(smiles_of(m) for m in (thing if isinstance(thing, (list, tuple)) else [thing]))
            return plain(*args, **options)
        setattr(owner, name, draw)
    if "rdkit" in sys.modules:
        from rdkit import Chem
        from rdkit.Chem.Draw import rdMolDraw2D
        canonical = lambda m: Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(m)))
        for name in ("DrawMolecule", "DrawMolecules", "DrawMoleculeWithHighlights"):
            noting(rdMolDraw2D.MolDraw2D, name, canonical)
        noting(rdMolDraw2D, "PrepareAndDrawMolecule", canonical)
    if "indigo" in sys.modules:
        from indigo.renderer import IndigoRenderer
        for name in ("renderToFile", "renderToBuffer"):
            noting(IndigoRenderer, name, lambda m: m.canonicalSmiles())


def patch_matplotlib(saved, shown, inspect):
    import matplotlib.figure
    import matplotlib.pyplot as pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from PIL import Image
    drawn, texts, written = [], [], []
    look = trace_matplotlib(written) if inspect else lambda figure: None
    plain_savefig, plain_write, plain_text = matplotlib.figure.Figure.savefig, patch_pillow.plain_save, Text.draw

    def draw_text(text, renderer, *args, **options):
        plain_text(text, renderer, *args, **options)
        if text.get_visible() and text.get_text().strip() and len(texts) < 2000:
            x0, y0, x1, y1 = text.get_window_extent(renderer).extents
            texts.append((text.get_text().strip(), (x0, renderer.height - y1, x1, renderer.height - y0)))
    Text.draw = draw_text

    def print_png(canvas, filename, *, pil_kwargs=None, **ignored):
        texts.clear(), written.clear()           # what was drawn before only measured the layout
        check_size(*canvas.get_width_height())
        FigureCanvasAgg.draw(canvas)
        drawn.append((np.array(canvas.buffer_rgba()), texts[:], look(canvas.figure)))    # uint8 [H, W, 4]
        if filename is not None:                 # fast compression: the file is for the program, not for us
            plain_write(Image.fromarray(drawn[-1][0]), filename, format="png", compress_level=1)
    FigureCanvasAgg.print_png = print_png

    def savefig(figure, *args, **options):
        before = len(drawn)
        plain_savefig(figure, *args, **options)
        if len(drawn) == before:                 # any other format: the same figure once more as pixels
            options = {k: v for k, v in options.items() if k not in ("format", "metadata", "backend", "fname")}
            plain_savefig(figure, None, format="png", **options)
        saved.append(drawn[-1])
    matplotlib.figure.Figure.savefig = savefig

    def show(figure, *args, **options):
        plain_savefig(figure, None, format="png", dpi="figure")
        shown.append(drawn[-1])
    matplotlib.figure.Figure.show = show
    pyplot.show = lambda *args, **options: [show(pyplot.figure(number)) for number in pyplot.get_fignums()] and None


def trace_matplotlib(written):
    """From here on plotting calls of matplotlib and networkx are noted. -> look(figure): DETAILS of the figure just drawn.
    written: a list that receives the strings; the caller empties it before a drawing that counts.

    What is noted, of which call and when, is ChartMimic's (github.com/ChartMimic/ChartMimic, chart2code/utils/evaluator).
    types: the outermost calls of the functions that chart_type_evaluator_prefix.py lists. colors: read when a thing is
    made and again at the end, of the last thing made in each colour (color_evaluator_prefix.py). layout: the place of
    each Axes in its grid (layout_evaluator.py). texts: the lines that reach the renderer once the x and y ticks of all
    Axes are gone (text_evaluator.py); here the ticks stay, their strings are left out. Deviations: calls in which it sees
    nothing are noted too (the second list), or a heat map by pcolormesh would be judged on nothing; squarify and
    matplotlib_venn are not; of several figures only the one that was drawn counts.
    """
    from matplotlib import cbook, patches
    from matplotlib.axes import Axes
    from matplotlib.axes._base import _process_plot_var_args
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import to_hex
    from matplotlib.image import NonUniformImage
    from matplotlib.projections.polar import PolarAxes
    from matplotlib.text import Text
    from mpl_toolkits.mplot3d import Axes3D
    calls, made, speakers, counting, colouring = [], {}, [], [0], [0]      # the last two: depth inside watched functions

    def watch(owner, name, depth, note):
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def call(*args, **options):
            depth[0] += 1
            try:
                result = plain(*args, **options)
            finally:
                depth[0] -= 1
            if not depth[0]:
                with contextlib.suppress(Exception):                       # it must not fail the program
                    note(result, options, *args)
            return result
        setattr(owner, name, call)

    def count(owner, names, call=None, suffix=""):
        def note(name):
            def add(result, options, first, *rest):
                polar = "_polar" if name == "plot" and type(first) is PolarAxes else ""
                calls.append(((call or name) + suffix + polar, first))
            return add
        for name in names.split():
            watch(owner, name, counting, note(name))

    def colour(owner, names, parts, read, call=None, suffix=""):
        """parts(result, first argument): what was made; read(part): its colours."""
        def note(name):
            def add(result, options, first, *rest):
                polar = "_polar" if name in ("plot", "scatter") and type(first) is PolarAxes else ""
                by_map = name in ("scatter", "plot_surface") and options.get("cmap") is not None
                for part in [result] if by_map else parts(result, first):
                    reader = colormap if by_map else read
                    if colours := reader(part):
                        made[(call or name) + suffix + polar, colours[-1]] = part, reader
            return add
        for name in names.split():
            watch(owner, name, colouring, note(name))

    hexes = lambda colours: [to_hex(c).upper() for c in np.atleast_2d(colours)] if len(colours) else []
    line = lambda part: [to_hex(part.get_color()).upper()]
    faces, edges = lambda part: hexes(part.get_facecolor()), lambda part: hexes(part.get_edgecolor())
    face, colormap = lambda part: faces(part)[:1], lambda part: [part.get_cmap().name]
    mapped = lambda part: colormap(part) if part.get_array() is not None else faces(part) or edges(part)
    it, each, itself = lambda result, first: [result], lambda result, first: list(result), lambda result, first: [first]
    bars = lambda result, first: [b for group in (result[2] if type(result[2]) is cbook.silent_list else [result[2]]) for b in group]

    flat, solid = "pcolormesh hexbin stairs eventplot barbs streamplot tricontour tricontourf", "plot_wireframe plot_trisurf quiver fill_between"
    count(Axes, "bar barh plot axhline axvline axvspan axhspan hlines vlines errorbar boxplot violinplot violin hist fill_between "
          "fill_betweenx scatter quiver pie fill imshow pcolor contour contourf broken_barh tripcolor " + flat)
    count(Axes3D, "scatter plot plot_surface bar3d bar add_collection3d " + solid, suffix="_3d")
    count(NonUniformImage, "__init__", "image")
    count(patches.Ellipse, "__init__", "ellipse"), count(patches.Circle, "__init__", "ellipse")
    for depth in (counting, colouring):
        watch(Colorbar, "_draw_all", depth, lambda *call: None)            # its pcolormesh is not the program's

    colour(_process_plot_var_args, "_make_line", lambda result, first: [result[0]], line, "plot")
    colour(Axes, "axhline axvline", it, line)
    colour(Axes, "_fill_between_x_or_y", it, face, "fill_between")
    colour(Axes, "scatter", it, face)
    colour(Axes, "bar", each, lambda part: [to_hex(part._original_facecolor).upper()])
    colour(Axes, "fill", each, faces)
    colour(Axes, "axvspan axhspan quiver broken_barh", it, faces)
    colour(Axes, "hlines vlines", it, edges)
    colour(Axes, "pie", lambda result, first: result[0], faces)
    colour(Axes, "boxplot", lambda result, first: [b for b in result["boxes"] if type(b) is patches.PathPatch], faces)
    colour(Axes, "violinplot", lambda result, first: result["bodies"], face)
    colour(Axes, "hist", bars, faces)
    colour(Axes, "imshow pcolor contour contourf tripcolor", it, colormap)
    colour(Axes, "pcolormesh hexbin barbs tricontour tricontourf", it, mapped)
    colour(Axes, "stairs", it, edges), colour(Axes, "eventplot", each, edges)
    colour(PolarAxes, "plot", each, line)
    colour(Axes3D, "scatter add_collection3d", it, faces, suffix="_3d")
    colour(Axes3D, "plot", each, line, suffix="_3d")
    colour(Axes3D, "bar", each, faces, suffix="_3d")
    colour(Axes3D, "plot_surface bar3d", it, face, suffix="_3d")
    colour(Axes3D, solid, it, mapped, suffix="_3d")
    colour(NonUniformImage, "__init__", itself, colormap, "image")
    exactly = lambda kind: lambda result, first: [first] if type(first) is kind else []
    for kind in (patches.Ellipse, patches.Circle):
        colour(kind, "__init__", exactly(kind), faces, "ellipse")
    if "networkx" in sys.modules:
        import networkx
        from networkx.drawing import nx_pylab
        for part, parts, read in (("nodes", it, faces), ("labels", lambda result, first: result.values(), line), ("edges", it, lambda part: (
                [hexes(arrow.get_facecolor())[0] for arrow in part] if isinstance(part, list) else edges(part)))):
            count(nx_pylab, "draw_networkx_" + part)
            colour(nx_pylab, "draw_networkx_" + part, parts, read)
            setattr(networkx, "draw_networkx_" + part, getattr(nx_pylab, "draw_networkx_" + part))

    plain_text, plain_string = Text.draw, RendererAgg.draw_text

    def draw_text(text, *args, **options):
        speakers.append(text)
        plain_text(text, *args, **options)
        speakers.pop()

    def draw_string(renderer, gc, x, y, string, *args, **options):
        written.append((string, speakers[-1] if speakers else None))
        plain_string(renderer, gc, x, y, string, *args, **options)
    Text.draw, RendererAgg.draw_text = draw_text, draw_string

    def look(figure):
        def here(thing):
            return not hasattr(thing, "get_figure") or thing.get_figure(root=True) in (figure, None)
        try:
            silent, grid, colours = set(), [], set()
            for axes in figure.axes:
                for axis in (axes.xaxis, axes.yaxis):
                    silent.update(label for tick in axis.majorTicks for label in (tick.label1, tick.label2))
                    silent.add(axis.offsetText)
                if spec := axes.get_subplotspec():
                    nrows, ncols = spec.get_gridspec().get_geometry()
                    grid.append(dict(nrows=nrows, ncols=ncols, row_start=spec.rowspan.start, row_end=spec.rowspan.stop - 1,
                                     col_start=spec.colspan.start, col_end=spec.colspan.stop - 1))
            for (call, _), (part, read) in made.items():
                if here(part):
                    colours.update((call, colour) for colour in read(part))
            return dict(texts=[string for string, text in written if text not in silent],
                        types=Counter(call for call, thing in calls if here(thing)), layout=grid, colors=sorted(colours))
        except Exception as error:               # an artist of the program's own, perhaps: the picture is there all the same
            return "the figure cannot be inspected: " + describe(error)
    return look


def patch_plotly(saved, shown):
    import plotly.io
    import plotly.offline
    from plotly.basedatatypes import BaseFigure

    def take(kept):
        def draw(figure, *args, width=None, height=None, scale=None, **options):
            figure = figure if isinstance(figure, BaseFigure) else plotly.io._utils.validate_coerce_fig_to_dict(
                figure, True)
            kept.append(Figure(plotly.io.to_json(figure), width, height, scale or 1))
            return b""
        return draw
    for owner, name, kept in ((plotly.io, "write_image", saved), (plotly.io, "to_image", saved),
                              (plotly.io, "write_html", saved), (plotly.io, "show", shown),
                              (plotly.offline, "plot", shown), (plotly.offline, "iplot", shown),
                              (BaseFigure, "write_image", saved), (BaseFigure, "to_image", saved),
                              (BaseFigure, "write_html", saved), (BaseFigure, "show", shown)):
        setattr(owner, name, take(kept))


def patch_pillow(saved, shown):
    from PIL import Image
    plain_save = patch_pillow.plain_save = Image.Image.save

    def save(image, target, *args, **options):
        plain_save(image, target, *args, **options)
        saved.append((image.copy(), None, None))
    Image.Image.save = save
    Image.Image.show = lambda image, *args, **options: shown.append((image.copy(), None, None))


def read_image_files():
    """[(image, texts, None)] of the newest image file in the working folder, [] without one."""
    from PIL import Image
    files = [f for f in glob.glob("**/*", recursive=True)
             if f.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".svg", ".pdf"))]
    if not files:
        return []
    newest = max(files, key=lambda f: os.lstat(f).st_mtime_ns)
    # a link or a fifo put in place of the file must neither lead us elsewhere nor make us wait
    with os.fdopen(os.open(newest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if newest.lower().endswith(".svg"):
            return [(*draw_svg(file.read(MAX_CODE).decode(), None), None)]
        if newest.lower().endswith(".pdf"):
            page, dpi, texts = read_pdf(file.read(64 << 20), None)
            return [(pdf_pixels(page, dpi), texts, None)]
        return [(on_white(Image.open(file, formats=["PNG", "JPEG", "WEBP", "GIF", "BMP"])), None, None)]


# LaTeX: what surrounds a bare snippet

TEX_TEMPLATE = r"""\documentclass[preview, border=2pt]{standalone}
\usepackage{amsmath, amssymb, xcolor, tikz, pgfplots}
\pgfplotsset{compat=newest}
\usetikzlibrary{arrows.meta, calc, positioning, shapes}
\begin{document}
%s
\end{document}
"""


def split_tex(code):
    """-> (preamble, body): everything before \\begin{document}, and the rest with it."""
    if not re.search(r"\\document(class|style)", code):
        libraries = re.findall(r"\\use(?:tikz|pgfplots)library\s*\{[^}]*\}", code)
        libraries += ["\\usepackage{chemfig}"] if "\\chemfig" in code else []
        code = TEX_TEMPLATE.replace("\\begin{document}", "\n".join([*libraries, "\\begin{document}"])) % code
    start = code.find("\\begin{document}")
    return (code[:start], code[start:]) if start >= 0 else ("", code)


def tex_message(log):
    lines = log.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("!"):
            where = next((" (" + l.split(" ")[0] + ")" for l in lines[i:i + 12] if re.match(r"l\.\d+", l)), "")
            return "LaTeX: " + line[1:].strip() + where
    return "LaTeX: no PDF was written"


# HTML: Chromium over the DevTools protocol, chromedevtools.github.io/devtools-protocol/

CHROMIUM_FLAGS = """--headless --no-sandbox --disable-gpu --mute-audio --no-first-run --no-zygote
 --enable-begin-frame-control --run-all-compositor-stages-before-draw --block-new-web-contents
 --disable-extensions --disable-background-networking --disable-sync --disable-breakpad --disable-crash-reporter
 --disable-dev-shm-usage --disable-component-update --disable-default-apps --disable-renderer-backgrounding
 --disable-background-timer-throttling --disable-backgrounding-occluded-windows --force-color-profile=srgb
 --disable-features=Translate,MediaRouter,BackForwardCache,AudioServiceOutOfProcess --disable-site-isolation-trials
 --default-tile-width=1280 --default-tile-height=256 --hide-scrollbars --font-render-hinting=none
 --renderer-process-limit=1 --js-flags=--max-old-space-size=512""".split()

# Math.random is mulberry32 with a fixed seed, every page is opened on 15 June 2025
FRESH_DOCUMENT = """(() => { let s = 1; Math.random = () => { s = s + 0x6D2B79F5 | 0;
  let t = Math.imul(s ^ s >>> 15, 1 | s); t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
  return ((t ^ t >>> 14) >>> 0) / 4294967296 };
  window.name = '';  // it would outlive the page
  const D = Date, shift = 1750000000000 - D.now(), now = () => D.now() + shift;
  window.Date = new Proxy(D, { construct: (_, a) => a.length ? new D(...a) : new D(now()),
    apply: () => new D(now()).toString(), get: (_, key) => key === 'now' ? now : D[key] }) })()"""

SETTLE = """(() => { for (const a of document.getAnimations())
  try { a.effect.getComputedTiming().endTime === Infinity ? a.cancel() : a.finish() } catch (e) {} })()"""

READ_TEXTS = """(() => { const out = [], range = document.createRange();
  const walk = document.createTreeWalker(document.body || document, NodeFilter.SHOW_TEXT);
  for (let n; out.length < 2000 && (n = walk.nextNode());) { const s = n.data.trim(); if (!s) continue;
    range.selectNodeContents(n); const r = range.getBoundingClientRect();
    if (r.width && r.height && getComputedStyle(n.parentElement).visibility === 'visible')
      out.push([s, [r.left + scrollX, r.top + scrollY, r.right + scrollX, r.bottom + scrollY]]) }
  return JSON.stringify(out) })()"""

# Text blocks as Design2Code finds them: the text of an element is that of its nearest ancestor that Design2Code colours
# (ocr_free_utils.py), else its own. White space is collapsed, what lies outside the picture is cut. Colours over white.
INSPECT = """((width, height, limit) => {
  const owned = "p,h1,h2,h3,h4,h5,h6,div,span,a,b,li,table,td,th,button,footer,header,figcaption", owners = new Map();
  const pen = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
  const rgb = new Map(), rgbOf = css => { if (!rgb.has(css)) {
    pen.fillStyle = "#fff"; pen.fillRect(0, 0, 1, 1); pen.fillStyle = css; pen.fillRect(0, 0, 1, 1);
    rgb.set(css, [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3)) } return rgb.get(css) };
  const range = document.createRange(), walk = document.createTreeWalker(document.body || document, NodeFilter.SHOW_TEXT);
  for (let n; n = walk.nextNode();) {
    const text = n.data.replace(/\\s+/g, " ").trim(), parent = n.parentElement; if (!text || !parent) continue;
    range.selectNodeContents(n); const r = range.getBoundingClientRect(), style = getComputedStyle(parent);
    const x0 = Math.max(0, r.left + scrollX), y0 = Math.max(0, r.top + scrollY);
    const x1 = Math.min(width, r.right + scrollX), y1 = Math.min(height, r.bottom + scrollY);
    if (x1 <= x0 || y1 <= y0 || style.visibility !== "visible") continue;
    const owner = parent.closest(owned) || parent, b = owners.get(owner) || {texts: [], box: [x0, y0, x1, y1], color: [0, 0, 0], count: 0};
    b.texts.push(text), b.count += text.length, rgbOf(style.color).forEach((c, i) => b.color[i] += c * text.length);
    b.box = [Math.min(b.box[0], x0), Math.min(b.box[1], y0), Math.max(b.box[2], x1), Math.max(b.box[3], y1)], owners.set(owner, b) }
  const blocks = [...owners.values()].map(({texts, box: [x0, y0, x1, y1], color, count}) => ({text: texts.join(" "),
    box: [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height], color: color.map(c => c / count)}));
  const trees = new Set(); for (const e of document.querySelectorAll("*")) if (e.children.length)
    trees.add([e, ...e.children].map(x => x.localName).join("_"));
  const found = JSON.stringify({blocks, trees: [...trees]}); return found.length > limit ? found.length : found })"""


class Browser:
    """One warm Chromium, one tab, a clean document for each page. Every wait ends at self.deadline (TimeoutError)."""

    def __init__(self, program, scratch):
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        line = [program, *CHROMIUM_FLAGS, "--user-data-dir=" + scratch + "/profile", "--remote-debugging-pipe"]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                prctl(1, signal.SIGKILL)                                  # PR_SET_PDEATHSIG
                null = os.open("/dev/null", os.O_RDWR)
                ends = os.dup(commands), os.dup(answers)
                for fd, source in enumerate((null, null, null, *ends)):   # the browser reads 3 and writes 4
                    os.dup2(source, fd)
                os.closerange(5, 4096)
                resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
                os.execv(program, line)
            finally:
                os._exit(127)
        os.close(commands), os.close(answers)
        self.buffer, self.count, self.session, self.stray, self.lost = bytearray(), 0, None, [], False
        self.deadline = time.monotonic() + 30
        self.call("Target.setDiscoverTargets", discover=True)
        self.call("Browser.setDownloadBehavior", behavior="deny")
        self.open_tab()

    def open_tab(self):
        self.pages, self.viewport, self.session = 0, None, None
        try:
            self.target, self.paced = None, True
            self.target = self.call("Target.createTarget", url="about:blank", enableBeginFrameControl=True)["targetId"]
        except RuntimeError:                                              # a full Chromium draws when it likes
            self.paced = False
            self.target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        self.frame = self.call("Page.getFrameTree")["frameTree"]["frame"]["id"]
        self.call("Page.enable")
        self.call("Page.setFontFamilies", fontFamilies=dict(fixed="Monospace"))     # as in a desktop Chromium
        self.call("Page.addScriptToEvaluateOnNewDocument", source=FRESH_DOCUMENT)
        self.call("Emulation.setVirtualTimePolicy", policy="pause")
        self.blank()

    def blank(self):
        """Leave the page: its timers, workers and unload handlers end on its own time, not on the next page's."""
        self.loaded = False
        self.call("Page.navigate", url="about:blank")
        self.wait(lambda: self.loaded)

    def post(self, method, **params):
        self.count += 1
        message = dict(id=self.count, method=method, params=params)
        if self.session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self.commands, data):]
        return self.count

    def call(self, method, **params):
        return self.answer(self.post(method, **params))

    def answer(self, number):
        """The result of command `number`; events that arrive before it are handled on the way."""
        while (message := self.receive()).get("id") != number:
            self.handle(message)
        if "error" in message:
            raise RuntimeError("Chromium: " + message["error"].get("message", "?"))
        return message["result"]

    def wait(self, condition):
        while not condition():
            self.handle(self.receive())

    def handle(self, message):
        event, params = message.get("method"), message.get("params", {})
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Page.javascriptDialogOpening":
            self.post("Page.handleJavaScriptDialog", accept=params.get("type") == "beforeunload")
        elif event == "Emulation.virtualTimeBudgetExpired":
            self.time_is_up = True
        elif event == "Target.targetCrashed" and params["targetId"] == self.target:
            raise Crash("the page crashed its browser tab")
        elif event == "Target.targetCreated" and params["targetInfo"]["type"] == "page":
            self.stray.append(params["targetInfo"]["targetId"])

    def receive(self):
        searched = 0
        while (end := self.buffer.find(b"\0", searched)) < 0:
            searched = len(self.buffer)
            if not select.select([self.answers], [], [], max(0, self.deadline - time.monotonic()))[0]:
                raise TimeoutError
            data = os.read(self.answers, 1 << 20)
            if not data:
                raise EOFError("the browser died")
            self.buffer += data
        message = json.loads(self.buffer[:end])
        del self.buffer[:end + 1]
        return message

    def draw(self, code, size, scale=1, inspect=False):
        width, height = size or (1280, 720)
        check_size(width * scale, height * scale)
        if self.viewport != (width, height, scale):
            self.call("Emulation.setDeviceMetricsOverride", width=width, height=min(height, 720),
                      deviceScaleFactor=scale, mobile=False)
            self.viewport = (width, height, scale)
        self.pages, self.loaded = self.pages + 1, False
        self.time_is_up, budget = False, dict(policy="pauseIfNetworkFetchesPending", budget=500)   # page's milliseconds
        written = self.post("Page.setDocumentContent", frameId=self.frame, html=code)
        self.post("Emulation.setVirtualTimePolicy", **budget)
        self.answer(written)
        while not (self.loaded and self.time_is_up):
            if self.time_is_up:                                           # still loading: half a second more
                self.time_is_up = False
                self.post("Emulation.setVirtualTimePolicy", **budget)
            self.handle(self.receive())
        self.post("Runtime.evaluate", expression=SETTLE)
        page = self.call("Page.getLayoutMetrics")["cssContentSize"]["height"]
        length = min(max(int(page), height), MAX_SIDE, MAX_PIXELS // width)
        pixels = self.photograph(width, length, beyond=length > min(height, 720) or scale != 1)
        texts = json.loads(self.call("Runtime.evaluate", expression=READ_TEXTS)["result"].get("value", "null"))
        return (pixels, texts, self.inspect(width, length)) if inspect else (pixels, texts)

    def inspect(self, width, height):
        """-> DETAILS of the page, or one line: why there are none. The page's scripts have no hand in this world's functions."""
        world = self.call("Page.createIsolatedWorld", frameId=self.frame)["executionContextId"]
        result = self.call("Runtime.evaluate", contextId=world, expression=f"{INSPECT}({width}, {height}, {MAX_DETAILS})")
        found = result["result"].get("value")
        if isinstance(found, str):
            return json.loads(found)
        return oversized(found) if found else "the page cannot be inspected"

    def photograph(self, width, height, beyond):
        from PIL import Image
        data = None
        while self.paced and not beyond and not data:        # the first frame may only lay the page out
            data = self.call("HeadlessExperimental.beginFrame",
                             screenshot=dict(format="png", optimizeForSpeed=True)).get("screenshotData")
        if not data:
            shot = self.post("Page.captureScreenshot", format="png", captureBeyondViewport=beyond,
                             optimizeForSpeed=True, clip=dict(x=0, y=0, width=width, height=height, scale=1))
            frame, message = self.paced and self.post("HeadlessExperimental.beginFrame"), {}
            while message.get("id") != shot:
                message = self.receive()
                if frame and message.get("id") == frame:
                    frame = self.post("HeadlessExperimental.beginFrame")
                self.handle(message)
            if frame:
                self.answer(frame)
            if "error" in message:
                raise RuntimeError("Chromium: " + message["error"].get("message", "?"))
            data = message["result"]["data"]
        return on_white(Image.open(io.BytesIO(base64.b64decode(data)), formats=["PNG"]))

    def draw_figure(self, code, size):
        """A plotly figure as JSON, drawn by the plotly.js that comes with plotly."""
        figure, width, height, scale = json.loads(code)
        layout = json.loads(figure).get("layout", {})
        width, height = width or layout.get("width") or 700, height or layout.get("height") or 500
        folder = importlib.util.find_spec("plotly").submodule_search_locations[0]
        with open(folder + "/package_data/plotly.min.js") as file:
            script = file.read()
        figure = figure.replace("<", "\\u003c")                             # no string may close the script
        html = f"""<body style="margin:0"><div id="figure"></div><script>{script}</script><script>
            const figure = {figure};
            figure.layout = {{...figure.layout, width: {width:d}, height: {height:d}}};
            Plotly.newPlot("figure", figure.data, figure.layout, {{staticPlot: true}})</script>"""
        return self.draw(html, (width, height), scale)

    def tidy(self):
        """Between two pages: close popups, leave the page, take a new tab now and then."""
        self.deadline = time.monotonic() + 2
        for target in self.stray:
            if target != self.target:
                self.call("Target.closeTarget", targetId=target)
        self.stray = []
        if self.pages < 100:
            return self.blank()
        old = self.target
        self.open_tab()
        self.call("Target.closeTarget", targetId=old)


# ---------------------------------------------------------------------------------------------------------------------
# Inside the sandbox: the server. It never touches hostile input itself, its children do

COMMON = ["numpy.random", "PIL.Image", "PIL.PngImagePlugin"]
CHART = COMMON + ["matplotlib.pyplot", "matplotlib.backends.backend_agg", "mpl_toolkits.mplot3d"]
FAMILIES = {        # what each imports before it forks
    "svg": ["numpy", "cairosvg.surface"],
    "latex": ["numpy", "pypdfium2"],
    "html": ["numpy", "PIL.Image", "PIL.PngImagePlugin"],
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
    """Runs as `render.py --serve`; talks to the slot outside (class Sandbox) over a socket and the shared memory."""

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
            draw_smiles("CCO", None)
        except ImportError:
            pass

    def warm_html(self):
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
        draw = functools.partial(draw_python, **self.inspect) if language == "python" else globals()["draw_" + language]
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
        self.browser = Browser(self.chromium, self.scratch)

    def run_latex(self, language, code, size, deadline):
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


def oversized(length):
    return f"details of {length} bytes: at most {MAX_DETAILS} are taken"


def describe(error):
    """One line: the type, the message, the program's line."""
    lines = [""] + [f" (line {frame.lineno})" for frame in traceback.extract_tb(error.__traceback__)
                    if frame.filename == "program.py"]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500] + lines[-1]


def ended(status):
    code = os.waitstatus_to_exitcode(status)
    return None if code == 0 else f"exit {code}" if code > 0 else f"signal {-code}"


# ---------------------------------------------------------------------------------------------------------------------
# Outside: what is installed, what can be confined

def find_chromium():
    """VINCI_CHROMIUM, else the system's browser, else playwright's own; None without one. Headless shells first:
    they draw frame by frame on command, a full Chromium only when its clock ticks."""
    named = os.environ.get("VINCI_CHROMIUM")
    if named:
        return shutil.which(named)
    own = os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or os.path.expanduser("~/.cache/ms-playwright")
    own = sorted(glob.glob(own + "/chromium_headless_shell-*/*/*headless*shell"), reverse=True)
    names = ("/usr/lib/chromium/chromium-headless-shell", "chrome-headless-shell", *own, "/usr/lib/chromium/chromium",
             "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def find_tex():
    """The folder of pdflatex: VINCI_TEXBIN, else from PATH; None without one."""
    found = shutil.which("pdflatex", path=os.environ.get("VINCI_TEXBIN"))
    return os.path.dirname(found) if found else None


def engine_paths():
    """(folders that the engines need read-only, package folders of this Python)."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    paths = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/fonts", "/etc/alternatives", "/etc/texmf",
             "/etc/ld.so.cache", "/var/lib/texmf", "/var/cache/fontconfig", sys.base_prefix, sys.prefix, *packages,
             os.path.abspath(__file__)]
    if find_chromium():
        paths.append(os.path.dirname(os.path.realpath(find_chromium())))
    if find_tex():
        paths.append(find_tex().split("/bin")[0] or "/usr")               # a TeX Live of its own, /opt/texlive/2025
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)], packages


def bubblewrap():
    """The command line in front of the server's own."""
    command = ["bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
               "--clearenv", "--hostname", "sandbox", "--uid", "1000", "--gid", "1000"]
    for path in sorted(engine_paths()[0]):
        system = os.path.islink(path) and os.path.realpath(path).startswith("/usr/")   # /bin, a link to usr/bin; a .venv
        command += ["--symlink", os.readlink(path), path] if system else ["--ro-bind", path, path]   # that is one is bound
    return command + ["--proc", "/proc", "--dev", "/dev", "--size", str(512 << 20), "--tmpfs", "/scratch", "--size",
                      str(512 << 20), "--tmpfs", "/cache", "--chdir", "/scratch", "--remount-ro", "/"]


@functools.cache
def confinement():
    """What holds a program here: any of bwrap, landlock, seccomp joined by '+', or 'none'. VINCI_CONFINEMENT can
    name fewer, to try the degraded mode."""
    wanted = os.environ.get("VINCI_CONFINEMENT", "bwrap+landlock+seccomp").split("+")
    libc, found = ctypes.CDLL(None, use_errno=True), []
    if shutil.which("bwrap") and not subprocess.run([*bubblewrap(), "/usr/bin/true"], capture_output=True).returncode:
        found.append("bwrap")
    if landlock_version():
        found.append("landlock")
    # an empty filter is a bad address where filters exist, a bad argument where they do not
    if libc.prctl(22, 2, None, 0, 0) and ctypes.get_errno() == errno.EFAULT and platform.machine() in MACHINES:
        found.append("seccomp")
    return "+".join(part for part in found if part in wanted) or "none"


def safe():
    """A program that may run code needs its system calls filtered and its files fenced."""
    return "seccomp" in confinement() and confinement() != "seccomp"


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
    return {**others, "python": modules("matplotlib", "PIL") or fence, "html": modules("PIL") or chromium or fence or None,
            "svg": modules("cairosvg") or None, "latex": modules("pypdfium2") or tex or fence or None,
            "smiles": modules("rdkit", "PIL") or None}


# ---------------------------------------------------------------------------------------------------------------------
# Outside: sandboxes, slots, the pool

class Sandbox:
    """One server of one family, seen from outside. Its process group, memory and folder end with close()."""

    def __init__(self, family):
        self.family, parts = family, confinement()
        self.control, theirs = socket.socketpair()
        self.pixels = os.memfd_create("pixels")
        self.errors = os.memfd_create("errors")
        os.ftruncate(self.pixels, SHARED)
        folder = None if "bwrap" in parts else tempfile.mkdtemp(prefix="vinci-render-")
        scratch, cache = ("/scratch", "/cache") if folder is None else (folder + "/scratch", folder + "/cache")
        if folder:
            os.mkdir(scratch), os.mkdir(cache)
        self.remove_folder = weakref.finalize(self, remove_folder, folder)
        readable, packages = engine_paths()
        readable += [cache, "/dev/urandom", "/dev/random", "/dev/zero"]
        setup = dict(family=family, control=theirs.fileno(), shared=self.pixels, scratch=scratch, cache=cache,
                     readable=readable, packages=packages, parts=parts, own_pids=not folder,
                     chromium=find_chromium(), texbin=find_tex(), pdftoppm=shutil.which("pdftoppm"))
        environment = dict(PATH="/usr/bin:/bin", HOME=scratch, TMPDIR=scratch, LANG="C.UTF-8", TZ="UTC",
                           XDG_CACHE_HOME=cache, MPLCONFIGDIR=cache, MPLBACKEND="agg", PYTHONHASHSEED="0",
                           OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1",
                           MALLOC_MMAP_THRESHOLD_="33554432", MALLOC_TRIM_THRESHOLD_="268435456")
        # the last two: images stay on the heap, a fresh mapping for each costs more in page faults than its pixels
        command = [sys.executable, "-s", "-B", os.path.abspath(__file__), "--serve", json.dumps(setup)]
        if not folder:
            set_all = [part for name, value in environment.items() for part in ("--setenv", name, value)]
            command = [*bubblewrap(), *set_all, *command]
        # a new session: Ctrl-C in the terminal is ours to handle, and one signal reaches all of it
        self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(), self.pixels), stdin=subprocess.DEVNULL,
                                        stdout=self.errors, stderr=self.errors, start_new_session=True, env=environment)
        theirs.close()
        self.replies = self.control.makefile("rb")

    def ready(self, timeout):
        """Wait until the next job may start. Raises OSError where the server is lost."""
        self.control.settimeout(timeout)
        if self.replies.readline() != b"+\n":
            last = os.pread(self.errors, 1 << 16, 0).decode(errors="replace").strip().splitlines()[-1:]
            raise ConnectionError(f"the {self.family} server ended: {' '.join(last)[:300]}")

    def run(self, language, code, size, inspect, timeout):
        """-> (problem or None, seconds, status, payload, what else Render holds). Raises OSError where the server is lost."""
        job = dict(language=language, size=size, inspect=inspect, timeout=timeout, bytes=len(code))
        self.control.settimeout(timeout + 0.5)
        self.control.sendall(json.dumps(job).encode() + b"\n" + code)
        line = self.replies.readline()
        if not line:
            raise ConnectionError(f"the {self.family} server was lost")
        reply = json.loads(line)
        status, height, width, length, texts_length, details_length = struct.unpack("6I", os.pread(self.pixels, 24, 0))
        found = {}
        # reads, no mapping: nothing that a child does to the memory can hurt this process
        if status == OK and height <= MAX_SIDE and width <= MAX_SIDE and height * width <= MAX_PIXELS:
            payload = np.empty((height, width, 3), np.uint8)              # uint8 [H, W, 3]
            if os.preadv(self.pixels, [payload], HEADER) != payload.nbytes:
                raise ConnectionError("short shared memory")
            texts_length, details_length = min(texts_length, MAX_TEXTS), min(details_length, MAX_DETAILS)
            found["texts"] = parse_texts(os.pread(self.pixels, texts_length, HEADER + payload.nbytes))
            if inspect and language in DETAILS:
                found["details"], found["message"] = parse_details(
                    os.pread(self.pixels, details_length, HEADER + payload.nbytes + texts_length), DETAILS[language])
        elif status == OK:                                                # deliver() lets no such image through
            status, payload = REJECTED, b"the program forged the size of its image"
        else:
            payload = os.pread(self.pixels, min(length, 16 << 20), HEADER)
        if self.family == "html":                                         # a page has no way to this memory
            os.pwrite(self.pixels, bytes(24), 0)
        else:                                                             # the next program must not find these pixels
            os.ftruncate(self.pixels, 0)
            os.ftruncate(self.pixels, SHARED)
        return reply["answer"], reply["seconds"], status, payload, found

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self):
        self.kill()
        self.process.wait()
        self.replies.close(), self.control.close(), os.close(self.pixels), os.close(self.errors)
        self.remove_folder()


def remove_folder(folder):
    """Whatever a program has made of it: rm copes with any depth, once the folders can be entered. Repeated, because
    without process ids of its own a dying browser's helpers still write."""
    for _ in range(20 if folder else 0):
        subprocess.run(["chmod", "-R", "u+rwx", folder], stderr=subprocess.DEVNULL)
        if not subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL).returncode:
            return
        time.sleep(0.1)


def parse_texts(data):
    """The JSON comes from the sandbox, so it may be anything: [(str, (x0, y0, x1, y1))] or None."""
    try:
        return [(str(string), tuple(float(v) for v in box)) for string, box in json.loads(data) if len(box) == 4]
    except (ValueError, TypeError, RecursionError):
        return None


def parse_details(data, shape):
    """-> (details, "") or (None, one line: why there are none). As with the texts the JSON may be anything."""
    def fits(value, shape):
        match shape:
            case dict() if str in shape:
                return isinstance(value, dict) and all(fits(v, shape[str]) for v in value.values())
            case dict():
                return isinstance(value, dict) and value.keys() == shape.keys() and all(fits(value[k], shape[k]) for k in shape)
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
    Threads may share it; so may forked children, which get slots of their own. Nothing is started before the first
    job of its kind. Raises RuntimeError on systems other than Linux.
    """

    def __init__(self, workers=None, timeout=10.0, unsafe=False, cache=0):
        if not sys.platform.startswith("linux"):
            raise RuntimeError("render.py confines programs by Linux means (bubblewrap, landlock, seccomp): "
                               "run it in a Linux container or virtual machine")
        self.workers, self.timeout, self.unsafe, self.cache = workers or len(os.sched_getaffinity(0)), timeout, unsafe, cache
        self.confinement = confinement()
        if self.confinement != "bwrap+landlock+seccomp":
            print(f"render.py: WARNING: programs are confined by {self.confinement} only (best: bwrap+landlock+"
                  f"seccomp). `python render.py --doctor` says why.", file=sys.stderr)
        self._start()

    def _start(self):
        self.pid, self.lock, self.known, self.closed = os.getpid(), threading.Lock(), OrderedDict(), False
        self.jobs = queue.Queue(maxsize=8192)
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
        scripts are kept out of it) only what its elements say. Waits while 8192 jobs are queued. Raises ValueError on an
        unknown language, RuntimeError when closed or where it would run unconfined."""
        if language not in LANGUAGES:
            raise ValueError(f"unknown language {language!r}: one of {', '.join(LANGUAGES)}")
        if language not in HARMLESS and not (safe() or self.unsafe):
            raise RuntimeError(f"{language} cannot be confined on this machine ({self.confinement}): install bubblewrap, "
                               f"see `python render.py --doctor`, or accept the risk with --unsafe-render")
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
        self.jobs.put((key, future))
        if self.closed:
            future.cancel()
        return future

    def render_many(self, jobs):
        """(language, code, size[, inspect]) each -> list of Render in the same order."""
        return [future.result() for future in [self.submit(*job) for job in jobs]]

    def _slot(self, sandboxes):
        while item := self.jobs.get():
            key, future = item
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
        family = family_of(language, code.decode())
        problem, seconds, status, payload, found = self._attempt(sandboxes, family, language, code, size, inspect, self.timeout)
        if not problem and status == FIGURE:
            before = seconds
            problem, seconds, status, payload, found = self._attempt(
                sandboxes, "html", "plotly", payload, None, False, max(0.1, self.timeout - before))
            seconds += before
            found |= dict(message="nothing to inspect: not drawn by matplotlib") if inspect else {}
        if problem == "timeout":
            return Render(None, "timeout", f"no image within {self.timeout:g} s", seconds)
        if problem == "infra":
            return Render(None, "infra", payload, seconds)
        if status == OK and not problem:
            return Render(payload, "ok", seconds=seconds, **found)
        if status in (ERROR, REJECTED):
            message = payload.decode(errors="replace").replace("\n", " ")[:1000]
            return Render(None, "rejected" if status == REJECTED else "error", message, seconds)
        return Render(None, "error", f"the program ended before its image ({problem or 'exit 0'})", seconds)

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
                    return "timeout", time.monotonic() - start, 0, b"", {}
            except (OSError, ValueError) as error:
                if family in sandboxes:
                    sandboxes.pop(family).close()
                problem = describe(error)
                if self.closed:
                    break
        return "infra", 0.0, 0, problem, {}

    def close(self):
        """Drop what is queued, stop what runs, end every process."""
        if self.closed or self.pid != os.getpid():
            return
        self.closed = True
        while not self.jobs.empty():
            try:
                _, future = self.jobs.get_nowait()
                future.cancel()
            except queue.Empty:
                break
        for _ in self.threads:
            self.jobs.put(None)
        for thread, sandboxes in zip(self.threads, self.sandboxes):
            while thread.is_alive():
                for sandbox in list(sandboxes.values()):
                    sandbox.kill()
                thread.join(0.2)


# ---------------------------------------------------------------------------------------------------------------------
# Command line

def doctor():
    """Print what is here; -> exit code."""
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
    print(f"  bubblewrap {version('bwrap', '--version')} ({shutil.which('bwrap') or 'not found: apt install bubblewrap'})"
          + ("" if "bwrap" in confinement() else ": does not work here (needs user namespaces and mounting /proc)"))
    print(f"  landlock   version {landlock_version()}" + ("" if landlock_version() else ": the kernel has none"))
    print(f"  seccomp    {'yes' if 'seccomp' in confinement() else 'no'} ({platform.machine()}, {platform.release()})")
    print(f"python       {sys.version.split()[0]} ({sys.executable})")
    for name in ("matplotlib", "seaborn", "plotly", "pandas", "scipy", "networkx", "rdkit", "epam.indigo", "pillow",
                 "cairosvg", "pypdfium2"):
        print(f"  {name:10} {package(name)}")
    print(f"chromium     {version(find_chromium(), '--version') if find_chromium() else 'not found'} ({find_chromium()})")
    tex = find_tex()
    print(f"pdflatex     {version(tex + '/pdflatex', '--version') if tex else 'not found'} ({tex})")
    print(f"pdftoppm     {shutil.which('pdftoppm') or 'not found: apt install poppler-utils'}")
    missing = available()
    for language, problem in missing.items():
        print(f"{language:12} {problem or 'ok'}")
    return int(any(missing.values()))


def main():
    if sys.argv[1:2] == ["--serve"]:
        return Server(json.loads(sys.argv[2])).serve()
    parser = argparse.ArgumentParser(allow_abbrev=False, description="Draw one program, confined.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("file", nargs="?", help=f"program: {' '.join(ENDINGS)}")
    parser.add_argument("-o", "--output", default="render.png", help="where to write the image (PNG)")
    parser.add_argument("--size", help="the target's size in pixels, as WIDTHxHEIGHT")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds")
    parser.add_argument("--unsafe-render", action="store_true",
                        help="draw python, latex and html even where they cannot be confined")
    parser.add_argument("--doctor", action="store_true", help="list the engines and what is missing; exit code 1 if a "
                        "language is unavailable")
    parser.add_argument("--attack", action="store_true", help="run hostile programs against the sandbox and print what it "
                        "stopped; exit code 1 if it did not stop one")
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
    Image.fromarray(render.image).save(args.output)


if __name__ == "__main__":
    sys.exit(main())
