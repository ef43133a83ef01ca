"""defects.py, refine.py: each operator changes what its name says and nothing else; pairs are sound, counted, and the same again."""
import ast
import json
import os
import random
import re
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import drawn_samples
from test_data import command

import data
import defects
import refine
from render import available
from reward import extract_code

CHART = '''import matplotlib.pyplot as plt
import numpy as np  # größer: two bytes a letter

x = np.linspace(0, 1, 5)
fig, (ax0, ax1) = plt.subplots(1, 2, figsize=(6, 3))
ax0.bar([1, 2, 3], [4.0, 5.5, 6.5], width=0.8, color='red', alpha=0.9)   # bars
ax0.set_title("Größe der first one", fontsize=12)
ax1.plot(x, x**2, 'g--', marker='o', linewidth=2, label='square')
ax1.plot(x, x**3, color="tab:blue", label='cube')
ax1.imshow([[1, 2], [3, 4]], cmap='viridis')
ax1.set_xlim(0, 2)
ax1.set_yscale('log')
ax1.tick_params(rotation=45)
ax1.grid(True)
ax1.legend(loc='upper left')
plt.show()
'''
CHEM = '''from rdkit import Chem
from rdkit.Chem import Draw

mol = Chem.MolFromSmiles("C[C@@H](N)CC1CCCC1C(=O)O")  # one molecule
img = Draw.MolToImage(mol, size=(400, 300))
img.save('molecule.png')
'''
WEB = '''<!DOCTYPE html>
<html><head><title>t</title><style>
/* kept */
.box { display: flex; justify-content: center; color: #ff0000; margin: 10px 4px; width: 50%; border: 2px solid rgb(0, 0, 255); border-radius: 5px; font-size: 14px; font-weight: bold }
</style></head><body>
<!-- kept, too -->
<div class="box" align="left"><p>Grüße an alle</p><p>second text</p></div>
<table border="1"><tr><td>one</td><td>two</td></tr></table>
</body></html>'''
SVG = '''<?xml version="1.0" encoding="utf-8"?>
<!-- größer -->
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">
  <g transform="translate(2 3)"><rect x="10" y="10" width="30" height="30" rx="4" fill="#ff0000"/></g>
  <circle cx="60" cy="60" r="20" fill='blue' stroke="black" stroke-width="2" opacity="0.9"/>
  <path d="M10.4 20.6c7.643.5-1.112 5 3 3L40.5-20z" style="fill:green"/>
  <text x="5" y="90">Two words</text>
</svg>'''
LATEX = r'''\documentclass[tikz]{standalone}
\usetikzlibrary{arrows.meta, calc} % needed
\begin{document}
\begin{tikzpicture}[scale=1.5]
  % a comment; with a semicolon
  \draw[->, thick, red] (0,0) -- (2.5,1); % kept
  \node[above right, minimum size=3mm] (a) at (1,1) {some label $x^2 + 1$};
  \draw[dashed] (a) -- (3,0) node[right] {end};
\end{tikzpicture}
\end{document}'''
PROGRAMS = {"chart": CHART, "chem": CHEM, "web": WEB, "svg": SVG, "latex": LATEX}
CASES = [(domain, op) for domain, ops in defects.OPERATORS.items() for op in ops]
# what the replaced or the new text of each operator must look like, over many draws
TOUCHES = {
    "chart_colour": r"red|tab:blue|g|color=", "chart_colormap": "cmap=", "chart_marker": "marker|'g", "chart_line": "g--|2|line", "chart_opacity": "alpha=",
    "chart_data": r"\d", "chart_series_swapped": r"x|\[", "chart_series_dropped": r"ax\d\.", "chart_legend": "legend|loc", "chart_text": "title|Größe|one|label|first|der",
    "chart_limits": "[02]|set_xlim", "chart_scale": "log|scale", "chart_figsize": "figsize|3", "chart_bars": "width=", "chart_type": "bar|plot", "chart_grid": "grid", "chart_font_size": "fontsize=",
    "chart_rotation": "rotation=", "chart_subplots": "ax[01]|[12]", "missing_import": "import", "misspelt_keyword": r"\w+", "misspelt_attribute": r"\w+", "unequal_length": r",",
    "unclosed_bracket": r"[)\]]", "chem_element": r"[CNO]", "chem_bond": "=|C", "chem_dropped": r"[()\w]", "chem_added": r"\(", "chem_stereo": "@", "chem_ring": "C", "chem_size": "[43]00",
    "broken_smiles": r"[1()]", "node_colour": "#ff0000|rgb|blue|green|black|fill", "node_dropped": "<", "node_duplicated": "<", "node_swapped": "<", "node_text": r"\w",
    "node_attribute": r"\w+=", "web_font_size": "14", "web_font_style": "bold|p", "web_spacing": "10|4", "web_layout": "flex|center", "web_width": "50", "web_border": "2|5|solid",
    "web_declaration": ":", "web_class": "box", "web_unclosed": "</|/t", "svg_stroke_width": "stroke-width=", "svg_transform": "[23]|transform", "svg_viewbox": "viewBox|0|100", "svg_coordinate": r"(x|y|cx|cy|width|height|d)=|\d",
    "svg_radius": "r=|rx=", "svg_opacity": "opacity=", "svg_rounded": r"\.", "svg_path": "[cL]", "svg_unclosed": "/", "svg_unquoted": "[\"']", "latex_colour": "red|,|\\[",
    "latex_coordinate": r"\d", "latex_text": "some|label|end", "latex_arrow": "->", "latex_line": "thick|dashed|,|\\[", "latex_dropped": r"\\draw|\\node", "latex_scale": "scale=",
    "latex_option": "thick|->|red|3|above|1.5", "latex_place": "above|right", "latex_math": r"[x2+^1]", "latex_library": "usetikz", "latex_brace": "[{}]", "latex_command": r"\w+"}


