"""render.py: good programs draw, hostile ones are harmless, failures are named, nothing is left behind.

The attacks and their judge are in attacks.py; their positive controls stand here beside them.
"""
import ast
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT
from skimage.metrics import structural_similarity

import attacks
import data
import render
import sandbox
from attacks import GOOD
from render import Renderer, available
from reward import extract_code

pytestmark = pytest.mark.skipif(bool(available()["svg"] or available()["python"]), reason=f"renderers missing: {available()}")
REAL = ROOT.parent / "shared" / "real" / "dev.parquet"
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


FIGURE = "import plotly.express as px\nfig = px.bar(x=['a', 'b'], y=[1, 3], width=300, height=200)\n"
PROGRAMS = {
    "plotly write_image": (FIGURE + "fig.write_image('a.png')", (200, 300)),
    "plotly scale": (FIGURE + "fig.write_image('a.png', scale=2)", (400, 600)),
    "plotly show": (FIGURE + "fig.show()", (200, 300)),
    "plotly io": (FIGURE + "import plotly.io as pio\npio.write_image(fig, 'a.svg')", (200, 300)),
    "seaborn": ("import seaborn as sns, pandas as pd\nsns.barplot(pd.DataFrame(dict(x=[1, 2], y=[3, 4])), x='x', y='y').figure.savefig('a.png')", (480, 640)),
    "networkx": ("import networkx as nx, matplotlib.pyplot as plt\nnx.draw(nx.cycle_graph(5))\nplt.show()", (480, 640)),
    "rdkit file": ("from rdkit import Chem\nfrom rdkit.Chem import Draw\nDraw.MolToFile(Chem.MolFromSmiles('CCO'), 'm.png', size=(250, 200))", (200, 250)),
    "rdkit svg": ("from rdkit import Chem\nfrom rdkit.Chem.Draw import rdMolDraw2D as d\nc = d.MolDraw2DSVG(250, 200)\nc.DrawMolecule(Chem.MolFromSmiles('CCO'))\n"
                  "c.FinishDrawing()\nopen('m.svg', 'w').write(c.GetDrawingText())", (200, 250)),
    "indigo": ("from indigo import Indigo\nfrom indigo.renderer import IndigoRenderer\ni = Indigo()\nr = IndigoRenderer(i)\ni.setOption('render-output-format', 'png')\n"
               "i.setOption('render-image-size', 250, 200)\nr.renderToFile(i.loadMolecule('CCO'), 'm.png')", (200, 250)),
    "pillow": ("from PIL import Image\nImage.new('RGB', (30, 20), 'red').save('a.png')", (20, 30)),
    "pillow show": ("from PIL import Image\nImage.new('RGB', (30, 20), 'red').show()", (20, 30)),
    "figure show": ("import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(1, 2))\nax.plot([1, 2])\nfig.show()", (200, 100)),
    "saved twice": ("import matplotlib.pyplot as plt\nfor n in (1, 2):\n    plt.figure(figsize=(n, 1))\n    plt.plot([1, 2])\n    plt.savefig(f'{n}.png')", (100, 200)),
    "saved, then shown": ("import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 2))\nplt.plot([1, 2])\nplt.savefig('a.png')\nplt.figure(figsize=(3, 3))\nplt.show()", (200, 100)),
    "pdf": ("import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 2))\nplt.plot([1, 2])\nplt.savefig('a.pdf')", (200, 100)),
    "jpg": ("import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 2))\nplt.plot([1, 2])\nplt.savefig('a.jpg', dpi=50)", (100, 50)),
    "unseeded": ("import numpy as np, random, matplotlib.pyplot as plt\nplt.figure(figsize=(1, 2))\nplt.plot(np.random.default_rng().random(9), np.random.rand(9) + random.random())", (200, 100)),
}


