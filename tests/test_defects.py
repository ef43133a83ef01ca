"""defects.py and what it takes: each operator changes what its name says and nothing else."""
import ast
import os
import random
import re
from xml.etree import ElementTree

import pytest

import defects
from refine import edit_share

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
        assert edit_share(code, new) < 0.6
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


DIGITS = "9" * 400  # more than a float holds


@pytest.mark.parametrize("domain, code", [
    ("chart", f"ax.bar([1, 2, {DIGITS}], [1e999, 2, 3], width={DIGITS}, alpha=1e999)"),
    ("chem", f"Draw.MolToImage(Chem.MolFromSmiles('CC'), size=({DIGITS}, 1e999))"),
    ("svg", f'<svg viewBox="0 0 {DIGITS} 1e999"><path d="M{DIGITS} 1e999"/></svg>'), ("web", "<![x[ <p>y</p>"),
    ("web", "<style>a {\fcolor: red;\r margin: 1px }</style>\r<a>x</a>"),
    ("latex", f"\\begin{{tikzpicture}}[scale={DIGITS}]\\draw ({DIGITS},0) -- (1,{DIGITS});\\end{{tikzpicture}} ${DIGITS}$"),
    *((domain, code) for domain in PROGRAMS for code in ("", "\0", "\r", "[", "<", "\\"))])
def test_odd_programs_are_no_accident(domain, code):
    """They become another program or none, without an exception."""
    for op in defects.OPERATORS[domain]:
        for seed in range(5):
            found = op(random.Random(seed), code)
            assert found is None or found[0] != code


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
