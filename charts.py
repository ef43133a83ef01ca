"""
Python programs: charts by matplotlib and plotly, molecules by RDKit and Indigo, pictures by Pillow.

The program runs as it is, in a confined child that ends with it. Saving and showing are patched in the libraries that
the server has imported, so that pixels are taken from where they are drawn: no source is rewritten, and files are only
read where no library that is patched has written them.
"""
import contextlib
import functools
import glob
import os
import sys
from collections import Counter

import numpy as np

from drawing import MAX_CODE, Figure, check_size, describe, draw_svg, on_white, pdf_pixels, read_pdf


def draw_python(code, size, inspect=False):
    """-> (pixels uint8 [H, W, 3], texts or None, details), of the last image saved, else the newest file, else the
    last shown.

    The image has the size that the program gave it, `size` is ignored. details (inspect): as DETAILS in render.py,
    None without a matplotlib figure, or a str that says why there are none. Raises Figure for plotly's, Rejected for
    what is too large, RuntimeError where nothing was drawn, and whatever the program raises."""
    import random
    import types
    random.seed(0)
    np.random.seed(0)
    fresh_generator = np.random.default_rng
    np.random.default_rng = lambda seed=None: fresh_generator(0 if seed is None else seed)
    saved, shown, molecules = [], [], []      # of (image, texts, details) or Figure; SMILES strings
    plain_save = patch_pillow(saved, shown)
    if "rdkit" in sys.modules or "indigo" in sys.modules:
        patch_molecules(molecules)
    if "matplotlib" in sys.modules:
        patch_matplotlib(saved, shown, plain_save, inspect)
    if "plotly" in sys.modules:
        patch_plotly(saved, shown)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = "program.py"
    try:
        exec(compile(code, "program.py", "exec"), main.__dict__)
    except SystemExit as stop:
        if stop.code:
            raise
    if not saved:
        saved = read_image_files() or shown
    pyplot = sys.modules.get("matplotlib.pyplot")
    if not saved and pyplot and pyplot.get_fignums():
        pyplot.show()
        saved = shown
    if not saved:
        raise RuntimeError("the program drew nothing: it neither saved nor showed an image")
    if isinstance(saved[-1], Figure):
        raise saved[-1]
    image, texts, details = saved[-1]
    image = on_white(image)
    if molecules and not texts:
        texts = [(smiles, (0, 0, image.shape[1], image.shape[0])) for smiles in dict.fromkeys(molecules[-99:])]
    return image, texts, details


def patch_molecules(molecules):
    """What a drawing of a molecule says is the molecule: its canonical SMILES is its text, wherever the atoms have
    been put."""
    def noting(owner, name, smiles_of):
        plain = getattr(owner, name)

        def draw(*args, **options):
            for thing in args[:2]:               # the drawing itself comes first or not, as for a function or a method
                with contextlib.suppress(Exception):
                    molecules.extend(smiles_of(m) for m in (thing if isinstance(thing, (list, tuple)) else [thing]))
            return plain(*args, **options)
        setattr(owner, name, draw)
    if "rdkit" in sys.modules:
        from rdkit import Chem
        from rdkit.Chem.Draw import rdMolDraw2D
        canonical = lambda m: Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(m)))
        for name in ("DrawMolecule", "DrawMolecules", "DrawMoleculeWithHighlights"):
            noting(rdMolDraw2D.MolDraw2D, name, canonical)
        noting(rdMolDraw2D, "PrepareAndDrawMolecule", canonical)
    if "indigo" in sys.modules:
        from indigo.renderer import IndigoRenderer
        for name in ("renderToFile", "renderToBuffer"):
            noting(IndigoRenderer, name, lambda m: m.canonicalSmiles())


