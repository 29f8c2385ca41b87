#!/usr/bin/env bash
# Build, test and measure on a CUDA machine, without a network: `make gpu-check`, or some stages of it by name:
#
#     tools/gpu_check.sh [build] [modules] [tests] [memcheck] [benchmarks] [racecheck] [experiments]
#     make gpu-check STAGES="build tests"
#
# Uses the Python of PYTHON (default python3) as it is; that needs torch, numpy, setuptools, pybind11, cmake, ninja,
# pytest, pytest-benchmark, hypothesis, typer, tqdm and matplotlib; the experiments those of the extras train and
# frechet; with pytest-xdist the tests run in parallel. Writes into RESULTS (default benchmarks/results) cuda.json,
# training_cuda.json and the log of each stage, which git ignores; and the page, docs/results/speed.md or in RESULTS.
#
# Everything together takes at most GPU_CHECK_SECONDS (default 570); every stage has a limit of its own below, or
# STAGE_SECONDS for all of them. A stage that fails, or runs out of time, does not keep the later ones from running, but
# for the build. The table at the end tells them apart; the exit status is 1 if a stage failed or none passed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
results=${RESULTS:-benchmarks/results}
total=${GPU_CHECK_SECONDS:-570}
all_stages=(build modules tests memcheck benchmarks racecheck experiments) # those first that are worth most
declare -A limits=([build]=200 [modules]=30 [tests]=180 [memcheck]=60 [benchmarks]=270 [racecheck]=60 [experiments]=150)
grace=${GRACE_SECONDS:-5}  # from SIGTERM to SIGKILL, within every limit
out_of_time=124  # as of timeout(1)
memory_a_test_process=4  # GiB of the GPU's, which the processes of the tests share
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
summary=()
failed=0 passed=0
SECONDS=0

build() {
    limited env ALD_EXT_CUDA=1 "$python" setup.py build_ext --inplace
}

