"""cli.py: numbers out of bounds, Ctrl-C, closed pipes and full disks end in one line, whichever script is asked."""
import argparse
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from test_docs import parser_of

import cli

STAGES = ("data.py", "sft.py", "virl.py", "eval.py", "policy.py", "tiny.py", "render.py")


def numbers(parser):
    """{(command, flag): what reads its value} of a parser and its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from ((f"{name} {flag}", read) for flag, read in numbers(sub))
        elif action.type:
            yield action.option_strings[-1], action.type


@pytest.mark.parametrize("script", STAGES)
def test_every_number_has_bounds(script):
    flags = dict(numbers(parser_of(script)))
    assert flags
    for flag, read in flags.items():
        for wrong in ("nan", "inf", "-1", "x", "", "1e999", "--3") if read is not cli.name else ("", " "):
            with pytest.raises(argparse.ArgumentTypeError, match="is wanted"):
                print(flag, wrong, read(wrong))


def test_bounds():
    for read, right in ((cli.whole(1), "1"), (cli.whole(), "0"), (cli.real(), "1e-6"), (cli.real(0, 1), "1"), (cli.real(above=True), "1e-9")):
        assert read(right) == float(right)
    for read, wrong, words in ((cli.whole(1), "0", "whole number of at least 1"), (cli.whole(), "1.5", "whole"),
                               (cli.real(0, 1), "1.1", "at most 1"), (cli.real(above=True), "0", "above 0")):
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            read(wrong)


def test_defaults_are_within_their_bounds():
    for script in STAGES:
        parser = parser_of(script)
        commands = [action.choices.values() for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        for p in (parser, *(sub for subs in commands for sub in subs)):
            for action in p._actions:
                if action.type and action.default is not None:
                    assert action.type(str(action.default)) == action.default, (script, action.dest)


PROGRAM = """
import os, time, cli
if __name__ == '__main__':
    cli.end_quietly()
    with cli.Pool(2) as pool:
        for _ in range(20):
            pool.submit(time.sleep, 30)
        print(*pool._processes, flush=True)
        os.read(0, 1)
"""


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("wait", [0.0, 0.5])
def test_ctrl_c_ends_the_whole_pool_in_one_line(wait):
    """The signal goes to all processes of the terminal, while those of the pool start and while they work."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, text=True, start_new_session=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pids = process.stdout.readline().split()
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=20)  # the tasks take minutes
    assert process.returncode == -signal.SIGINT and words.split() == ["interrupted"]
    assert len(pids) == 2 and not any(map(alive, pids))


def run(program):
    return subprocess.run([sys.executable, "-c", f"import cli; cli.end_quietly(); {program}"], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("body, code, words", [
    ("raise KeyboardInterrupt", -signal.SIGINT, "interrupted"), ("raise BrokenPipeError", 1, ""),
    ("open('/proc/none/x', 'w')", 1, "error: No such file or directory: /proc/none/x"),
    ("import absent", 1, "error: No module named 'absent'. bash run.sh setup installs what is needed into .venv: source .venv/bin/activate"),
    ("open('/dev/full', 'w').write('x' * 99999)", 1, "error: No space left on device")])
def test_what_is_no_bug_ends_in_one_line(body, code, words):
    result = run(body)
    assert result.returncode == code and result.stderr.strip() == words


@pytest.mark.parametrize("lines", [2, 99999])
def test_a_reader_may_go_away(lines):
    """`data.py stats DIR | head -1`: before the end, and before the buffer is emptied at the end."""
    program = f"import cli, time; cli.end_quietly(); print(1, flush=True); time.sleep(0.3); [print('x') for _ in range({lines})]"
    for reader, shown in (("| head -1", "1\n"), (">&-", "")):
        result = subprocess.run(f'{sys.executable} -c "{program}" {reader}', shell=True, cwd=ROOT, capture_output=True, text=True)
        assert (result.stdout, result.stderr) == (shown, "")


def test_a_bug_keeps_its_traceback():
    result = run("1 / 0")
    assert result.returncode == 1 and "Traceback" in result.stderr and "ZeroDivisionError" in result.stderr


@pytest.mark.parametrize("argv, words", [
    (["render.py", "SVG", "-o", "FOLDER"], "cannot write FOLDER"), (["render.py", "SVG", "-o", "FOLDER/none/x.png"], "cannot write"),
    (["render.py", "absent.svg"], "cannot read absent.svg"), (["render.py", "SVG", "--size", "64"], "write it as 640x480"),
    (["reward.py", "PNG", "SVG", "--explain", "FOLDER"], "cannot write FOLDER"), (["reward.py", "SVG", "PNG"], "cannot identify image file"),
    (["tiny.py", "--data", "PARQUET", "--out", "/proc/none/x"], "error: No such file or directory: /proc/none"),
    (["policy.py", "--plan", "FOLDER"], "no model at FOLDER"),
    (["tests/draw_step.py", "FOLDER", "--data", "PARQUET"], "error: No such file or directory: FOLDER/rollouts/step_1.jsonl"),
    (["tests/seeds.py", "FOLDER"], "FOLDER/eval/sft is not a scored run")])
def test_bad_files_are_one_line(tmp_path, samples, argv, words):
    """Spaces and quotes in the names."""
    import data
    folder = tmp_path / "it's a ü folder"
    names = {"FOLDER": folder, "SVG": folder / 'a "b".svg', "PNG": folder / "a.png", "PARQUET": folder / "a.parquet"}
    data.write_samples(samples[:8], names["PARQUET"])
    names["SVG"].write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="9" height="9"/></svg>')
    names["PNG"].write_bytes(samples[0].image)

    def fill(text):
        for name, path in names.items():
            text = text.replace(name, str(path))
        return text
    result = subprocess.run([sys.executable, *map(fill, argv)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode in (1, 2) and fill(words) in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr, result.stderr
