"""Measurements that are run by hand: they take minutes and want an idle machine.

    python tests/bench.py speed [--data FILE.parquet]   # renders per CPU-second on one core: the naive way and ours
    python tests/bench.py workers                       # wall time of two workers against one
    python tests/bench.py load                          # 1,000 good programs at full load, none may be lost
    python tests/bench.py repeat                        # 1,000 renders of the same programs, all pixels equal
    python tests/bench.py hostile                       # 1,000 hostile programs, nothing may be left
    python tests/bench.py reward                        # ms per pair at 512 pixels on one core, beside scikit-image's SSIM
    python tests/bench.py pack [--data FILE.parquet]    # useful tokens of a batch: packed, by length, as they come
    python tests/bench.py hours                         # GPU hours of both stages, computed from FLOPs and measured rates
    python tests/bench.py dedupe                        # distinct look-alikes kept, planted near-duplicates found
    python tests/bench.py kills                         # kill -9 at 200 random moments of saving, 200 states must load
    python tests/bench.py sft --trl PYTHON              # sft.py beside TRL's SFTTrainer (PYTHON: an interpreter that has TRL)
    python tests/bench.py labels DIR                    # share of a corpus' answers that run, per language

Each exits with 1 where what it checks does not hold. The naive way is the original release's: a new Python for each
chart and molecule, a new browser for each page, cairosvg through a PNG file in memory, pdflatex and 300 dpi; no sandbox.
"""
import argparse
import collections
import contextlib
import ctypes
import hashlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
import cli  # noqa: E402

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from attacks import Field, descendants, table  # noqa: E402
from chromium import find_chromium  # noqa: E402
from render import Renderer, available  # noqa: E402

CHART = """import numpy as np
import matplotlib.pyplot as plt
rng = np.random.default_rng(0)
"""
PAGE = """<!DOCTYPE html><html><head><style>body {{ margin: 0; font: 16px sans-serif; color: #223 }} nav {{ background: #24b;
color: white; padding: 16px 32px; display: flex; gap: 24px }} main {{ display: grid; grid-template-columns: repeat(3, 1fr); gap: 20px;
padding: 32px }} .card {{ border-radius: 12px; box-shadow: 0 2px 8px #0003; padding: 20px; background: linear-gradient(#fff, #eef) }}
</style></head><body><nav><b>{0}</b><span>Home</span><span>About</span></nav><main>{1}</main></body></html>"""
TIKZ = "\\documentclass[tikz, border=4pt]{standalone}\n%s\\begin{document}\n\\begin{tikzpicture}\n%s\n\\end{tikzpicture}\n\\end{document}\n"
MOLECULE = """from rdkit import Chem
from rdkit.Chem import Draw
Draw.MolToImage(Chem.MolFromSmiles('%s'), size=(400, 400)).save('molecule.png')
"""
# kind: (language, size, programs)
SAMPLES = {
    "SVG": ("svg", (336, 336), [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#234" stroke-width="2"><path d="M3 9l9-7 9 7v11a2 2 0 0 1-2 2H5a2 2 '
        '0 0 1-2-2z"/><polyline points="9 22 9 12 15 12 15 22"/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128"><defs><radialGradient id="g"><stop offset="0" stop-color="#fe8"/><stop offset="1" '
        'stop-color="#fb0"/></radialGradient></defs><circle cx="64" cy="64" r="60" fill="url(#g)"/><circle cx="44" cy="52" r="8"/><circle cx="84" cy="52" r="8"/>'
        '<path d="M36 80q28 30 56 0" fill="none" stroke="#420" stroke-width="6" stroke-linecap="round"/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 200">' + "".join(
            f'<rect x="{20 + 28 * i}" y="{180 - h}" width="20" height="{h}" fill="hsl({36 * i},70%,50%)"/><text x="{30 + 28 * i}" y="196" font-size="10" '
            f'text-anchor="middle">Q{i}</text>' for i, h in enumerate((40, 90, 60, 130, 110, 70, 150, 30, 80, 120))) + "</svg>"]),
    "HTML": ("html", (1280, 720), [
        PAGE.format("Shop", "".join(f"<div class=card><h3>Item {i}</h3><p>{'A good thing to have at home. ' * 4}</p><b>{9 + i}.99</b></div>" for i in range(9))),
        PAGE.format("Table", "<table style='grid-column:1/4'>" + "".join("<tr>" + "".join(f"<td>{i * j}</td>" for j in range(12)) + "</tr>" for i in range(20)) + "</table>"),
        PAGE.format("Form", "<form class=card>" + "".join(f"<label>Field {i}<input value='{i}'></label><br>" for i in range(6)) + "<button>Send</button></form>"
                    "<svg width=200 height=200><circle cx=100 cy=100 r=90 fill=tomato /></svg>")]),
    "chart": ("python", None, [
        CHART + "x = np.linspace(0, 10, 200)\nfor k in range(4):\n    plt.plot(x, np.sin(x + k), label=f'phase {k}')\nplt.legend()\nplt.xlabel('time (s)')\n"
        "plt.title('Waves')\nplt.grid(True)\nplt.savefig('a.png')",
        CHART + "fig, ax = plt.subplots(figsize=(8, 5))\nnames = list('ABCDEFG')\nax.bar(names, rng.uniform(2, 9, 7), color='steelblue')\nax.set_ylabel('share (%)')\n"
        "for p in ax.patches: ax.annotate(f'{p.get_height():.1f}', (p.get_x(), p.get_height()))\nplt.tight_layout()\nplt.savefig('a.png', dpi=100)",
        CHART + "fig, axes = plt.subplots(2, 2, figsize=(8, 6))\naxes[0, 0].hist(rng.normal(size=500), 30)\naxes[0, 1].scatter(rng.normal(size=99), rng.normal(size=99))\n"
        "axes[1, 0].imshow(rng.random((12, 12)))\naxes[1, 1].pie([3, 2, 1], labels=list('abc'))\nplt.tight_layout()\nplt.savefig('a.png')"]),
    "chemistry": ("python", None, [MOLECULE % smiles for smiles in (
        "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O")]),
    "TikZ": ("latex", None, [
        TIKZ % ("", "\\draw[->] (0,0) -- (4,0) node[right] {$x$};\\draw[->] (0,0) -- (0,3) node[above] {$y$};\\draw[domain=0:3.5,smooth,thick,blue] plot (\\x,{0.2*\\x*\\x});"),
        TIKZ % ("\\usetikzlibrary{positioning,arrows.meta}", "\\node[draw,rounded corners] (a) {input};\\node[draw,right=of a] (b) {$f(x)$};\\node[draw,circle,right=of b] (c) "
                "{$\\sum$};\\draw[-Stealth] (a) -- (b);\\draw[-Stealth] (b) -- (c);"),
        TIKZ % ("\\usepackage{pgfplots}\\pgfplotsset{compat=newest}", "\\begin{axis}[xlabel=$t$,ylabel=$v$,grid=major]\\addplot[red,mark=*] coordinates {(0,0) (1,2) (2,3) "
                "(3,1)};\\addplot[blue,domain=0:3]{x^2/3};\\end{axis}")])}
