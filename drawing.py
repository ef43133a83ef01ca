"""
SVG, molecules and pages of PDF as pixels, and what all engines share. Runs inside the sandbox, in a confined child.

draw_LANGUAGE(code, size) draws a program, str, at the target's (width, height) in pixels or None; render.py says what
each language makes of it. It returns (pixels uint8 [H, W, 3], texts): [(string, (x0, y0, x1, y1) in pixels)], or None
where it cannot tell. It raises Rejected where the image is too large; any other exception is the program's failure and
its message.
"""
import io
import traceback

import numpy as np

MAX_SIDE = 8192                         # pixels; a larger image is 'rejected'
MAX_PIXELS = 32 << 20
MAX_CODE = 1 << 20                      # bytes of one program
MAX_TEXTS = 1 << 18                     # bytes of the strings that come back with an image
MAX_DETAILS = 1 << 20                   # bytes of the details that come back with an image


class Rejected(Exception):
    """The program's image is larger than we take."""


class Figure(Exception):
    """The program drew a plotly figure, which the browser turns into pixels. args: its JSON, width and height in
    pixels or None, scale."""


def oversized(length):
    """What stands in place of details of `length` bytes, more than are taken: one line."""
    return f"details of {length} bytes: at most {MAX_DETAILS} are taken"


def describe(error):
    """An exception in one line: its type, its message, the line of a Python program that raised it."""
    lines = [""] + [f" (line {frame.lineno})" for frame in traceback.extract_tb(error.__traceback__)
                    if frame.filename == "program.py"]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500] + lines[-1]


def check_size(width, height):
    """Pixels. Raises Rejected beyond MAX_SIDE and MAX_PIXELS, and for an image without any."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise Rejected(f"an image of {width:.0f} x {height:.0f} pixels: at most {MAX_SIDE} a side and "
                       f"{MAX_PIXELS} in all are taken")


def on_white(image):
    """PIL image or uint8 [H, W, 3 or 4] -> uint8 [H, W, 3]. Raises Rejected."""
    from PIL import Image
    if isinstance(image, np.ndarray):
        if (image[:, :, 3:] == 255).all():
            return image[:, :, :3]
        image = Image.fromarray(image)
    check_size(*image.size)
    if image.mode != "RGB":
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        image = ground.convert("RGB")
    return np.asarray(image)


def draw_svg(code, size):
    """By cairosvg, which is given pixels of ours in place of a PNG and asked where it puts its texts.

    Arguments and result as of all draw_LANGUAGE, see above; so of `draw_smiles`.
    """
    from cairosvg import surface, text, url
    from cairosvg.parser import Tree
    texts = []

    def record(drawing, node, *args):
        text.text(drawing, node, *args)
        if node.text and node.text.strip() and "text_bounding_box" in node:
            x, y, width, _ = node["text_bounding_box"]            # y: the baseline
            ascent, descent = drawing.context.font_extents()[:2]
            corners = [drawing.context.user_to_device(*c) for c in
                       ((x, y - ascent), (x + width, y - ascent), (x, y + descent), (x + width, y + descent))]
            texts.append((node.text.strip(), box_around(corners)))
    surface.TAGS.update(text=record, tspan=record, textPath=record)

    class Pixels(surface.PNGSurface):
        def _create_surface(self, width, height):
            check_size(width, height)                             # before the memory is taken
            return super()._create_surface(width, height)
    tree = Tree(bytestring=code.encode(), url_fetcher=url.safe_fetch)
    box = (None, None) if not size else (size[0], None)
    if size and all(tree.get(side, "%").strip().endswith("%") for side in ("width", "height")):
        box = size
    canvas = Pixels(tree, None, 96, output_width=box[0], output_height=box[1], background_color="white").cairo
    canvas.flush()
    height, width = canvas.get_height(), canvas.get_width()
    bgra = np.frombuffer(canvas.get_data(), np.uint8).reshape(height, -1, 4)      # uint8 [H, stride, 4]
    return bgra[:, :width, 2::-1].copy(), texts                   # a copy: the buffer dies with the surface


def box_around(points):
    """[(x, y)] -> (x0, y0, x1, y1)"""
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def draw_smiles(code, size):
    """By RDKit. The text of a molecule is its canonical SMILES, in a box as large as the image. Raises ValueError for
    what is no SMILES."""
    from PIL import Image
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D
    width, height = size or (400, 400)
    check_size(width, height)
    molecule = Chem.MolFromSmiles(code.strip())
    if molecule is None:
        raise ValueError("not a SMILES string that RDKit can read")
    drawing = rdMolDraw2D.MolDraw2DCairo(width, height)
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, molecule)
    drawing.FinishDrawing()
    image = on_white(Image.open(io.BytesIO(drawing.GetDrawingText())))  # uint8 [height, width, 3]
    return image, [(Chem.MolToSmiles(molecule), (0, 0, width, height))]


def read_pdf(file, size):
    """-> (pypdfium2 page, whole dots per inch to draw it with, texts) of the first page: 150, less where it would be
    larger than the target. file: path or bytes. Raises Rejected, PdfiumError."""
    import pypdfium2
    page = pypdfium2.PdfDocument(file)[0]
    left, bottom, right, top = page.get_mediabox()                # points, 1/72 inch
    dpi = min(150, max(1, int(72 * max(size or (1e9,)) / max(right - left, top - bottom, 1e-3))))
    check_size(*(int(np.ceil(side * dpi / 72)) for side in (right - left, top - bottom)))
    words, texts = page.get_textpage(), []
    for i in range(min(words.count_rects(), 2000)):
        x0, y0, x1, y1 = words.get_rect(i)
        string = words.get_text_bounded(x0, y0, x1, y1).strip()
        if string:
            texts.append((string, tuple(dpi / 72 * v for v in (x0 - left, top - y1, x1 - left, top - y0))))
    return page, dpi, texts


def pdf_pixels(page, dpi):
    """A page as `read_pdf` returns it -> uint8 [H, W, 3], drawn by pdfium at whole dots per inch."""
    return page.render(scale=dpi / 72, rev_byteorder=True).to_numpy()[:, :, :3]
