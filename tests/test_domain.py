"""Metrics of the domains: hand-worked values, numbers of the benchmarks' own solvers, references that score the maximum."""
import json
import sys

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

import data
import domain
import eval as ev
import stats
import synth
from synth_latex import document
from conftest import ROOT
from domain import chem_scores, domain_scores, earth_mover_similarity, node_texts, tex_scores, tex_tokens
from render import Render, Renderer, available
from reward import extract_code

REAL = ROOT.parent / "shared" / "real" / "dev.parquet"
MISSING = {language for language, why in available().items() if why}


def canvas(*boxes, width=64, height=64, ground=255):
    image = np.full((height, width, 3), ground, np.uint8)
    for x, y, w, h, colour in boxes:
        image[y:y + h, x:x + w] = colour
    return image


def drawn(image, texts=None):
    return Render(image, "ok", texts=texts)


@pytest.fixture(scope="module")
def renderer():
    with Renderer(2, timeout=30, cache=999) as renderer:
        yield renderer


# ---------------------------------------------------------------------------------------------------------------- LaTeX

TEX = r"""\begin{tikzpicture} % \node {not this};
\node[draw, label={[red]above:$x$}] (a) at (0, {1+1}) {A {nested}
  text}; \node {100\%}; \node[below] {A {nested} text};
\draw (a) -- node[above, pos=.5] {edge} (1,1) edge node {} (2,2);
\begin{axis}[xlabel={time}, title = {Run}, legend pos=north] \addlegendentry{one} \legend{two, three}
every node/.style={draw} \node at (1,2) [left] {\textbf{b}}; \node[circle] (open) {never closed"""


def test_node_texts_by_hand():
    assert node_texts(TEX) == {"[red]above:$x$": 1, "A {nested} text": 2, r"100\%": 1, "edge": 1, "time": 1, "Run": 1, "one": 1, "two, three": 1,
                               r"\textbf{b}": 1}
    for hostile in ("", "node", r"\node[", r"\node(((", "}{" * 9, r"\node" * 5000, r"\node[" * 3000, "label={" * 3000):
        assert not node_texts(hostile)


