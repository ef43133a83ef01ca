#!/usr/bin/env bash
# nanoVinci: set-up, then the whole main job, or the tests.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")"

usage() { cat <<'HELP'
usage: bash run.sh [options]     set up, then: samples -> SFT -> ViRL -> SFT continued (control) -> evaluation -> OUT/report.html
       bash run.sh test          set up, then the tests
       bash run.sh setup         set up only

options
  --data DIR    run on DIR (written by `python data.py import FILE.parquet --out DIR`) instead of the embedded samples
  --out DIR     where everything is written (default: out); an earlier run there is moved aside, not deleted
  --seed N      seed of samples, model, data order and rollouts (default: 0)
  --resume      go on where an interrupted run stopped (same --out)
  --help        this text

The set-up makes .venv with the pinned requirements and installs Chromium, libcairo2, bubblewrap, TeX and poppler through apt
where it may; a second run repeats none of it. PYTHON=/path/to/python3.12 chooses the interpreter of a new .venv (default: the
first of python3, python3.13, python3.12 and python3.11 that is 3.11 or newer). Every stage is printed as the command that
runs it, and each can be run by hand (with .venv/bin/python).
HELP
}

mode=main; data=""; out=out; seed=0; resume=""
from_here() { # paths are meant from where run.sh was called, not from where it lies
  case "$1" in /*) echo "$1" ;; *) [ "$called_from" = "$PWD" ] && echo "$1" || echo "$called_from/$1" ;; esac
}
while [ $# -gt 0 ]; do
  case "$1" in
    test|setup) mode=$1 ;;
    --data|--out|--seed) [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
            case "$1" in --data) data=$(from_here "$2") ;; --out) out=$(from_here "$2") ;; --seed) seed=$2 ;; esac; shift ;;
    --resume) resume=--resume ;;
    --help|-h) usage; exit 0 ;;
    *) echo "error: unknown argument '$1'. See: bash run.sh --help" >&2; exit 2 ;;
  esac
  shift
done
case "$seed" in "" | *[!0-9]*) echo "error: --seed $seed: a number from 0 on is wanted" >&2; exit 2 ;; esac
if [ -n "$data" ] && ! [ -d "$data/sft" -a -d "$data/rl" -a -d "$data/test" ]; then
  echo "error: $data has no sft, rl and test below it. Make it with: .venv/bin/python data.py import FILE.parquet --out $data" >&2
  exit 1
fi
if [ $mode = main ] && [ -n "$resume" ] && ! [ -d "$out" ]; then
  echo "error: there is no $out to go on with. Leave --resume out" >&2; exit 1
fi
if [ $mode = main ] && [ -n "$(ls -A "$out" 2> /dev/null)" ] && ! ls -A "$out" | grep -qxE 'note.txt|data|tiny|sft|virl|eval'; then
  echo "error: $out is there and holds no earlier run. Give another --out" >&2; exit 1 # not ours: better not moved
fi
if [ $mode = main ] && [ -e "$out" ] && command -v flock > /dev/null && ! flock -n "$out" true; then
  echo "error: another run is writing into $out. Wait for it, or give another --out" >&2; exit 1
fi

# ------------------------------------------------------------------------------------------------------ system packages
browser() { [ -x "${VINCI_CHROMIUM:-}" ] || command -v chromium-headless-shell || command -v chromium || command -v google-chrome; }
missing_packages() {
  browser > /dev/null 2>&1 || echo "$browser_package"
  command -v bwrap > /dev/null || echo bubblewrap
  { ldconfig -p 2> /dev/null || true; } | grep -q libcairo.so.2 || echo libcairo2
  command -v pdflatex > /dev/null || echo "texlive-latex-base texlive-fonts-recommended"
  { kpsewhich standalone.cls && kpsewhich preview.sty; } > /dev/null 2>&1 || echo "texlive-latex-extra preview-latex-style"
  kpsewhich pgfplots.sty > /dev/null 2>&1 || echo texlive-pictures
  kpsewhich chemfig.sty > /dev/null 2>&1 || echo texlive-science
  kpsewhich simplekv.tex > /dev/null 2>&1 || echo texlive-plain-generic
  kpsewhich sfrm0900.pfb > /dev/null 2>&1 || echo cm-super
  command -v pdftoppm > /dev/null || echo poppler-utils
  { fc-list 2> /dev/null || true; } | grep -q Liberation || echo fonts-liberation fontconfig
}
system_setup() {
  browser_package=chromium-headless-shell
  local missing; missing=$(missing_packages | tr '\n' ' ')
  [ -n "${missing// /}" ] || return 0
  local sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo -n"
  if command -v apt-get > /dev/null && $sudo true 2> /dev/null; then
    echo "installing system packages: $missing"
    $sudo apt-get update -qq || true
    apt-cache show chromium-headless-shell > /dev/null 2>&1 || missing=${missing/chromium-headless-shell/chromium}
    local package  # one at a time if the whole set fails: a package that is absent must not cost the others
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing > .venv/apt.log 2>&1 ||
      for package in $missing; do
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$package" >> .venv/apt.log 2>&1 ||
          echo "could not install $package (log: .venv/apt.log)"
      done
    missing=$(missing_packages | tr '\n' ' ')
  fi
  [ -z "${missing// /}" ] || echo "not installed, some languages will be missing. To install: sudo apt-get install -y --no-install-recommends $missing"
}

# ------------------------------------------------------------------------------------------------------ Python packages
python_setup() {
  local stamp base="" candidate candidates=(python3 python3.13 python3.12 python3.11)
  stamp="$(sha256sum requirements.txt | cut -c1-64)"
  ! { [ "$(cat .venv/ready 2> /dev/null || true)" = "$stamp" ] && .venv/bin/python -c "" 2> /dev/null; } || return 0
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { base=$candidate; break; }
  done
  [ -n "$base" ] || { echo "error: no Python of version 3.11 or newer (tried: ${candidates[*]}). Name one: PYTHON=/path/to/python3.12 bash run.sh" >&2; exit 1; }
  .venv/bin/python -m pip --version > /dev/null 2>&1 || "$base" -m venv --clear .venv || # one without pip is what a failed try leaves
    { echo "error: $base -m venv failed (see above). Debian and Ubuntu have it in a package: sudo apt-get install -y python3-venv" >&2; exit 1; }
  local torch; torch=$(grep -o '^torch==[^ ]*' requirements.txt)
  if ! nvidia-smi > /dev/null 2>&1; then
    # Without a GPU the CPU build saves gigabytes. Its index may be out of reach: then the plain pin below serves.
    .venv/bin/python -m pip install -q --retries 0 --timeout 15 --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch" \
      > .venv/torch.log 2>&1 || echo "PyTorch's CPU index cannot be reached: taking $torch from the default index"
  fi
  echo "installing requirements.txt into .venv"
  .venv/bin/python -m pip install -qq --disable-pip-version-check -r requirements.txt ||
    { echo "error: pip could not install requirements.txt (see above). What it has fetched is kept; try again: bash run.sh setup" >&2; exit 1; }
  echo "$stamp" > .venv/ready
}

python_setup
system_setup
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_PROGRESS_BARS=1
[ "$mode" != setup ] || { python render.py --doctor || true; exit 0; }
[ "$mode" != test ] || exec python -m pytest -q tests

# ------------------------------------------------------------------------------------------------------------- main job
run() { # print the command, run it, pass Ctrl-C and SIGTERM on to it, stop the job when it fails or was interrupted
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@" 9<&- & child=$!
  local code=0
  wait $child || code=$?
  while kill -0 $child 2> /dev/null; do wait $child || code=$?; done
  [ -z "$interrupted" ] || { echo "interrupted. Go on with: bash run.sh $again"; exit 130; }
  [ $code = 0 ] || { echo "error: the command above ended with code $code. After mending it, go on with: bash run.sh $again" >&2; exit $code; }
}
interrupted=""; child=""
trap 'interrupted=1; [ -z "$child" ] || kill -TERM $child 2> /dev/null || true' INT TERM
again="--out $(printf %q "$out") --seed $seed --resume${data:+ --data $(printf %q "$data")}"

if [ -z "$resume" ] && [ -n "$(ls -A "$out" 2> /dev/null)" ]; then
  n=1; while [ -e "$out.$n" ]; do n=$((n + 1)); done
  mv "$out" "$out.$n"; echo "moved the earlier run $out to $out.$n"
fi
mkdir -p "$out"
exec 9< "$out"
! command -v flock > /dev/null || flock -n 9 # held as long as this job runs
started=$(date +%s)
python render.py --doctor || echo "going on with the languages that are there"
resume_if() { [ -z "$resume" ] || ! ls "$1"/state/step_* > /dev/null 2>&1 || echo --resume; }
stage() { # run a command unless FILE, the last thing it writes, is there
  local file=$1; shift
  [ ! -e "$file" ] || return 0
  run "$@"
  [ -e "$file" ] || { echo "stopped before $file was written. Go on with: bash run.sh $again"; exit 130; }
}

if [ -z "$data" ]; then # the embedded default: what the bare commands do, too
  data=$out/data
  sft=""; virl=""; evaluate="--samples 2"
  stage "$data/rl/part-0.parquet" python data.py synth --out "$data" --seed "$seed"
  cat > "$out/note.txt" <<NOTE
The regime. Labels: 3,200 image-code pairs in SVG, HTML and Python (4 : 1 : 1), a quarter of them refinement (defective code in, corrected code out), imperfect as collected ones are: each number of a label is off by one step with probability 0.1, and 10 % of the labels are damaged (SVG and Python then fail, HTML draws something else). ViRL gets 2,400 target images without any code; half of them are like the labelled ones, half hold shapes and bars larger than any labelled image (source "synth/target-only" below). Held out: 768 images, half of each kind; none of them occurs in training.

"SFT continued" is the control: the same start and the same labels, more SFT for the wall time that ViRL took. With unlimited clean labels more SFT would win (LOG.md); this is the situation in which people turn to ViRL: SFT near its plateau, labels limited and imperfect, images plenty.
NOTE
else # real programs are long: fewer of them, so that the tiny model passes through every stage in minutes
  sft="--steps 60 --batch 8 --micro-batch 4"; virl="--steps 8 --prompts 4 --updates 1 --max-new-tokens 384 --overlong 64"
  evaluate="--samples 1 --max-new-tokens 384"
  echo "Samples: $data. The model is the tiny, randomly initialised one and the stages are short: this run shows that the data passes through every stage, not what can be learned from it." > "$out/note.txt"
fi
python data.py stats "$data"
stage "$out/sft/config.json" python sft.py --model "$out/tiny" --build-tiny --data "$data/sft" --out "$out/sft" --seed "$seed" $sft $(resume_if "$out/sft")
stage "$out/virl/config.json" python virl.py --model "$out/sft" --data "$data/rl" --out "$out/virl" --seed "$seed" $virl $(resume_if "$out/virl")
# The honest control: the same start, more SFT on the same labels, for the wall time that ViRL took.
seconds=$(tail -n 1 "$out/virl/metrics.jsonl" | python -c "import json, sys; print(json.load(sys.stdin)['seconds'])")
stage "$out/control/config.json" python sft.py --model "$out/sft" --data "$data/sft" --out "$out/control" --seed $((seed + 1)) $sft \
  --steps 1000000 --max-seconds "$seconds" $(resume_if "$out/control")
for name in sft control virl; do
  case $name in sft) label="SFT" ;; control) label="SFT continued" ;; virl) label="SFT + ViRL" ;; esac
  stage "$out/eval/$name/report.html" python eval.py --model "$out/$name" --data "$data/test" --out "$out/eval/$name" --label "$label" \
    --seed "$seed" $evaluate ${resume:+--resume}
done
run python eval.py --compare "$out/eval/sft" "$out/eval/control" "$out/eval/virl" --out "$out" --note "$out/note.txt" \
  --curves "$out/sft" "$out/virl" "$out/control"
echo "done in $(( ($(date +%s) - started) / 60 )) min $(( ($(date +%s) - started) % 60 )) s after set-up. Open $out/report.html"
