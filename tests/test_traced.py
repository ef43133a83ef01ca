"""traced.py and what render.py tells of a drawing: values worked out by hand, slow references, hostile details."""
import itertools
import json
import random
from collections import Counter
from difflib import SequenceMatcher

import numpy as np
import pytest
from conftest import ROOT
from scipy.optimize import linear_sum_assignment
from skimage.color import deltaE_ciede2000, rgb2lab

import data
import render
import traced
from render import Renderer, available, parse_details
from reward import extract_code
from traced import chart_scores, web_scores

REAL = ROOT.parent / "shared" / "real" / "dev.parquet"
needs_python = pytest.mark.skipif(bool(available()["python"]), reason=f"no charts here: {available()['python']}")
needs_html = pytest.mark.skipif(bool(available()["html"]), reason=f"no pages here: {available()['html']}")


@pytest.fixture(scope="module")
def renderer():
    with Renderer(workers=1, timeout=8) as r:
        yield r


def inspected(renderer, language, code, size=None):
    r = renderer.submit(language, code, size, inspect=True).result()
    assert r.status == "ok", r.message
    return r


# --------------------------------------------------------------------------------------------------------------- scores

def chart(texts="a b", types="bar bar plot", layout=((1, 2, 0), (1, 2, 1)), colors=(("bar", "#FF0000"), ("plot", "#0000FF"))):
    places = [dict(nrows=r, ncols=c, row_start=0, row_end=0, col_start=k, col_end=k) for r, c, k in layout]
    return {"texts": texts.split(), "types": dict(Counter(types.split())), "layout": places, "colors": [list(c) for c in colors]}


def test_chart_scores_by_hand():
    assert set(chart_scores(chart(), chart()).values()) == {1.0} and set(chart_scores(chart("", "", (), ()), chart("", "", (), ())).values()) == {1.0}
    assert set(chart_scores(chart(), None).values()) == {0.0} == set(chart_scores(chart(), chart("", "", (), ())).values())
    assert set(chart_scores(None, chart()).values()) == {None}
    got = chart_scores(chart("a b b"), chart("b b b c", "bar plot plot", ((1, 2, 0),)))
    assert got["chartmimic_text"] == pytest.approx(4 / 7)  # two of four found, two of three: 2 * 1/2 * 2/3 / (1/2 + 2/3)
    assert got["chartmimic_type"] == pytest.approx(2 / 3) and got["chartmimic_layout"] == pytest.approx(2 / 3) and got["chartmimic_color"] == 1
    assert got["chartmimic"] == pytest.approx((4 / 7 + 2 / 3 + 2 / 3 + 1) / 4)


def colours(reference, candidate):
    return chart_scores(chart(colors=reference), chart(colors=candidate))["chartmimic_color"]


def test_colors_by_hand():
    black, white, gray = ("bar", "#000000"), ("bar", "#FFFFFF"), ("bar", "#777777")
    assert colours([black], [white]) == pytest.approx(0, abs=1e-3)  # their CIEDE2000 is 100
    half = 1 - deltaE_ciede2000([0, 0, 0], rgb2lab(np.full((1, 1, 3), 0x77 / 255))[0, 0]) / 100
    assert 0.3 < half < 0.7 and colours([black], [gray]) == pytest.approx(half)
    assert colours([black, white], [black]) == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert colours([black], [("plot", "#000000")]) == 0  # another function
    assert colours([("imshow", "viridis")], [("imshow", "viridis")]) == 1 and colours([("imshow", "viridis")], [("imshow", "gray")]) == 0
    assert colours([("imshow", "viridis")], [("imshow", "#000000")]) == 0 and colours([("imshow", "#zzzzzz")], [("imshow", "#zzzzzz")]) == 1


