#!/usr/bin/env bash
# Tests, checks and times everything on a GPU, within eight minutes:  bash bench/gpu_report.sh FOLDER [everything]
#
# FOLDER gets the output of each part, and <device>.md and <device>.json, which hold all of it with the versions. What
# matters most comes first. A part that fails, or takes longer than its share, does not stop what comes after it; the
# report names it. With "everything", feeding and scaling are measured afterwards, and take as long as they like.
# It needs CuPy and the package's test extra; PyTorch for CUDA to compare with, and compute-sanitizer and ncu where they
# are to be used. GPU_REPORT_SECONDS sets another limit, PYTHON another Python.
set -uo pipefail
out=$(mkdir -p "${1:?name a folder for the results}" && cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-$(command -v python3 || command -v python)}
deadline=$((SECONDS + ${GPU_REPORT_SECONDS:-465}))
: >"$out/parts.tsv"

# part FILE LIMIT COMMAND...: what the command prints goes to FILE, its messages to FILE.log. It gets LIMIT seconds, or
# what is left of all of them.
part() {
    local file=$1 limit=$2 left=$((deadline - SECONDS - 10)) began=$SECONDS status=skipped
    shift 2
    if ((limit > left)); then limit=$left; fi
    if ((limit >= 5)); then
        timeout --kill-after=5 "$limit" "$@" >"$out/$file" 2>"$out/$file.log"
        status=$?
    fi
    printf '%s\t%s\t%s\t%s\n' "$file" "$status" "$((SECONDS - began))" "$limit" >>"$out/parts.tsv"
    printf '%s: status %s after %s of %s s\n' "$file" "$status" "$((SECONDS - began))" "$limit"
}

# sanitized TOOL: the tests of the kernels under a tool of compute-sanitizer. Every array gets memory of its own, or an
# access outside of it would fall into memory of CuPy's pool.
sanitized() {
    local tests="import cupy, pytest; cupy.cuda.set_allocator(None); raise SystemExit(pytest.main('-q -m gpu \
        -p no:cacheprovider tests/kernels/cuda/test_conv2d_tensor_core.py tests/kernels/cuda/test_lrn_max_pool2d.py \
        tests/kernels/cuda/test_augment.py tests/kernels/cuda/test_sgd.py'.split()))"
    part "$1.txt" 50 compute-sanitizer --tool "$1" --error-exitcode 9 "$python" -c "$tests"
}

step=("$python" bench/train_step.py --device gpu --model paper --against torch --precision "bfloat16,tf32" --json)
kernels=("$python" bench/kernels.py --device gpu --batch-size 256 --json)
tests=("$python" -m pytest -m gpu -q --continue-on-collection-errors -p no:cacheprovider)
# Kernels are compiled by the tests first, on as many cores as there are where pytest-xdist is installed.
if "$python" -c "import xdist" 2>/dev/null; then tests+=(-n 6); fi

part gpu.csv 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
part tests.txt 120 "${tests[@]}"
part train_step_256.json 75 "${step[@]}" --batch-size 256 --repetitions 5
part train_step_256_no_lrn.json 60 "${step[@]}" --batch-size 256 --repetitions 5 --no-lrn
part kernels_bfloat16.json 60 "${kernels[@]}"
for size in 512 1024; do
    part "train_step_$size.json" 50 "${step[@]}" --batch-size "$size" --repetitions 3
    part "train_step_${size}_no_lrn.json" 50 "${step[@]}" --batch-size "$size" --repetitions 3 --no-lrn
done
if command -v compute-sanitizer >/dev/null; then
    sanitized memcheck
    sanitized racecheck
fi
part kernels_tf32.json 40 "${kernels[@]}" --precision tf32
if command -v ncu >/dev/null; then
    part ncu.txt 40 ncu --clock-control none --kernel-name "regex:convolve|sum_of_parts" --launch-count 24 \
        --section SpeedOfLight --section Occupancy "${kernels[@]}" --layer conv2 --repetitions 1
fi
"$python" bench/gpu_report.py "$out"

if [[ ${2:-} == everything ]]; then
    deadline=$((SECONDS + 36000))
    part data.txt 3600 "$python" bench/data.py --device gpu --against torch
    part bfloat16.txt 3600 "$python" -m pytest bench/bench_bfloat16.py --benchmark-only
    part train_step_autotuned.json 3600 "${step[@]}" --batch-size 256,1024 --compile-mode max-autotune-no-cudagraphs
    part scaling.txt 3600 "$python" bench/scaling.py --device gpu --batch-size 64,128 --results "$out" \
        --figure "$out/scaling.png"
    "$python" bench/gpu_report.py "$out"
fi