# What the modules link to. Python has loaded torch's libraries before them, and so finds these wherever they are.
modules() {
    local name module libraries torch_libraries status=0
    torch_libraries=$("$python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))') || return
    for name in _C _C_cuda; do
        if ! module=$(compgen -G "ald_ext/$name.*so"); then
            echo "gpu-check: ald_ext/$name: not built" >&2
            status=1
            continue
        fi
        echo "$module"
        libraries=$(LD_LIBRARY_PATH="$torch_libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ldd "$module" 2>&1) || status=1
        echo "$libraries"
        if [[ $libraries == *"not found"* ]]; then
            echo "gpu-check: $module: the loader does not find$(sed -n 's/^[[:space:]]*\(.*\) => not found.*/ \1/p' <<<"$libraries" | tr -d '\n')" >&2
            status=1
        fi
    done
    return $status
}

# Those with a CUDA device, bit equality with the CPU among them. Without the module they would all be skipped.
tests() {
    require_module && limited env OMP_NUM_THREADS=2 "$python" -m pytest python_tests --ignore python_tests/benchmarks \
        -q -k "cuda or test_build" $(parallel_options)
}

# As many processes as cores and the GPU's memory allow.
parallel_options() {
    limited "$python" - "$memory_a_test_process" <<'PYTHON'
import importlib.util
import os
import sys

import torch

if importlib.util.find_spec("xdist") is not None:
    free, _ = torch.cuda.mem_get_info()
    print("-n", max(1, min((os.cpu_count() or 1) // 2, free // (int(sys.argv[1]) << 30), 8)))
PYTHON
}

memcheck() { sanitize memcheck; }

racecheck() { sanitize racecheck; }

# The kernels have half of the time, training the rest, and what the kernels leave of theirs; the pages are made of what
# was measured, which is saved case after case. No case is begun in the last part of a benchmark's time.
benchmarks() {
    local span=$((stage_end - SECONDS)) status=0
    local pages=$((span / 8))
    require_module || return
    measure speed $((span * 2 / 5 + pages)) || note_status $?
    measure training "$pages" || note_status $?
    limited "$python" -m benchmarks.page --results "$results" || note_status $?
    [ "$results" != benchmarks/results ] || limited "$python" -m tools.readme_tables || note_status $?
    return $status
}

measure() { # benchmark, seconds to be left of the stage
    local seconds=$((stage_end - SECONDS - $2))
    limited_before "$2" "$python" -m "benchmarks.$1" --device cuda --out "$results" --origin "make gpu-check" \
        --time-limit $((seconds * 5 / 6))
}

# The paper's experiments on images, cut down: that they run on the device. In full: make results OPTIONS="--device cuda".
experiments() {
    local name names status=0
    require_module || return
    names=$(ald_ext experiment --list --images) || return
    for name in $names; do
        ald_ext experiment "$name" --quick --device cuda --out "runs/gpu-check/$name" --runs runs/gpu-check/runs ||
            note_status $?
    done
    return $status
}

ald_ext() { # arguments of the command ald-ext, which need not be installed
    limited "$python" -c "from ald_ext.cli import main; main()" "$@"
}

note_status() { # status: `status` of the caller becomes 1 after a failure, else out_of_time after that
    case $1 in
        "$out_of_time") [ "$status" -ne 0 ] || status=$out_of_time ;;
        *) status=1 ;;
    esac
}

limited() { # command...
    limited_before 0 "$@"
}

limited_before() { # seconds to be left of the stage, command...
    local end=$((stage_end - $1)) status
    ((end - SECONDS > grace)) || return "$out_of_time"
    timeout --kill-after="$grace" $((end - SECONDS - grace)) "${@:2}"
    status=$?
    # Killed, after it had not ended when it was told to; before that the system did it, out of memory perhaps.
    [ "$status" -ne 137 ] || ((SECONDS < end - 1)) || status=$out_of_time
    return $status
}

require_module() {
    limited "$python" - <<'PYTHON'
import sys

try:
    from ald_ext._extension import cuda_failure, cuda_module
except ImportError as error:
    sys.exit(f"gpu-check: {error}")
if cuda_module is None:
    sys.exit(f"gpu-check: the CUDA module did not load: {cuda_failure}")
PYTHON
}

# Torch's allocator would hide writes beyond a tensor, which stay within its block. Torch's kernels are not ours to check.
sanitize() { # tool
    local sanitizer
    if ! sanitizer=$(find_sanitizer); then
        echo "gpu-check: compute-sanitizer found neither on PATH nor under CUDA_HOME or /usr/local/cuda" >&2
        return 1
    fi
    require_module && limited env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$1" --error-exitcode 1 \
        --kernel-name kns=ald_ext "$python" -m tools.gpu_smoke
}

find_sanitizer() {
    command -v compute-sanitizer && return
    local home
    for home in "${CUDA_HOME:-}" /usr/local/cuda; do
        if [ -n "$home" ] && [ -x "$home/bin/compute-sanitizer" ]; then
            echo "$home/bin/compute-sanitizer"
            return
        fi
    done
    return 1
}

run_stage() { # name
    local begin=$SECONDS status log="$results/gpu_$1.log" outcome
    stage_end=$((begin + ${STAGE_SECONDS:-${limits[$1]}}))
    ((stage_end <= total)) || stage_end=$total
    if [ "$1" != build ] && [ -n "${build_outcome:-}" ] && [ "$build_outcome" != passed ]; then
        outcome="not run, for want of a build"
    elif ((stage_end - begin <= grace)); then
        outcome="no time left"
    else
        echo "gpu-check: $1, at most $((stage_end - begin)) s"
        "$1" 2>&1 | tee "$log"
        status=${PIPESTATUS[0]}
        case $status in
            0) outcome=passed && passed=1 ;;
            "$out_of_time") outcome="out of time, see $log" ;;
            *) outcome="FAILED: status $status, see $log" && failed=1 ;;
        esac
    fi
    [ "$1" != build ] || build_outcome=$outcome
    summary+=("$(printf '%-11s %4d s  %s' "$1" $((SECONDS - begin)) "$outcome")")
}

is_stage() { # name
    local stage
    for stage in "${all_stages[@]}"; do
        [ "$stage" = "$1" ] && return
    done
    return 1
}

stages=("$@")
[ $# -gt 0 ] || stages=("${all_stages[@]}")
for stage in "${stages[@]}"; do
    if ! is_stage "$stage"; then
        echo "gpu-check: got the stage '$stage', expected some of: ${all_stages[*]}" >&2
        exit 2
    fi
done
for name in GPU_CHECK_SECONDS STAGE_SECONDS GRACE_SECONDS; do
    if [[ ! ${!name:-1} =~ ^[1-9][0-9]*$ ]]; then
        echo "gpu-check: $name: got '${!name}', expected a whole number of seconds" >&2
        exit 2
    fi
done
gpu_there='import sys, torch; sys.exit(None if torch.cuda.is_available() else f"torch {torch.__version__} finds none")'
if ! reason=$(timeout "$total" "$python" -c "$gpu_there" 2>&1); then
    echo "gpu-check: needs a GPU that torch can use, in the Python of PYTHON ($python): ${reason##*$'\n'}" >&2
    exit 1
fi
mkdir -p "$results" || exit 1
for stage in "${stages[@]}"; do
    run_stage "$stage"
done
printf 'gpu-check: %s\n' "${summary[@]}"
((!failed && passed))
