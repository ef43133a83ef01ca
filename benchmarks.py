"""Public benchmarks: their rows as Samples, and published numbers to print beside ours.

    python eval.py --model DIR --benchmark chartmimic --data FOLDER --out OUT         # or --data ORG/NAME of the hub
    python eval.py --predictions FILE --benchmark unisvg --data FOLDER --out OUT

A loader reads the layout in which the benchmark is published; where that layout is documented stands at the loader.
How to get each, what is comparable and what is not: docs/benchmarks.md.

Prompts. Those of the benchmark's own harness in short words (the source at each loader), then which fence is wanted,
since an answer without its fence is no code here. UniSVG's are stored in its rows and used as they are.

Left out: ChartMimic's customized task, Plot2Code with instructions and in plotly, the other parts of Image2Struct and
UniSVG, all judges (GPT-4o ratings), ChemDraw (no public copy was found).
"""
import json
import os
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import data

WARNING = ("Published numbers come from other harnesses: prompts, splits, judges, renderers and what counts as a "
           "failure differ, so a few points mean nothing. Ours: a program that fails counts 0 everywhere; an answer "
           "needs exactly one fenced block.")


# -------------------------------------------------------------------------------------------------------------- reading

def read_files(root, wanted):
    """{name: bytes} of the files below `root` whose name `wanted` accepts; names begin with that of `root`.

    root: a folder, or one .zip, .tar or .tar.gz. Of a folder that holds no wanted file the archives in it are read.
    Raises SystemExit with one line where an archive cannot be read.
    """
    if root.is_dir():
        names = {name_below(root, f): f for f in sorted(root.rglob("*")) if not f.name.startswith(".")}
        found = {name: f.read_bytes() for name, f in names.items() if wanted(name) and f.is_file()}
        return found or {name: raw for f in sorted(root.glob("*")) if f.suffix in (".gz", ".tgz", ".tar", ".zip")
                         for name, raw in read_files(f, wanted).items()}
    visible = lambda name: wanted(name) and not Path(name).name.startswith(".")  # macOS packs ._NAME beside NAME
    try:
        if root.suffix == ".zip":
            with zipfile.ZipFile(root) as archive:
                return {name: archive.read(name) for name in archive.namelist() if visible(name)}
        with tarfile.open(root) as archive:
            return {m.name: archive.extractfile(m).read() for m in archive if m.isfile() and visible(m.name)}
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError, zlib.error) as e:  # RuntimeError: encrypted
        why = str(e).splitlines()[0].strip(":")
        raise SystemExit(f"error: {root} is no readable archive ({why}). Is its download complete?") from None


def parquet_rows(files, columns):
    """Yield the rows of parquet files as dicts of `columns`.

    Raises SystemExit with one line where a file lacks one of them or is not parquet.
    """
    import pyarrow.parquet as pq
    for file in files:
        try:
            with pq.ParquetFile(file) as parquet:
                names = parquet.schema_arrow.names
                if missing := [c for c in columns if c not in names]:
                    raise SystemExit(f"error: {file} has no column {', '.join(missing)} "
                                     f"(its columns: {', '.join(names)}).")
                for batch in parquet.iter_batches(data.ROW_GROUP, columns=columns):
                    yield from batch.to_pylist()
        except OSError:
            raise
        except Exception as e:  # pyarrow raises several unrelated classes for a broken file
            raise SystemExit(f"error: {file} is not a readable parquet file ({str(e).splitlines()[0]}).") from None


def name_below(root, file):
    """Path of a file below the folder `root` as text that begins with the folder's own name, as in an archive of it."""
    return f"{root.name}/{file.relative_to(root).as_posix()}"


def below(root, pattern, *words):
    """Files of the folder `root` that match `pattern` and have all `words` in their path, in name order.

    `root` may also be one file, of which the pattern alone is asked.
    """
    if root.is_file():
        return [root] if root.match(pattern) else []
    return [f for f in sorted(root.rglob(pattern)) if all(word in name_below(root, f) for word in words)]