def test_tex_scores_by_hand():
    assert tex_tokens("\\frac{ab1.5}\\\\ % no\n$x_2$ 50\\%") == ["\\frac", "{", "ab", "1.5", "}", "\\\\", "$", "x", "_", "2", "$", "50", "\\%"]
    scores = tex_scores(r"\node {a}; \node {b}; \node {b};", r"\node {b}; \node {c};")
    assert scores["tex_text"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert scores["tex_tokens"] == pytest.approx(1 - 6 / 15)  # one node of 5 tokens deleted, one letter changed
    assert tex_scores("$x$", r"\node {c};")["tex_text"] is None and tex_scores(r"\node {c};", "") == {"tex_text": 0, "tex_tokens": 0}
    assert tex_scores("a % b", "a")["tex_tokens"] == 1 and tex_scores("x " * 30_000, "y")["tex_tokens"] is None


def shades(seed, height=24, width=32):
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * 3 + y * (seed + 1)) % 256, (x * y // (seed + 2)) % 256, (y * 5 + seed * 40) % 256], -1).astype(np.uint8)


BOXES = canvas((8, 8, 24, 16, (255, 0, 0)), (36, 40, 20, 20, (0, 0, 255)))


@pytest.mark.parametrize("image, reference, of_opencv", [  # HELM's algorithm with cv2.EMD of opencv-python-headless 5.0.0.93
    (canvas((12, 8, 24, 16, (255, 0, 0)), (36, 40, 20, 20, (0, 0, 255))), BOXES, 0.7826056753),
    (canvas((8, 8, 24, 16, (255, 0, 0))), BOXES, 0.3373015758),
    (canvas(), BOXES, -0.5254868045),
    (canvas((8, 8, 24, 16, (0, 160, 0)), (36, 40, 20, 20, (0, 0, 255))), BOXES, 0.9535894898),
    (canvas((10, 10, 9, 9, 255), ground=0), canvas((10, 12, 9, 9, 255), ground=0), 0.8223187459),
    (canvas((20, 5, 30, 9, 40), width=100, height=40), canvas((12, 8, 24, 6, 0), (30, 20, 9, 9, (200, 30, 30)), width=50, height=36), 0.2991141824),
    (shades(1), shades(2), 0.9699330606),
    (canvas((30, 20, 90, 60, 0), (150, 90, 40, 50, (90, 90, 200)), width=230, height=170),
     canvas((40, 20, 90, 60, 0), (150, 100, 40, 40, (90, 90, 200)), width=230, height=170), 0.7173343003)],
    ids=["moved", "half", "blank", "recoloured", "dark", "resized", "shades", "over 100 patches"])
def test_earth_mover_similarity_equals_opencv(image, reference, of_opencv):
    assert earth_mover_similarity(image, reference) == pytest.approx(of_opencv, abs=2e-6)
    assert earth_mover_similarity(reference, reference) == 1


def test_earth_mover_similarity_by_hand():
    """One patch, black but for a white pixel, which moves by 3 pixels right and 1 down. Black is the background and weighs 0.001."""
    a, b = (canvas((x, y, 1, 1, 255), width=8, height=8, ground=0) for x, y in ((1, 1), (4, 2)))
    total = 1 + 63 * 0.001
    moved = domain.earth_movers_distance(a, b)
    # 0.999 of the mass moves 4/8; the rest, 0.001, stays as it is with a change of gray where the pixels were: cheaper than moving
    assert moved == pytest.approx(0.999 / total * 4 / 8 + 2 * 0.0, abs=2 * 0.001 / total)
    white = np.full_like(a, 255)
    c = domain.patch_distance((np.full(64, 1 / 64), np.ones(64)), (np.where(a[..., 0].ravel() > 0, 1, 0.001) / total, a[..., 0].ravel() / 255))
    assert domain.earth_movers_distance(white, a) == pytest.approx(c)
    assert earth_mover_similarity(b, a) == pytest.approx(1 - moved / c)
    assert earth_mover_similarity(canvas(), canvas()) == 1 and earth_mover_similarity(canvas(ground=0), canvas()) == 0


# ------------------------------------------------------------------------------------------------------------------ SVG

@pytest.mark.skipif("svg" in MISSING, reason="no CairoSVG")
def test_unisvg_ssim_is_that_of_cairosvg_at_336(renderer):
    """Our renders, drawn as eval.py asks for them, against what the benchmark does: cairosvg at 336 x 336 and uint8 SSIM."""
    import io

    import cairosvg
    code = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}"><circle cx="{}" cy="20" r="15" fill="{}"/><path d="M5 5L30 35" stroke="black"/></svg>'
    for width, height in ((64, 64), (80, 40), (40, 80)):
        codes = [code.format(width, height, 20, "red"), code.format(width, height, 25, "blue")]
        theirs = [np.asarray(Image.open(io.BytesIO(cairosvg.svg2png(c, output_width=336, output_height=336, background_color="white"))).convert("RGB")) for c in codes]
        size = round(336 * width / max(width, height)), round(336 * height / max(width, height))
        ours = [renderer.submit("svg", c, size).result() for c in codes]
        scores = domain_scores("svg", (codes[0], ours[0]), (codes[1], ours[1]))
        assert scores["unisvg_ssim"] == pytest.approx(structural_similarity(*theirs, channel_axis=2, win_size=7), abs=1e-6), (width, height)
        assert scores["unisvg"] is None and 0.3 < scores["unisvg_ssim"] < 0.99


# ------------------------------------------------------------------------------------------------------------ chemistry

def mols(*smiles):
    from rdkit import Chem
    return [Chem.MolFromSmiles(s) for s in smiles]