def parses(domain, code):
    if domain in ("chart", "chem"):
        ast.parse(code)
    elif domain == "svg":
        ElementTree.fromstring(code.encode())


def replaced(a, b):
    """What went and what came, from the last space before it."""
    start = len(os.path.commonprefix([a, b]))
    end = min(len(os.path.commonprefix([a[::-1], b[::-1]])), min(len(a), len(b)) - start)
    while start and not a[start - 1].isspace():
        start -= 1
    while end and a[len(a) - end].isalnum():
        end -= 1
    return a[start:len(a) - end] + " -> " + b[start:len(b) - end]


@pytest.mark.parametrize("domain, op", CASES, ids=[f"{d}-{op.__name__}" for d, op in CASES])
def test_each_operator_changes_what_its_name_says(domain, op):
    code, failing = PROGRAMS[domain], op.__name__ in defects.FAILING
    found = [op(random.Random(seed), code) for seed in range(30)]
    assert all(found), "it does not apply"
    for new, change in found:
        assert new != code and change and " -> " in change and "\n" not in change and len(change) <= 120
        assert refine.edit_share(code, new) < 0.6
        if not failing:
            parses(domain, new)
        if "swapped" not in op.__name__:
            assert re.search(TOUCHES[op.__name__], replaced(code, new)), (change, replaced(code, new))
        for kept in ("# größer: two bytes a letter", "# one molecule", "/* kept */", "<!-- kept, too -->", "<!-- größer -->", "% a comment; with a semicolon"):
            assert (kept in new) == (kept in code) or op.__name__ in ("missing_import",)
    assert op(random.Random(5), code) == op(random.Random(5), code)


