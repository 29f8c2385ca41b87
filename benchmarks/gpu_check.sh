#!/usr/bin/env bash
# Build, test and measure on a CUDA machine, without a network: `make gpu-check`, or some stages of it by name:
#
#     benchmarks/gpu_check.sh [build] [tests] [memcheck] [racecheck] [experiments] [benchmarks]
#     make gpu-check STAGES="build tests"
#
# Uses the Python of PYTHON (default python3) as it is; that needs torch, numpy, setuptools, pybind11, cmake, ninja,
# pytest, pytest-benchmark, hypothesis, typer, tqdm and matplotlib; the experiments those of the extras train and frechet.
# Writes into RESULTS (default benchmarks/results) cuda.json, training_cuda.json, the table cuda.md, the plot and the page
# README.md, and the log of each stage, which git ignores. A stage that fails, or that takes longer than STAGE_SECONDS (default 570), does not keep the later ones from
# running; the exit code tells. Every stage but the first needs the build of an earlier call, or of the first.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
results=${RESULTS:-benchmarks/results}
stage_seconds=${STAGE_SECONDS:-570}
all_stages=(build tests memcheck racecheck experiments benchmarks)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
summary=()
failed=0

build() {
    limited env ALD_EXT_CUDA=1 "$python" setup.py build_ext --inplace
}

# Those with a CUDA device, bit equality with the CPU among them. Without the module they would all be skipped.
tests() {
    require_module && limited "$python" -m pytest python_tests -q -k "cuda or test_build"
}

memcheck() { sanitize memcheck; }

racecheck() { sanitize racecheck; }

# The paper's experiments on images, cut down: that they run on the device. In full: make results OPTIONS="--device cuda".
experiments() {
    local name status=0
    require_module || return
    for name in image-generation denoising anomaly-detection training-speed dequantization; do
        limited "$python" -c "from ald_ext.cli import main; main()" experiment "$name" --quick --device cuda \
            --out "runs/gpu-check/$name" --runs runs/gpu-check/runs || status=$?
    done
    return $status
}

# Ends by itself before the limit, with what it has; the last case and the page take less than what is left. The kernels
# have two thirds of the time, training has the rest, and what the kernels leave of theirs.
benchmarks() {
    local begin=$SECONDS measuring=$((stage_seconds > 240 ? stage_seconds - 120 : stage_seconds / 2)) status=0
    require_module || return
    limited "$python" benchmarks/run.py --device cuda --out "$results" --time-limit $((measuring * 2 / 3)) || status=$?
    local gone=$((SECONDS - begin))
    ((gone < measuring)) || { echo "gpu-check: no time left for training" >&2 && return 1; }
    timeout --kill-after=10 $((stage_seconds - gone)) "$python" benchmarks/training.py --device cuda \
        --out "$results" --time-limit $((measuring - gone)) || status=$?
    return $status
}

limited() { # command...
    timeout --kill-after=10 "$stage_seconds" "$@"
}

require_module() {
    "$python" - <<'PYTHON'
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
        --kernel-name kns=ald_ext "$python" benchmarks/gpu_smoke.py
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
    local begin=$SECONDS status outcome
    echo "gpu-check: $1"
    "$1" 2>&1 | tee "$results/gpu_$1.log"
    status=${PIPESTATUS[0]}
    case $status in
        0) outcome=passed ;;
        124 | 137) outcome="FAILED: stopped after $stage_seconds s" ;;
        *) outcome="FAILED: status $status, see $results/gpu_$1.log" ;;
    esac
    [ "$status" -eq 0 ] || failed=1
    summary+=("$(printf '%-10s %4d s  %s' "$1" $((SECONDS - begin)) "$outcome")")
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
gpu_there='import sys, torch; sys.exit(None if torch.cuda.is_available() else f"torch {torch.__version__} finds none")'
if ! reason=$("$python" -c "$gpu_there" 2>&1); then
    echo "gpu-check: needs a GPU that torch can use, in the Python of PYTHON ($python): ${reason##*$'\n'}" >&2
    exit 1
fi
mkdir -p "$results" || exit 1
for stage in "${stages[@]}"; do
    run_stage "$stage"
done
printf 'gpu-check: %s\n' "${summary[@]}"
exit "$failed"
