"""Search at test time: what is chosen and what never is, prompts of refinement, resuming, one image -> code."""
import contextlib
import hashlib
import json
import math
import shutil
import threading
from concurrent.futures import Future

import numpy as np
import pytest
from PIL import Image

import data
import eval as ev
import refine
import search
import stats
from conftest import drawn_samples, run_eval
from render import available
from scoring import workshop

needs_web = pytest.mark.skipif(any(available()[name] for name in ("svg", "html")), reason=f"SVG or HTML cannot be rendered here: {available()}")
svg = lambda body: data.fenced("svg", f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">{body}</svg>')


def scored(text):
    """A row as scoring.judge gives it; the text tells what: "<reward> <status> ..." inside a fence."""
    code = text.split("\n")[1] if "```" in text else "0 nocode"
    reward, status = code.split()[:2]
    value = math.nan if status == "infra" else float(reward)
    return {**dict.fromkeys(stats.METRICS, value), "outside": value / 2, "execution": float(status == "ok"), "status": "no code" if status == "nocode" else status,
            "message": "boom at line 3" if status == "error" else ""}


class Judges:
    """Of what the texts tell; nothing is rendered."""

    def begin(self, sample, response):
        return None

    def judge(self, sample, answers, jobs, path=None):
        assert len(answers) == len(jobs)
        (job := Future()).set_result([{**a, **self.scored(a["response"])} for a in answers])
        return job

    def scored(self, response):
        return scored(response)


def judging():
    return contextlib.nullcontext(Judges())


def says(reward, status="ok", note=""):
    return f"```svg\n{reward} {status} {note}\n```"


def begun(out, answers):
    """OUT with the predictions.jsonl of one item per list: the greedy answer, then those at temperature 1."""
    samples = drawn_samples(len(answers))
    out.mkdir()
    for s, group in zip(samples, answers):
        s.language, s.prompt = "svg", "draw"
    stats.write_lines(out / "predictions.jsonl", [{"id": s.id, "mode": "t1" if k else "greedy", "k": max(0, k - 1), "response": r, "finish": "stop", "tokens": 10 + k}
                                                   for s, group in zip(samples, answers) for k, r in enumerate(group)])
    return samples


def searched(out, samples, proposals, best_of, rounds, monkeypatch, **more):
    """Run search with a model that proposes `proposals[round - 1]` to every item; returns ([prompts of each call], {(id, mode): response})."""
    asked, seeds = [], []

    def ask(policy, prompts, group, max_new_tokens, temperature, own, slots, top_p, on_answer):
        asked.append([s.prompt for s in prompts])
        seeds.extend(x for row in own for x in row)
        for k, r in enumerate(proposals[len(asked) - 1]):
            for i in range(len(prompts)):
                on_answer(i, k, {"response": r, "finish": "stop", "tokens": 7})

    monkeypatch.setattr(search, "ask", ask)
    search.search(lambda: None, judging, samples, out, best_of, rounds, len(proposals[0]) if proposals else 1, 20, seed=0, **more)
    assert len(set(seeds)) == len(seeds)  # no two proposals alike by their seed
    return asked, {(r["id"], r["mode"]): r["response"] for r in stats.read_lines(out / "predictions.jsonl") if r["mode"] != "t1"}


def test_best_keeps_the_highest_reward_and_no_infra_failure():
    rows = [scored(says(r, s)) for r, s in ((0.3, "ok"), (9, "infra"), (0.8, "ok"), (0.8, "error"), (0.1, "ok"))]
    assert search.best(rows) is rows[2] and search.best(rows[1:2]) is None and search.best([]) is None


def test_best_of_keeps_the_best_and_refinement_takes_only_improvements(tmp_path, monkeypatch, capsys):
    answers = [[says(0.5), says(0.3), says(0.8), says(9, "infra")],  # the third is best, the infra failure is not
               [says(0.6), says(0.6, note="later"), says(0.2), says(0.1)],  # of equal ones the first: greedy
               [says(0.1, "error"), "nothing", "nothing", "nothing"],  # the best one fails: its message goes along
               [says(1.0), says(0.2), says(0.2), says(0.2)],  # exact: not asked again
               ["nothing"] * 4,  # no code: the question is put once more
               [says(0.9, "infra")] * 4]  # nothing is known of it
    samples = begun(tmp_path / "out", answers)
    asked, of = searched(tmp_path / "out", samples, [[says(0.7), says(0.4)], [says(9, "infra"), says(0.65)]], 4, 2, monkeypatch)
    prompts = [refine.refine_prompt("svg", says(*c).split("\n")[1]) for c in ((0.8,), (0.6,))]
    failing = refine.refine_prompt("svg", "0.1 error ", "boom at line 3")
    assert failing.endswith("Running it fails: boom at line 3") and asked[0] == [*prompts, failing, "draw"]
    assert [of[s.id, "best4"] for s in samples] == [says(0.8), says(0.6), says(0.1, "error"), says(1.0), "nothing", says(0.9, "infra")]
    assert [of[s.id, "best4+refine2"] for s in samples] == [says(0.8), says(0.7), says(0.7), says(1.0), says(0.7), says(0.9, "infra")]
    assert asked[1] == [prompts[0]] + [refine.refine_prompt("svg", says(0.7).split("\n")[1])] * 3  # an infra proposal rejects nothing
    points = json.loads((tmp_path / "out" / "search.json").read_text())
    assert [p["point"] for p in points] == ["greedy", "best2", "best4", "best4+refine1", "best4+refine2"]
    last, printed = points[-1], capsys.readouterr().out
    assert last["items"] == 5 and last["infra"] == 1 + 4 + 4 and "9 candidates lost to infra failures" in printed  # of rounds 0 and 2
    assert last["programs"] == pytest.approx(4 + (2 + 2 + 2 + 0 + 2 + 0) * 2 / 6) and last["spent"] == pytest.approx(10 + 11 + 12 + 13 + 8 * 14 / 6)
    assert last["reward"][0] == pytest.approx((0.8 + 0.7 + 0.7 + 1 + 0.7) / 5) and last["outside"][0] == pytest.approx(last["reward"][0] / 2)
    gains = np.array([0.3, 0.1, 0.6, 0, 0.7])
    assert last["reward_gain"] == pytest.approx([gains.mean(), gains.std(ddof=1) / math.sqrt(5)])
    assert Image.open(tmp_path / "out" / "search.png").width > 500


def test_odd_rounds_say_how_a_program_fails_and_even_ones_do_not():
    (sample,), failing = drawn_samples(1), {"response": "```python\nx\n```", "status": "timeout", "message": "", "reward": 0.1}
    sample.language, prompts = "python", []
    exploring = lambda samples, seeds: prompts.append(samples[0].prompt) or [[] for _ in samples]
    for round in (1, 2, 3):
        search.correct([sample], [failing], exploring, 1, 0, round)
    silent = refine.refine_prompt("python", "x")
    assert prompts == [silent + "\nRunning it fails: timeout", silent, silent + "\nRunning it fails: timeout"]


def test_greedy_alone_can_be_refined_and_other_numbers_are_refused_on_resuming(tmp_path, monkeypatch):
    samples = begun(tmp_path / "out", [[says(0.5), says(0.6)]])
    _, of = searched(tmp_path / "out", samples, [[says(0.55)]], 1, 1, monkeypatch)
    assert of == {("t0", "greedy"): says(0.5), ("t0", "best1+refine1"): says(0.55)}
    with pytest.raises(SystemExit, match="another --best-of or --proposals"):
        searched(tmp_path / "out", samples, [[says(0.55)]], 2, 1, monkeypatch)
    asked, of = searched(tmp_path / "out", samples, [[says(0.58)]], 1, 2, monkeypatch)  # a further round goes on from the first
    assert len(asked) == 1 and of["t0", "best1+refine2"] == says(0.58)


def test_interrupted_and_sharded_search_chooses_the_same(tmp_path, tiny, monkeypatch):
    items = drawn_samples(5)
    policy, out = ev.load_model(tiny), tmp_path / "whole"
    number = lambda text: int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:4], "big") / 2**32
    monkeypatch.setattr(Judges, "scored", lambda self, response: scored(says(number(response))))
    run = lambda out, load=lambda: policy, **ranks: search.search(load, judging, items, out, 3, 2, 2, 12, seed=7, **ranks)
    out.mkdir()
    ev.predict(lambda: policy, items, out, 2, 12, seed=7)
    begun = (out / "predictions.jsonl").read_text()
    run(out)
    files = {name: (out / name).read_text() for name in ("predictions.jsonl", "search.jsonl", "search.json")}
    lines = stats.read_lines(out / "search.jsonl")
    assert len(lines) == 15 and len({c["response"] for line in lines for c in line["candidates"]}) > 25
    for name, kept in (("cut", len(files["search.jsonl"]) // 2), ("shards", 0), ("done", len(files["search.jsonl"]))):
        folder = tmp_path / name
        folder.mkdir()
        if name != "shards":
            (folder / "predictions.jsonl").write_text(begun)
        (folder / "search.jsonl").write_text(files["search.jsonl"][:kept])  # ends inside a line
        if name == "shards":
            merge = threading.Timer(0.5, (folder / "predictions.jsonl").write_text, [begun])  # rank 1 comes first and waits for it
            merge.start()
            run(folder, rank=1, world=2)
            run(folder, rank=0, world=2)
        else:
            run(folder, **({"load": lambda: pytest.fail("nothing is missing: no model is needed")} if name == "done" else {}))
        assert {file: (folder / file).read_text() for file in files} == files and not list(folder.glob("*rank*")), name


def test_prompts_beyond_the_context_are_empty_answers(loaded, monkeypatch):
    monkeypatch.setattr(Judges, "scored", lambda self, response: scored(says(0.5)))
    items = drawn_samples(2)
    items[1].prompt = "draw " * 5000
    plain = lambda groups: [[{k: a[k] for k in search.ANSWER} for a in group] for group in groups]
    answers = plain(search.explore(loaded, Judges(), items, [[1, 2], [3, 4]], 6, 8))
    assert [len(group) for group in answers] == [2, 2] and {a["finish"] for a in answers[1]} == {"unusable"} and answers[0][0]["tokens"] > 0
    (greedy,), ((first, second),) = plain(search.explore(loaded, Judges(), items[:1], None, 6, 8)), plain(search.explore(loaded, Judges(), items[:1], [[1, 2]], 6, 8))
    assert len(greedy) == 1 and first != second and [first, second] == answers[0]


@needs_web
def test_programs_are_judged_while_others_are_sampled(loaded, monkeypatch):
    """The same as asking first and judging then, one program after the other; and the first group is judged before the last answer ends."""
    items, events = [s for s in drawn_samples(16) if s.language == "svg"][:4], []

    def program(text):
        """What the model says, as a circle; every fifth answer is none."""
        n = hashlib.sha256(text.encode(errors="replace")).digest()[0]
        return "nothing" if n % 5 == 0 else svg(f'<circle cx="{n % 64}" cy="32" r="{8 + n % 16}" fill="rgb({n}, 0, {255 - n})"/>')

    def ask(*arguments):
        *rest, on_answer = arguments
        ev.ask(*rest, lambda i, k, answer: on_answer(i, k, {**answer, "response": program(answer["response"])}))

    class Watched(search.Judges):
        def begin(self, *arguments):
            events.append("begin")
            return super().begin(*arguments)

        def judge(self, *arguments):
            events.append("judge")
            return super().judge(*arguments)

    monkeypatch.setattr(search, "ask", ask)
    seeds = [[i, 10 + i, 20 + i] for i in range(4)]
    with workshop(2) as tools:
        together = search.explore(loaded, Watched(*tools), items, seeds, 8, 2)
    with search.judging(1) as judges:
        answers = [{} for _ in items]
        ask(loaded, items, 3, 8, 1.0, seeds, 12, 1.0, lambda i, k, answer: answers[i].update({k: answer}))
        after = [[judges.judge(s, [group[k]], [judges.begin(s, group[k]["response"])]).result()[0] for k in range(3)] for s, group in zip(items, answers)]
    assert repr(together) == repr(after) and {"ok", "no code"} == {c["status"] for group in after for c in group}  # repr: NaN is like itself
    assert events.count("begin") == 12 and events.count("judge") == 4 and events.index("judge") < 11


def test_lines_of_a_search_that_are_damaged_are_done_again(tmp_path):
    row = lambda **more: json.dumps({"id": "a", "round": 0, "candidates": [], **more}) + "\n"
    (tmp_path / "search.jsonl").write_text(row() + row(round="x") + row(candidates=None) + row(id=[]) + "{}\n3\n" + row(round=1)[:-9])
    (tmp_path / "search.rank1.jsonl").write_text(row(id="b"))
    assert search.finished(tmp_path) == {("a", 0): [], ("b", 0): []}


def test_what_was_searched_before_stays(tmp_path, monkeypatch):
    """Fewer items and rounds than before: only they are chosen from and drawn, the other lines and answers stay."""
    samples, out = begun(tmp_path / "out", [[says(0.5), says(0.6)], [says(0.3), says(0.2)]]), tmp_path / "out"
    searched(out, samples, [[says(0.7)], [says(0.8)]], 2, 2, monkeypatch)
    before = {(row["id"], row["round"]): row for row in stats.read_lines(out / "search.jsonl")}
    _, of = searched(out, samples[:1], [], 2, 1, monkeypatch)
    assert {(row["id"], row["round"]): row for row in stats.read_lines(out / "search.jsonl")} == before and len(before) == 6
    assert of["t0", "best2+refine1"] == says(0.7) and ("t0", "best2+refine2") not in of and of["t1", "best2+refine2"] == says(0.8)
    assert json.loads((out / "search.json").read_text())[0]["items"] == 1


def test_tables_show_whatever_modes_there_are():
    runs = [{"label": "a", "means": dict.fromkeys(("best16", "t1", "best8+refine2", "greedy", "best8", "blank"), {}),
             "table": {("all", "all"): {"best8+refine2": {"n": 3, "outside": (0.5, 0.01)}, "blank": {"n": 3, "outside": (0.1, 0.01)}}}}]
    assert list(stats.modes_of(runs).values()) == ["greedy", "T=1", "best8", "best8+refine2", "best16"]
    head, rows = stats.score_table(runs, "language", ("outside",))
    assert head[3:] == ["outside", "outside T=1", "outside best8", "outside best8+refine2", "outside best16"]
    assert [row[3:] for row in rows] == [["-", "-", "-", ".500±.010", "-"], [".100±.010", "-", "-", "-", "-"]]


@needs_web
def test_the_command_searches_scores_and_reports(tmp_path, tiny, monkeypatch, capsys):
    items = [s for s in drawn_samples(12) if s.language == "svg"][:3]
    data.write_samples(items, tmp_path / "test" / "part-0.parquet")
    options = ["--model", tiny, "--data", tmp_path / "test", "--out", tmp_path / "out", "--samples", 0, "--max-new-tokens", 8]
    run_eval(monkeypatch, *options)
    assert "Search at test time" not in (tmp_path / "out" / "report.html").read_text()
    run_eval(monkeypatch, *options, "--resume", "--best-of", 2, "--refine", 1, "--proposals", 1)  # search goes on from a plain evaluation
    rows = stats.read_lines(tmp_path / "out" / "scores.jsonl")
    assert sorted((r["id"], r["mode"]) for r in rows) == sorted((s.id, m) for s in items for m in ("greedy", "t1", "best2", "best2+refine1"))
    page, printed = (tmp_path / "out" / "report.html").read_text(), capsys.readouterr().out
    assert "Search at test time" in page and 'src="data:image/png;base64,' in page and "reward best2+refine1" in printed and "best2+refine1" in page
    found, aside = ev.read_predictions([tmp_path / "out" / "predictions.jsonl"], {s.id for s in items})
    assert len(found) == 12 and not aside
    (tmp_path / "alien.jsonl").write_text("".join(json.dumps({"id": items[0].id, "mode": m, "response": ""}) + "\n" for m in ("best", "best8+", "best8", "refine2", "xbest8")))
    found, aside = ev.read_predictions([tmp_path / "alien.jsonl"], {items[0].id})
    assert [mode for _, mode, _ in found] == ["best8"] and aside == {"broken lines": 4}


# ------------------------------------------------------------------------------------------------------------ one image

RIGHT = svg('<rect x="8" y="8" width="24" height="40" fill="red"/><circle cx="48" cy="40" r="12" fill="blue"/>')
CLOSE = svg('<rect x="8" y="8" width="24" height="40" fill="red"/>')


@pytest.fixture
def shot(tmp_path):
    """The picture that RIGHT draws."""
    with search.judging(1) as judges:
        sample = data.Sample("", "", drawn_samples(1)[0].image, language="svg", width=64, height=64)
        (row,) = judges.judge(sample, [{"response": RIGHT}], [judges.begin(sample, RIGHT)], tmp_path / "shot.png").result()
    assert row["status"] == "ok"
    return tmp_path / "shot.png"


def answering(monkeypatch, answers, then=()):
    """A model that gives the greedy answers {language: text}, then the lists of `then` when it is asked for samples."""
    asked, then = [], iter(then)

    def ask(policy, samples, group, max_new_tokens, temperature, seeds, slots, top_p, on_answer):
        asked.append([(s.language, s.prompt) for s in samples])
        for i, s in enumerate(samples):
            for k, t in enumerate(next(then) if temperature else [answers[s.language]]):
                on_answer(i, k, {"response": t, "finish": "stop", "tokens": 9})

    monkeypatch.setattr(search, "ask", ask)
    return asked


@needs_web
def test_one_image_finds_the_language_and_improves_on_it(tmp_path, tiny, shot, monkeypatch, capsys):
    wrong = {"python": "no code", "html": data.fenced("html", "<p>hello</p>"), "svg": CLOSE, "latex": "no code"}
    asked = answering(monkeypatch, wrong, [[svg("<circle r='5'/>"), data.fenced("svg", "<svg")], [CLOSE, RIGHT]])
    run_eval(monkeypatch, "--model", tiny, "--image", shot, "--out", tmp_path / "out", "--best-of", 3, "--refine", 2, "--proposals", 2)
    out, err = capsys.readouterr()
    assert data.fenced("svg", out.strip()) == RIGHT == data.fenced("svg", (tmp_path / "out" / "answer.svg").read_text())
    assert [len(x) for x in asked] == [len(asked[0]), 1, 1] and ("svg", "Write SVG code that draws this image.") in asked[0]
    assert asked[1] == [("svg", "Write SVG code that draws this image.")] and asked[2] == [("svg", refine.refine_prompt("svg", CLOSE[7:-4]))]
    assert f"{len(asked[0]) + 4} programs sampled: reward 1.000, outside metric 1.000" in err and "html    reward 0." in err
    assert (np.asarray(Image.open(tmp_path / "out" / "render.png")) == np.asarray(Image.open(shot))).all()
    picture = np.asarray(Image.open(tmp_path / "out" / "comparison.png"))
    assert picture.shape == (256 + 22, 3 * 256, 3) and (picture[:250, 520:] == 255).all() and (picture[256:] < 100).any()


@needs_web
@pytest.mark.parametrize("answer, message", [
    ("```svg\n<svg/>", "holds no single ```svg block \\(9 tokens, ended by the model\\); it is in .*answer.svg"),
    (data.fenced("svg", "<svg"), "does not render \\(error: .*\\); it is in .*answer.svg")])
def test_what_the_model_wrote_is_kept_where_it_draws_nothing(tmp_path, tiny, shot, monkeypatch, answer, message):
    answering(monkeypatch, {"svg": answer})
    with pytest.raises(SystemExit, match=message):
        run_eval(monkeypatch, "--model", tiny, "--image", shot, "--language", "svg", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "answer.svg").read_text() in answer and not (tmp_path / "out" / "render.png").exists()


@needs_web
def test_one_image_with_a_true_model(tmp_path, tiny, shot, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="no single ```\\w+ block \\(8 tokens, ended by the --max-new-tokens limit\\)"):
        run_eval(monkeypatch, "--model", tiny, "--image", shot, "--out", tmp_path / "out", "--max-new-tokens", 8, "--best-of", 2, "--refine", 1)


def test_bad_input_is_one_line(tmp_path, tiny, monkeypatch):
    (tmp_path / "no.png").write_text("no image")
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    bare = shutil.copytree(tiny, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "vocab*", "merges*"))
    for model, image, message in ((tiny, "absent.png", "there is no image at .*absent.png"), (tiny, "no.png", "no.png: unreadable image"),
                                  (bare, "x.png", "bare has no tokenizer that knows"), (tmp_path / "none", "x.png", "no model at .*none")):
        with pytest.raises(SystemExit, match=message) as e:
            run_eval(monkeypatch, "--model", model, "--image", tmp_path / image, "--language", "svg")
        assert "\n" not in str(e.value)


@needs_web
def test_a_renderer_that_fails_is_said(tmp_path, tiny, shot, monkeypatch):
    answering(monkeypatch, {"svg": RIGHT})
    monkeypatch.setattr(Judges, "scored", lambda self, response: scored(says(1, "infra")))
    monkeypatch.setattr(search, "judging", lambda *a: judging())
    with pytest.raises(SystemExit, match="the renderer failed .*--doctor"):
        run_eval(monkeypatch, "--model", tiny, "--image", shot, "--language", "svg", "--out", tmp_path / "out")
