#!/usr/bin/env bash
# Build, test and measure on a CUDA machine, without a network: `make gpu-check`.
# Uses the Python of PYTHON (default python3) as it is; that needs torch, setuptools, pybind11, cmake, ninja, pytest,
# pytest-benchmark, hypothesis, tqdm and matplotlib. Writes into RESULTS (default benchmarks/results) cuda.json, cuda.md,
# the plot, and the logs of each stage, which git ignores. A stage that fails does not keep the later ones from running;
# the exit code tells.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=${RESULTS:-benchmarks/results}
failed=()
mkdir -p "$results" || exit 1

stage() { # name, command...
    local name=$1
    shift
    echo "gpu-check: $name"
    "$@" 2>&1 | tee "$results/gpu_$name.log" || failed+=("$name")
}

"$python" -c 'import torch; assert torch.cuda.is_available(), "gpu-check needs a GPU that torch can use"' || exit 1
stage build env ALD_EXT_CUDA=1 "$python" setup.py build_ext --inplace
stage tests "$python" -m pytest python_tests -q -k "cuda or test_build"
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        stage "$tool" env PYTHONPATH=. compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" benchmarks/gpu_smoke.py
    done
else
    echo "gpu-check: compute-sanitizer not found, so memory and races were not checked"
fi
stage benchmarks env PYTHONPATH=. "$python" benchmarks/run.py --device cuda --out "$results"
if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu-check: failed: ${failed[*]}"
    exit 1
fi