def test_more_than_ten_colors_are_thinned_out():
    shades = [("bar", f"#{v:02X}0000") for v in range(200, 211)]  # eleven reds that are all alike, ten that are too few
    assert traced.thin_out(shades) == [("bar", "#C80000")] and traced.thin_out(shades[1:]) == shades[1:]
    wide = [*shades, ("plot", "#C90000"), ("plot", "#00FF00"), ("imshow", "gray"), ("pcolor", "gray")]
    assert set(traced.thin_out(wide)) == {("bar", "#C80000"), ("plot", "#00FF00"), ("imshow", "gray")}
    assert traced.thin_out(wide[::-1]) == traced.thin_out(wide)


def test_color_matching_is_the_best_of_all_permutations():
    rng = random.Random(0)

    def similar(x, y):
        if x[0] == y[0] == "#":
            a, b = (rgb2lab(np.array([[[int(c[i:i + 2], 16) / 255 for i in (1, 3, 5)]]]))[0, 0] for c in (x, y))
            return max(0, 1 - deltaE_ciede2000(a, b) / 100)
        return float(x == y)

    for _ in range(60):
        sides = [sorted({(rng.choice("ab"), rng.choice(("gray", "jet", *(f"#{rng.randrange(1 << 24):06X}" for _ in range(4))))) for _ in range(rng.randint(1, 5))})
                 for _ in range(2)]
        total = 0
        for call in "ab":
            short, long = sorted(([c for f, c in side if f == call] for side in sides), key=len)
            total += max(sum(map(similar, short, p)) for p in itertools.permutations(long, len(short)))
        precision, recall = total / len(sides[1]), total / len(sides[0])
        assert colours(*sides) == pytest.approx(2 * precision * recall / (precision + recall) if total else 0)


def page(*texts, trees=("html_head_body",), color=(0, 0, 0), width=0.5, left=0.0):
    return {"blocks": [{"text": t, "box": [left, k / 10, width, 0.1], "color": list(color)} for k, t in enumerate(texts)], "trees": list(trees)}


def test_web_scores_by_hand():
    a = page("Hello there", "second", trees=("html_head_body", "body_p_p"))
    assert set(web_scores(a, a).values()) == {1.0}
    for other in (page(), a, None):  # no text to match
        assert set(list(web_scores(page(), other).values())[:4]) == {None} and web_scores(page(), other)["treebleu"] == float(other is not None)
    assert set(web_scores(a, None).values()) == {0.0} and set(web_scores(None, a).values()) == {None}
    assert web_scores(a, page()) == {"d2c_block": 0, "d2c_text": 0, "d2c_position": 0, "d2c_color": 0, "treebleu": 0.5}
    got = web_scores(a, page("HELLO THERE", width=0.25, left=0.2, color=(255, 255, 255)))
    # matched 0.05 + 0.025, not matched 0.05; centres at 0.25 and 0.325; black and white
    assert got == pytest.approx({"d2c_block": 0.6, "d2c_text": 1, "d2c_position": 0.925, "d2c_color": 0, "treebleu": 0.5}, abs=1e-3)
    assert web_scores(page("abcd"), page("abxy"))["d2c_text"] == 0.5 and web_scores(page("abcd"), page("axyz"))["d2c_block"] == 0
    assert web_scores(page("abcd"), page("abcd", left=3e5))["d2c_position"] == 0


def test_neighbours_are_merged_where_that_helps():
    split, whole = page("good morning", "everybody", "other things"), page("good morning everybody", "other things")
    for a, b in ((split, whole), (whole, split)):
        got = web_scores(a, b)
        assert got["d2c_text"] == got["d2c_block"] == 1 and got["d2c_position"] == pytest.approx(1 - 0.05 / 2 - 0.05)
    assert traced.merged(split["blocks"][0], {"text": "x", "box": [0.6, 0.0, 0.1, 0.3], "color": [255, 1, 0]}) == {
        "text": "good morning x", "box": [0.0, 0.0, pytest.approx(0.7), 0.3], "color": [127, 0, 0]}