@pytest.mark.skipif("html" not in LANGUAGES or "smiles" not in LANGUAGES, reason="no browser or no RDKit")
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_as_people_write_them(renderer, name):
    """Shape [H, W] of the picture that counts, and the same pixels twice."""
    code, shape = PROGRAMS[name]
    a, b = renderer.render_many([("python", code, None), ("python", code + " ", None)])
    assert a.status == "ok" and a.image.shape[:2] == shape, f"{a.status} {a.message} {a.image is not None and a.image.shape}"
    assert len(np.unique(a.image.reshape(-1, 3), axis=0)) > 1 or "pillow" in name
    assert np.array_equal(a.image, b.image)


@pytest.mark.skipif("latex" not in LANGUAGES, reason="no TeX")
@pytest.mark.parametrize("code", [
    "\\begin{tikzpicture}\\begin{axis}\\addplot {x^2};\\end{axis}\\end{tikzpicture}", "\\chemfig{A-B=C}", "$\\displaystyle\\sum_{i=1}^n \\frac{i}{2}$",
    "\\usetikzlibrary{trees}\\begin{tikzpicture}\\node {a} child {node {b}};\\end{tikzpicture}",
    "\\documentclass{article}\\usepackage{amsmath}\\begin{document}\\begin{align}a &= b \\label{e}\\end{align} See \\eqref{e}.\\end{document}"])
def test_latex_snippets_and_documents(renderer, code):
    r = renderer.submit("latex", code).result()
    assert r.status == "ok" and r.image.std() > 1 and r.texts, r.message


def test_svg_keeps_its_aspect_ratio_at_the_targets_width(renderer):
    code = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10" viewBox="0 0 20 10"><rect width="20" height="10"/></svg>'
    assert renderer.submit("svg", code, (64, 64)).result().image.shape == (32, 64, 3)


@pytest.mark.skipif("html" not in LANGUAGES, reason="no browser")
@pytest.mark.parametrize("code", [
    "<img src='https://example.com/x.png'>", "<script src='https://example.com/x.js'></script>", "<iframe src='https://example.com'></iframe>",
    "<link rel=stylesheet href='https://example.com/x.css'>", "<img src='x.png'>", "<video src='x.mp4'></video>", "<iframe srcdoc='hi'></iframe>"])
def test_a_page_is_drawn_without_what_it_cannot_reach(renderer, code):
    """Regression: while the page's clock stood still until `load`, an unreachable image kept `load` from ever coming."""
    r = renderer.submit("html", code + GOOD["html"], (64, 64)).result()
    assert r.status == "ok" and (r.image == (0, 0, 255)).all(axis=2).any(), r.message


@pytest.mark.skipif("html" not in LANGUAGES, reason="no browser")
def test_the_pages_clock_is_its_own(renderer):
    """Half a second of timers, whatever the machine does meanwhile."""
    code = "<body><script>let n = 0; setInterval(() => document.body.textContent = ++n, 50)</script>"
    assert {r.texts[0][0] for r in renderer.render_many([("html", code, (64, 64)), ("html", "<img src=x.png>" + code, (64, 64))] * 5)} == {"10"}


@pytest.mark.skipif("html" not in LANGUAGES, reason="no browser")
def test_a_page_has_no_hand_in_its_texts(renderer):
    """Regression: JSON.stringify of the page's own wrote what the reward took for its texts."""
    page = "<body style='margin:0'><p>one <b>two</b></p><p style='visibility:hidden'>no</p><p style='display:none'>no</p>"
    lies = ("JSON.stringify = () => '[]'; document.createRange = document.createTreeWalker = Function.prototype.call = Map = 0; String.prototype.trim = () => 'lie';"
            "Object.defineProperty(CharacterData.prototype, 'data', {get: () => 'lie'}); Object.defineProperty(DOMRectReadOnly.prototype, 'left', {get: () => 1});"
            "Object.defineProperty(window, 'scrollX', {get: () => 9}); getComputedStyle = () => ({visibility: 'visible'}); Array.prototype.map = () => [];"
            "Range.prototype.getBoundingClientRect = () => new DOMRect(0, 0, 99, 99); Object.defineProperty(document, 'body', {get: () => null});"
            "try { __readTexts = () => '[]' } catch (e) {} try { Object.defineProperty(window, '__readTexts', {value: () => '[]'}) } catch (e) {}")
    plain, lying, shadowed = renderer.render_many([("html", page + more, (200, 100)) for more in ("", f"<script>{lies}</script>", "<script>const __readTexts = () => '[]'</script>")])
    assert [string for string, _ in plain.texts] == ["one", "two"] and plain.texts == lying.texts == shadowed.texts
    assert renderer.submit("html", "<p><script>document.body.textContent = 'x'.repeat(2000000)</script>", (200, 100)).result().texts is None