def patch_matplotlib(saved, shown, plain_save, inspect):
    """Every way to save or show ends in print_png, which keeps the pixels that Agg has drawn, the texts and where they
    stand, and with inspect the details. plain_save: Pillow's own save, which is not to be noted."""
    import matplotlib.figure
    import matplotlib.pyplot as pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from PIL import Image
    drawn, texts, written = [], [], []
    look = trace_matplotlib(written) if inspect else lambda figure: None
    plain_savefig, plain_text = matplotlib.figure.Figure.savefig, Text.draw

    def draw_text(text, renderer, *args, **options):
        plain_text(text, renderer, *args, **options)
        if text.get_visible() and text.get_text().strip() and len(texts) < 2000:
            x0, y0, x1, y1 = text.get_window_extent(renderer).extents
            texts.append((text.get_text().strip(), (x0, renderer.height - y1, x1, renderer.height - y0)))
    Text.draw = draw_text

    def print_png(canvas, filename, *, pil_kwargs=None, **ignored):
        texts.clear(), written.clear()           # what was drawn before only measured the layout
        check_size(*canvas.get_width_height())
        FigureCanvasAgg.draw(canvas)
        drawn.append((np.array(canvas.buffer_rgba()), texts[:], look(canvas.figure)))    # uint8 [H, W, 4]
        if filename is not None:                 # fast compression: the file is for the program, not for us
            plain_save(Image.fromarray(drawn[-1][0]), filename, format="png", compress_level=1)
    FigureCanvasAgg.print_png = print_png

    def savefig(figure, *args, **options):
        before = len(drawn)
        plain_savefig(figure, *args, **options)
        if len(drawn) == before:                 # any other format: the same figure once more as pixels
            options = {k: v for k, v in options.items() if k not in ("format", "metadata", "backend", "fname")}
            plain_savefig(figure, None, format="png", **options)
        saved.append(drawn[-1])
    matplotlib.figure.Figure.savefig = savefig

    def show(figure, *args, **options):
        plain_savefig(figure, None, format="png", dpi="figure")
        shown.append(drawn[-1])
    matplotlib.figure.Figure.show = show
    pyplot.show = lambda *args, **options: [show(pyplot.figure(number)) for number in pyplot.get_fignums()] and None


def patch_plotly(saved, shown):
    """Nothing is drawn here: a figure that is saved or shown is kept as a Figure, JSON for the browser."""
    import plotly.io
    import plotly.offline
    from plotly.basedatatypes import BaseFigure

    def take(kept):
        def draw(figure, *args, width=None, height=None, scale=None, **options):
            figure = figure if isinstance(figure, BaseFigure) else plotly.io._utils.validate_coerce_fig_to_dict(
                figure, True)
            kept.append(Figure(plotly.io.to_json(figure), width, height, scale or 1))
            return b""
        return draw
    for owner, name, kept in ((plotly.io, "write_image", saved), (plotly.io, "to_image", saved),
                              (plotly.io, "write_html", saved), (plotly.io, "show", shown),
                              (plotly.offline, "plot", shown), (plotly.offline, "iplot", shown),
                              (BaseFigure, "write_image", saved), (BaseFigure, "to_image", saved),
                              (BaseFigure, "write_html", saved), (BaseFigure, "show", shown)):
        setattr(owner, name, take(kept))


def patch_pillow(saved, shown):
    """Images that the program saves or shows are kept. -> the save that was there before."""
    from PIL import Image
    plain_save = Image.Image.save

    def save(image, target, *args, **options):
        plain_save(image, target, *args, **options)
        saved.append((image.copy(), None, None))
    Image.Image.save = save
    Image.Image.show = lambda image, *args, **options: shown.append((image.copy(), None, None))
    return plain_save