TARGET_RATIO = {"HTML": 7, "chart": 3.3, "chemistry": 4, "SVG": 1.5, "TikZ": 2.3}
MIXTURE = (0.35, 0.25, 0.2, 0.12, 0.08)  # chart, web, svg, latex, chem: of the model of the released data
SFT_MFU, VIRL_MFU = 0.36, 0.18  # measured with --compile (README); the uncompiled 24 % (LOG.md) with the fourth pass of --recompute


def samples_from(file):
    """The same table from a parquet file of real pairs."""
    import data
    from reward import extract_code
    kinds = {"svg": "SVG", "web": "HTML", "chart": "chart", "chem": "chemistry", "latex": "TikZ"}
    found = {}
    for sample in data.read_samples(file):
        if sample.domain in kinds and (code := extract_code(sample.answer, sample.language)[0]):
            found.setdefault(kinds[sample.domain], (sample.language, None, []))[2].append((code, (sample.width, sample.height)))
    return found


def cpu_seconds():
    """User and system time of this process, of every child that ended, and of every descendant that lives."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:                          # orphans come to us, see `speed`
            pass
    total = sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    for pid in descendants():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")     # utime, stime and those of its ended children
    return total


@contextlib.contextmanager
def naive(kind, browser_program=None):
    """-> a function of (code, size) that draws without any of our means and returns uint8 [H, W, 3]."""
    import cairosvg
    from PIL import Image
    pixels = lambda file: np.asarray(Image.open(file).convert("RGB"))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        run = lambda *command: subprocess.run(command, cwd=folder, capture_output=True, env={**os.environ, "MPLBACKEND": "agg"})
        if kind == "HTML":
            from playwright.sync_api import sync_playwright
            driver = stack.enter_context(sync_playwright())

        def draw(code, size):
            if kind == "SVG":
                return pixels(io.BytesIO(cairosvg.svg2png(code.encode(), output_width=size and size[0], background_color="white")))
            if kind == "HTML":
                browser = driver.chromium.launch(executable_path=browser_program or find_chromium(), args=["--no-sandbox"])
                page = browser.new_page(viewport=dict(width=size[0], height=min(size[1], 720)))
                page.set_content(code)
                image = pixels(io.BytesIO(page.screenshot(full_page=True)))
                browser.close()
                return image
            if kind == "TikZ":
                Path(folder, "a.tex").write_text(code)
                run("pdflatex", "-interaction=nonstopmode", "a.tex")
                run("pdftoppm", "-r", "300", "-png", "-singlefile", "a.pdf", "a")
                return pixels(Path(folder, "a.png"))
            Path(folder, "a.py").write_text(code)
            run(sys.executable, "a.py")
            files = [f for f in Path(folder).iterdir() if f.suffix in (".png", ".jpg")]
            return pixels(max(files, key=lambda f: f.stat().st_mtime_ns))
        yield draw


def naive_rate(kind, jobs, seconds, browser_program=None):
    """-> (the jobs that the naive way can draw, renders per CPU-second)."""
    good = []
    with naive(kind, browser_program) as draw:
        for job in jobs:
            with contextlib.suppress(Exception):                        # real charts may write no file where they only show
                draw(*job)
                good.append(job)
        begin, rounds, spent = cpu_seconds(), 0, 0.0
        while spent < seconds:
            for job in good:
                draw(*job)
            rounds, spent = rounds + 1, cpu_seconds() - begin
    return good, rounds * len(good) / spent


def speed(args):
    """Renders per CPU-second of the whole process tree on one core."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)                             # PR_SET_CHILD_SUBREAPER: a browser's orphans are counted too
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    absent, failed = available(), 0
    table_ = samples_from(args.data) if args.data else SAMPLES
    print("| kind | programs | naive /CPU-s | ours, confined /CPU-s | ratio | wanted | start, once |\n|---|---|---|---|---|---|---|")
    for kind, (language, size, programs) in table_.items():
        if absent[language]:
            print(f"| {kind} | not measured: {absent[language]} |")
            continue
        jobs = [p if isinstance(p, tuple) else (p, size) for p in programs]
        good, theirs = naive_rate(kind, jobs, args.seconds)
        with Renderer(1, 30) as renderer:
            begin = cpu_seconds()
            renders = renderer.render_many([(language, *job) for job in good] * 4)     # all engines started, formats cached
            start, bad = cpu_seconds() - begin, [r for r in renders if r.status != "ok"]
            begin, rounds, spent = cpu_seconds(), 0, 0.0
            while spent < args.seconds:
                bad += [r for r in renderer.render_many([(language, *job) for job in good]) if r.status != "ok"]
                rounds, spent = rounds + 1, cpu_seconds() - begin
            ours = rounds * len(good) / spent
            start -= 4 * len(good) / ours
        if kind == "HTML" and (full := shutil.which("chromium")):
            print(f"| HTML, naive with a full Chromium | {len(good)} | {(slow := naive_rate(kind, good, args.seconds, full)[1]):.1f} | {ours:.1f} | {ours / slow:.1f}x | | |")
        failed += bool(bad) or (not args.data and ours / theirs < TARGET_RATIO[kind])
        print(f"| {kind} | {len(good)} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.1f}x | {TARGET_RATIO[kind]}x | {max(start, 0):.1f} CPU-s |"
              + (f" {len(bad)} FAILED: {bad[0].message}" if bad else ""), flush=True)
    return failed