@pytest.mark.skipif(not REAL.exists(), reason="the real pairs are not here")
@pytest.mark.parametrize("language, least", [("python", 0.98), ("svg", 0.98), ("html", 0.98), ("latex", 0.95)])
def test_real_programs_reproduce_their_targets(renderer, language, least):
    """Every fifth of the pairs made by people: SSIM of render and stored image."""
    if language not in LANGUAGES:
        pytest.skip(available()[language])
    samples = [s for s in data.read_samples(REAL.parent) if s.language == language][::5]
    for s in samples:
        target, r = data.open_image(s), renderer.submit(language, extract_code(s.answer, language)[0], (s.width, s.height)).result()
        assert r.status == "ok" and r.image.shape == np.shape(target), f"{s.id}: {r.status} {r.message}"
        assert structural_similarity(np.asarray(target), r.image, channel_axis=2) >= least, s.id


# ------------------------------------------------------------------------------------------------------------- hostility

@pytest.fixture(scope="module")
def field():
    with attacks.Field() as f:
        yield f


@pytest.fixture(scope="module")
def attacked(field):
    with Renderer(workers=1, timeout=1.0) as r:
        r.render_many([(language, GOOD[language], (64, 64)) for language in LANGUAGES])    # servers start before processes are counted
        yield r


@pytest.mark.parametrize("language", attacks.CAN_TURN_RED)
def test_the_judge_can_see_red(attacked, field, language):
    """Control: what is allowed does succeed and is seen."""
    if language not in LANGUAGES:
        pytest.skip(available()[language])
    code = field.fill(attacks.FRAME[language].replace("CODE", attacks.CAN_TURN_RED[language]))
    assert attacks.is_red(attacked.submit(language, code, (64, 64)).result().image)


@pytest.mark.skipif("bwrap" not in sandbox.confinement(), reason="the degraded mode has its own table (docs/sandbox.md)")
@pytest.mark.parametrize("attack", attacks.table(), ids=lambda a: f"{a.language}-{a.group}-{a.name}".replace(" ", "_"))
def test_attack_is_stopped(attacked, field, attack):
    if attack.language not in LANGUAGES:
        pytest.skip(available()[attack.language])
    wrong, _, _ = field.judge(attacked, attack)
    assert not wrong


@pytest.mark.parametrize("texts, kept", [
    (b"", None), (b"null", None), (b"3", None), (b'[["a", 3]]', None), (b"[" * 50000, None), (b'[["a", [1' + b"0" * 400 + b", 0, 0, 0]]]", None),
    (b'[["a", [0, 1, 2, 3]], ["b", [NaN, 0, 1, 1]], ["c", [0, 0, 1e999, 1]], ["d", [0]]]', [("a", (0, 1, 2, 3))])])
def test_forged_texts_are_none_or_have_finite_boxes(texts, kept):
    """Regression: a number too large for float made an 'infra' of the program that forged it, NaN a crash of the reward."""
    assert render.parse_texts(texts) == kept


