"""render.py: good programs draw, hostile ones are harmless, failures are named, nothing is left behind.

Each attack reports by colour: a red picture means that it succeeded. A good program of the language is drawn before
and after (positive control): a sandbox in which nothing runs would pass every attack.
"""
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT

import render
from render import Renderer, available

pytestmark = pytest.mark.skipif(bool(available()["svg"] or available()["python"]), reason=f"renderers missing: {available()}")
GOOD = {
    "python": "import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1))\nplt.plot([1, 2])\nplt.savefig('a.png')",
    "html": "<body style='margin:0;background:#00f'>hello</body>",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="4" height="8" fill="#00f"/></svg>',
    "latex": "\\begin{tikzpicture}\\draw (0,0) circle (1);\\end{tikzpicture}",
    "smiles": "CCO",
}
LANGUAGES = [language for language in GOOD if not available()[language]]


@pytest.fixture(scope="module")
def renderer():
    with Renderer(workers=1, timeout=8) as r:
        yield r


@pytest.mark.parametrize("language", LANGUAGES)
def test_good_program(renderer, language):
    a, b = renderer.render_many([(language, GOOD[language], (64, 64)), (language, GOOD[language], (64, 64))])
    assert a.status == "ok", a.message
    assert a.image.dtype == np.uint8 and a.image.ndim == 3 and a.image.std() > 1
    assert np.array_equal(a.image, b.image)


@pytest.mark.parametrize("language, code, words", [
    ("svg", "<svg", "ParseError"), ("python", "import matplotlib.pyplot as plt\nplt.plot(x)", "line 2"), ("python", "x = 1", "drew nothing"),
    ("latex", "\\documentclass{article}\\begin{document}\\nosuch\\end{document}", "Undefined control sequence"), ("smiles", "C(", "SMILES")])
def test_failing_program_is_an_error_with_a_message(renderer, language, code, words):
    if language not in LANGUAGES:
        pytest.skip(available()[language])
    r = renderer.submit(language, code, (64, 64)).result()
    assert r.status == "error" and r.image is None and words in r.message, r.message


@pytest.mark.parametrize("code", [
    "fig, ax = plt.subplots(figsize=(1, 1))\nax.bar([1], [1])\nfig.savefig('x.png')", "plt.figure(figsize=(1, 1))\nplt.bar([1], [1])\nplt.show()",
    "plt.figure(figsize=(1, 1))\nplt.bar([1], [1])", "import io\nplt.figure(figsize=(1, 1))\nplt.bar([1], [1])\nplt.savefig(io.BytesIO())"])
def test_every_way_to_show_a_figure_counts(renderer, code):
    r = renderer.submit("python", "import matplotlib.pyplot as plt\n" + code).result()
    assert r.status == "ok" and r.image.shape == (100, 100, 3), r.message


def test_svg_keeps_its_aspect_ratio_at_the_targets_width(renderer):
    code = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10" viewBox="0 0 20 10"><rect width="20" height="10"/></svg>'
    assert renderer.submit("svg", code, (64, 64)).result().image.shape == (32, 64, 3)


# ------------------------------------------------------------------------------------------------------------- hostility

ATTACKS = {
    "read a host file": "open('/etc/passwd').read()",
    "read the project": f"open({str(ROOT / 'data.py')!r}).read()",
    "list the home folder": "assert os.listdir(os.path.expanduser('~root'))",
    "read the environment": "assert os.environ['VINCI_SECRET']",
    "read the parent's environment": "assert b'VINCI_SECRET' in open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "write outside": "open('/usr/x', 'w').write('x')",
    "write into /tmp": "open('/tmp/x', 'w').write('x')",
    "connect": "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
    "open a socket": "import socket; socket.socket()",
    "fork": "os.fork() or os._exit(0)",
    "start a shell": "import subprocess; subprocess.run(['sh', '-c', 'true'], check=True)",
    "kill the server": "os.kill(os.getppid(), 9)",
    "kill everything": "os.kill(-1, 9)",
    "trace the server": "import ctypes; assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "take 8 GB": "assert len(bytearray(8 << 30))",
    "write 1 GB": "f = open('big', 'wb'); [f.write(bytes(1 << 20)) for _ in range(1024)]; f.flush()",
    "new namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
}
PROBE = """import os, matplotlib.pyplot as plt
try:
    {attack}
    colour = 'red'
except BaseException:
    colour = 'blue'
plt.figure(figsize=(1, 1), facecolor=colour)
plt.savefig('x.png')
"""


class Trap(http.server.BaseHTTPRequestHandler):
    hits = 0

    def do_GET(self):
        Trap.hits += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def port():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def is_red(image):
    return (image[..., 0] > 200).mean() > 0.5 and (image[..., 2] < 100).mean() > 0.5


def test_the_probe_can_turn_red(renderer):
    """Control of the attacks: what is allowed does succeed and is seen."""
    r = renderer.submit("python", PROBE.format(attack="open('mine', 'w').write('x')")).result()
    assert r.status == "ok" and is_red(r.image)


@pytest.mark.parametrize("name", ATTACKS)
def test_python_attack_fails(monkeypatch, name, port):
    monkeypatch.setenv("VINCI_SECRET", "s")
    with Renderer(workers=1, timeout=8) as renderer:
        before, attack, after = [renderer.submit("python", code).result() for code in (
            GOOD["python"], PROBE.format(attack=ATTACKS[name].replace("PORT", str(port))), GOOD["python"])]
    assert before.status == after.status == "ok" and np.array_equal(before.image, after.image)
    assert attack.status in ("ok", "error", "timeout") and (attack.image is None or not is_red(attack.image))