def mixture(count, salt=""):
    """`count` different good programs of every language that can be drawn here: the samples with a comment that differs."""
    comment = {"python": "\n# %s", "svg": "<!-- %s -->", "html": "<!-- %s -->", "latex": "\n%% %s"}
    usable = [(lang, size, code) for lang, size, codes in SAMPLES.values() if not available()[lang] for code in codes]
    for i in range(count):
        language, size, code = usable[i % len(usable)]
        yield language, code + comment[language] % f"{salt}{i}", size


def rendered(renderer, jobs, what):
    """render_many behind a progress bar."""
    futures = [renderer.submit(*job) for job in jobs]
    return [future.result() for future in tqdm(futures, what, mininterval=1)]


def workers(args):
    """Wall time of the same programs with one worker and with two."""
    seconds = {}
    for count in (1, 2, 1, 2):
        with Renderer(count, 30) as renderer:
            renderer.render_many(list(mixture(15 * count)) * 4)
            start = time.perf_counter()
            bad = [r for r in rendered(renderer, list(mixture(300, "w")), f"{count} worker(s)") if r.status != "ok"]
            seconds.setdefault(count, []).append(time.perf_counter() - start)
            if bad:
                raise SystemExit(f"error: {len(bad)} programs failed, first: {bad[0]}")
    ratio = min(seconds[1]) / min(seconds[2])
    print(f"300 programs of all kinds: one worker {seconds[1]} s, two workers {seconds[2]} s: {ratio:.2f}x (wanted 1.8x on two idle cores)")
    return ratio < 1.8


