"""The documents agree with the code: docs/equations.md names the lines it says, files and flags in README.md and docs/*.md exist.

    python tests/test_docs.py --fix      # write the line numbers of docs/*.md anew after the code has moved
"""
import argparse
import ast
import contextlib
import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DOCUMENTS = [ROOT / "README.md", ROOT / "THIRD_PARTY.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE_LINK = re.compile(r"\[([\w/]+\.\w+):(\d+)\]\(\.\./([\w/]+\.\w+)#L(\d+)\) `([^`]+)`")  # [virl.py:1](../virl.py#L1) `code of that line`
SCRIPTS = sorted(f"{folder}{path.name}" for folder in ("", "tests/") for path in (ROOT / folder).glob("*.py") if ".parse_args()" in path.read_text())
FOREIGN = {"--nproc_per_node", "--shutdown-timeout"}  # flags of torchrun
FOREIGN_FILES = re.compile(r"run\.py|vlmeval/.*|docs/en/.*|direct_600/.*|examples/.*")  # of VLMEvalKit, of ChartMimic's archive, of VinciCoder's release


# ---------------------------------------------------------------------------------------------------------------- lines

def line_of(file, code):
    """Number of the one line of a file of the repository that holds `code`, or a str that says why there is none."""
    if not (ROOT / file).is_file():
        return f"there is no {file}"
    found = [number for number, line in enumerate((ROOT / file).read_text().splitlines(), 1) if code in line]
    return found[0] if len(found) == 1 else f"{len(found)} lines of {file} hold `{code}`, not one"


def wrong_lines(text):
    """What is wrong with the links to lines in a document: a list of str."""
    wrong = []
    for shown, number, file, anchor, code in CODE_LINK.findall(text):
        line = line_of(file, code)
        if shown != file or number != anchor:
            wrong.append(f"[{shown}:{number}] leads to {file}#L{anchor}")
        elif line != int(number):
            wrong.append(f"{file}:{number}: " + (line if isinstance(line, str) else f"`{code}` stands on line {line} now; python tests/test_docs.py --fix"))
    strict, loose = len(CODE_LINK.findall(text)), len(re.findall(r"\]\([^)]*#L\d+\)", text))
    return wrong + ([f"{loose - strict} link(s) to a line without the code that must stand there"] if loose != strict else [])


def fixed(text):
    """The document with the right numbers, where there is one."""
    def write(match):
        line = line_of(match[3], match[5])
        return match[0] if isinstance(line, str) else f"[{match[3]}:{line}](../{match[3]}#L{line}) `{match[5]}`"
    return CODE_LINK.sub(write, text)


# ------------------------------------------------------------------------------------------------------- files and flags

def missing_files(text, folder):
    """Relative links of a document in `folder`, and files of the project that it names between backticks or in commands, that do not exist."""
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:|#", link)}
    missing = [link for link in sorted(links) if link and not (folder / link).exists()]
    theirs = set(re.findall(r"[Ss]ave this as `([^`]+)`", text))  # files that the reader is told to write
    named = {name for span in re.findall(r"```.*?```|`[^`\n]+`", text, re.S) for name in re.findall(r"(?<![\w/.])[\w/]+\.(?:py|sh|md|cff)\b", span)}
    return missing + sorted(name for name in named - theirs if not (ROOT / name).exists() and not FOREIGN_FILES.fullmatch(name))


class Found(Exception):
    """Carries the parser out of a main() that was about to parse."""


@cache
def parser_of(script):
    """The argparse parser of a script of the repository, without running more of it."""
    def stop(parser, *_, **__):
        raise Found(parser)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "excepthook", sys.excepthook)  # a script sets its own
        patch.setattr(sys, "path", [str(ROOT), str(ROOT / "tests"), *sys.path])
        try:
            if script.startswith("tests/"):
                runpy.run_path(str(ROOT / script), run_name="__main__")
            else:
                importlib.import_module(script.removesuffix(".py")).main()
        except Found as found:
            return found.args[0]
    raise AssertionError(f"{script} parses no arguments")


def options(parser, command=None):
    """Flags of a parser, of its sub-command if it has that one; of all of them without a name. None: there is no such command."""
    flags = {flag for flag in parser._option_string_actions}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            if command and command not in action.choices:
                return None
            for name, sub in action.choices.items():
                if command in (None, name):
                    flags |= options(sub)
    return flags


def has_commands(parser):
    return any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)


def run_sh_flags():
    return set(re.findall(r"--[a-z-]+", (ROOT / "run.sh").read_text().split("HELP")[1]))


