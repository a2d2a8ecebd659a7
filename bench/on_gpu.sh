#!/usr/bin/env bash
# Everything that is to be measured on a GPU, into a folder: bash bench/on_gpu.sh FOLDER
# It needs CuPy, PyTorch for CUDA and the package's test extra; a failure does not stop what comes after it.
set -uo pipefail
out=$(mkdir -p "${1:?name a folder for the results}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

nvidia-smi > "$out/gpu.txt"
python -m pytest -m gpu > "$out/tests.txt" 2>&1
python bench/data.py --device gpu --against torch > "$out/data.md"
python bench/train_step.py --device gpu --batch-size 128,256 --model paper --against torch > "$out/train_step.md"
python bench/train_step.py --device gpu --batch-size 128,256 --model paper --against torch --no-lrn > "$out/train_step_no_lrn.md"
python -m pytest bench/bench_bfloat16.py --benchmark-only --benchmark-json="$out/bfloat16.json" > "$out/bfloat16.txt" 2>&1
python bench/scaling.py --device gpu --batch-size 64,128 --results "$out" --figure "$out/scaling.png" > /dev/null
tail -n +1 "$out"/*.txt "$out"/*.md