@pytest.mark.parametrize("name, before, after", [
    ("chart_colour", "ax.bar(x, y, color='red')  # bars", r"ax\.bar\(x, y, color='(?!red)\w+'\)  # bars"),
    ("chart_type", "ax.bar(x, y, width=0.3)", r"ax\.barh\(x, y, height=0\.3\)"),
    ("chart_legend", "ax.plot(x)\nax.legend()  # gone\nax.grid()", r"ax\.plot\(x\)\n(ax\.legend\(loc='center'\)  # gone\n)?ax\.grid\(\)"),
    ("chart_series_dropped", "if x:\n    ax.plot(x)", "if x:\n    pass"),
    ("chart_series_dropped", "a = ax.bar(x, y)\nax.bar_label(a)\n", r"a = ax\.bar\(x, y\)\n"),
    ("chart_text", "ax.set(title='Größe, first', xlim=(0, 1))", r"ax\.set\(title='(?!Größe, first').+', xlim=\(0, 1\)\)"),
    ("chart_subplots", "axs[0].plot(x)\naxs[1].bar(x, y)\naxs[0].grid()", r"axs\[1\]\.plot\(x\)\naxs\[0\]\.bar\(x, y\)\naxs\[1\]\.grid\(\)"),
    ("chart_series_swapped", "ax.plot(x, 'é', y + 1)", r"ax\.plot\(y \+ 1, 'é', x\)"),
    ("chart_bars", "ax.bar(x, b, bottom=a, width=0.5)", r"ax\.bar\(x, b(, width=0\.5|, bottom=a, width=(?!0\.5)\S+)\)"),
    ("chem_element", "m = Chem.MolFromSmiles('F')", r"m = Chem\.MolFromSmiles\('(Cl|Br)'\)"),
    ("chem_bond", "m = Chem.MolFromSmiles('F/C=C\\\\F')", None),  # a literal with escapes is left alone
    ("chem_stereo", "for s in ['C[C@H](O)F']:\n    Chem.MolFromSmiles(s)", r"for s in \['C\[CH\]\(O\)F'\]:\n    Chem\.MolFromSmiles\(s\)"),
    ("broken_smiles", "m = Chem.MolFromSmiles('C1CC1')", r"m = Chem\.MolFromSmiles\('(CCC1|C1CC)'\)"),
    ("svg_coordinate", '<svg viewBox="0 0 10 10"><path d="M1.5.5"/></svg>', r'<svg viewBox="0 0 10 10"><path d="M-?\d\.\d \.5"/></svg>|.*d="M1\.5 ?-?\d*\.\d"/></svg>'),
    ("svg_rounded", '<svg><path d="M7.6.4-1.2 3"/></svg>', r'<svg><path d="M8 0-1 3"/></svg>'),
    ("node_swapped", '<svg><a/><b>x</b></svg>', '<svg><b>x</b><a/></svg>'),
    ("svg_unclosed", "<svg><a>é</a></svg>", "<svg><a>é</svg>|<svg><a>é</a>"),
    ("svg_unclosed", '<!DOCTYPE svg [<!ENTITY e "e">]><svg>&e;</svg>', None),
    ("web_declaration", '<p style="color: red; margin: 0">x</p>', '<p style=" ?margin: 0">x</p>|<p style="color: red; ">x</p>'),
    ("web_spacing", "<style>a:hover { margin: 1px }</style><p>x</p>", None),  # nobody hovers
    ("node_text", "<ul><li>one<li>two</ul><p>a &amp; b</p>", None),  # neither closed nor plain
    ("latex_arrow", "\\begin{tikzpicture}\\draw[->] (0,0) -- (1,1);\\end{tikzpicture}", r".*\\draw\[(<-|-|<->)\] .*"),
    ("latex_dropped", "\\begin{tikzpicture}\n\\node (a) at (0,0) {};\n\\draw (a) -- (1,1);\n\\end{tikzpicture}", r"\\begin\{tikzpicture\}\n\\node \(a\) at \(0,0\) \{\};\n\\end\{tikzpicture\}"),
    ("latex_text", "\\begin{tikzpicture}\\addplot[red] {sin(x)};\\end{tikzpicture}", None),  # a formula is no text
    ("latex_math", "x", r"[abyzn]"),
    ("latex_math", "\\frac{1}{\\text{one}} = \\alpha", r"(?!\\frac\{1\}\{\\text\{one\}\} = \\alpha)\\frac\{\d\}\{\\text\{one\}\} . \\\w+"),
    ("chart_colour", "ax.plot(x", None), ("node_dropped", "", None), ("latex_math", "", None)])
def test_exactly(name, before, after):
    domain = next(d for d in ("chart", "chem", "svg", "web", "latex") if name in [o.__name__ for o in defects.OPERATORS[d]] and (d != "svg" or "<svg" in before))
    op = next(o for o in defects.OPERATORS[domain] if o.__name__ == name)
    for seed in range(12):
        found = op(random.Random(seed), before)
        assert (found is None) == (after is None), found
        assert after is None or re.fullmatch(after, found[0]), found


