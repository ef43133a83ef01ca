"""
A sandbox from outside: what can be confined on this machine, and one server (server.py) started, asked, killed.
"""
import ctypes
import errno
import functools
import json
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from dataclasses import dataclass

import numpy as np

from chromium import find_chromium
from confine import MACHINES, PR_SET_SECCOMP, landlock_version
from drawing import MAX_DETAILS, MAX_PIXELS, MAX_SIDE, MAX_TEXTS
from latex import find_tex
from server import HEADER, OK, REJECTED, SHARED

INSIDE = [os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")      # our files that a sandbox sees
          for name in ("server", "confine", "drawing", "charts", "chromium", "latex")]


def engine_paths():
    """(folders that the engines need read-only, package folders of this Python)."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    paths = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/fonts", "/etc/alternatives", "/etc/texmf",
             "/etc/ld.so.cache", "/var/lib/texmf", "/var/cache/fontconfig", sys.base_prefix, sys.prefix, *packages,
             *INSIDE]
    if find_chromium():
        paths.append(os.path.dirname(os.path.realpath(find_chromium())))
    if find_tex():
        paths.append(find_tex().split("/bin")[0] or "/usr")               # a TeX Live of its own, /opt/texlive/2025
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)], packages


def bubblewrap():
    """The command line in front of the server's own: no network, no host files but the engines, own process ids."""
    command = ["bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
               "--clearenv", "--hostname", "sandbox", "--uid", "1000", "--gid", "1000"]
    for path in sorted(engine_paths()[0]):
        command += ["--ro-bind", path, path]          # a link (/bin, a linked .venv) becomes the folder it leads to
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
    filters = libc.prctl(PR_SET_SECCOMP, 2, None, 0, 0) and ctypes.get_errno() == errno.EFAULT
    if filters and platform.machine() in MACHINES:
        found.append("seccomp")
    return "+".join(part for part in found if part in wanted) or "none"


def safe():
    """Whether programs that can run code are confined here: their system calls filtered and their files fenced."""
    return "seccomp" in confinement() and confinement() != "seccomp"


@dataclass
class Outcome:
    """What a job has left, unchecked but for its size: a program can write any of it but `problem` and `seconds`."""
    problem: str | None                 # None, 'timeout', 'exit N', 'signal N', 'infra' or why the browser was lost
    seconds: float = 0.0
    status: int = 0                     # OK, ERROR, REJECTED, FIGURE, or 0 for nothing
    payload: np.ndarray | bytes = b""   # of OK: pixels, uint8 [H, W, 3]; else the message or the figure
    texts: bytes = b""                  # JSON
    details: bytes = b""                # JSON


class Sandbox:
    """One server of one family (a key of server.FAMILIES). Its process group, memory and folder end with close()."""

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
        # the server's fields; own_pids: it may kill all processes that it sees
        setup = dict(family=family, control=theirs.fileno(), shared=self.pixels, scratch=scratch, cache=cache,
                     readable=readable, packages=packages, parts=parts, own_pids=not folder,
                     chromium=find_chromium(), texbin=find_tex(), pdftoppm=shutil.which("pdftoppm"))
        environment = dict(PATH="/usr/bin:/bin", HOME=scratch, TMPDIR=scratch, LANG="C.UTF-8", TZ="UTC",
                           XDG_CACHE_HOME=cache, MPLCONFIGDIR=cache, MPLBACKEND="agg", PYTHONHASHSEED="0",
                           OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1",
                           MALLOC_MMAP_THRESHOLD_="33554432", MALLOC_TRIM_THRESHOLD_="268435456")
        # the last two: images stay on the heap, a fresh mapping for each costs more in page faults than its pixels
        command = [sys.executable, "-s", "-B", INSIDE[0], json.dumps(setup)]
        if not folder:
            set_all = [part for name, value in environment.items() for part in ("--setenv", name, value)]
            command = [*bubblewrap(), *set_all, *command]
        # a new session: Ctrl-C in the terminal is ours to handle, and one signal reaches all of it
        self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(), self.pixels), stdin=subprocess.DEVNULL,
                                        stdout=self.errors, stderr=self.errors, start_new_session=True, env=environment)
        theirs.close()
        self.replies = self.control.makefile("rb")

    def ready(self, timeout):
        """Wait until the next job may start. timeout: seconds. Raises OSError where the server is lost (TimeoutError
        is one)."""
        self.control.settimeout(timeout)
        if self.replies.readline() != b"+\n":
            last = os.pread(self.errors, 1 << 16, 0).decode(errors="replace").strip().splitlines()[-1:]
            raise ConnectionError(f"the {self.family} server ended: {' '.join(last)[:300]}")

    def run(self, language, code, size, inspect, timeout):
        """code: bytes; timeout: seconds -> Outcome. Raises TimeoutError where the server does not answer half a second
        later, OSError or ValueError where it is lost."""
        job = dict(language=language, size=size, inspect=inspect, timeout=timeout, bytes=len(code))
        self.control.settimeout(timeout + 0.5)
        self.control.sendall(json.dumps(job).encode() + b"\n" + code)
        line = self.replies.readline()
        if not line:
            raise ConnectionError(f"the {self.family} server was lost")
        reply = json.loads(line)
        status, height, width, length, texts_length, details_length = struct.unpack("6I", os.pread(self.pixels, 24, 0))
        outcome = Outcome(reply["answer"], reply["seconds"], status)
        # reads, no mapping: nothing that a child does to the memory can hurt this process
        if status == OK and 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS:
            pixels = outcome.payload = np.empty((height, width, 3), np.uint8)
            if os.preadv(self.pixels, [pixels], HEADER) != pixels.nbytes:
                raise ConnectionError("short shared memory")
            texts_length, behind = min(texts_length, MAX_TEXTS), HEADER + pixels.nbytes
            outcome.texts = os.pread(self.pixels, texts_length, behind)
            outcome.details = os.pread(self.pixels, min(details_length, MAX_DETAILS), behind + texts_length)
        elif status == OK:                                                # deliver() lets no such image through
            outcome.status, outcome.payload = REJECTED, b"the program forged the size of its image"
        else:
            outcome.payload = os.pread(self.pixels, min(length, 16 << 20), HEADER)
        if self.family == "html":                                         # a page has no way to this memory
            os.pwrite(self.pixels, bytes(24), 0)
        else:                                                             # the next program must not find these pixels
            os.ftruncate(self.pixels, 0)
            os.ftruncate(self.pixels, SHARED)
        return outcome

    def kill(self):
        """End the server and all that it started, at once; `close` must follow."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self):
        """Kill it, give back its memory and remove its folder. Once only."""
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