def test_chemistry_by_hand():
    same = chem_scores(mols("OCC"), mols("C(C)O"))
    assert same == {"valid": 1, "exact": 1, "tanimoto_morgan": 1, "tanimoto_rdkit": 1}
    # Morgan environments: CH4 {CH4}; C2H6 {CH3, CH3 with its neighbour}; C3H8 {CH3, CH2, CH3-C, CH2(C)C}: those of C2H6 and C3H8 share CH3
    assert chem_scores(mols("C"), mols("CC"))["tanimoto_morgan"] == 0
    assert chem_scores(mols("CC"), mols("CCC"))["tanimoto_morgan"] == pytest.approx(1 / 5)
    # paths of C2H6: one bond; of C3H8: one bond, two bonds. RDKit sets two bits for each
    assert chem_scores(mols("CC"), mols("CCC"))["tanimoto_rdkit"] == pytest.approx(2 / 4)
    mirror = chem_scores(mols("C[C@H](N)O"), mols("C[C@@H](N)O"))
    assert mirror["exact"] == 0 and mirror["tanimoto_morgan"] == mirror["tanimoto_rdkit"] == 1
    two = chem_scores(mols("CC", "O"), mols("O", "CC"))
    assert two["exact"] == two["tanimoto_morgan"] == 1
    assert chem_scores(mols("CC", "O"), mols("O"))["tanimoto_morgan"] == 0.5 == chem_scores(mols("O"), mols("CC", "O"))["tanimoto_rdkit"]
    assert set(chem_scores(mols("C"), []).values()) == {0} and set(chem_scores([], mols("C")).values()) == {None}


def test_molecules_of_the_drawing_then_of_the_code():
    from rdkit import Chem
    image, names = canvas(), lambda found: [Chem.MolToSmiles(m) for m in found]
    code = """mol = Chem.MolFromSmiles('OCC')\nother = indigo.loadMolecule("C#N")"""
    assert names(domain.molecules(code, drawn(image))) == ["CCO", "C#N"]
    assert names(domain.molecules(code, drawn(image, [("c1ccccc1", (0, 0, 64, 64)), ("C", (3, 3, 9, 9))]))) == ["c1ccccc1"]
    everywhere = "[U]" + "".join(f"{'%' if i > 9 else ''}{i}" for i in range(1, 40))
    hostile = ["C(" * 400, "C1" * 300, "\x00", "\ud800", "[" * 900, "C" * 900, "[Fe]" * 240, "".join(f"[U]%{i}" for i in range(10, 99)), everywhere, "." * 50, ""]
    for string in hostile:
        found = domain.molecules("", drawn(image, [(string, (0, 0, 64, 64))] * 3))
        assert all(v in (0, None) or v <= 1 for v in chem_scores(found, found).values())
        assert domain.molecules(f"MolFromSmiles('{string}')", drawn(image)) is not None


# ------------------------------------------------------------------------------------------------- what fails, what is lost

def test_failures_are_zero_and_what_cannot_be_computed_is_none():
    image = canvas((8, 8, 20, 20, 0))
    failed, lost, none = Render(None, "error"), Render(None, "infra"), ("x", None)
    cases = {"svg": "<svg/>", "latex": r"\node {a};", "python": "import rdkit; MolFromSmiles('CC')", "html": "<p>", "": "import matplotlib"}
    for language, code in cases.items():
        language, right = language or "python", drawn(image)
        if domain.domain_of(language, code) in ("chart", "web"):
            assert set(domain_scores(language, (code, right), (code, right)).values()) == {None}  # a plotly chart: nothing was traced
            right.details = {"texts": [], "types": {}, "layout": [], "colors": [], "blocks": [], "trees": []}
            assert set(domain_scores(language, (code, right), (code, drawn(image))).values()) == {None}
        for candidate in (("x", failed), none):
            scores = domain_scores(language, (code, right), candidate, ems=True)
            assert tuple(scores) == domain.METRICS[domain.domain_of(language, code)] or set(scores) == set(domain.METRICS[domain.domain_of(language, code)])
            assert all(v == 0 or m == "unisvg" and v is None for m, v in scores.items())
        for reference, candidate in (((code, right), ("x", lost)), ((code, failed), ("x", right)), ((code, lost), none)):
            assert set(domain_scores(language, reference, candidate).values()) == {None}
        blank = domain_scores(language, (code, right), ("", drawn(canvas())))
        assert all(v in (0, None) for m, v in blank.items() if m != "unisvg_ssim")
    assert domain_scores("latex", ("$x$", drawn(image)), ("x", failed))["ems"] is None  # not asked for: not 0 either


def test_refine_scores_by_hand():
    better = domain.refine_scores(0.8, 0.5, 1.0, 1.0, False)
    assert better.pop("gain") == pytest.approx(0.3) and better.pop("gain_normalised") == pytest.approx(0.6)
    assert better == {"improved": 1, "worsened": 0, "unchanged": 0, "fixed": None, "copied": 0}
    assert domain.refine_scores(0.0, 0.0, 0.0, 0.0, True) == {"gain": 0, "gain_normalised": 0, "improved": 0, "worsened": 0, "unchanged": 1, "fixed": 0, "copied": 1}
    right = domain.refine_scores(0.9, 1.0, 1.0, 1.0, False)  # it was right and is not any more
    assert right["worsened"] == 1 and right["gain_normalised"] is None
    assert domain.refine_scores(0.4, 0.0, 1.0, 0.0, False)["fixed"] == 1