def load(args):
    """Good programs at full load, from eight threads at once, twice as many busy processes as cores beside them."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
    try:
        renders = [None] * args.count
        jobs = list(mixture(args.count))
        with Renderer(None, 30) as renderer:
            def feed(first):
                for i in range(first, args.count, 8):
                    renders[i] = renderer.submit(*jobs[i])
            threads = [threading.Thread(target=feed, args=(k,)) for k in range(8)]
            start = time.perf_counter()
            [t.start() for t in threads], [t.join() for t in threads]
            renders = [r.result() for r in tqdm(renders, "load", mininterval=1)]
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
    counts = collections.Counter(r.status for r in renders)
    print(f"{args.count} good programs at full load: {dict(counts)} in {time.perf_counter() - start:.0f} s")
    for r in renders:
        if r.status != "ok":
            print("  " + r.status, r.message)
    return counts["ok"] != args.count


def repeat(args):
    """The same programs again and again, on all workers, between others: one picture each."""
    programs, seen = list(mixture(sum(len(v[2]) for v in SAMPLES.values()))), collections.defaultdict(collections.Counter)
    with Renderer(None, 30) as renderer:
        order = np.random.default_rng(0).integers(len(programs), size=args.count)
        for i, r in zip(order, rendered(renderer, [programs[i] for i in order], "repeat")):
            seen[i][r.status if r.image is None else hashlib.sha256(r.image.tobytes()).hexdigest()[:8]] += 1
    differing = {programs[i][0]: dict(c) for i, c in seen.items() if len(c) > 1}
    print(f"{args.count} renders of {len(seen)} programs: {len(differing)} programs with more than one picture {differing or ''}")
    return bool(differing)


def hostile(args):
    """A thousand attacks in random order on two workers; what they leave behind, and the memory of the workers."""
    attacks = [a for a in table() if not available()[a.language]]
    order = np.random.default_rng(0).integers(len(attacks), size=args.count)
    rss = lambda: sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) * 4096 for p in descendants() if Path(f"/proc/{p}/statm").exists())
    files = lambda: sorted(str(p) for p in Path(tempfile.gettempdir()).iterdir())
    with Field() as field:
        descriptors, before, state = len(os.listdir("/proc/self/fd")), files(), field.state()
        with Renderer(2, 1.0) as renderer:
            counts, begin, resident = collections.Counter(), time.perf_counter(), []
            for part in np.array_split(order, 10):
                jobs = [(attacks[i].language, program, (64, 64)) for i in part for program in field.programs(attacks[i])]
                counts.update(r.status for r in renderer.render_many(jobs))
                resident.append(rss() >> 20)
                print(f"  {sum(counts.values())} programs, {time.perf_counter() - begin:.0f} s, workers hold {resident[-1]} MiB", flush=True)
        time.sleep(1)
        left = [len(descendants()), len(os.listdir("/proc/self/fd")) - descriptors, len(set(files()) - set(before))]
        changed = field.state() != state
    print(f"{sum(counts.values())} hostile programs: {dict(counts)}; left: {left[0]} processes, {left[1]} descriptors, {left[2]} temporary files; "
          f"{field.hits} reached the trap; host files {'CHANGED' if changed else 'unchanged'}; workers held {min(resident)} to {max(resident)} MiB")
    return any(left) or changed or field.hits > 0 or counts["infra"] > 0


def reward(args):
    """Milliseconds of one core for a pair of 512 x 512 pixel images: target known or not, with and without texts, in processes."""
    import ladder
    import reward as R
    from PIL import Image
    from skimage.metrics import structural_similarity
    programs = [p for p in ladder.synthetic_programs(12) if not available()[p[1]]]
    with Renderer() as renderer:
        renders = renderer.render_many([(language, code, (512, 512)) for _, language, code, _ in programs])
    images = [np.asarray(Image.fromarray(r.image).resize((512, 512))) for r in renders]
    pairs = [(images[i], images[i - 1], renders[i], renders[i - 1]) for i in range(len(images))]
    known = [(R.features(target), R.features(target, r)) for target, _, r, _ in pairs]
    measures = {
        "ours, target known": lambda i, t, x, r, s: R.visual_parts(known[i][0], x), "ours with texts, target known": lambda i, t, x, r, s: R.visual_parts(known[i][1], x, s.texts),
        "ours, target not known": lambda i, t, x, r, s: R.visual_parts(R.features(t), x), "scikit-image SSIM, colour": lambda i, t, x, r, s: structural_similarity(t, x, channel_axis=2),
        "scikit-image SSIM, colour, Gaussian": lambda i, t, x, r, s: structural_similarity(t, x, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)}
    if args.prototype:
        import importlib.util
        spec = importlib.util.spec_from_file_location("prototype", args.prototype)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        measures["prototype"] = lambda i, t, x, r, s: module.reward(Image.fromarray(t), Image.fromarray(x))
    slow = False
    for name, measure in measures.items():
        measure(0, *pairs[0])
        times = []
        for i, pair in enumerate(pairs):
            begin = time.process_time()
            measure(i, *pair)
            times.append(1e3 * (time.process_time() - begin))
        print(f"{name:38} median {np.median(times):6.1f} ms, 90 % below {np.quantile(times, 0.9):6.1f} ms over {len(times)} pairs")
        slow |= name.startswith("ours") and name.endswith(", target known") and np.median(times) > 60
    groups = [(t, "svg", [(type(s)(x, "ok"), f"```svg\n{k}\n```") for k in range(8)]) for t, x, _, s in pairs[:24]]
    with R.scorers(os.cpu_count()) as pool:
        R.score_batch(groups[:4], pool)
        begin = time.perf_counter()
        R.score_batch(groups, pool)
        seconds = time.perf_counter() - begin
    print(f"score_batch, {os.cpu_count()} processes: {8 * len(groups) / seconds:.0f} pairs per second of wall time, {1e3 * seconds / 8 / len(groups):.1f} ms each")
    return slow


def labels(args):
    """Share of a corpus' answers that run: what SFT at temperature 1 learns to reproduce."""
    import data
    from reward import extract_code
    samples = data.read_samples(args.directory)
    with Renderer() as renderer:
        renders = rendered(renderer, [(s.language, extract_code(s.answer, s.language)[0] or "", (s.width, s.height)) for s in samples], "labels")
    runs = collections.defaultdict(list)
    for sample, r in zip(samples, renders):
        for key in ("all", sample.language):
            runs[key].append(r.status == "ok")
    for key, values in sorted(runs.items()):
        print(f"{key:8} {np.mean(values):.3f} of {len(values)} answers run")
    return False


