"""The report: what its script computes, and a real browser that opens it with hostile text in every field."""
import base64
import gzip
import http.server
import json
import random
import re
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import report
import stats
from chromium import find_chromium
from conftest import ROOT

needs_browser = pytest.mark.skipif(not find_chromium(), reason="no Chromium to open the page with")


def hostile(port):
    """Texts that run a script or fetch from 127.0.0.1:port, were they ever read as HTML, CSS, a URL or JavaScript."""
    url, run = f"http://127.0.0.1:{port}", "window.pwned=1"
    return [f'"><img src={url}/a onerror="{run};alert(1)"><script>{run}</script></script><script src="{url}/b.js"></script><iframe src={url}/c></iframe>'
            f"<svg onload={run}><!--${{`",
            f"</script></title></style><style>body{{background:url({url}/d)}}@import '{url}/e';</style><link rel=stylesheet href={url}/f>",
            f"<a href=\"javascript:{run}\">x</a> javascript:{run} data:text/html,<script>{run}</script>",
            f"' onfocus={run} autofocus tabindex=1 x='\" style=\"background:url({url}/g)",
            f"line\u2028{run}\u2029\r\n\u202eright to left\u202c \ud800 lone \udfff surrogates \0 NUL \ufeff\u200b",
            "\\u003cscript>${alert(1)}`\\", "</pre></span></body></html>" + "x" * 1_000_000,
            f"<meta http-equiv=refresh content='0;url={url}/h'><base href={url}/><form action={url}/i><input autofocus onfocus={run}></form>"]


def visible(text):
    """As report.escape and report.js show it."""
    return re.sub("[\0-\x08\x0b-\x1f\u200b\u2028\u2029\u202c\u202e\ufeff\ud800-\udfff]", lambda c: f"\\u{ord(c[0]):04x}", text)


def square(x, y, side=64):
    image = np.full((side, side, 3), 255, np.uint8)
    image[y:y + 16, x:x + 16] = (0, 0, 0)
    return Image.fromarray(image)


def make_runs(root, labels, n, modes=("greedy", "t1"), text=lambda i: "", answer=lambda run, i: "", languages=("svg", "html")):
    """Scored directories as eval.py leaves them: item i of n has the reward i / n plus .001 a run, of which every third fails."""
    for r, label in enumerate(labels):
        out = root / str(r)
        (out / "renders").mkdir(parents=True)
        items, rows, baselines = [], [], [{"fingerprint": None}]
        for i in range(n):
            square(8, 8).save(out / "renders" / f"{i}-target.png")
            square(8 if i % 2 else 40, 8).save(out / "renders" / f"{i}.png")
            items.append({"id": f"{i} {text(i)}", "language": languages[i % len(languages)], "task": f"task{i % 2} {text(i + 1)}",
                          "source": f"source{i % 2} {text(i + 2)[:200]}", "domain": languages[i % len(languages)],
                          "prompt": text(i + 3), "answer": "same\n" + text(i + 4), "target": f"renders/{i}-target.png"})
            for mode in modes:
                ok = i % 3 > 0
                rows.append({"id": items[-1]["id"], "mode": mode, "k": 0, **{m: (i / n + r / 1000) * ok for m in stats.METRICS}, "execution": float(ok),
                             "status": "ok" if ok else "error", "message": "" if ok else text(i + 5)[:300], "render": f"renders/{i}.png" if ok else None,
                             "response": "same\n" + answer(r, i), "tokens": 9, "finish": "stop"})
            baselines.append({"id": items[-1]["id"], "mode": "blank", "k": 0, **{m: 0.1 for m in stats.METRICS}, "status": "ok", "message": ""})
        stats.write_lines(out / "items.jsonl", items)
        stats.write_lines(out / "scores.jsonl", rows)
        stats.write_lines(out / "baselines.jsonl", baselines)
        (out / "scores.json").write_text(json.dumps({"label": label, "counts": f"{len(rows)} predictions {label}"}))
    return stats.load_runs([root / str(r) for r in range(len(labels))])


@pytest.fixture(scope="module")
def listener():
    """A server on this machine that notes every request."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], seen
    server.shutdown()


@pytest.fixture(scope="module")
def opened():
    """Context manager opened(file): (page, list of page errors, list of dialogs) of a real browser that has opened it."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])

        @contextmanager
        def open_(file, width=1400, fragment=""):
            page, errors, dialogs = browser.new_page(viewport={"width": width, "height": 900}), [], []
            page.on("pageerror", lambda e: errors.append(str(e)))
            page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
            page.goto(file.as_uri() + fragment)
            yield page, errors, dialogs
            page.close()

        yield open_
        browser.close()