# ------------------------------------------------------------------------------------------------------------- encoders

@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """{kind: directory} of tiny random CLIP, SigLIP and DINOv2 models that see 28 x 28 pixels."""
    import torch
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, SiglipConfig, SiglipModel
    torch.manual_seed(0)
    vision = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
    text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9, intermediate_size=16, bos_token_id=0, eos_token_id=1)
    models = {"clip": CLIPModel(CLIPConfig(text_config=text, vision_config={**vision, "intermediate_size": 32}, projection_dim=8)),
              "siglip": SiglipModel(SiglipConfig(text_config=text, vision_config={**vision, "intermediate_size": 32})),
              "dinov2": Dinov2Model(Dinov2Config(**vision))}
    kinds = {"clip": "CLIP", "siglip": "Siglip", "dinov2": "Bit"}
    for kind, model in models.items():
        with torch.no_grad():
            for w in model.parameters():
                w.mul_(4)
        path = tmp_path_factory.mktemp("encoders") / kind
        model.save_pretrained(path)
        square = {"height": 28, "width": 28}
        (path / "preprocessor_config.json").write_text(json.dumps({
            "image_processor_type": f"{kinds[kind]}ImageProcessor", "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "resample": 3, "do_resize": True,
            "do_rescale": True, "do_normalize": True, "do_center_crop": kind != "siglip", "crop_size": square, "size": square if kind == "siglip" else {"shortest_edge": 28}}))
        models[kind] = path
    return models


def by_hand(kind, path, image):
    """Features of one image [28, 28, 3] without the processor and without get_image_features."""
    import torch
    from transformers import AutoModel
    model = AutoModel.from_pretrained(path).eval()
    pixels = ((torch.tensor(image) / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.25, 0.3])).permute(2, 0, 1)[None]
    with torch.no_grad():
        if kind == "clip":
            tokens = model.vision_model(pixel_values=pixels).last_hidden_state
            return model.visual_projection(model.vision_model.post_layernorm(tokens[:, 0]))[0]
        if kind == "siglip":
            return model.vision_model(pixel_values=pixels).pooler_output[0]
        return model(pixel_values=pixels).last_hidden_state[0].mean(0)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_image_similarity_by_hand(kind, encoders):
    a, b = canvas((4, 4, 9, 9, (255, 0, 0)), width=28, height=28), canvas((9, 6, 12, 5, (0, 90, 200)), width=28, height=28)
    encoder = domain.Encoder(kind, encoders[kind])
    x, y = (by_hand(kind, encoders[kind], image).double() for image in (a, b))
    cosine = float(x @ y / (x.norm() * y.norm()))
    expected = (1 + cosine) / 2 if kind == "dinov2" else cosine
    assert domain.image_similarity(encoder, a, b) == pytest.approx(expected, abs=1e-5) and expected < 0.999
    assert domain.image_similarity(encoder, a, a) == pytest.approx(1, abs=1e-6)
    larger = a.repeat(2, 0).repeat(2, 1)
    assert domain.image_similarity(encoder, a, larger) > max(0.9, expected)  # resized by its own processor