def test_mutate_takes_as_many_as_asked_and_failing_ones_last():
    for domain, code in PROGRAMS.items():
        for seed in range(20):
            new, names, changes = defects.mutate(random.Random(seed), domain, code, 3)
            assert len(names.split("+")) == 3 == len(set(names.split("+"))) and not set(names.split("+")) & defects.FAILING and new != code and changes
            if domain != "web":
                names = defects.mutate(random.Random(seed), domain, code, 2, failing=True)[1].split("+")
                assert [n in defects.FAILING for n in names] == [False, True]
    assert defects.mutate(random.Random(0), "web", WEB, 1, failing=True) is None  # a browser forgives everything
    assert defects.mutate(random.Random(0), "svg", "no program") is None


def test_plan_is_a_function_of_seed_and_id_with_the_shares_asked_for():
    kinds = [refine.plan(0, f"s{i}", 0.07)[0] for i in range(4000)]
    share = {kind: n / 4000 for kind, n in Counter(kinds).items()}
    assert 0.05 < share["none"] < 0.10 and 0.11 < share["failing"] < 0.17
    assert kinds == [refine.plan(0, f"s{i}", 0.07)[0] for i in range(4000)] != [refine.plan(1, f"s{i}", 0.07)[0] for i in range(4000)]


def test_visible_and_edit_share():
    white = np.full((100, 100, 3), 255, np.uint8)
    faint, clear = white.copy(), white.copy()
    faint[:50] -= 20
    clear[:2, :5] = 0
    assert not refine.visible(white, faint) and refine.visible(white, clear) and refine.visible(white, white[:99])
    clear[:2, :5], clear[0, :5] = 255, 0
    assert not refine.visible(white, clear)  # 5 of 10,000
    assert refine.edit_share("a b c d", "a b c d") == 0 and refine.edit_share("aaaa", "bbbb") == 1 and 0 < refine.edit_share("one two three", "one too three") < 0.3


def test_the_message_of_the_renderer_is_one_line_without_a_fence():
    sample = drawn_samples(1)[0]
    sample.language, sample.answer = "svg", "text\n```svg\n<svg/>\n```"
    pair = refine.pair_of(sample, "x-refine", "<svg>", "svg_unclosed", "/ -> nothing", "no\n```\nend")
    assert pair.prompt.splitlines()[-1] == "Running it fails: no ''' end" and extract_code(pair.prompt, "svg")[0] == "<svg>"
    assert pair.answer == "```svg\n<svg/>\n```" and pair.task == "refine" and pair.image == sample.image and sample.task == "generate"


# ----------------------------------------------------------------------------------------------------------- end to end

@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """sft: 16 SVG programs, 2 charts, one that does not run, one blank on which no edit shows, a target, a refinement sample; rl: 2 SVG programs."""
    if any(available()[language] for language in ("svg", "python")):
        pytest.skip("SVG or Python cannot be rendered here")
    path = tmp_path_factory.mktemp("programs") / "in"
    shapes = lambda i: (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">\n<rect x="{i}" y="9" width="20" height="{20 + i}" fill="red"/>\n'
                        f'<circle cx="40" cy="{20 + i}" r="12" fill="blue"/>\n<path d="M1 1L{30 + i} 5L3 30z" fill="green"/>\n</svg>')
    chart = "import matplotlib.pyplot as plt\nplt.figure(figsize=(2, 2))\nplt.bar([1, 2, 3], [%d, 5, 3], color='red')\nplt.title('Some title')\nplt.savefig('a.png')"
    blank = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><desc/></svg>'
    sources = [("svg", shapes(i)) for i in range(16)] + [("python", chart % i) for i in (2, 4)] + [("svg", "<svg"), ("svg", blank)]
    samples = [data.Sample("draw", data.fenced(language, code), drawn_samples(1)[0].image, id=f"s{i}", language=language, domain=data.DOMAIN_OF[language], license="CC0-1.0", source="test", width=64, height=64)
               for i, (language, code) in enumerate(sources)]
    target, refined, more = (data.Sample(**vars(samples[0])) for _ in range(3))
    target.id, target.answer = "target", ""
    refined.id, refined.task = "refined", "refine"
    more.id = "more"
    data.write_samples(samples + [target, refined], path / "sft" / "part-0.parquet")
    data.write_samples([more], path / "rl" / "part-0.parquet")
    return path


