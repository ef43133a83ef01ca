"""
LaTeX: what surrounds a bare snippet.
"""
import os
import re
import shutil


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


def find_tex():
    """The folder of pdflatex: VINCI_TEXBIN, else from PATH; None without one."""
    found = shutil.which("pdflatex", path=os.environ.get("VINCI_TEXBIN"))
    return os.path.dirname(found) if found else None