def test_lpips_and_the_score_of_unisvg(encoders, monkeypatch):
    """A stand-in for the lpips package: half the mean absolute difference of images in -1 to 1."""
    import types

    import torch
    if "lpips" not in sys.modules:
        with pytest.raises(SystemExit, match="error: lpips is not installed"):
            domain.load_encoders(["lpips=alex"])

    class LPIPS(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            assert net == "alex"

        def forward(self, x, y):
            assert x.shape == y.shape and x.shape[1] == 3 and -1 <= x.min() and x.max() <= 1
            return (x - y).abs().mean() / 2
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=LPIPS))
    found = domain.load_encoders(["lpips=alex", f"clip={encoders['clip']}"])
    a, b = canvas(width=336, height=336), canvas((0, 0, 168, 336, 0), width=336, height=336)
    scores = domain.encoder_scores(found, domain_scores("svg", ("<svg/>", drawn(a)), ("<svg/>", drawn(b))), drawn(a), drawn(b))
    assert scores["lpips"] == pytest.approx(0.5)
    assert scores["unisvg"] == pytest.approx(0.2 * scores["unisvg_ssim"] + 0.2 * 0.5 + 0.6 * domain.image_similarity(found["clip"], a, b))
    assert domain.encoder_scores({"clip": None}, {"unisvg": None, "unisvg_ssim": 0.0}, drawn(a), Render(None, "error")) == {"unisvg": None, "unisvg_ssim": 0.0, "clip": 0.0}
    assert domain.encoder_scores(found, {"unisvg": None, "unisvg_ssim": 0.0}, drawn(a), None)["unisvg"] == 0
    assert domain.encoder_scores(found, {}, Render(None, "infra"), drawn(a)) == {"lpips": None, "clip": None}
    for bad in ("clip", "blip=x", "=x", "clip="):
        with pytest.raises(SystemExit, match="error: --encoders .*: write KIND=NAME"):
            domain.load_encoders([bad])
    with pytest.raises(SystemExit, match="error: no vision encoder at"):
        domain.load_encoders(["clip=/nowhere"])


# ----------------------------------------------------------------------------------------- references score the maximum

def assert_maximum(renderer, language, code, image):
    size = (336, round(336 * image.height / image.width)) if language == "svg" else image.size
    right = renderer.submit(language, code, size, inspect=domain.domain_of(language, code) in ("chart", "web")).result()
    assert right.status == "ok", right.message
    scores = domain_scores(language, (code, right), (code, right), ems=True)
    assert all(v == pytest.approx(1) or v is None for v in scores.values()), (code[:300], scores)
    return {m for m, v in scores.items() if v is not None}


@pytest.mark.parametrize("name", sorted(domain.METRICS))
def test_drawn_references_score_the_maximum(name, renderer):
    language = {"chart": "python", "chem": "python", "web": "html"}.get(name, name)
    if language in MISSING:
        pytest.skip(f"{language} cannot be rendered here")
    seen = set()
    for level in (2, 3):
        for code in synth.programs(name, level, 3, seed=7):
            seen |= assert_maximum(renderer, language, code, Image.new("RGB", (400, 300)))
    assert seen == set(domain.METRICS[name]) - {"unisvg"}


@pytest.mark.skipif(not REAL.exists(), reason="no real pairs here")
def test_real_references_score_the_maximum(renderer):
    seen, count = {}, 0
    for s in data.read_samples(REAL):
        count += 1
        if s.language not in MISSING and count % 12 == 0:
            code = extract_code(s.answer, s.language)[0]
            seen.setdefault(domain.domain_of(s.language, code), set()).update(assert_maximum(renderer, s.language, code, data.open_image(s)))
    assert seen == {name: set(metrics) - {"unisvg"} for name, metrics in domain.METRICS.items()}


# ------------------------------------------------------------------------------------------- scores, baselines and tables

def number_of(text):
    return float(text.split("±")[0].split()[0])