def test_a_forged_empty_image_is_rejected(attacked, field):
    (attack,) = [a for a in attacks.table() if a.name == "forged size"]
    code = field.programs(attack)[0]
    forged = code.replace("1 << 20, 1 << 20, 1 << 31, 1 << 31, 1 << 31", "0, 0, 0, 0, 0")
    assert forged != code and {attacked.submit("python", c).result().status for c in (code, forged)} == {"rejected"}


@pytest.mark.skipif("bwrap" not in sandbox.confinement(), reason="nothing is mounted without bubblewrap")
def test_a_linked_environment_is_confined_as_well(tmp_path):
    """Regression: of a .venv that is a link bubblewrap could not mount the packages, so it was left out."""
    (tmp_path / "linked").symlink_to(sys.prefix)
    code = "import sandbox, sys; assert '/linked/' in sys.executable and 'bwrap' in sandbox.confinement(), sandbox.confinement()"
    subprocess.run([tmp_path / "linked" / "bin" / "python", "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("language", ["python", "html"])
def test_tame_attacks_succeed_where_nothing_confines(language):
    """Control: the attacks work, so it is the confinement that stops them."""
    if language not in LANGUAGES:
        pytest.skip(available()[language])
    with attacks.confined_by("none"), attacks.Field() as field, Renderer(1, 3, unsafe=True) as renderer:
        assert renderer.confinement == "none"
        assert sum(a.tame for a in attacks.table() if a.language == language) >= 7
        tame = [a for a in attacks.table() if a.language == language and a.tame]
        harmless = [a.name for a in tame if not any(field.judge(renderer, a)[0] for _ in range(3))]  # a request may leave after the page was drawn
    assert not harmless


def test_the_document_names_every_attack():
    document = (ROOT / "docs" / "sandbox.md").read_text()
    assert not [a.name for a in attacks.table() if a.name not in document]


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


def servers(mine=False):
    """Process ids, str, of all servers and browsers on this machine, or of those below this process: other tests may run beside it."""
    found, below = [], {str(pid) for pid in attacks.descendants()}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{pid}/cmdline", "rb").read()
        except OSError:
            continue
        if b"server.py\0{" in line or b"chromium-headless-shell" in line:
            found.append(pid)
    return [pid for pid in found if pid in below or not mine]


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
        before = set(servers(mine=True))
        renderer.submit("python", GOOD["python"]).result()
        for pid in set(servers(mine=True)) - before:
            os.kill(int(pid), signal.SIGKILL)
        assert renderer.submit("python", GOOD["python"] + "\n").result().status == "ok"


def slow(seconds=0.6):
    return f"import time\ntime.sleep({seconds})\n" + GOOD["python"]


@pytest.mark.parametrize("kills, status", [(1, "ok"), (2, "infra")])
def test_a_server_lost_in_the_middle_is_retried_once(kills, status):
    with Renderer(workers=1, timeout=5) as renderer:
        old = set(servers(mine=True))
        renderer.submit("python", GOOD["python"]).result()
        future = renderer.submit("python", slow())
        for _ in range(kills):
            deadline = time.monotonic() + 30
            while not (new := set(servers(mine=True)) - old) and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.2)                                  # it has started the program, or is importing its engine
            new = set(servers(mine=True)) - old
            for pid in new:
                os.kill(int(pid), signal.SIGKILL)
            old |= new
        r = future.result()
        assert r.status == status, r.message
        assert renderer.submit("python", GOOD["python"]).result().status == "ok"


def test_many_threads_and_a_full_queue():
    """submit waits while the queue is full; every thread gets its own results."""
    colours = [f"#{i:02x}{255 - i:02x}80" for i in range(0, 240, 6)]
    svg = [GOOD["svg"].replace("#00f", colour) for colour in colours]
    with Renderer(workers=2, timeout=5) as renderer:
        renderer.jobs.maxsize = 2
        results = {}

        def use(k):
            results[k] = [renderer.submit("svg", code, (8, 8)).result().image[4, 1] for code in svg[k::4]]
        threads = [threading.Thread(target=use, args=(k,)) for k in range(4)]
        [t.start() for t in threads]
        futures = [renderer.submit("svg", code, (8, 8)) for code in svg]
        [t.join() for t in threads]
        seen = [f.result().image[4, 1] for f in futures]
    expected = [[int(c[i:i + 2], 16) for i in (1, 3, 5)] for c in colours]
    assert np.array_equal(seen, expected) and all(np.array_equal(results[k], expected[k::4]) for k in range(4))


def test_pictures_go_before_programs_that_wait():
    """A worker that has a program in hand takes the picture next, though another program was there first."""
    done = []
    with Renderer(workers=1) as renderer:
        futures = [renderer.submit(language, code, (8, 8)) for language, code in
                   (("python", "import time; time.sleep(0.5)\n" + GOOD["python"]), ("python", GOOD["python"]), ("svg", GOOD["svg"]))]
        for name, future in zip(("first", "second", "picture"), futures):
            future.add_done_callback(lambda _, name=name: done.append(name))
        assert all(f.result().status == "ok" for f in futures)
    assert done.index("picture") < done.index("second")


def draw_in_child(renderer, queue):
    with renderer or Renderer(workers=1) as r:
        queue.put(r.submit("svg", GOOD["svg"], (8, 8)).result().status)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_can_use_it(method):
    context = multiprocessing.get_context(method)
    with Renderer(workers=1) as renderer:
        assert renderer.submit("svg", GOOD["svg"], (8, 8)).result().status == "ok"
        queue = context.Queue()
        child = context.Process(target=draw_in_child, args=(renderer if method == "fork" else None, queue))
        child.start()
        assert queue.get(timeout=60) == "ok"
        child.join(10)
        assert child.exitcode == 0 and renderer.submit("svg", GOOD["svg"] + " ", (8, 8)).result().status == "ok"


def test_interrupt_ends_everything(tmp_path):
    """Ctrl-C while programs spin: the process ends at once, and with it every server."""
    script = tmp_path / "use.py"
    script.write_text(f"""import sys
sys.path.insert(0, {str(ROOT)!r})
from render import Renderer
if __name__ == "__main__":
    with Renderer(workers=2, timeout=60) as renderer:
        renderer.submit("svg", {GOOD["svg"]!r}).result()
        futures = [renderer.submit("python", {SPIN!r} + "#" * i) for i in range(4)]
        print("go", flush=True)
        futures[0].result()
""")
    before = set(servers())
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's background job ignores it
    assert process.stdout.readline() == "go\n"
    time.sleep(1.5)
    assert set(servers()) - before
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 5 and process.returncode != 0 and "KeyboardInterrupt" in errors
    deadline = time.monotonic() + 5
    while set(servers()) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(servers()) - before


def test_importing_starts_nothing():
    code = ("import sys, threading; sys.path.insert(0, '.'); import render; "
            "assert threading.active_count() == 1 and not {'torch', 'matplotlib', 'cairosvg', 'playwright'} & set(sys.modules)")
    before = set(servers())
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0 and set(servers()) == before


def test_imports_go_one_way_and_a_server_gets_no_more_than_it_needs():
    files = re.findall(r"(\w+)\.py\b", render.__doc__.split("In reading order")[1])
    assert len(files) == 8 and {f"{file}.py" for file in files[2:]} == {os.path.basename(path) for path in sandbox.INSIDE}
    for i, file in enumerate(files):
        nodes = list(ast.walk(ast.parse((ROOT / f"{file}.py").read_text())))
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)} | {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        assert not names & {*files[:i + 1], *["cli"] * (i > 0)} and not names & {path.stem for path in ROOT.glob("*.py")} - {*files, "cli"}
    code = "import sys, server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "drawing" in loaded and not {"charts", "latex", "chromium", "sandbox", "render", "subprocess", "threading", "PIL"} & set(loaded)


def test_refused_where_it_cannot_be_confined(monkeypatch):
    monkeypatch.setattr(sandbox, "confinement", lambda: "none")
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