def slow_merge(blocks, others):
    """Merging as it is defined: every neighbouring pair is tried."""
    def costs(texts):
        table = -np.array([[SequenceMatcher(None, a, b).ratio() for b in others] for a in texts]).reshape(len(texts), len(others))
        return Counter(table[linear_sum_assignment(table)].tolist())
    rises, before = [], costs(blocks)
    for i in range(len(blocks) - 1):
        after = costs([*blocks[:i], blocks[i] + " " + blocks[i + 1], *blocks[i + 2:]])
        lost, won = list((before - after).elements()), list((after - before).elements())
        rise = (sum(lost) / len(lost) if lost else 0) - (sum(won) / len(won) if won else 0)
        if rise > 0.05 and min(lost) > min(won):
            rises.append((i, rise))
    taken = []
    for i, _ in sorted(rises, key=lambda r: r[1], reverse=True):
        if all(abs(i - k) > 1 for k in taken):
            taken.append(i)
    return [blocks[i] + " " + blocks[i + 1] if i in taken else blocks[i] for i in range(len(blocks)) if i - 1 not in taken]


def test_skipped_trials_of_merging_change_nothing():
    rng, merges = random.Random(1), 0
    for _ in range(150):
        words = ["".join(rng.choices("abcd", k=rng.randint(1, 4))) for _ in range(5)]
        sides = [[" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 6))] for _ in range(2)]
        got = traced.merge_neighbours(page(*sides[0])["blocks"], page(*sides[1])["blocks"], traced.Likeness())
        assert [b["text"] for b in got] == slow_merge(*sides)
        merges += len(got) < len(sides[0])
    assert merges > 20


def test_neighbours_decide_between_equal_texts():
    """The link beside 'second' is the second one, although both links are equal and the first comes first."""
    a, b = page("link", "first", "second", "link"), page("second", "link")
    _, _, found = traced.match_blocks(a["blocks"], b["blocks"])
    assert {(i, j) for i, j, _ in found} == {(2, 0), (3, 1)}


def test_huge_pages_match_equal_texts_only():
    a = page(*[f"{k} " + "x" * 30000 for k in range(2)], "end")
    assert set(web_scores(a, a).values()) == {1.0}
    b = page("1 " + "x" * 30000, "0 " + "x" * 29999, "end")
    assert traced.match_blocks(a["blocks"], b["blocks"])[2] == [(1, 0, 1.0), (2, 2, 1.0)]


# ------------------------------------------------------------------------------------------------- what is told of charts

FIGURE = """import matplotlib.pyplot as plt
import numpy as np
fig, (a, b) = plt.subplots(1, 2)
bars = a.bar(["x", "y", "z"], [1, 2, 3], color=["red", "red", "lime"])
bars[1].set_color("blue")
a.set_title("Two\\nlines")
a.legend(["one"])
b.plot([1, 2], [3, 4], "k--")
b.errorbar([1, 2], [3, 4], yerr=1, color="magenta")
b.set_xlabel("$x^2$")
fig.colorbar(b.imshow(np.eye(3), cmap="jet"))
fig.suptitle("All")
plt.savefig("a.pdf", bbox_inches="tight")
"""


@needs_python
def test_a_chart_tells_what_was_drawn(renderer):
    """Ticks are left out (x, y, z and all numbers), the errorbar is one call although it plots, of the bars made in red the last one counts."""
    details = inspected(renderer, "python", FIGURE).details
    assert sorted(details["texts"]) == sorted(["Two", "lines", "one", "$x^2$", "All"])
    assert details["types"] == {"bar": 1, "plot": 1, "errorbar": 1, "imshow": 1}
    assert [tuple(place.values()) for place in details["layout"]] == [
        (1, 2, 0, 0, 0, 0), (3, 2, 0, 2, 0, 0), (3, 2, 1, 1, 1, 1)]  # rows, columns, first and last of each; the colour bar splits its cell
    assert {tuple(c) for c in details["colors"]} == {("bar", "#0000FF"), ("bar", "#00FF00"), ("plot", "#000000"), ("plot", "#FF00FF"),
                                                     ("vlines", "#FF00FF"), ("imshow", "jet")}


@needs_python
@pytest.mark.parametrize("code, types, colors", [
    ("plt.axes(projection='polar').plot([1, 2])", {"plot_polar": 1}, {("plot_polar", "#1F77B4")}),
    ("plt.axes(projection='polar').scatter([1, 2], [1, 2], c=[1, 2], cmap='jet')", {"scatter": 1}, {("scatter_polar", "jet")}),
    ("ax = plt.axes(projection='3d')\nax.scatter([1], [2], [3], c='r')\nax.bar3d(0, 0, 0, 1, 1, 1, color='w', shade=False)", {"scatter_3d": 1, "bar3d_3d": 1},
     {("scatter_3d", "#FF0000"), ("bar3d_3d", "#FFFFFF")}),
    ("plt.barh([1], [2])\nplt.fill_between([1, 2], [1, 2], color='lime')\nplt.hist([1, 2], color='k')", {"barh": 1, "fill_between": 1, "hist": 1},
     {("bar", "#1F77B4"), ("fill_between", "#00FF00"), ("hist", "#000000")}),
    ("plt.pie([1, 2], colors=['r', 'b'])\nplt.axvspan(0, 1, color='w')\nplt.hlines([1], 0, 1, 'k')", {"pie": 1, "axvspan": 1, "hlines": 1},
     {("pie", "#FF0000"), ("pie", "#0000FF"), ("axvspan", "#FFFFFF"), ("hlines", "#000000")}),
    ("plt.boxplot([1, 2], patch_artist=True, boxprops=dict(facecolor='r'))\nplt.violinplot([1, 2, 3])", {"boxplot": 1, "violinplot": 1},
     {("boxplot", "#FF0000"), ("plot", "#000000"), ("violinplot", "#1F77B4")}),
    ("import seaborn as sns\nsns.heatmap([[1, 2], [3, 4]], cmap='jet')", {"pcolormesh": 1}, {("pcolormesh", "jet")}),
    ("import networkx as nx\nnx.draw(nx.path_graph(3), with_labels=True, node_color='r', font_color='w')",
     {"draw_networkx_nodes": 1, "draw_networkx_edges": 1, "draw_networkx_labels": 1},
     {("draw_networkx_nodes", "#FF0000"), ("draw_networkx_edges", "#000000"), ("draw_networkx_labels", "#FFFFFF")}),
    ("from matplotlib.patches import Circle\nplt.gca().add_patch(Circle((0, 0), 1, color='r'))", {"ellipse": 1}, {("ellipse", "#FF0000")}),
    ("plt.plot([1, 2])\nplt.figure()\nplt.bar([1], [2])", {"bar": 1}, {("bar", "#1F77B4")})])
def test_outermost_calls_and_their_colors(renderer, code, types, colors):
    details = inspected(renderer, "python", "import matplotlib.pyplot as plt\n" + code).details
    colors = colors - {("plot", "#000000")} if "boxplot" in code else colors  # boxplot draws its lines itself
    assert details["types"] == types and {tuple(c) for c in details["colors"]} == colors


@needs_python
@pytest.mark.parametrize("old, new, moved", [
    ('"lime"', '"yellow"', {"color"}), ("Two", "Too", {"text"}), ('b.plot([1, 2], [3, 4], "k--")', 'b.step([1, 2], [3, 4], "k--")', set()),
    ('b.plot([1, 2], [3, 4], "k--")', 'b.axvline(1, color="k")', {"type", "color"}), ("subplots(1, 2)", "subplots(2)", {"layout"}), ('"y"', '"w"', set())])
def test_one_change_moves_the_score_that_it_should(renderer, old, new, moved):
    """A step is a plot to the benchmark; tick labels are nothing to it; what is drawn by another function has another function's colour."""
    assert old in FIGURE
    got = chart_scores(*(inspected(renderer, "python", code).details for code in (FIGURE, FIGURE.replace(old, new))))
    assert {part for part in ("text", "type", "layout", "color") if got["chartmimic_" + part] < 1} == moved
    assert got["chartmimic"] < 1 or not moved


# -------------------------------------------------------------------------------------------------- what is told of pages

PAGE = """<body style="margin:0"><div style="color:rgb(0,0,255)">Hello <strong style="color:red">Wor
 ld</strong></div><label>out<span style="color:#fff8">side</span></label><p style="visibility:hidden">no</p><p style="display:none">no</p>
 <p style="position:absolute;left:50px;top:100px;width:50px;height:20px;margin:0;font:10px/20px monospace;background:red">abcdefghijkl</p></body>"""


@needs_html
def test_a_page_tells_what_was_drawn(renderer):
    details = inspected(renderer, "html", PAGE, (200, 400)).details
    blocks = {b["text"]: b for b in details["blocks"]}
    assert list(blocks) == ["Hello Wor ld", "out", "side", "abcdefghijkl"]
    assert blocks["Hello Wor ld"]["color"] == pytest.approx([255 * 6 / 11, 0, 255 * 5 / 11]) and blocks["side"]["color"] == [255, 255, 255]
    x, y, width, height = blocks["abcdefghijkl"]["box"]
    assert (x, y) == (0.25, pytest.approx(0.25, abs=0.02)) and 0.3 < width < 0.42 and 0.02 < height < 0.05
    assert set(details["trees"]) == {"html_head_body", "body_div_label_p_p_p", "div_strong", "label_span"}


@needs_html
@pytest.mark.parametrize("old, new, moved", [
    ("Hello", "Hallo", {"text"}), ("rgb(0,0,255)", "rgb(0,255,0)", {"color"}), ("left:50px", "left:90px", {"position"}),
    ("<label>", "<label><br hidden>", {"tree"}), ("</body>", "<i>more of it</i></body>", {"block", "tree", "position"})])
def test_one_change_of_a_page(renderer, old, new, moved):
    got = web_scores(*(inspected(renderer, "html", code, (200, 400)).details for code in (PAGE, PAGE.replace(old, new))))
    low = {k.removeprefix("d2c_").replace("treebleu", "tree") for k, v in got.items() if v < 1 - 1e-9}
    assert moved - {"position"} <= low <= moved | {"block", "position"} and low & moved


# ------------------------------------------------------------------------------------------------------------- hostility

@pytest.mark.parametrize("data", [
    b"", b"null", b"[]", b"{", b"\xff\xfe", b'"why"', b"[" * 100000, b"{}", b'{"texts": [], "types": {}, "layout": []}', b"1" * 5000, b"NaN",
    json.dumps(chart() | {"texts": [1]}).encode(), json.dumps(chart() | {"types": {"a": True}}).encode(), json.dumps(chart() | {"types": {"a": -1}}).encode(),
    json.dumps(chart() | {"types": {"a": 10**30}}).encode(), json.dumps(chart() | {"colors": [["a", "b", "c"]]}).encode(),
    json.dumps(chart() | {"layout": [{"nrows": 1}]}).encode(), json.dumps(chart() | {"more": 1}).encode()])
def test_details_of_another_form_are_none(data):
    details, message = parse_details(data, render.DETAILS["python"])
    assert details is None and message and "\n" not in message
    assert parse_details(json.dumps(chart()).encode(), render.DETAILS["python"]) == (chart(), "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, -1, True, "1", None, [1]])
def test_numbers_of_a_page_are_checked(value):
    bad = page("a")
    assert parse_details(json.dumps(bad).encode(), render.DETAILS["html"]) == (bad, "")
    bad["blocks"][0]["box"][2] = value
    assert parse_details(json.dumps(bad).encode(), render.DETAILS["html"])[0] is None


def test_forged_details_give_scores_all_the_same():
    rng = random.Random(2)
    wild = {"texts": ["\ud800"] * 50000, "types": {"bar": 10**6}, "layout": [], "colors": [["", f"#{rng.randrange(1 << 24):06x}"] for _ in range(3000)]}
    pages = [page("a", "b"), page(*["a"] * 5000), page("a", left=1e6, color=(1e6, 0, 1e6), width=0.0)]
    assert all(0 <= v <= 1 for v in chart_scores(chart(), wild).values())
    assert all(0 <= v <= 1 for p in pages for v in web_scores(pages[0], p).values())


HOSTILE = {
    "more than there is room for": ("from matplotlib.colors import ListedColormap\nplt.imshow([[1]], cmap=ListedColormap(['r'], name='x' * 2000000))", "at most"),
    "an artist that cannot be read": ("l = plt.plot([1, 2])[0]\nplt.gcf().axes[0].get_subplotspec = lambda: 1 / 0", "cannot be inspected: ZeroDivisionError"),
    "no figure": ("from PIL import Image\nImage.new('RGB', (9, 9)).save('a.png')", "nothing to inspect"),
    "a forged report": ("import json\njson.dumps = lambda *a, **k: '{\"texts\": 1}'", "malformed"),
    "a report that is no JSON": ("import json\njson.dumps = lambda *a, **k: '{'", "malformed")}


@needs_python
@pytest.mark.parametrize("name", HOSTILE)
def test_a_program_cannot_harm_by_its_details(renderer, name):
    code, words = HOSTILE[name]
    r = inspected(renderer, "python", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\n" + code)
    assert r.details is None and words in r.message and r.image is not None
    assert inspected(renderer, "python", "import matplotlib.pyplot as plt\nplt.plot([1, 2])").details["types"] == {"plot": 1}  # the next one


@needs_html
def test_a_page_has_no_hand_in_its_details(renderer):
    code = PAGE + "<script>JSON.stringify = () => '{}'; document.createRange = 0; Element.prototype.closest = () => null; Math.max = () => 9</script>"
    got = inspected(renderer, "html", code, (200, 400)).details
    assert got["blocks"] == inspected(renderer, "html", PAGE, (200, 400)).details["blocks"]
    r = inspected(renderer, "html", "<p><script>document.body.textContent = 'x'.repeat(2000000)</script>", (200, 400))
    assert r.details is None and "at most" in r.message


@needs_python
def test_plain_and_inspected_jobs_are_kept_apart():
    with Renderer(workers=1, cache=9) as renderer:
        jobs = [("python", FIGURE, None, inspect) for inspect in (False, True, False, True)]
        futures = [renderer.submit(*job) for job in jobs]
        assert futures[0] is futures[2] and futures[1] is futures[3] and futures[0] is not futures[1]
        plain, told = futures[0].result(), futures[1].result()
        assert plain.details is None and told.details and plain.message == told.message == "" and np.array_equal(plain.image, told.image)
        svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"/>'
        assert renderer.submit("svg", svg, (8, 8), True).result().details is None
        assert renderer.submit("python", "1 / 0", None, True).result().details is None


@needs_python
def test_infra_stays_infra(monkeypatch):
    def lost(*_):
        raise ConnectionError("lost")
    monkeypatch.setattr(render, "Sandbox", lost)
    with Renderer(workers=1) as renderer:
        r = renderer.submit("python", FIGURE, None, True).result()
    assert r.status == "infra" and r.details is None


@pytest.mark.skipif(not REAL.exists(), reason="the real pairs are not here")
@pytest.mark.parametrize("language", ["python", "html"])
def test_real_programs_score_the_maximum_against_themselves(renderer, language):
    """Drawn plainly and inspected: the same pixels; inspected twice: the same details."""
    if available()[language]:
        pytest.skip(available()[language])
    samples = [s for s in data.read_samples(REAL.parent) if s.language == language and "matplotlib" in s.answer + s.source][::4] if language == "python" else [
        s for s in data.read_samples(REAL.parent) if s.language == "html"][::3]
    assert len(samples) >= 10
    for s in samples:
        code = extract_code(s.answer, language)[0]
        plain, a, b = renderer.render_many([(language, code, (s.width, s.height), inspect) for inspect in (False, True, True)])
        assert np.array_equal(plain.image, a.image) and plain.details is None, s.id
        assert a.details, f"{s.id}: {a.message}"
        scores = (chart_scores if language == "python" else web_scores)(a.details, b.details)
        assert min(scores.values()) > 1 - 1e-9, f"{s.id}: {scores}"
