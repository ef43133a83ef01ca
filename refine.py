"""Visual code refinement data: target image + defective code -> corrected code.

    python data.py refine out/clean --out out/refined                                      # defects made by operators
    python data.py refine out/clean --out out/refined --from out/eval/predictions.jsonl    # and a model's own mistakes

The defects are those of defects.py or a model's own. A pair is kept if its correct side runs and its defective side
draws a visibly other picture, or fails; of the defects 20 % at most fail, and the prompt then says how. Some programs
are not defective at all: a model must also learn to leave things alone.
"""
import random
import re
from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import data
from corpus import raw_rows, samples_of
from defects import mutate, one_line
from parts import Writer, counted, finish, finished, in_processes, reject, stamp
from reward import extract_code

TRIES = 8
VISIBLE = 1 / 2000  # share of pixels that must change by more than 32 of 255 levels; see `visible`
MOST_FAILING = 0.2  # of the defects
REWRITE = 0.3  # share of the characters that operators may change at most
SAME = 0.98  # reward.visual from which on a model's answer is right


def visible(a, b):
    """Do two pictures, uint8 [H, W, 3], differ in size or in more than VISIBLE of their pixels?

    0.5 % of the pixels would be too strict for words and thin lines: of single edits to real programs, 4 of 36 to words
    of web pages, 5 of 25 to texts of charts and 1 of 24 to arrows pass it; 26, 22 and 13 pass 1/2000.
    """
    import numpy as np
    return a.shape != b.shape or (np.abs(a.astype(int) - b).max(-1) > 32).mean() > VISIBLE


def edit_share(a, b):
    """Characters of the longer of two programs that the other does not share, as a fraction of it: 0 to 1."""
    words = [re.findall(r"\w+|\W", code) for code in (a, b)]
    long = max(map(len, words)) > 2000  # it takes the square of that without autojunk
    matcher = SequenceMatcher(None, *words, autojunk=long)
    same = sum(len(word) for m in matcher.get_matching_blocks() for word in words[0][m.a:m.a + m.size])
    return 1 - same / max(len(a), len(b), 1)


def plan(seed, id, correct):
    """What the pair of a sample will be and the rng that makes it -> ("none", "failing" or "visible", Random).

    "none", no defect, has probability `correct`.
    """
    rng = random.Random(f"{seed}/{id}")
    drawn = rng.random()
    return "none" if drawn < correct else "failing" if rng.random() < 0.15 else "visible", rng


def refine_prompt(language, code, message=""):
    """The instruction of a refinement sample; message: of the renderer, where the program fails."""
    prompt = data.REFINE.format(name=data.NAMES[language], language=language, code=code)
    return prompt + ("\nRunning it fails: " + one_line(message.replace("```", "'''"), 300) if message else "")


def pair_of(sample, id, code, operator, change, message=""):
    """The refinement sample of a defective program; message as in `refine_prompt`."""
    answer = data.fenced(sample.language, extract_code(sample.answer, sample.language)[0])
    prompt = refine_prompt(sample.language, code, message)
    return replace(sample, id=id, task="refine", prompt=prompt, answer=answer, operator=operator, change=change)


def defect(rng, sample, code, right, failing, draw, operators):
    """Mutate until the program fails (failing), or draws visibly another picture than `right`, the correct Render.

    -> (code, names, changes, message), None after TRIES in vain. draw(sample, code) -> Render; operators: {name:
    Counter}, which takes down what each did.
    """
    for _ in range(TRIES):
        found = mutate(rng, sample.domain, code, 1 if failing else rng.choice((1, 1, 1, 2, 2, 3)), failing)
        if not found or edit_share(code, found[0]) > REWRITE:
            continue
        if extract_code(data.fenced(sample.language, found[0]), sample.language)[0] != found[0]:
            continue  # it no longer fits between fences
        render = draw(sample, found[0])
        fails = render.status in ("error", "timeout", "rejected")
        shows = render.status == "ok" and visible(right.image, render.image)
        for name in found[1].split("+"):
            operators.setdefault(name, Counter()).update({"tried": 1, "visible": int(shows), "failing": int(fails)})
        if fails if failing else shows:
            return *found, render.message or render.status if fails else ""
    return None


def model_defect(sample, responses, right, draw, may_fail, counts):
    """The first of a model's answers that is a defect -> (code, "model", change, message), None where there is none.

    It may differ from the correct program in everything: a model does not edit, it writes anew. right, draw: as in
    `defect`; may_fail: whether a program that fails is one; counts: a Counter of what the answers are.
    """
    from reward import features, visual_parts
    for i, response in enumerate(responses):
        code = extract_code(response, sample.language)[0]
        if code is None:
            counts["no code"] += 1
            continue
        render = draw(sample, code)
        if render.status == "infra":
            kind = "renderer failed"
        elif render.status != "ok":
            kind = "fails" if may_fail else "fails, as enough others do"
        elif not visible(right.image, render.image):
            kind = "right"
        else:
            similarity = visual_parts(features(right.image, right), render.image, render.texts)["visual"]
            kind = "right" if similarity >= SAME else "differs"
        counts[kind] += 1
        if kind in ("differs", "fails"):
            counts["not needed"] += len(responses) - i - 1
            message = render.message or render.status if kind == "fails" else ""
            return code, "model", one_line(message, 120) or "render differs", message
    return None


def unusable(sample):
    """Why no refinement sample can be made of a sample, "" if one may."""
    if reason := data.check_sample(sample, answer=sample.answer.strip() != ""):
        return reason
    if not sample.answer.strip():
        return "target without code"
    return "a refinement sample already" if sample.task == "refine" else ""