def text(raw):
    """bytes -> str; "" where they are no UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def picture(cell):
    """A cell of a Hugging Face Image column, bytes or {"bytes": ..., "path": ...} -> bytes."""
    return (cell.get("bytes") if isinstance(cell, dict) else cell) or b""


def pairs(files, ending):
    """{name: bytes} -> [(stem, code, image)] of each stem that has STEM + `ending` or STEM.png; what lacks is empty."""
    stems = sorted({n.removesuffix(ending).removesuffix(".png") for n in files})
    return [(Path(s).name, text(files.get(s + ending, b"")), files.get(s + ".png", b"")) for s in stems]


# -------------------------------------------------------------------------------------------------------------- loaders
# Each yields (id, prompt, code, image bytes) of its rows; an empty code or image is set aside by `load`.

def chartmimic(root):
    """ChartMimic, Direct Mimic, the 600 of the published comparisons: direct_600/ in dataset-iclr.tar.gz.

    Layout: NAME.py beside NAME.png, see README of github.com/ChartMimic/ChartMimic, "New Version"; the same folders in
    VLMEvalKit's vlmeval/dataset/chartmimic.py. Prompt: chart2code/prompts/DirectAgent/gpt-4-vision-preview.json. The
    figsize it states is read from the reference program, as the harness's own table of sizes (dimentions_info.jsonl)
    has it.
    """
    files = read_files(root, lambda n: "direct_600/" in n and n.endswith((".py", ".png")))
    for name, code, image in pairs(files, ".py"):
        size = re.search(r"figsize\s*=\s*\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)", code)
        yield name, ("Write the matplotlib code that reproduces this picture from a paper."
                     + (f" Use figsize=({size[1]}, {size[2]}), the size of the original." if size else "")), code, image


def design2code(root):
    """Design2Code, 484 pages: NAME.png, NAME.html (SALT-NLP/Design2Code), or parquet (SALT-NLP/Design2Code-hf).

    Layout: README of github.com/NoviScl/Design2Code, "Testset"; the parquet's columns `image`, `text`: the hub's
    dataset page. Prompt: direct_prompting of Design2Code/prompting/gpt4o.py. Pages show rick.jpg for every image; here
    no file is served, so those places stay empty.
    """
    prompt = ("Write one HTML file, its CSS inside, that reproduces this screenshot of a web page. Use rick.jpg for "
              "every image, also for those replaced by a blue rectangle. No other external files and no JavaScript. "
              "Mind size, text, position and colour of all elements.")
    if tables := below(root, "*.parquet"):
        rows = enumerate(parquet_rows(tables, ["image", "text"]))
        rows = ((str(i), row["text"] or "", picture(row["image"])) for i, row in rows)
    else:
        rows = pairs(read_files(root, lambda n: n.endswith((".html", ".png"))), ".html")
    for name, code, image in rows:
        yield name, prompt, code, image


def unisvg(root):
    """UniSVG, image to SVG: the ISVGEN rows of test.json, pictures in png/ or png.zip beside it.

    Layout: infer.py and evaluation.py of github.com/Ryanlijinke/unisvg.github.io (q_text, a_text, image_path, type);
    files: the hub's page of lili24/UniSVG. Prompt: q_text. What the folder in png.zip is called is not documented:
    names are matched with and without png/. Raises SystemExit with one line for any other test.json.
    """
    table = root if root.is_file() else root / "test.json"
    try:
        rows = json.loads(table.read_bytes())
        rows = [(r["image_path"], r["q_text"], r["a_text"]) for r in rows if r["type"] == "ISVGEN"]
    except FileNotFoundError:
        return
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise SystemExit(f"error: {table} is not UniSVG's list of objects with type, image_path, q_text, a_text "
                         f"({type(e).__name__}: {e}).") from None
    folder, names = table.parent, {str(path) for path, _, _ in rows}
    if (folder / "png").is_dir():  # looked up by name: the folder holds the pictures of all 525,000 rows
        found = {n: f.read_bytes() for n in names if (f := folder / "png" / n).is_file()}
    elif (folder / "png.zip").is_file():
        bare = lambda n: n.removeprefix("./").removeprefix("png/")
        found = {bare(n): raw for n, raw in read_files(folder / "png.zip", lambda n: bare(n) in names).items()}
    else:
        found = {}
    for path, question, answer in rows:
        code = re.search(r"<svg.*</svg>", str(answer), re.S)
        yield str(path).removesuffix(".png"), str(question).strip(), code[0] if code else "", found.get(str(path), b"")


def image2latex(root):
    """Image2Struct, LaTeX plots: plot/validation-*.parquet of stanford-crfm/image2struct-latex-v1.

    Layout (`image`, `text`, `uuid`): the hub's dataset card; that uuid stands in quotation marks:
    image2struct_scenario.py of github.com/stanford-crfm/helm. Prompt: BASE_PROMPT of its latex_scenario.py. HELM
    compiles the reference anew; the published picture is the target here.
    """
    prompt = ("Write the LaTeX code that draws this image. Only the code of what is seen: imports, begin and end of "
              "the document are put around it.")
    for row in parquet_rows(below(root, "*.parquet", "plot", "validation"), ["image", "text", "uuid"]):
        yield str(row["uuid"]).strip('"'), prompt, row["text"] or "", picture(row["image"])


def plot2code(root):
    """Plot2Code, direct asking, the 132 matplotlib plots: data/python_matplotlib/test/metadata.jsonl and its PNGs.

    Layout: the hub's page of TencentARC/Plot2Code (file_name, code of a line) and plot2code/utils.py of
    github.com/TencentARC/Plot2Code, whose `direct_prompt` is the prompt. An older revision has test/metadata.jsonl.
    """
    prompt = "Write matplotlib code that draws a plot as similar as possible to this image."
    for table in [f for f in below(root, "metadata.jsonl") if "plotly" not in f.parent.parent.name]:
        for i, line in enumerate(table.read_bytes().splitlines()):
            try:
                row = json.loads(line)
                name, code = str(row["file_name"]), str(row["code"])
            except (ValueError, TypeError, KeyError, RecursionError):
                name, code = f"line {i + 1}", ""
            file = table.parent / name
            image = file.read_bytes() if code and file.is_file() else b""
            yield name.removesuffix(".png"), prompt, code, image


class Benchmark(NamedTuple):
    """How `load` gets at a benchmark, and what it says where that fails."""
    rows: object  # its loader above: root (Path) -> rows
    language: str  # of all its answers
    hub: str  # where it is published
    files: tuple  # what is fetched of it: names or patterns in the hub's repository
    layout: str  # what a local folder has to hold, in words


BENCHMARKS = {
    "chartmimic": Benchmark(chartmimic, "python", "ChartMimic/ChartMimic", ("dataset-iclr.tar.gz",),
                            "direct_600/ with NAME.py and NAME.png, or dataset-iclr.tar.gz"),
    "design2code": Benchmark(design2code, "html", "SALT-NLP/Design2Code-hf", ("data/*.parquet", "*.png", "*.html"),
                             "NAME.html and NAME.png, or parquet files with the columns image and text"),
    "unisvg": Benchmark(unisvg, "svg", "lili24/UniSVG", ("test.json", "png.zip"),
                        "test.json with ISVGEN rows, and png/ or png.zip"),
    "image2latex": Benchmark(image2latex, "latex", "stanford-crfm/image2struct-latex-v1", ("plot/validation*.parquet",),
                             "plot/validation-*.parquet with the columns image, text and uuid"),
    "plot2code": Benchmark(plot2code, "python", "TencentARC/Plot2Code", ("data/python_matplotlib/*",),
                           "data/python_matplotlib/test/metadata.jsonl and the pictures it names"),
}


def load(name, path):
    """The Samples of benchmark `name` from `path`, a local folder or file, or a hub id: a list, never empty.

    Rows without code or picture are left out and counted aloud. Raises SystemExit with one line that says what was
    expected where.
    """
    benchmark, root = BENCHMARKS[name], Path(path)
    if not root.exists():
        if not re.fullmatch(r"(hf://)?(datasets/)?[\w.-]+/[\w.-]+", str(path)):
            raise SystemExit(f"error: {path} does not exist. {name} wants a folder that holds {benchmark.layout}; "
                             f"it is published as {benchmark.hub}.")
        from corpus import download
        root = Path(download(str(path), benchmark.files))
    language, samples, aside, first = benchmark.language, [], Counter(), ""
    for id_, prompt, code, image in benchmark.rows(root):
        if why := "no readable code" if not code.strip() else "no picture" if not image else "":
            aside[why] += 1
            first = first or f"{id_}: {why}"
        else:
            question, answer = f"{prompt} Answer with one ```{language} block.", data.fenced(language, code.strip())
            samples.append(data.Sample(question, answer, image, id_, data.DOMAIN_OF[language], language, source=name))
    counts = ", ".join(f"{n} with {why}" for why, n in aside.items())
    if not samples:
        raise SystemExit(f"error: {root} holds no usable row of {name}, which is laid out as {benchmark.layout}"
                         + (f" (rows: {counts})" if aside else "") + ".")
    if os.environ.get("RANK", "0") == "0":
        print(f"{name}: {len(samples)} items" + (f"; set aside: {counts}, first {first}" if aside else ""))
    return samples


# ---------------------------------------------------------------------------------------------------- published numbers

SOURCES = {
    "CharTide": "CharTide's README, arXiv 2604.22192; Plot2Code over all items",
    "Visual-ERM": "arXiv 2603.13224v2, tables 1 and 3; ChartMimic v2 direct",
    "OCRVerse": "arXiv 2601.21639, table 2; from VinciCoder's group, on its benchmarks",
    "PrismaCoder": "the data of its project page",
}
# {benchmark: ((column, our metrics whose mean it is; () = a judge's or not computed here), ...)}
D2C = ("d2c_block", "d2c_text", "d2c_position", "d2c_color")
COLUMNS = {
    "chartmimic": (("execution", ("execution",)), ("low-level", ("chartmimic",)), ("GPT judge", ())),
    "design2code": (("low-level", D2C), ("CLIP", ("d2c_clip",)), ("mean of five", D2C + ("d2c_clip",))),
    "unisvg": (("SSIM", ("unisvg_ssim",)), ("score", ("unisvg",))),
    "image2latex": (("rendering success", ("execution",)), ("EMS", ("ems",))),
    "plot2code": (("execution", ("execution",)), ("text match", ()), ("GPT rating / 10", ())),
}
# {benchmark: ((model, source, a percentage per column; None where the source has none), ...)}
PUBLISHED = {
    "chartmimic": (
        ("GPT-4o", "CharTide", 94.7, 80.0, 87.7), ("GPT-5", "CharTide", 96.8, 82.1, 94.7),
        ("Qwen2.5-VL-7B", "CharTide", 75.0, 49.0, 51.8), ("Qwen3-VL-8B", "CharTide", 81.7, 63.7, 71.5),
        ("VinciCoder-7B", "CharTide", 91.2, 77.0, 83.4), ("VinciCoder-8B", "CharTide", 90.2, 75.8, 81.4),
        ("VinciCoder-8B-SFT", "Visual-ERM", 86.2, 68.2, 77.5), ("  + RL, DINO reward", "Visual-ERM", 90.8, 73.1, 82.3)),
    "design2code": (
        ("GPT-4o", "PrismaCoder", None, None, 88.2), ("GPT-5", "OCRVerse", 90.6, 91.0, None),
        ("Qwen2.5-VL-7B", "OCRVerse", 83.4, 87.6, None), ("Qwen3-VL-8B", "OCRVerse", 85.5, 87.2, None),
        ("Qwen3-VL-8B", "PrismaCoder", None, None, 82.8), ("VinciCoder-7B", "PrismaCoder", None, None, 76.6),
        ("VinciCoder-8B", "PrismaCoder", None, None, 81.9)),
    "unisvg": (
        ("GPT-4o", "PrismaCoder", None, 71.0), ("GPT-5", "OCRVerse", None, 77.3),
        ("Qwen2.5-VL-7B", "OCRVerse", None, 63.3), ("Qwen3-VL-8B", "Visual-ERM", 60.9, 64.2),
        ("VinciCoder-7B", "PrismaCoder", None, 85.7), ("VinciCoder-8B", "PrismaCoder", None, 87.2),
        ("VinciCoder-8B-SFT", "Visual-ERM", 81.1, 87.9), ("  + RL, DINO reward", "Visual-ERM", 76.9, 86.3)),
    "image2latex": (  # no numbers of VinciCoder were found outside its own paper
        ("GPT-5", "OCRVerse", 78.7, 57.4), ("Qwen2.5-VL-7B", "OCRVerse", 42.7, 25.5),
        ("Qwen3-VL-8B", "OCRVerse", 47.7, 33.0), ("OCRVerse-4B", "OCRVerse", 88.7, 63.1)),
    "plot2code": (
        ("GPT-4o", "CharTide", 87.1, 52.6, 56.6), ("GPT-5", "CharTide", 87.8, 61.9, 72.8),
        ("Qwen2.5-VL-7B", "CharTide", 68.9, 33.7, 30.4), ("Qwen3-VL-8B", "CharTide", 76.5, 36.3, 39.1),
        ("VinciCoder-7B", "CharTide", 68.9, 33.6, 33.9), ("VinciCoder-8B", "CharTide", 85.6, 49.8, 44.9)),
}


def notes(name):
    """Lines that belong below the table of benchmark `name`: its sources and the warning."""
    return [*(f"{source}: {SOURCES[source]}" for source in dict.fromkeys(row[1] for row in PUBLISHED[name])), WARNING]