def commands(text):
    """Shell commands of a document, in its code blocks and between backticks, one str each."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return lines + re.findall(r"`((?:python|torchrun|bash) [^`\n]+|[\w/]+\.py [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


COMMAND = re.compile(r"(?:\w+=\S+ )*(?:(?:(?:\S*/)?(?:python|torchrun)\s+(?:--nproc_per_node=\S+\s+)?|sbatch \S+ \S+\s+)?([\w/]+\.py)|bash (run\.sh))(?:\s+(.*))?$")


def wrong_flags(text):
    """Flags and sub-commands that a document shows and the script does not have: a list of str."""
    wrong = []
    for command in commands(text):
        match = COMMAND.match(command.split("#")[0].strip())
        if not match:
            continue
        words = shlex.split(re.split(r" [|;&>]", match[3] or "")[0])
        flags = {word.split("=")[0] for word in words if re.match(r"--\w", word)}
        if match[2]:
            wrong += [f"run.sh has no {flag}" for flag in sorted(flags - run_sh_flags())]
        elif FOREIGN_FILES.fullmatch(match[1]):
            continue
        elif match[1] not in SCRIPTS:
            wrong += [f"{match[1]} takes no arguments"] if flags else []
        else:
            parser = parser_of(match[1])
            sub = words[0] if words and has_commands(parser) and not words[0].startswith("-") else None
            known = options(parser, sub)
            wrong += [f"{match[1]} has no command {sub}"] if known is None else [f"{match[1]} {sub or ''}".strip() + f" has no {flag}" for flag in sorted(flags - known)]
    for row in re.findall(r"^\| `([\w/]+\.py)\b.*$", text, re.M):  # tables whose first column names a script
        for line in re.findall(rf"^\| `{re.escape(row)}[` ].*$", text, re.M):
            if row in SCRIPTS:
                spans = " ".join(re.findall(r"`([^`]+)`", line))
                wrong += [f"{row} has no {flag}" for flag in sorted(set(re.findall(r"(?<!\S)--[a-z][\w-]*", spans)) - options(parser_of(row)))]
    every = set.union(run_sh_flags(), FOREIGN, *(options(parser_of(script)) for script in SCRIPTS))
    prose = " ".join(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)))
    return list(dict.fromkeys(wrong + [f"no script has {flag}" for flag in sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", prose)) - every)]))


# ---------------------------------------------------------------------------------------------------------------- tests

@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_lines(document):
    assert not wrong_lines(document.read_text())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files(document):
    assert not missing_files(document.read_text(), document.parent)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_flags(document):
    assert not wrong_flags(document.read_text())


def test_every_formula_has_its_line():
    paragraphs = (ROOT / "docs" / "equations.md").read_text().split("\n**")[1:]
    assert len(paragraphs) > 20
    assert not [p.split("**")[0] for p in paragraphs if not CODE_LINK.search(p)]


def test_a_moved_line_is_found_and_mended():
    text = (ROOT / "docs" / "equations.md").read_text()
    match = CODE_LINK.search(text)
    moved = text.replace(match[0], match[0].replace(match[2], str(int(match[2]) + 3)), 1)
    (wrong,) = wrong_lines(moved)
    assert f"stands on line {match[2]} now" in wrong
    assert fixed(moved) == text
    assert "0 lines of sft.py" in wrong_lines("[sft.py:1](../sft.py#L1) `no such code anywhere`")[0]
    assert "not one" in wrong_lines("[virl.py:1](../virl.py#L1) `step`")[0]  # a snippet on many lines says nothing
    assert "there is no" in wrong_lines("[gone.py:1](../gone.py#L1) `x`")[0]
    assert "leads to" in wrong_lines("[sft.py:1](../virl.py#L1) `x`")[0]
    assert "without the code" in wrong_lines("[sft.py:1](../sft.py#L1)")[0]
    assert fixed("[sft.py:1](../sft.py#L1) `no such code anywhere`").startswith("[sft.py:1]")


def test_the_readme_leads_to_every_document():
    readme = (ROOT / "README.md").read_text()
    assert not [str(path) for path in DOCUMENTS[1:] if f"]({path.relative_to(ROOT)})" not in readme]


def test_commands_are_read():
    read = [match[1] or match[2] for command in commands((ROOT / "README.md").read_text()) if (match := COMMAND.match(command.split("#")[0].strip()))]
    assert len(read) > 25 and {"run.sh", "sft.py", "virl.py", "eval.py", "data.py", "reward.py", "render.py", "policy.py", "tests/bench.py"} <= {*read}


def test_a_wrong_flag_is_found():
    block = lambda command: f"text\n\n```\n{command}\n```\n"
    assert wrong_flags(block("python sft.py --stepz 3")) == ["sft.py has no --stepz"]
    assert wrong_flags(block("torchrun --nproc_per_node=8 virl.py --model out/sft \\\n    --promts 64   # --not-a-flag in a comment")) == ["virl.py has no --promts"]
    assert wrong_flags(block("$ python data.py filter raw --format trl")) == ["data.py filter has no --format"]  # export has it
    assert wrong_flags(block("python data.py filtre raw")) == ["data.py has no command filtre"]
    assert wrong_flags(block("sbatch train.sbatch out/a sft.py --replcas 8")) == ["sft.py has no --replcas"]
    assert wrong_flags(block("PYTHON=python3 bash run.sh --sed 1")) == ["run.sh has no --sed"]
    assert wrong_flags("so `python eval.py --moddel x` does")[:1] == ["eval.py has no --moddel"]
    assert wrong_flags("| `reward.py` | `TARGET.png FILE`; `--explian OUT.png` |")[:1] == ["reward.py has no --explian"]
    assert wrong_flags("with `--refil` more") == ["no script has --refil"]
    assert not wrong_flags(block("python sft.py --steps 3\npython tests/ladder.py --hacks\nbash run.sh --seed 1\npython data.py export DIR --format trl"))


def test_a_missing_file_is_found():
    assert missing_files("[x](docs/none.png) and `gone.py`, `tests/gone.py`", ROOT) == ["docs/none.png", "gone.py", "tests/gone.py"]
    assert not missing_files("[x](docs/results.png), [y](https://a.b/c.png), [z](#head), `data.py synth`, save this as `mine.py`, `out/a.json`", ROOT)


def test_the_slurm_file_saves_goes_on_and_repeats_no_error(tmp_path):
    """train.sbatch of docs/training.md with a stand-in for srun, which fails, is told to stop, or finishes, and for scontrol."""
    (tmp_path / "train.sbatch").write_text((ROOT / "docs" / "training.md").read_text().split("```bash\n")[1].split("```\n")[0])
    for name, text in (("scontrol", 'if [ $1 = show ]; then printf "n1\\nn2\\n"; else echo "$*" >> scontrol.log; fi'),
                       ("srun", 'echo "$*" >> srun.log; [ $DO = fail ] && exit 3; [ $DO = finish ] && touch out/config.json && exit\n'
                                'trap "sleep 0.3; mkdir -p out/state/step_5; exit 1" TERM; touch waits; while :; do sleep 0.1; done')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "out").mkdir()

    def job(do):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DO": do, "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
        process = subprocess.Popen(["bash", "train.sbatch", "out", "sft.py", "--steps", "9"], cwd=tmp_path, env=environment)
        while do == "stop" and not (tmp_path / "waits").exists():
            time.sleep(0.05)
        if do == "stop":
            process.terminate()
        return process.wait(30), (tmp_path / "srun.log").read_text().splitlines(), (tmp_path / "scontrol.log").exists()

    code, (first,), queued = job("fail")
    assert code == 3 and not queued and first.endswith("--rdzv-endpoint=n1:29500 --shutdown-timeout=840 sft.py --out out --steps 9")
    assert "--nnodes=2 --nproc_per_node=8" in first
    code, _, queued = job("stop")
    assert code == 0 and queued and (tmp_path / "out/state/step_5").is_dir() and (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    code, (*_, last), _ = job("finish")
    assert code == 0 and last.endswith("sft.py --out out --steps 9 --resume")
    code, lines, _ = job("fail")  # it is finished: nothing is started
    assert code == 0 and len(lines) == 3 and (tmp_path / "scontrol.log").read_text() == "requeue 7\n"


def test_third_party_lists_what_is_installed():
    text = (ROOT / "THIRD_PARTY.md").read_text()
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)
    apt = set(re.findall(r"[a-z][\w-]+", " ".join(re.findall(r'\|\| echo "?([a-z][\w -]+)"?$', (ROOT / "run.sh").read_text().split("system_setup()")[0], re.M))))
    assert len(pins) > 15 and {"bubblewrap", "texlive-science", "fontconfig"} <= apt
    assert not [pin for pin in pins if f"| {pin[0]} {pin[1]} |" not in text]
    assert not [package for package in apt if not re.search(rf"(?<![\w-]){package}(?![\w-])", text)]


def test_versions_of_python_are_the_same_everywhere():
    looked_for = re.findall(r"python3\.(\d+)\b", re.search(r"candidates=\((.*?)\)", (ROOT / "run.sh").read_text())[1])
    said = f"Python 3.{min(map(int, looked_for))} to 3.{max(map(int, looked_for))}"
    assert len(looked_for) > 1 and said in (ROOT / "README.md").read_text() and (ROOT / "requirements.txt").read_text().startswith(f"# {said}.")


def undocumented(tree, prefix=""):
    """Names of the public functions, classes and methods of a module, or of a class, that have no docstring."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node, f"{node.name}.")


def test_the_text_of_the_scripts():
    """Docstrings, but for a main(), which the script's own describes; lines that fit a screen; files that fit a head."""
    assert list(undocumented(ast.parse("def f(): 1\nclass A:\n 'a'\n def g(self): 1\n def h(self): 'h'\ndef _i(): 1"))) == ["f", "A.g"]
    for path in ROOT.glob("*.py"):
        text = path.read_text()
        tree = ast.parse(text)
        assert ast.get_docstring(tree) and set(undocumented(tree)) <= {"main"}, path.name
        assert not [line for line in text.splitlines() if len(line) > 120], path.name
        assert len(text.splitlines()) <= (620 if path.name == "virl.py" else 460), path.name


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    arguments.add_argument("--fix", action="store_true", help="write the line numbers anew")
    if arguments.parse_args().fix:
        for path in DOCUMENTS:
            path.write_text(fixed(path.read_text()))
    problems = [f"{path.name}: {line}" for path in DOCUMENTS for line in wrong_lines(path.read_text())]
    sys.exit("\n".join(problems) or None)