def test_refine_end_to_end(programs, tmp_path):
    result = command("refine", programs, "--out", tmp_path / "one", "--workers", 1, "--correct", 0.1, "--seed", 4)  # a seed that plans some of each kind
    assert result.returncode == 0, result.stderr
    given = {s.id: s for split in ("sft", "rl") for s in data.read_samples(programs / split)}
    written = [s for split in ("sft", "rl") for s in data.read_samples(tmp_path / "one" / split)]
    pairs = [s for s in written if s.id not in given]
    assert [s for s in written if s.id in given] == [given[s.id] for s in written if s.id in given] and len(written) - len(pairs) == len(given) == 23
    reasons = {r["id"]: r["reason"] for r in map(json.loads, open(tmp_path / "one" / "rejects.jsonl"))}
    assert reasons == {"s18": "the correct side does not run: error", "s19": "no visible defect found", "target": "target without code", "refined": "a refinement sample already"}
    assert {s.id for s in pairs} == {f"{i}-refine" for i in given if i not in reasons}
    failing = 0
    for s in pairs:
        origin, defective, names = given[s.id.removesuffix("-refine")], extract_code(s.prompt, s.language)[0], s.operator.split("+")
        assert (s.task, s.answer, s.image, s.license, s.source, s.width, s.height) == ("refine", origin.answer, origin.image, "CC0-1.0", "test", 64, 64)
        assert (defective == extract_code(s.answer, s.language)[0]) == (s.operator == "none") and (s.change == "") == (s.operator == "none")
        assert ("Running it fails: " in s.prompt) == bool(set(names) & defects.FAILING)
        failing += "Running it fails: " in s.prompt
    wrong = sum(s.operator != "none" for s in pairs)
    assert 1 <= failing <= 0.2 * wrong and f"kept {len(pairs)} pairs: {wrong - failing} with a visible defect, {failing} that fail, {len(pairs) - wrong} without" in result.stdout

    stamp = (tmp_path / "one" / "sft" / "part-00000.parquet").stat().st_mtime_ns
    assert command("refine", programs, "--out", tmp_path / "one", "--correct", 0.1, "--seed", 4).stdout == result.stdout  # and nothing is done again
    assert (tmp_path / "one" / "sft" / "part-00000.parquet").stat().st_mtime_ns == stamp
    command("refine", programs, "--out", tmp_path / "two", "--workers", 2, "--correct", 0.1, "--seed", 4, "--only")
    assert [s for split in ("sft", "rl") for s in data.read_samples(tmp_path / "two" / split)] == pairs


def test_a_models_own_mistakes(programs, tmp_path):
    given = {s.id: s for s in data.read_samples(programs / "sft")}
    right, broken = given["s1"].answer, "```svg\n<svg>\n```"
    other = given["s1"].answer.replace('fill="red"', 'fill="black"').replace('r="12"', 'r="25"')
    row = lambda id, response, k=0: {"id": id, "mode": "t1", "k": k, "response": response}
    rows = [row("s1", right), row("s1", "no code", 1), row("s1", other, 2), row("s1", broken, 3), row("s2", given["s2"].answer), row("s3", broken), row("refined", broken), row("nobody", broken)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "broken line\n")
    result = command("refine", programs, "--out", tmp_path / "out", "--from", tmp_path / "p.jsonl", "--only", "--workers", 1)
    assert result.returncode == 0, result.stderr
    made = {s.id: s for s in data.read_samples(tmp_path / "out" / "sft") if s.operator == "model"}
    assert made["s1-refine-model"].change == "render differs" and extract_code(made["s1-refine-model"].prompt, "svg")[0] == extract_code(other, "svg")[0]
    assert made["s1-refine-model"].answer == right and "s2-refine-model" not in made
    for words in ("9 predictions", "2 right", "1 no code", "1 differs", "1 not needed", "1 sample not used", "2 broken or of no sample here"):
        assert words in result.stdout, (words, result.stdout)
    assert "1 fails" in result.stdout and ("s3-refine-model" in made) == ("as enough others" not in result.stdout)
    assert "Running it fails" not in made["s1-refine-model"].prompt


@pytest.mark.parametrize("out, predictions, words", [("no", "absent.jsonl", "does not exist"), (".", None, "another one")])
def test_bad_arguments_are_one_line(tmp_path, out, predictions, words):
    with pytest.raises(SystemExit, match=words):
        refine.refine_samples(tmp_path, tmp_path / out, predictions=predictions and tmp_path / predictions)