@pytest.mark.skipif(bool(MISSING), reason=f"cannot be rendered here: {', '.join(MISSING)}")
def test_evaluation_of_five_domains(tmp_path, monkeypatch, capsys, encoders):
    """References, their damaged copies and failures through eval.py: rows, means, baselines, tables, what is not computed."""
    samples = []
    with Renderer(2) as renderer:
        for name in domain.METRICS:
            language = {"chart": "python", "chem": "python", "web": "html"}.get(name, name)
            small = [document(f"\\node[draw] {{{word}}};") for word in ("one", "two", "three")]  # EMS takes longer for larger ones
            for i, code in enumerate(small if name == "latex" else synth.programs(name, 2, 3, seed=1)):
                render = renderer.submit(language, code, (300, 200)).result()
                task, wrong = ("refine", code[:len(code) // 2]) if i == 0 else ("generate", "")
                samples.append(data.Sample(data.REFINE.format(name=language, language=language, code=wrong) if wrong else "Draw.", data.fenced(language, code),
                                           data.png(render.image), f"{name}-{i}", name, language, task, "s", width=render.image.shape[1], height=render.image.shape[0]))
    data.write_samples(samples, tmp_path / "test" / "part-0.parquet")
    rows = [{"id": s.id, "mode": "greedy", "k": 0, "response": "nothing" if s.id.endswith("2") else s.answer} for s in samples]
    plotly = "```python\nimport plotly.graph_objects as go\ngo.Figure(go.Bar(y=[1, 2])).show()\n```"
    rows += [{"id": "chart-1", "mode": "t1", "k": 0, "response": plotly}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def evaluate(out, *options):
        monkeypatch.setattr(sys, "argv", ["eval.py", "--predictions", str(tmp_path / "p.jsonl"), "--data", str(tmp_path / "test"), "--out", str(out), *options])
        ev.main()
        return capsys.readouterr().out

    printed = evaluate(tmp_path / "runs" / "slow", "--slow-metrics", "--encoders", f"dinov2={encoders['dinov2']}")
    found = {(r["id"], r["mode"]): r for r in stats.read_lines(tmp_path / "runs" / "slow" / "scores.jsonl")}
    for (id_, mode), r in found.items():
        metrics, value = domain.METRICS[id_.split("-")[0]], 0 if id_.endswith("2") else 1
        assert set(r["domain"]) == {*metrics, "dinov2"}
        if mode == "greedy":
            assert all(v == pytest.approx(value) for m, v in r["domain"].items() if m != "unisvg" and v is not None), (id_, r["domain"])
    assert set(found["chart-1", "t1"]["domain"][m] for m in domain.METRICS["chart"]) == {None} and found["chart-1", "t1"]["status"] == "ok"
    compared = {(r["id"], r["mode"]): r for r in stats.read_lines(tmp_path / "runs" / "slow" / "baselines.jsonl")[1:]}
    assert compared["chart-0", "blank"]["domain"]["chartmimic"] == compared["chem-0", "blank"]["domain"]["valid"] == 0
    assert 0 <= compared["chart-0", "other"]["domain"]["chartmimic"] < 1 and compared["chem-1", "other"]["domain"]["valid"] == 1 > compared["chem-1", "other"]["domain"]["tanimoto_morgan"]
    assert compared["latex-1", "other"]["domain"]["tex_text"] == 0 and compared["svg-1", "other"]["domain"]["unisvg_ssim"] < 0.99
    runs = stats.load_runs([tmp_path / "runs" / "slow"])
    tables = {rows[0][0]: (head, rows) for head, rows in stats.domain_tables(runs)}
    assert list(tables) == [*domain.METRICS, "refine"]
    head, rows = tables["chem"]
    greedy = dict(zip(head, rows[0]))
    assert greedy["answers of"] == "slow, greedy" and number_of(greedy["exact"]) == pytest.approx(2 / 3, abs=1e-3) and greedy["exact"].endswith("(1.000)")
    head, rows = tables["svg"]
    assert dict(zip(head, rows[0]))["unisvg"] == "not computed" and rows[0][-1] == "unisvg 3" and "dinov2" in head
    head, rows = tables["chart"]
    t1 = dict(zip(head[:-1], rows[1]))
    assert t1["answers of"] == "slow, T=1" and t1["chartmimic"] == "not computed" and "chartmimic 1" in rows[1][-1]
    head, rows = tables["refine"]
    assert dict(zip(head, rows[0]))["fixed"].startswith("1.000") and number_of(dict(zip(head, rows[0]))["copied"]) == 0
    assert number_of(dict(zip(head, rows[-1]))["copied"]) == 1 and rows[-1][1].startswith("copy input")
    assert "slow, greedy" in printed and "unisvg_ssim" in printed and "Metrics of the domains" in (tmp_path / "runs" / "slow" / "report.html").read_text()

    evaluate(tmp_path / "runs" / "fast")  # its baselines lack the slow metrics, so they are not taken from the run beside
    fast = {(r["id"], r["mode"]): r for r in stats.read_lines(tmp_path / "runs" / "fast" / "scores.jsonl")}
    assert fast["svg-0", "greedy"]["domain"] == {} and fast["latex-0", "greedy"]["domain"]["ems"] is None and fast["chem-0", "greedy"]["domain"]["exact"] == 1
    assert all(r["domain"].get("ems") is None for r in stats.read_lines(tmp_path / "runs" / "fast" / "baselines.jsonl")[1:])