@pytest.mark.skipif("html" not in LANGUAGES, reason="no browser")
@pytest.mark.parametrize("code", [
    "<script>while (true) {}</script>", "<script>location.reload()</script>", "<script>window.open('about:blank'); alert(1)</script>",
    "<script>let a = []; while (true) a.push(new Array(1e6).fill(a.length))</script>", "<img src='http://127.0.0.1:PORT/x'>",
    "<script>fetch('http://127.0.0.1:PORT/x')</script>", "<iframe src='file:///etc/passwd'></iframe>", "<meta http-equiv=refresh content='0'>",
    "<div style='height:1000000px;background:red'></div>"])
def test_html_attack_is_harmless(renderer, port, code):
    before = renderer.submit("html", GOOD["html"], (64, 64)).result()
    hits, start = Trap.hits, time.monotonic()
    r = renderer.submit("html", code.replace("PORT", str(port)), (64, 64)).result()
    assert time.monotonic() - start < 8 + 3 and r.status in ("ok", "error", "timeout", "rejected")
    after = renderer.submit("html", GOOD["html"], (64, 64)).result()
    assert before.status == after.status == "ok" and np.array_equal(before.image, after.image) and Trap.hits == hits


@pytest.mark.parametrize("language, code", [
    ("svg", '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><svg xmlns="http://www.w3.org/2000/svg"><text>&b;</text></svg>'),
    ("svg", '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>'),
    ("svg", '<svg xmlns="http://www.w3.org/2000/svg" width="100000" height="100000"/>'),
    ("latex", "\\documentclass{article}\\begin{document}\\input{/etc/passwd}\\end{document}"),
    ("latex", "\\documentclass{article}\\begin{document}\\immediate\\write18{touch /tmp/x}\\def\\x{\\x}\\x\\end{document}"),
    ("latex", "\\documentclass{article}\\begin{document}\\newwrite\\f\\immediate\\openout\\f=/tmp/owned.tex\\immediate\\write\\f{x}\\end{document}")])
def test_markup_attack_draws_nothing(renderer, language, code):
    if language not in LANGUAGES:
        pytest.skip(available()[language])
    size = None if "100000" in code else (64, 64)
    assert renderer.submit(language, code, size).result().status in ("error", "timeout", "rejected")
    assert renderer.submit(language, GOOD[language], (64, 64)).result().status == "ok"
    assert not os.path.exists("/tmp/owned.tex")


# -------------------------------------------------------------------------------------------------------------- deadlines

SPIN = "import signal\n[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]\nwhile True: pass"


def test_the_clock_starts_with_the_job_not_in_the_queue():
    """Two spinning programs in front of a good one on one worker: it waits for both and is still drawn."""
    with Renderer(workers=1, timeout=1.0) as renderer:
        renderer.submit("python", GOOD["python"]).result()
        start = time.monotonic()
        futures = [renderer.submit("python", code) for code in (SPIN, SPIN + "\n", GOOD["python"])]
        statuses = [f.result().status for f in futures]
    assert statuses == ["timeout", "timeout", "ok"] and time.monotonic() - start < 4


def servers():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{pid}/cmdline", "rb").read()
        except OSError:
            continue
        if b"render.py\0--serve" in line or b"chromium-headless-shell" in line:
            found.append(pid)
    return found


def test_nothing_is_left_behind():
    before, fds = set(servers()), len(os.listdir("/proc/self/fd"))
    with Renderer(workers=2, timeout=1.0) as renderer:
        jobs = [(language, GOOD[language], (64, 64)) for language in LANGUAGES] + [("python", SPIN, None)]
        renderer.render_many(jobs)
        assert set(servers()) - before  # the probe sees what there is
    deadline = time.monotonic() + 5
    while set(servers()) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(servers()) - before and len(os.listdir("/proc/self/fd")) <= fds + 1


def test_a_killed_server_costs_no_program():
    """Our own failure is retried, never counted as the program's."""
    with Renderer(workers=1, timeout=5) as renderer:
        before = set(servers())
        renderer.submit("python", GOOD["python"]).result()
        for pid in set(servers()) - before:
            os.kill(int(pid), signal.SIGKILL)
        assert renderer.submit("python", GOOD["python"] + "\n").result().status == "ok"


def test_refused_where_it_cannot_be_confined(monkeypatch):
    monkeypatch.setattr(render, "confinement", lambda: "none")
    with Renderer(workers=1) as renderer:
        for language in ("python", "html", "latex"):
            with pytest.raises(RuntimeError, match="--unsafe-render"):
                renderer.submit(language, GOOD[language])


def test_command_line(tmp_path):
    (tmp_path / "a.svg").write_text(GOOD["svg"])
    result = subprocess.run([sys.executable, "render.py", tmp_path / "a.svg", "-o", tmp_path / "a.png"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and (tmp_path / "a.png").exists(), result.stderr
    assert subprocess.run([sys.executable, "render.py", tmp_path / "none.svg"], cwd=ROOT, capture_output=True).returncode != 0
    doctor = subprocess.run([sys.executable, "render.py", "--doctor"], cwd=ROOT, capture_output=True, text=True)
    assert "confinement" in doctor.stdout and "html" in doctor.stdout