def shows(page, count):
    """Wait until the gallery says `count`. (The page's content policy forbids wait_for_function.)"""
    from playwright.sync_api import expect
    expect(page.locator("output")).to_have_text(count)


def ids(page):
    return [b.split(" ")[0] for b in page.locator(".card header b").all_text_contents()]


# ------------------------------------------------------------------------------------------------------------ the browser

@needs_browser
def test_hostile_text_is_shown_and_does_nothing(tmp_path, listener, opened):
    port, seen = listener
    texts = hostile(port)
    short = lambda i: texts[i % 8] if i % 8 != 6 else texts[6][-900:]
    runs = make_runs(tmp_path, [texts[0], texts[3], texts[4]], 8, text=short, answer=lambda r, i: texts[(i + r) % 8])
    training = tmp_path / texts[0].replace("/", "_")[:60]
    training.mkdir()
    (training / "metrics.jsonl").write_text("".join(json.dumps({"seconds": i, "loss": 3 / (i + 1)}) + "\n" for i in range(50)))
    file = tmp_path / "report.html"
    report.write_report(runs, file, "\n\n".join(texts), report.curves([training, training]))
    before = len(seen)
    with opened(file) as (page, errors, dialogs):
        page.on("request", lambda r: seen.append(r.url) if not r.url.startswith("data:") else None)
        for name, value in (("order", "data"), ("mode", "t1"), ("mode", "greedy"), ("run", "0"), ("metric", "7"), ("run", "2")):
            page.select_option(f"select[title={name}]", value)
        assert page.locator(".card").count() == 8
        for n, card in enumerate(page.locator(".card").all()):  # what is written is what is shown, character for character
            assert card.locator("header b").text_content() == visible(f"{n} {short(n)}")
            card.locator("summary").evaluate("e => e.click()")
            card.locator(".codes nav").wait_for(state="attached")
            for r in (2, 0, 1):
                card.locator(".codes nav button").nth(r).evaluate("e => e.click()")
                answer = "same\n" + texts[(n + r) % 8]
                assert card.locator(".split span:nth-child(even):not(.gap)").all_text_contents() == visible(answer).split("\n")
        for name in ("task", "source", "status"):
            for option in page.locator(f"select[title={name}] option").all():
                page.select_option(f"select[title={name}]", index=1)
            page.select_option(f"select[title={name}]", "")
        page.fill("input[type=search]", "Right to left")
        shows(page, "3 of 8")
        for fragment in ("#html", "#%3Cimg%20src=x%20onerror=window.pwned=1%3E", "#%", "#svg"):
            page.evaluate("hash => { location.hash = hash }", fragment)
        page.wait_for_timeout(300)
        assert page.evaluate("window.pwned") is None and len(page.frames) == 1 and page.url.startswith("file:") and errors == [] and dialogs == []
        assert page.locator("iframe, object, embed, link, base, form, style ~ style, script[src], main script, meta[content*=url]").count() == 0
        assert page.evaluate("""[...document.querySelectorAll('*')].flatMap(e => [...e.attributes].map(a => [e.localName, a.name, a.value])).filter(
            ([tag, name, value]) =>
            name.startsWith('on') || name == 'src' && !/^data:image\\/(png|webp);base64,/.test(value) || name == 'href' && !(tag == 'a' && value[0] == '#')
            || name == 'style' && !/^--(v|runs): ?[0-9.]+;$/.test(value))""") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    assert seen[before:] == []


