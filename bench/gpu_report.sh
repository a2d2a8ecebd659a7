#!/usr/bin/env bash
# Tests, checks and times everything on a GPU, within eight minutes:  bash bench/gpu_report.sh FOLDER [everything]
#
# FOLDER gets <device>.md and <device>.json, the report of all parts with the versions, and parts.log, all that they
# have printed. What matters most comes first. A part that fails, or takes longer than its share, does not stop what
# comes after it; the report names it. With "everything", feeding and scaling are measured afterwards, and take as long
# as they like.
# It needs CuPy and the package's test extra; PyTorch for CUDA to compare with, and compute-sanitizer and ncu where they
# are to be used. GPU_REPORT_SECONDS sets another limit, PYTHON another Python. The exit status is 1 where no benchmark
# could measure anything, and 2, with nothing written, where there is no GPU.
set -uo pipefail

refuse() {
    echo "error: $1" >&2
    exit 2
}

if (($# < 1 || $# > 2)) || [[ ${2:-everything} != everything ]]; then
    refuse "run: bash bench/gpu_report.sh FOLDER [everything]"
fi
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$(command -v python3 || command -v python)}
reason=$(cd "$root" && "$python" -c "from npconvnet.backend import why_no_gpu; print(why_no_gpu() or '')") || exit 2
if [[ $reason ]]; then refuse "no GPU can be used: $reason"; fi
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
cd "$root" || exit 2
parts=$(mktemp -d) || exit 2
trap 'rm -rf "$parts"' EXIT
deadline=$((SECONDS + ${GPU_REPORT_SECONDS:-465}))
: >"$out/parts.log"

# part FILE LIMIT COMMAND...: what the command prints goes to FILE, its messages to FILE.log. It gets LIMIT seconds, or
# what is left of all of them.
part() {
    local file=$1 limit=$2 left=$((deadline - SECONDS - 10)) began=$SECONDS status=skipped
    shift 2
    if ((limit > left)); then limit=$left; fi
    if ((limit >= 5)); then
        timeout --kill-after=5 "$limit" "$@" >"$parts/$file" 2>"$parts/$file.log"
        status=$?
    fi
    printf '%s\t%s\t%s\t%s\n' "$file" "$status" "$((SECONDS - began))" "$limit" >>"$parts/parts.tsv"
    printf '%s: status %s after %s of %s s\n' "$file" "$status" "$((SECONDS - began))" "$limit" |
        tee -a "$out/parts.log"
    if [[ $status != skipped ]]; then cat "$parts/$file" "$parts/$file.log" >>"$out/parts.log"; fi
}

# sanitized FILE LIMIT TOOL TESTS...: some of these tests under a tool of compute-sanitizer.
sanitized() {
    if command -v compute-sanitizer >/dev/null; then
        part "$1" "$2" compute-sanitizer --tool "$3" --error-exitcode 9 "$python" bench/sanitized_tests.py "${@:4}"
    fi
}

step=("$python" bench/train_step.py --device gpu --model paper --json)
against_torch=("${step[@]}" --against torch)
kernels=("$python" bench/kernels.py --device gpu --batch-size 256 --json)
# A test that takes longer than 20 seconds says where it is.
tests=("$python" -m pytest -m gpu -q --continue-on-collection-errors -p no:cacheprovider -o faulthandler_timeout=20)
# Kernels are compiled by the tests first, on as many cores as there are where pytest-xdist is installed.
if "$python" -c "import xdist" 2>/dev/null; then tests+=(-n 6); fi
by_wgmma=tests/kernels/cuda/test_conv2d_wgmma.py
others=(--ignore $by_wgmma tests/kernels/cuda)

# What goes wrong in wgmma may end a process, or never end: what is measured by it has processes of its own.
# The limits of these add up to what there is: none of them goes without its share.
part gpu.csv 5 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
part wgmma.txt 40 "${tests[@]}" -o faulthandler_exit_on_timeout=true $by_wgmma
part tests.txt 75 "${tests[@]}" "${others[@]}" tests/test_fused_layers.py tests/bench/test_gpu_parity.py
part train_step_256.json 70 "${against_torch[@]}" --batch-size 256 --repetitions 5
part train_step_256_no_lrn.json 50 "${against_torch[@]}" --batch-size 256 --repetitions 5 --no-lrn
part kernels_bfloat16.json 30 "${kernels[@]}"
sanitized memcheck.txt 40 memcheck "${others[@]}"
part train_step_1024.json 35 "${against_torch[@]}" --batch-size 1024 --repetitions 3
part train_step_512.json 35 "${against_torch[@]}" --batch-size 512 --repetitions 3
part kernels_tf32.json 25 "${kernels[@]}" --precision tf32
part kernels_wgmma.json 30 "${kernels[@]}" --products
part train_step_wgmma.json 20 "${step[@]}" --batch-size 256
# And these have what those leave.
for size in 1024 512; do
    part "train_step_${size}_no_lrn.json" 40 "${against_torch[@]}" --batch-size "$size" --repetitions 3 --no-lrn
done
sanitized memcheck_wgmma.txt 30 memcheck $by_wgmma
sanitized racecheck.txt 40 racecheck "${others[@]}"
if command -v ncu >/dev/null; then
    part ncu.txt 40 ncu --clock-control none --kernel-name "regex:convolve|sum_of_parts" --launch-count 40 \
        --section SpeedOfLight --section Occupancy "${kernels[@]}" --products --layer conv2 --repetitions 1
fi
sanitized racecheck_wgmma.txt 30 racecheck $by_wgmma
"$python" bench/gpu_report.py "$parts" "$out"
status=$?

if [[ ${2:-} == everything ]]; then
    deadline=$((SECONDS + 36000))
    part data.txt 3600 "$python" bench/data.py --device gpu --against torch
    part bfloat16.txt 3600 "$python" -m pytest bench/bench_bfloat16.py --benchmark-only
    part train_step_autotuned.json 3600 "${against_torch[@]}" --batch-size 256,1024 \
        --compile-mode max-autotune-no-cudagraphs
    part scaling.txt 3600 "$python" bench/scaling.py --device gpu --batch-size 64,128 --results "$out" \
        --figure "$out/scaling.png"
    "$python" bench/gpu_report.py "$parts" "$out"
    status=$?
fi
exit $status