def read_image_files():
    """[(image uint8 [H, W, 3], texts or None, None)] of the newest image file in the working folder, [] without one.
    Raises what its reader raises."""
    from PIL import Image
    files = [f for f in glob.glob("**/*", recursive=True)
             if f.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".svg", ".pdf"))]
    if not files:
        return []
    newest = max(files, key=lambda f: os.lstat(f).st_mtime_ns)
    # a link or a fifo put in place of the file must neither lead us elsewhere nor make us wait
    with os.fdopen(os.open(newest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if newest.lower().endswith(".svg"):
            return [(*draw_svg(file.read(MAX_CODE).decode(), None), None)]
        if newest.lower().endswith(".pdf"):
            page, dpi, texts = read_pdf(file.read(64 << 20), None)
            return [(pdf_pixels(page, dpi), texts, None)]
        return [(on_white(Image.open(file, formats=["PNG", "JPEG", "WEBP", "GIF", "BMP"])), None, None)]


# ---------------------------------------------------------------------------------------- what inspect=True tells

def trace_matplotlib(written):
    """From here on plotting calls of matplotlib and networkx are noted. -> look(figure): DETAILS of the figure just
    drawn, or a str that says why there are none. written: a list that receives the strings drawn and the Text of each;
    the caller empties it before a drawing that counts.

    What is noted, of which call and when, is ChartMimic's (github.com/ChartMimic/ChartMimic,
    chart2code/utils/evaluator). types: the outermost calls of the functions that chart_type_evaluator_prefix.py lists.
    colors: read when a thing is made and again at the end, of the last thing made in each colour
    (color_evaluator_prefix.py). layout: the place of each Axes in its grid (layout_evaluator.py). texts: the lines that
    reach the renderer once the x and y ticks of all Axes are gone (text_evaluator.py); here the ticks stay, their
    strings are left out. Deviations: calls in which it sees nothing are noted too (MORE, MORE_3D), or a heat map by
    pcolormesh would be judged on nothing; squarify and matplotlib_venn are not; of several figures only the one that
    was drawn counts.
    """
    trace = Trace(written)
    watch_types(trace)
    watch_colours(trace)
    watch_texts(written)
    return trace.details


# Functions of Axes and of Axes3D in whose calls ChartMimic's evaluator sees nothing.
MORE = "pcolormesh hexbin stairs eventplot barbs streamplot tricontour tricontourf"
MORE_3D = "plot_wireframe plot_trisurf quiver fill_between"


class Trace:
    """What a program plots, noted call by call: `count` and `colour` say of which functions, `details` tells it all."""

    def __init__(self, written):
        self.calls, self.made = [], {}            # [(call, first argument)]; {(call, colour): (part, its reader)}
        self.counting, self.colouring = [0], [0]  # depth inside watched functions
        self.written = written                    # [(string, Text or None)]

    def watch(self, owner, name, depth, note):
        """note(result, options, *args) is called after each outermost call of owner.name."""
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def call(*args, **options):
            depth[0] += 1
            try:
                result = plain(*args, **options)
            finally:
                depth[0] -= 1
            if not depth[0]:
                with contextlib.suppress(Exception):                       # it must not fail the program
                    note(result, options, *args)
            return result
        setattr(owner, name, call)

    def count(self, owner, names, call=None, suffix=""):
        """Note the calls of these functions, named as they are or `call`."""
        from matplotlib.projections.polar import PolarAxes

        def note(name):
            def add(result, options, first, *rest):
                polar = "_polar" if name == "plot" and type(first) is PolarAxes else ""
                self.calls.append(((call or name) + suffix + polar, first))
            return add
        for name in names.split():
            self.watch(owner, name, self.counting, note(name))

    def colour(self, owner, names, parts, read, call=None, suffix=""):
        """Note the colours of what these functions make. parts(result, first argument): a list of what was made;
        read(part): a list of its colours."""
        from matplotlib.projections.polar import PolarAxes

        def note(name):
            def add(result, options, first, *rest):
                polar = "_polar" if name in ("plot", "scatter") and type(first) is PolarAxes else ""
                by_map = name in ("scatter", "plot_surface") and options.get("cmap") is not None
                for part in [result] if by_map else parts(result, first):
                    reader = colormap if by_map else read
                    if colours := reader(part):
                        self.made[(call or name) + suffix + polar, colours[-1]] = part, reader
            return add
        for name in names.split():
            self.watch(owner, name, self.colouring, note(name))

    def details(self, figure):
        """-> DETAILS of the figure just drawn, or one line: why there are none."""
        def here(thing):
            return not hasattr(thing, "get_figure") or thing.get_figure(root=True) in (figure, None)
        try:
            ticks, grid, colours = set(), [], set()
            for axes in figure.axes:
                for axis in (axes.xaxis, axes.yaxis):
                    ticks.update(label for tick in axis.majorTicks for label in (tick.label1, tick.label2))
                    ticks.add(axis.offsetText)
                if spec := axes.get_subplotspec():
                    nrows, ncols = spec.get_gridspec().get_geometry()
                    rows, columns = spec.rowspan, spec.colspan
                    grid.append(dict(nrows=nrows, ncols=ncols, row_start=rows.start, row_end=rows.stop - 1,
                                     col_start=columns.start, col_end=columns.stop - 1))
            for (call, _), (part, read) in self.made.items():
                if here(part):
                    colours.update((call, colour) for colour in read(part))
            return dict(texts=[string for string, text in self.written if text not in ticks], layout=grid,
                        types=Counter(call for call, thing in self.calls if here(thing)), colors=sorted(colours))
        except Exception as error:               # an artist of the program's own, perhaps: the picture is there
            return "the figure cannot be inspected: " + describe(error)


def colormap(part):
    """[name of the colormap of a thing that is drawn by one]."""
    return [part.get_cmap().name]


def watch_types(trace):
    """Have the trace count the calls that make a chart what it is."""
    from matplotlib import patches
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.image import NonUniformImage
    from mpl_toolkits.mplot3d import Axes3D
    trace.count(Axes, "bar barh plot axhline axvline axvspan axhspan hlines vlines errorbar boxplot violinplot violin "
                "hist fill_between fill_betweenx scatter quiver pie fill imshow pcolor contour contourf broken_barh "
                "tripcolor")
    trace.count(Axes, MORE)
    trace.count(Axes3D, "scatter plot plot_surface bar3d bar add_collection3d", suffix="_3d")
    trace.count(Axes3D, MORE_3D, suffix="_3d")
    trace.count(NonUniformImage, "__init__", "image")
    trace.count(patches.Ellipse, "__init__", "ellipse"), trace.count(patches.Circle, "__init__", "ellipse")
    for depth in (trace.counting, trace.colouring):
        trace.watch(Colorbar, "_draw_all", depth, lambda *call: None)      # its pcolormesh is not the program's
    if "networkx" in sys.modules:
        from networkx.drawing import nx_pylab
        trace.count(nx_pylab, "draw_networkx_nodes draw_networkx_labels draw_networkx_edges")


def watch_colours(trace):
    """Have the trace note the colours of what those calls make; after `watch_types`."""
    from matplotlib import cbook, patches
    from matplotlib.axes import Axes
    from matplotlib.axes._base import _process_plot_var_args
    from matplotlib.colors import to_hex
    from matplotlib.image import NonUniformImage
    from matplotlib.projections.polar import PolarAxes
    from mpl_toolkits.mplot3d import Axes3D
    colour = trace.colour

    # part -> its colours
    hexes = lambda colours: [to_hex(c).upper() for c in np.atleast_2d(colours)] if len(colours) else []
    line = lambda part: [to_hex(part.get_color()).upper()]
    faces, edges = lambda part: hexes(part.get_facecolor()), lambda part: hexes(part.get_edgecolor())
    face = lambda part: faces(part)[:1]
    mapped = lambda part: colormap(part) if part.get_array() is not None else faces(part) or edges(part)
    arrows = lambda part: [hexes(arrow.get_facecolor())[0] for arrow in part] if isinstance(part, list) else edges(part)

    # (result, first argument) -> what was made
    it, each = lambda result, first: [result], lambda result, first: list(result)
    itself = lambda result, first: [first]
    exactly = lambda kind: lambda result, first: [first] if type(first) is kind else []
    groups = lambda result: result[2] if type(result[2]) is cbook.silent_list else [result[2]]
    bars = lambda result, first: [bar for group in groups(result) for bar in group]

    colour(_process_plot_var_args, "_make_line", lambda result, first: [result[0]], line, "plot")
    colour(Axes, "axhline axvline", it, line)
    colour(Axes, "_fill_between_x_or_y", it, face, "fill_between")
    colour(Axes, "scatter", it, face)
    colour(Axes, "bar", each, lambda part: [to_hex(part._original_facecolor).upper()])
    colour(Axes, "fill", each, faces)
    colour(Axes, "axvspan axhspan quiver broken_barh", it, faces)
    colour(Axes, "hlines vlines", it, edges)
    colour(Axes, "pie", lambda result, first: result[0], faces)
    colour(Axes, "boxplot", lambda result, first: [b for b in result["boxes"] if type(b) is patches.PathPatch], faces)
    colour(Axes, "violinplot", lambda result, first: result["bodies"], face)
    colour(Axes, "hist", bars, faces)
    colour(Axes, "imshow pcolor contour contourf tripcolor", it, colormap)
    colour(Axes, "pcolormesh hexbin barbs tricontour tricontourf", it, mapped)
    colour(Axes, "stairs", it, edges), colour(Axes, "eventplot", each, edges)
    colour(PolarAxes, "plot", each, line)
    colour(Axes3D, "scatter add_collection3d", it, faces, suffix="_3d")
    colour(Axes3D, "plot", each, line, suffix="_3d")
    colour(Axes3D, "bar", each, faces, suffix="_3d")
    colour(Axes3D, "plot_surface bar3d", it, face, suffix="_3d")
    colour(Axes3D, MORE_3D, it, mapped, suffix="_3d")
    colour(NonUniformImage, "__init__", itself, colormap, "image")
    for kind in (patches.Ellipse, patches.Circle):
        colour(kind, "__init__", exactly(kind), faces, "ellipse")
    if "networkx" in sys.modules:
        import networkx
        from networkx.drawing import nx_pylab
        colour(nx_pylab, "draw_networkx_nodes", it, faces)
        colour(nx_pylab, "draw_networkx_labels", lambda result, first: result.values(), line)
        colour(nx_pylab, "draw_networkx_edges", it, arrows)
        for name in ("draw_networkx_nodes", "draw_networkx_labels", "draw_networkx_edges"):
            setattr(networkx, name, getattr(nx_pylab, name))


def watch_texts(written):
    """Have each string that reaches the renderer appended to `written`, with the Text that it is of, or None."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.text import Text
    plain_text, plain_string, speakers = Text.draw, RendererAgg.draw_text, []

    def draw_text(text, *args, **options):
        speakers.append(text)
        plain_text(text, *args, **options)
        speakers.pop()

    def draw_string(renderer, gc, x, y, string, *args, **options):
        written.append((string, speakers[-1] if speakers else None))
        plain_string(renderer, gc, x, y, string, *args, **options)
    Text.draw, RendererAgg.draw_text = draw_text, draw_string
