"""
LaTeX: pdflatex makes a PDF, poppler its pixels, each in a confined child of server.py. Bare snippets get a document
around them, preambles that come again and again a format of their own.
"""
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
import zlib
from collections import Counter, OrderedDict

import numpy as np

from drawing import on_white, pdf_pixels, read_pdf

TEX_TEMPLATE = r"""\documentclass[preview, border=2pt]{standalone}
\usepackage{amsmath, amssymb, xcolor, tikz, pgfplots}
\pgfplotsset{compat=newest}
\usetikzlibrary{arrows.meta, calc, positioning, shapes}
\begin{document}
%s
\end{document}
"""


def find_tex():
    """The folder of pdflatex: VINCI_TEXBIN, else from PATH; None without one."""
    found = shutil.which("pdflatex", path=os.environ.get("VINCI_TEXBIN"))
    return os.path.dirname(found) if found else None


def split_tex(code):
    """-> (preamble, body): everything before \\begin{document}, and the rest with it. A snippet goes into
    TEX_TEMPLATE."""
    if not re.search(r"\\document(class|style)", code):
        libraries = re.findall(r"\\use(?:tikz|pgfplots)library\s*\{[^}]*\}", code)
        libraries += ["\\usepackage{chemfig}"] if "\\chemfig" in code else []
        code = TEX_TEMPLATE.replace("\\begin{document}", "\n".join([*libraries, "\\begin{document}"])) % code
    start = code.find("\\begin{document}")
    return (code[:start], code[start:]) if start >= 0 else ("", code)


def tex_message(log):
    """The first error of a log and its line, in one line."""
    lines = log.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("!"):
            where = next((" (" + l.split(" ")[0] + ")" for l in lines[i:i + 12] if re.match(r"l\.\d+", l)), "")
            return "LaTeX: " + line[1:].strip() + where
    return "LaTeX: no PDF was written"


def unpack(packed, file):
    """Copy a format: inflating one, as Debian keeps them and pdflatex dumps them, costs more than half of a small
    document."""
    with open(packed, "rb") as source, open(file, "wb") as target:
        data = source.read()
        target.write(zlib.decompressobj(31).decompress(data, 128 << 20) if data[:2] == b"\x1f\x8b" else data)


class Documents:
    """The engine of server.py for LaTeX. Works in the server's folder on job.tex, job.pdf, ..., which a document may
    have replaced by anything: they are opened as files of a hostile program."""

    def __init__(self, server):
        self.server = server
        self.seen, self.formats = Counter(), OrderedDict()    # by hash of the preamble: documents, its format's file
        self.environment = dict(PATH=server.texbin + ":/usr/bin:/bin", HOME=server.scratch, TEXMFVAR=server.scratch,
                                openin_any="p", openout_any="p", MKTEXPK="0", MKTEXTFM="0", max_print_line="1000",
                                SOURCE_DATE_EPOCH="1750000000", FORCE_SOURCE_DATE="1")
        self.base = server.cache + "/base.fmt"
        found = subprocess.run([server.texbin + "/kpsewhich", "-engine=pdftex", "pdflatex.fmt"], capture_output=True,
                               text=True, env=self.environment).stdout.strip()
        unpack(found, self.base)

    def run(self, language, code, size, inspect, deadline):
        """Typeset the document, then rasterise its first page."""
        self.preamble, self.body = split_tex(code)
        self.key = hashlib.sha256(self.preamble.encode()).hexdigest()[:16]
        problem = self.typeset(self.formats.get(self.key), deadline)
        if problem is None:
            self.seen[self.key] += 1
            problem = self.rasterise(size, deadline)
        elif problem.startswith("LaTeX"):
            problem = self.server.fail(problem)
        return problem

    def typeset(self, format_, deadline):
        """A PDF in job.pdf -> None, else what went wrong."""
        with open(os.open("job.tex", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW), "w") as file:
            file.write(self.body if format_ else self.preamble + self.body)
        for _ in range(2):
            answer, log = self.tex(["-fmt=" + (format_ or self.base), "job.tex"], deadline)
            if answer == "exit 1" or not answer and not os.path.isfile("job.pdf"):
                return tex_message(log)
            if answer or not re.search(r"Rerun to get|rerun LaTeX", log):
                return answer

    def tex(self, arguments, deadline):
        """Run pdflatex -> (None or what went wrong, its log)."""
        command = ["pdflatex", "-interaction=nonstopmode", "-no-shell-escape", *arguments]
        answer = self.server.run_child(lambda: os.execvpe(self.server.texbin + "/pdflatex", command, self.environment),
                                       deadline, may_exec=True)
        try:
            with open(os.open("job.log", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), errors="replace") as log:
                return answer, log.read(1 << 20)
        except OSError:
            return answer, ""

    def rasterise(self, size, deadline):
        """The first page of job.pdf by poppler -> as `Server.run_child`. It draws as the targets of the field were
        drawn: pdfium, though three times as fast, reproduces them to an SSIM of .97 only, since it does not snap thin
        lines to pixels. pdfium reads the page's size and texts here."""
        def read():
            _, dpi, texts = read_pdf("job.pdf", size)
            with open("job.json", "w") as file:
                json.dump(texts, file)
            os.execv(self.server.pdftoppm, ["pdftoppm", "-r", str(dpi), "-singlefile", "job.pdf", "job"])

        def take():
            from PIL import Image
            with open("job.json") as file:
                return on_white(Image.open("job.ppm", formats=["PPM"])), json.load(file)
        problem = self.server.run_child(lambda: self.server.deliver(read), deadline, may_exec=True)
        if problem or self.server.memory[0]:                    # it failed, or left an error of its own
            return problem
        return self.server.run_child(lambda: self.server.deliver(take), deadline)

    def tidy(self):
        """A preamble seen for the third time is dumped as a format of its own (the exact preamble, so that a missing
        \\usepackage stays missing) and used if it reproduces this document's pixels."""
        if self.seen[self.key] != 3 or self.key in self.formats or not self.preamble:
            return
        self.seen[self.key] += 1
        made, deadline = self.server.cache + "/" + self.key + ".fmt", time.monotonic() + 5
        os.rename("job.pdf", "plain.pdf")
        with open("job.tex", "w") as file:
            file.write(self.preamble + "\\dump\n")
        answer, _ = self.tex(["-ini", "-jobname=job", "&" + self.base.removesuffix(".fmt"), "job.tex"], deadline)
        if not answer and os.path.isfile("job.fmt"):
            unpack("job.fmt", made)
            same = lambda: os._exit(0 if np.array_equal(*(
                pdf_pixels(*read_pdf(name, None)[:2]) for name in ("job.pdf", "plain.pdf"))) else 1)
            if not self.typeset(made, deadline) and not self.server.run_child(same, deadline):
                self.formats[self.key] = made
                if len(self.formats) > 8:
                    os.unlink(self.formats.popitem(last=False)[1])