def released_pairs(n):
    """A model of 1.6M released pairs of five domains: image tokens, tokens of the answer, tokens of the whole sample, each [n]."""
    rng = np.random.default_rng(0)
    domain = rng.choice(5, n, p=MIXTURE)
    image = np.choose(domain, [rng.normal(780, 250, n), rng.lognormal(np.log(1500), 0.55, n), rng.normal(256, 60, n), rng.normal(500, 200, n),
                               rng.normal(700, 250, n)]).clip(256, 4096)
    code = rng.lognormal(np.log(np.array((750, 1500, 900, 500, 700))[domain]), np.array((0.55, 0.7, 0.9, 0.7, 0.6))[domain]).clip(30, 8192)
    return image, code, (image + code * np.where(rng.random(n) < 0.25, 2.05, 1) + 60).clip(0, 12288)


def pack(args):
    """Share of the tokens of a batch that are not padding, for lengths as in 1.6M pairs of five domains."""
    import data
    from loader import POOL, bucket, pack
    if args.data:  # image tokens of Qwen3-VL (32 x 32 pixels each), 3.2 characters a token
        samples = data.read_samples(args.data)
        sizes = [data.open_image(s).size for s in samples]
        lengths = [int(w * h / 1024 + (len(s.prompt) + len(s.answer)) / 3.2) + 20 for s, (w, h) in zip(samples, sizes)]
        lengths, what = np.random.default_rng(0).choice(lengths, 20000), args.data
    else:
        lengths, what = released_pairs(20000)[2], "a model of the released data"
    lengths = [int(n) for n in lengths if n <= 16384]
    print(f"lengths of {what}: mean {np.mean(lengths):.0f}, median {np.median(lengths):.0f}, 95 % below {np.quantile(lengths, 0.95):.0f}, at most {max(lengths)}")
    pools = [lengths[i:i + POOL] for i in range(0, len(lengths) // POOL * POOL, POOL)]
    useful = {f"padded, batches of {n} as they come": sum(map(sum, pools)) / sum(n * max(p[i:i + n]) for p in pools for i in range(0, len(p), n)) for n in (4, 8)}
    useful[f"padded, 8 of similar length out of a pool of {POOL}"] = sum(map(sum, pools)) / sum(len(b) * max(p[i] for i in b) for p in pools for b in bucket(p, 8))
    started = time.perf_counter()
    rows = sum(len(pack(p, 16384)) for p in pools)
    milliseconds = 1e3 * (time.perf_counter() - started) / len(pools)
    useful[f"packed, rows of 16,384, pool of {POOL}"] = packed = sum(map(sum, pools)) / (16384 * rows)
    wide = [sum(pools[i:i + 4], []) for i in range(0, len(pools), 4)]
    useful["packed, rows of 16,384, pool of 1,024 (what sft.py does)"] = sum(map(sum, pools)) / (16384 * sum(len(pack(p, 16384)) for p in wide))
    for name, share in useful.items():
        print(f"{name:60} {share:.3f} of the tokens are useful")
    print(f"packing a pool takes {milliseconds:.1f} ms")
    return packed < 0.97 and not args.data  # of short samples 256 fill a dozen rows, the last one half


def hours(args):
    """Hours of both stages at the released sizes (1.6M pairs; 42k prompts, 8 answers of 1,000 tokens), from FLOPs and measured rates; nothing is run."""
    from types import SimpleNamespace
    import plan
    import policy as P
    peak = plan.PEAK_FLOPS["H200"]
    example = lambda tokens, image, answer: SimpleNamespace(
        input_ids=range(int(tokens)), prompt_length=int(tokens - answer), image_grid_thw=np.array([1, 2, 2 * int(image)]))  # 4 patches a token
    image, code, length = released_pairs(20000)
    print("| computed hours on 1 / 8 / 64 GPUs | SFT, TFLOP a pair | SFT | ViRL, rollouts | ViRL, updates |\n|---|---|---|---|---|")
    for name, rate in (("Qwen/Qwen3-VL-2B-Instruct", 6877), ("Qwen/Qwen3-VL-4B-Instruct", None), ("Qwen/Qwen3-VL-8B-Instruct", 4962)):  # tokens/s, 64 rows
        policy = SimpleNamespace(model=P.skeleton(plan.published_config(name), name))
        flops = lambda examples: plan.training_flops(policy, plan.flops_per_token(policy), examples)
        pair = flops([example(n, i, min(c, n - 1)) for n, i, c in zip(length, image, code)]) / len(length)
        prompt = image.mean() + 60
        group = flops([example(prompt + 1000, image.mean(), 1000)]) + 7 * flops([example(prompt + 1000, 0, 1000)])  # the tower runs once a group
        of = lambda seconds: " / ".join(f"{seconds / 3600 / gpus:.1f}" for gpus in (1, 8, 64))
        rollouts = of(42e3 * 8 * 1000 / rate) if rate else "rate not measured"
        print(f"| {name} | {pair / 1e12:.0f} | {of(1.6e6 * pair / (SFT_MFU * peak))} | {rollouts} | {of(42e3 * group / (VIRL_MFU * peak))} |")
    seconds = np.dot(MIXTURE, 1 / np.array((6.2, 18.1, 278.8, 8.0, 38.3)))  # docs/sandbox.md: renders a CPU-second of chart, page, SVG, TikZ, molecule
    print(f"rendering: {1e3 * seconds:.0f} CPU-ms a program, {42e3 * 8 * seconds / 3600:.1f} CPU-hours for all; scoring at 27 CPU-ms a pair {42e3 * 8 * 0.027 / 3600:.1f}")


def look_alikes(n):
    """{set: [(image, code, language, domain)]}: n distinct samples each that look alike: formulas, charts, bars of one template, icons, molecules."""
    import random
    import cairosvg
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image
    from rdkit import Chem, RDLogger
    from rdkit.Chem import Draw
    RDLogger.DisableLog("rdApp.*")  # some of the molecules tried below cannot be

    def drawn(figure):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
        return Image.open(buffer).convert("RGB")

    def formula(i):
        r = np.random.default_rng(i)
        text = f"\\int_{{{r.integers(9)}}}^{{{r.integers(10, 99)}}} x^{{{r.integers(2, 9)}}}\\,dx = {r.integers(100, 999)}"
        figure = plt.figure(figsize=(4, 1), dpi=100)
        figure.text(0.05, 0.4, f"${text}$", fontsize=16)
        return drawn(figure), f"\\documentclass{{standalone}}\n\\usepackage{{amsmath}}\n\\begin{{document}}\n${text}$\n\\end{{document}}", "latex", "latex"

    def chart(i, kind=None):
        r, (figure, ax) = np.random.default_rng(i), plt.subplots(figsize=(4, 2.7), dpi=80)
        kind, a, b, colour = i % 4 if kind is None else kind, r.random(6 if kind else 25).round(2), r.random(6 if kind else 25).round(2), "#%02x%02x%02x" % tuple(r.integers(20, 220, 3))
        (lambda: ax.plot(np.cumsum(a - 0.5)), lambda: ax.bar(range(len(a)), a), lambda: ax.scatter(a, b, color=colour), lambda: ax.hist([*a, *b], color=colour))[kind]()
        ax.set_title("Report")
        return drawn(figure), f"import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(4, 2.7))\nax.kind{kind}({a.tolist()}, {b.tolist()}, '{colour}')\nax.set_title('Report')", "python", "chart"

    def icon(i):
        r = np.random.default_rng(i)
        body = "".join(f'<circle cx="{r.integers(4, 20)}" cy="{r.integers(4, 20)}" r="{r.integers(1, 5)}" fill="{c}"/>' for c in r.choice(["red", "blue", "black"], r.integers(2, 6)))
        code = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">{body}</svg>'
        return Image.open(io.BytesIO(cairosvg.svg2png(code.encode(), output_width=224, background_color="white"))).convert("RGB"), code, "svg", "svg"

    def molecule(smiles):
        code = f"from rdkit import Chem\nfrom rdkit.Chem import Draw\nmol = Chem.MolFromSmiles('{smiles}')\nDraw.MolToImage(mol).save('m.png')"
        return Draw.MolToImage(Chem.MolFromSmiles(smiles), size=(300, 300)).convert("RGB"), code, "python", "chem"

    rng, smiles = random.Random(0), {}
    parts = "F Cl Br I C CC OC C#N N O C(=O)O C(F)(F)F [N+](=O)[O-] S(=O)(=O)N C(C)C".split()
    while len(smiles) < n:
        new = rng.choice(("{0}c1ccc({1})cc1", "{0}c1cccc({1})c1", "{0}C1CCN({1})CC1", "{0}c1ccc2cc({1})ccc2c1")).format(*rng.sample(parts, 2))
        if molecule_ := Chem.MolFromSmiles(new):
            smiles.setdefault(Chem.MolToSmiles(molecule_), new)
    icons, k = {}, 0
    while len(icons) < n:
        found, k = icon(k), k + 1
        icons.setdefault(found[0].tobytes(), found)
    return {"formulas": [formula(i) for i in range(n)], "charts": [chart(i) for i in range(n)], "bars of one template": [chart(i, 1) for i in range(n)],
            "icons": list(icons.values()), "molecules": [molecule(s) for s in smiles.values()]}


def planted(image, how):
    """A near-duplicate of a PIL image: 0 smaller and as JPEG, 1 with a border, 2 cropped, 3 darker."""
    from PIL import Image
    if how == 0:
        buffer = io.BytesIO()
        image.resize((round(image.width * 0.7), round(image.height * 0.7)), Image.LANCZOS).save(buffer, "JPEG", quality=70)
        return Image.open(buffer).convert("RGB")
    if how == 1:
        wider = Image.new("RGB", (image.width + 4, image.height + 4), image.getpixel((0, 0)))
        wider.paste(image, (2, 2))
        return wider
    return image.crop((2, 2, image.width - 2, image.height - 2)) if how == 2 else Image.fromarray((np.asarray(image) * 0.96).astype(np.uint8))


def duplicates(items, codes, plant):
    """Run dedupe on a set of `look_alikes`, with or without codes, with near-duplicates planted or not -> (distinct ones dropped, planted ones dropped)."""
    import data
    import dedupe
    mark = {"python": "# as drawn\n", "latex": "% as drawn\n", "svg": "<!-- as drawn -->\n"}
    samples = []
    for copy in range(1 + plant):
        for k, (image, code, language, domain) in enumerate(items):
            shown = planted(image, k % 4) if copy else image
            answer = data.fenced(language, (mark[language] if copy else "") + code) if codes else ""
            samples.append(data.Sample("draw", answer, data.png(np.asarray(shown)), id=f"{'copy' if copy else 'item'}{k}", domain=domain, language=language))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        data.write_samples(samples, Path(folder) / "in" / "x.parquet")
        dropped = dedupe.dedupe(Path(folder) / "in", Path(folder) / "out", workers=1)
    return [sum(d["id"].startswith(kind) for d in dropped.values()) / len(items) for kind in ("item", "copy")]


def dedupe(args):
    """Distinct look-alikes must stay, planted near-duplicates must go; beside the 64-bit pHash that is commonly used."""
    from PIL import Image
    from scipy.fft import dctn
    wrong = False

    def plain(image):
        low = dctn(np.asarray(image.convert("L").resize((32, 32), Image.LANCZOS), float))[:8, :8].ravel()
        return low > np.median(low)

    print(f"{'160 of each':24} {'64-bit pHash, 4 bits':>24} {'with code':>24} {'without code':>24}", flush=True)
    sets = look_alikes(160)
    bar = tqdm(total=2 * len(sets), desc="dedupe", mininterval=1)
    for name, items in sets.items():
        hashes, copies = [plain(i[0]) for i in items], [plain(planted(i[0], k % 4)) for k, i in enumerate(items)]
        kept = []
        for h in hashes:
            if all((h != k).sum() > 4 for k in kept):
                kept.append(h)
        cells = [(1 - len(kept) / len(items), np.mean([(a != b).sum() <= 4 for a, b in zip(hashes, copies)]))]
        for codes in (True, False):
            cells.append((duplicates(items, codes, False)[0], duplicates(items, codes, True)[1]))
            bar.update()
        bar.write(f"{name:24}" + "".join(f"   {100 * lost:5.1f} % lost, {100 * found:3.0f} % found" for lost, found in cells))
        wrong |= cells[1][0] > 0.01 or cells[1][1] < 0.95 or cells[2][0] > 0.01
    bar.close()
    return wrong


def kills(args):
    """200 states loaded after 200 kills: see tests/test_faults.py."""
    import conftest
    from test_faults import killed_saves

    import tiny
    with tempfile.TemporaryDirectory() as folder:
        tiny.build_tiny(Path(folder, "tiny"), [s.prompt + s.answer for s in conftest.drawn_samples(48)], hidden=64, layers=2)
        loaded = killed_saves(Path(folder, "tiny"), Path(folder, "out"), 200)
    print(f"200 kills, {len(loaded)} states loaded, of {len(set(loaded))} different steps up to {max(loaded)}")
    return len(loaded) < 200


BATCH, SFT_STEPS, SFT_EVERY = 32, 300, 25


def trl_processor(policy):
    """What TRL's trainers take in place of tokenizer and image processor: Qwen3-VL's own without its video part, which needs torchvision."""
    from transformers import ProcessorMixin
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    class ImageProcessor(Qwen3VLProcessor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
            for name in ("image", "video"):
                setattr(self, f"{name}_token", f"<|{name}_pad|>")
                setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>"))
            for name in ("vision_start", "vision_end"):
                setattr(self, f"{name}_token", f"<|{name}|>")
                setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{name}|>"))
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
    return ImageProcessor(policy.image_processor, policy.tokenizer, policy.tokenizer.chat_template)


def trl_sft(args):
    """One run of TRL's SFTTrainer, in an interpreter that has it; prints {"step_seconds", "rss", "curve"} as JSON."""
    import json

    import torch
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    import data
    import policy as P

    judge = P.load_policy(args.model)
    batches = held_out_encoded(judge, args.directory)
    samples = data.read_samples(args.directory)
    rows = Dataset.from_list([{"images": [data.open_image(s)], "prompt": [{"role": "user", "content": s.prompt}],
                               "completion": [{"role": "assistant", "content": s.answer}]} for s in samples])
    model = AutoModelForImageTextToText.from_pretrained(args.model, attn_implementation="eager", dtype=torch.float32)
    ends, pauses, curve = [], [], []

    class Watch(TrainerCallback):
        def on_step_end(self, arguments, state, control, **kwargs):
            ends.append(time.perf_counter())
            pauses.append(0.0)
            if state.global_step % SFT_EVERY == 0:
                judge.model.load_state_dict(model.state_dict())
                curve.append((state.global_step, held_out_loss(judge, batches)))
                pauses[-1] = time.perf_counter() - ends[-1]
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(output_dir=folder, per_device_train_batch_size=BATCH, gradient_accumulation_steps=1, max_steps=SFT_STEPS, learning_rate=args.lr,
                           bf16=True, use_cpu=True, gradient_checkpointing=False, save_strategy="no", report_to="none", max_length=None, disable_tqdm=True,
                           dataloader_pin_memory=False, logging_steps=100, max_grad_norm=5.0, warmup_steps=20)
        SFTTrainer(model=model, args=config, train_dataset=rows, callbacks=[Watch()],
                   processing_class=trl_processor(judge)).train()
    seconds = [b - a - pause for a, b, pause in zip(ends, ends[1:], pauses)]
    print(json.dumps({"step_seconds": seconds, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                      "curve": [(step, sum(seconds[:step]), loss) for step, loss in curve]}))


def held_out_encoded(policy, directory):
    """128 held-out samples, encoded, as sft.py takes them."""
    import data
    from loader import held_out_samples
    found = held_out_samples(Path(directory).parent / "test", policy.count_tokens, 2048)
    return [[policy.encode(s.prompt, data.open_image(s), s.answer) for s in found[i:i + 32]] for i in range(0, len(found), 32)]


def held_out_loss(policy, batches):
    """Mean cross-entropy per answer token, fp32."""
    import torch
    with torch.no_grad():
        return -torch.cat([policy(b)[0] for b in batches]).mean().item()


def sft(args):
    """Useful tokens a second, seconds to TRL's best held-out loss, peak memory: sft.py and TRL, each alone in a process of its own."""
    import json

    import data
    import policy as P
    if not args.trl:
        raise SystemExit("error: give --trl PYTHON, an interpreter with requirements.txt and trl==1.16.0 installed.")
    policy = P.load_policy(args.model, weights=False)
    per_sample = np.mean(policy.count_tokens(data.read_samples(args.directory)))
    root, runs = Path(__file__).resolve().parent.parent, {}
    for lr in (1e-3, 3e-3):
        printed = subprocess.run([args.trl, __file__, "trl_sft", args.directory, "--model", args.model, "--lr", str(lr)], stdout=subprocess.PIPE, check=True).stdout
        runs[f"TRL 1.16 SFTTrainer, AdamW {lr:g}"] = json.loads(printed.splitlines()[-1])
    for name, *options in (("sft.py, AdamW 0.001", "--lr", "1e-3", "--matrix-lr", "0"), ("sft.py, AdamW 0.003", "--lr", "3e-3", "--matrix-lr", "0"), ("sft.py as it is (Muon)",)):
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([sys.executable, "sft.py", "--model", args.model, "--data", args.directory, "--out", out, "--batch", str(BATCH), "--micro-batch", str(BATCH),
                            "--steps", str(SFT_STEPS), "--eval-every", str(SFT_EVERY), "--render-every", "0", "--decay", "1", *options], cwd=root, stdout=subprocess.DEVNULL, check=True)
            rows = [json.loads(line) for line in open(Path(out, "metrics.jsonl"))]
        runs[name] = {"step_seconds": np.diff([r["seconds"] for r in rows]).tolist(), "rss": max(r["memory_gb"] for r in rows) * 1e9 / 2**20,
                      "curve": [(r["step"], r["seconds"], r["held_out_loss"]) for r in rows if "held_out_loss" in r]}
    target = min(loss for name, run in runs.items() if name.startswith("TRL") for *_, loss in run["curve"])
    print(f"{SFT_STEPS} steps of {BATCH} samples, {per_sample:.0f} tokens each on average (all useful ones counted, padding not); bf16 autocast, {os.cpu_count()} cores\n"
          f"| run | useful tokens/s | first 20 steps left out: ms a step | held-out loss after {SFT_STEPS} steps | seconds to {target:.3f} | peak memory, MB |\n|---|---|---|---|---|---|")
    rates = {}
    for name, run in runs.items():
        steady = run["step_seconds"][20:]
        rates[name] = BATCH * per_sample / np.mean(steady)
        reached = next((f"{seconds:.0f}" for _, seconds, loss in run["curve"] if loss <= target), "not reached")
        print(f"| {name} | {rates[name]:.0f} | {1e3 * np.mean(steady):.0f} | {run['curve'][-1][2]:.3f} | {reached} | {run['rss']:.0f} |")
    same = [(rates[f"sft.py, AdamW {lr}"] / rates[f"TRL 1.16 SFTTrainer, AdamW {lr}"]) for lr in ("0.001", "0.003")]
    print(f"same optimizer: {same[0]:.2f}x and {same[1]:.2f}x the useful tokens/s")
    return min(same) < 1.9


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = {f.__name__: f for f in (speed, workers, load, repeat, hostile, reward, labels, pack, hours, dedupe, kills, sft, trl_sft)}
    parser.add_argument("command", choices=commands)
    parser.add_argument("directory", nargs="?", default="out/data/sft", help="of `labels` and `sft`: parquet files")
    parser.add_argument("--data", help="of `speed` and `pack`: a parquet file of real pairs in place of the samples here")
    parser.add_argument("--prototype", help="of `reward`: a Python file with reward(target, image), two PIL images, to be timed beside")
    parser.add_argument("--model", default="out/tiny", help="of `sft`: the model to start from")
    parser.add_argument("--trl", help="of `sft`: the interpreter that has TRL")
    parser.add_argument("--lr", type=float, default=1e-3, help="of `trl_sft`: AdamW's learning rate")
    parser.add_argument("--seconds", type=float, default=10.0, help="of `speed`: CPU-seconds for each figure")
    parser.add_argument("--count", type=int, default=1000, help="of `load`, `repeat`, `hostile`: programs")
    args = parser.parse_args()
    sys.exit("below what is wanted, or wrong: see above" if commands[args.command](args) else 0)