@needs_browser
def test_the_traps_go_off_where_text_is_not_escaped(tmp_path, listener, opened):
    """The controls of the test above: on a page that writes the same texts raw, script, request and dialog are noticed;
    and were report.py to forget an escape, the page's content policy would still stop them."""
    port, seen = listener
    raw = "".join(t for t in hostile(port) if "\ud800" not in t and "refresh" not in t)
    (tmp_path / "raw.html").write_text(f"<!doctype html><meta charset=utf-8>{raw}")
    before = len(seen)
    with opened(tmp_path / "raw.html") as (page, _, dialogs):
        page.wait_for_timeout(300)
        assert page.evaluate("window.pwned") == 1 and dialogs and len(page.frames) == 2
    assert {"/a", "/b.js", "/c"} <= set(seen[before:])
    report.write_report(make_runs(tmp_path, ["A"], 3), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    url, raw = f"http://127.0.0.1:{port}", hostile(port)[0].removesuffix("<!--${`")
    (tmp_path / "forgotten.html").write_text(text.replace("<main>", f"<main>{raw}<img src={url}/z style='background:url({url}/y)'>"))
    before = len(seen)
    with opened(tmp_path / "forgotten.html") as (page, _, dialogs):
        page.wait_for_timeout(300)
        assert page.evaluate("window.pwned") is None and dialogs == [] and page.locator("main > img").count() == 2  # it is there as HTML
    assert seen[before:] == []


@needs_browser
def test_pages_filters_and_order(tmp_path, opened):
    runs = make_runs(tmp_path, ["A", "B"], 60, answer=lambda r, i: f"needle{i}" if r else "")
    report.write_report(runs, tmp_path / "report.html")
    with opened(tmp_path / "report.html") as (page, errors, _):
        assert page.locator(".card").count() in (24, 48)  # the others when they are scrolled to
        assert ids(page)[:20] == [str(i) for i in range(0, 60, 3)]  # worst first: those that failed
        page.select_option("select[title=order]", "best")
        assert ids(page)[:3] == ["59", "58", "56"]
        assert page.locator(".page:visible").count() == 1 and page.locator(".page:visible .group:visible").all_inner_texts() == ["all", "svg", "html"]
        page.click("nav >> text=html")
        shows(page, "30 of 60")
        assert ids(page)[:2] == ["59", "55"] and page.url.endswith("#html")
        assert page.locator(".page:visible .tiles b").first.inner_text() == f"{sum(i % 3 > 0 for i in range(1, 60, 2)) / 30:.3f}"
        page.go_back()
        shows(page, "60 of 60")
        page.select_option("select[title=status]", "error")
        assert len(ids(page)) == 20 and page.locator(".none").count() == 40
        page.select_option("select[title=status]", "")
        page.fill("input[type=search]", "NEEDLE41")
        shows(page, "1 of 60")
        assert ids(page) == ["41"]
        page.fill("input[type=search]", "nothing like it")
        page.click("text=show all")
        assert page.locator("output").inner_text() == "60 of 60" and errors == []
    with opened(tmp_path / "report.html", fragment="#svg") as (page, _, _):
        assert page.locator("output").inner_text() == "30 of 60" and page.locator("nav a[aria-current]").inner_text().startswith("svg")


@needs_browser
def test_script_aligns_lines_and_draws_differences(tmp_path, opened):
    """Lines against a longest common subsequence in Python; the difference picture against the pixels that it is made of."""
    def common(a, b):
        row = [0] * (len(b) + 1)
        for x in a:
            last, row = row, [0]
            for j, y in enumerate(b):
                row.append(last[j] + 1 if x == y else max(row[j], last[j + 1]))
        return row[-1]

    report.write_report(make_runs(tmp_path, ["A"], 4), tmp_path / "report.html")
    rng = random.Random(0)
    with opened(tmp_path / "report.html") as (page, errors, _):
        for _ in range(60):
            a, b = (rng.choices("abcd", k=rng.randint(1, 12)) for _ in range(2))
            rows = page.evaluate("([a, b]) => align(a, b)", [a, b])
            assert [x for x, _ in rows if x is not None] == a and [y for _, y in rows if y is not None] == b
            assert sum(x == y for x, y in rows) == common(a, b)
        page.select_option("select[title=order]", "data")
        page.locator("#cards").scroll_into_view_if_needed()
        colour = lambda card, x, y: page.locator(".card").nth(card).locator("canvas").evaluate(
            "(c, [x, y]) => [...c.getContext('2d').getImageData(x * 3, y * 3, 1, 1).data]", [x, y])
        while not page.evaluate("[...document.querySelectorAll('canvas')].every(c => c.getContext('2d').getImageData(9, 9, 1, 1).data[3] == 255)"):
            page.wait_for_timeout(20)
        assert colour(1, 16, 16) == [204, 204, 204, 255] and colour(1, 48, 16) == [255, 255, 255, 255]  # item 1 is right
        assert colour(2, 16, 16) == [213, 94, 0, 255] and colour(2, 48, 16) == [0, 114, 178, 255]  # the square of item 2 stands elsewhere
        assert errors == []


@needs_browser
@pytest.mark.parametrize("n_runs, modes", [(1, ("greedy",)), (5, ("greedy", "t1", "best8", "a", "b"))])
def test_any_number_of_runs_and_modes_fits_a_phone(n_runs, modes, tmp_path, monkeypatch, opened):
    monkeypatch.setattr(stats, "MODES", {mode: stats.MODES.get(mode, f"mode {mode}") for mode in modes})
    runs = make_runs(tmp_path, [f"run {r} of a long name" for r in range(n_runs)], 6, modes, languages=("svg",))
    report.write_report(runs, tmp_path / "report.html")
    for width in (390, 1400):
        with opened(tmp_path / "report.html", width) as (page, errors, _):
            page.locator("summary", has_text="code").first.click()
            assert page.locator(".bars").first.locator("svg").first.locator("rect").count() == n_runs * len(modes)
            assert page.locator(".forest svg").count() == (n_runs - 1) * len(stats.SHOWN) * len(modes)
            assert page.evaluate("document.documentElement.scrollWidth") <= width and errors == []
            assert page.locator("select[title=mode] option").count() == len(modes)


# ------------------------------------------------------------------------------------------------------------- the file

def test_pieces_of_the_gallery(tmp_path, monkeypatch):
    """Pictures once per item, small where there are many; answers compressed; nothing that ends a script element."""
    runs = make_runs(tmp_path, ["A", "B"], 3, answer=lambda r, i: f"</script>{r}{i}")
    text = report.gallery(runs)
    scripts = dict(re.findall(r"<script type=\"[a-z/]+\" id=\"(\w+)\">(.*?)</script>", text))
    assert list(scripts) == ["data", "p0", "p1", "p2", "t0"] and text.count("</script") == 5
    index, piece = json.loads(scripts["data"]), json.loads(scripts["p1"])
    assert index["items"][2]["runs"]["t1"][1] == ["ok", *[0.668] * 2, 1.0, *[0.668] * (len(stats.METRICS) - 3)]
    assert piece["pictures"] == [report.thumbnail(tmp_path / "0" / "renders" / "1-target.png")]  # target and renders are equal
    assert piece["target"] == 0 and piece["runs"]["greedy"] == [[0, ""], [0, ""]]
    assert json.loads(gzip.decompress(base64.b64decode(scripts["t0"])))[2]["runs"]["t1"] == ["same\n</script>02", "same\n</script>12"]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    noise.save(tmp_path / "0" / "renders" / "1.png")
    sides = []
    monkeypatch.setattr(report, "thumbnail", lambda f, side: sides.append(side) or "")
    for budget in (15e6, 9 * 100 * 7, 0):
        monkeypatch.setattr(report, "PICTURES", budget)
        report.gallery(runs)
    assert set(sides[:7]) == {224} and set(sides[7:14]) == {100} and set(sides[14:]) == {64}  # 3 targets, 2 renders of each of 2 runs


def test_escape_shows_what_cannot_be_seen():
    assert report.escape("<a> & \"é\n\t") == "&lt;a&gt; &amp; &quot;é\n\t"
    assert report.escape("\u202e\0\u2028\ud800\r") == "\\u202e\\u0000\\u2028\\ud800\\u000d"


def test_tags_escape_what_is_no_html():
    assert report.tag("p", "<b>", report.tag("br"), [" & ", report.Html("<i>")], class_="a\"b", data_page="<", hidden=True) == (
        '<p class="a&quot;b" data-page="&lt;" hidden>&lt;b&gt;<br> &amp; <i></p>')
    assert report.joined() == "" and report.joined(["<", ("a", [])]) == "&lt;a" and isinstance(report.joined("x"), report.Html)


def test_tables_group_only_where_groups_have_several_rows():
    grouped = report.html_table(["language", "answers of", "reward"], [["<svg>", "A", ".5±.1"], ["", "blank canvas", ".1"]], "A")
    assert "<th>language</th>" not in grouped and '<th colspan="2"><span>&lt;svg&gt;</span></th>' in grouped
    assert '<tr class="strong"><td>A</td><td>.5<small>±.1</small></td></tr><tr class="soft"><td>blank canvas</td><td>.1</td></tr>' in grouped
    assert "<th>benchmark</th>" in report.html_table(["benchmark", "score"], [["x", "1"], ["y", "2"]])


def test_seeds_are_pooled_by_image_and_named_one_by_one(tmp_path, monkeypatch):
    """tests/seeds.py over two seeds of 6 and 12 images: means over all 18, differences .001 a run in each seed."""
    monkeypatch.syspath_prepend(ROOT / "tests")
    import seeds
    monkeypatch.setattr(seeds, "GROUPS", (("all", "all"), ("source", "source0 "), ("source", "source1 ")))
    for seed, n in enumerate((6, 12)):
        make_runs(tmp_path / str(seed) / "eval", seeds.RUNS, n)
        for r, name in enumerate(seeds.RUNS):
            (tmp_path / str(seed) / "eval" / str(r)).rename(tmp_path / str(seed) / "eval" / name)
    each = [stats.load_runs([tmp_path / str(seed) / "eval" / name for name in seeds.RUNS]) for seed in (0, 1)]
    runs = seeds.pooled(each)
    expected = [(i / n + 2 / 1000) * (i % 3 > 0) for n in (6, 12) for i in range(n)]
    assert runs[2]["table"]["all", "all"]["greedy"]["visual"] == pytest.approx(stats.mean_se(expected))
    lines = [line for line in seeds.difference_lines(runs, each) if line.startswith("| visual greedy")]
    assert len(lines) == 1 and lines[0].count("(+.001, +.001)") == 3
    assert [line.split(" | ")[0] for line in seeds.score_lines(runs)[2:5]] == ["| sft", "| control", "| virl"]