def responses_of(predictions, path):
    """The responses of a predictions.jsonl to the samples of a parquet file -> {id: responses}, number of doubles."""
    from eval import read_predictions
    responses = {}
    found, aside = read_predictions([predictions], {row.get("id") for row in raw_rows(path)})
    for (id, _, _), row in found.items():
        responses.setdefault(id, []).append(row["response"])
    return responses, aside["duplicates"]


def refine_file(path, number, out, split, only, predictions, correct, seed, timeout, unsafe):
    """Make the refinement samples of one parquet file: part `number` of a split.

    -> record: "read", "kept" {kind: pairs}, "rejected", "operators" {name: counts}, "model" (what the predictions are).
    """
    from render import Renderer
    wanted = [*stamp(path), predictions and stamp(predictions), only, correct, seed, timeout]
    if record := finished(out, number, wanted):
        return record
    writer, read, rejects = Writer(out / split / f"part-{number:05d}.parquet"), 0, []
    kept, operators, model, responses = Counter(), {}, Counter(), {}
    if predictions:
        responses, model["duplicates"] = responses_of(predictions, path)

    def keep(sample, suffix, found, kind):
        kept[kind] += 1
        for name in found[1].split("+"):
            operators.setdefault(name, Counter())["kept"] += 1
        writer.add(pair_of(sample, sample.id + suffix, *found))

    def room():  # for one more failing defect
        return kept["failing"] + 1 <= MOST_FAILING * (kept["failing"] + kept["visible"] + 1)

    with Renderer(1, timeout, unsafe=unsafe) as renderer:
        draw = lambda sample, code: renderer.submit(sample.language, code, (sample.width, sample.height)).result()
        for sample in counted(samples_of(path)):
            sample.id = sample.id or f"{split}-{number}-{read}"
            read += 1
            reason, right = unusable(sample), None
            if not only:
                writer.add(sample)
            if not reason:
                code, (kind, rng) = extract_code(sample.answer, sample.language)[0], plan(seed, sample.id, correct)
                right = draw(sample, code)
                if right.status != "ok":
                    reason = f"the correct side does not run: {right.status}"
                elif kind == "none":
                    keep(sample, "-refine", (code, "none", "", ""), "none")
                else:
                    found = kind == "failing" and room() and defect(rng, sample, code, right, True, draw, operators)
                    found = found or defect(rng, sample, code, right, False, draw, operators)
                    if found:
                        keep(sample, "-refine", found, "failing" if found[3] else "visible")
                    else:
                        reason = "no visible defect found"
            if reason:
                rejects.append(reject(path, read - 1, sample, reason))
            answers = responses.get(sample.id, ())
            if not right or right.status != "ok":
                model["sample not used"] += len(answers)
            elif found := model_defect(sample, answers, right, draw, room(), model):
                keep(sample, "-refine-model", found, "failing" if found[3] else "visible")
    writer.close()
    record = {"input": wanted, "read": read, "kept": kept, "operators": operators, "model": model}
    return finish(out, number, record, rejects)


def refine_samples(path, out, only=False, predictions=None, correct=0.07, seed=0, timeout=10.0, workers=None,
                   unsafe=False):
    """Write refinement samples, and unless `only` the samples they are made of, to the same splits below `out`.

    predictions: a predictions.jsonl of eval.py, whose wrong answers become defects too; correct: share of programs
    without a defect; timeout: seconds for a program. Prints what became of samples, operators and predictions. Raises
    SystemExit with one line where the predictions cannot be read.
    """
    out, predictions = Path(out), predictions and Path(predictions)
    if predictions:
        from eval import read_predictions
        what = "holds no prediction" if predictions.is_file() else "does not exist"
        aside = read_predictions([predictions], ())[1] if predictions.is_file() else Counter()
        lines = aside.total()
        if lines == aside["broken lines"]:
            raise SystemExit(f"error: {predictions} {what}. "
                             "Give --from the predictions.jsonl that `python eval.py --model DIR` writes.")
    jobs = [(file, n, out, split, only, predictions, correct, seed, timeout, unsafe)
            for n, (file, split) in enumerate(data.split_files(path))]
    out.mkdir(parents=True, exist_ok=True)
    records = in_processes(refine_file, jobs, workers, out, "refine")
    kept, model, rejected, operators = Counter(), Counter(), Counter(), {}
    for record in records:
        for total, key in ((kept, "kept"), (model, "model"), (rejected, "rejected")):
            total.update(record[key])
        for name, counts in record["operators"].items():
            operators.setdefault(name, Counter()).update(counts)
    read = sum(record["read"] for record in records)
    print(f"read {read}, kept {kept.total()} pairs: {kept['visible']} with a visible defect, {kept['failing']} that "
          f"fail, {kept['none']} without defect; rejected {rejected.total()} (in {out / 'rejects.jsonl'})")
    columns = ("tried", "kept", "visible", "failing")
    print(f"  {'operator':22}" + "".join(f"{c:>9}" for c in columns))
    for name, counts in sorted(operators.items()):
        print(f"  {name:22}" + "".join(f"{counts[c]:9}" for c in columns))
    if predictions:
        model["broken or of no sample here"] = lines - model.total()
        print(f"{lines} predictions: " + ", ".join(f"{n} {kind}" for kind, n in model.most_common() if n))
    for reason, n in rejected.most_common():
        print(f"  rejected {n}: {reason}")
