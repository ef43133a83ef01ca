"""refine.py: pairs are sound, counted, and the same again."""
import json
from collections import Counter

import numpy as np
import pytest
from conftest import drawn_samples
from test_data import command

import data
import defects
import refine
from render import available
from reward import extract_code


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


@pytest.mark.parametrize("out, predictions, words", [
    ("no", "absent.jsonl", "does not exist"), ("no", "sft/part-0.parquet", "holds no prediction"), (".", None, "Give another one")])
def test_bad_arguments_are_one_line(tmp_path, out, predictions, words):
    data.write_samples(drawn_samples(1), tmp_path / "sft" / "part-0.parquet")
    with pytest.raises(SystemExit, match=words):
        refine.refine_samples(tmp_path, tmp_path / out, predictions=predictions and tmp_path / predictions)
