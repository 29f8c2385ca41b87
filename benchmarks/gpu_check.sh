#!/usr/bin/env bash
# Build, test and measure on a CUDA machine, without a network: `make gpu-check`.
# Uses the Python of PYTHON (default python3) as it is; that needs torch, setuptools, pybind11, cmake, ninja, pytest,
# hypothesis and matplotlib. Writes into RESULTS (default benchmarks/results): cuda.json, cuda.md, the plot, and the logs
# of the build and the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=${RESULTS:-benchmarks/results}
mkdir -p "$results"

"$python" -c 'import torch; assert torch.cuda.is_available(), "gpu-check needs a GPU that torch can use"'
echo "gpu-check: building"
ALD_EXT_CUDA=1 "$python" setup.py build_ext --inplace 2>&1 | tee "$results/gpu_build.log"
echo "gpu-check: testing"
"$python" -m pytest python_tests -q -k "cuda or test_build" 2>&1 | tee "$results/gpu_tests.log"
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        echo "gpu-check: compute-sanitizer $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" benchmarks/gpu_smoke.py 2>&1 |
            tee "$results/gpu_$tool.log"
    done
else
    echo "gpu-check: compute-sanitizer not found, so memory and races were not checked"
fi
echo "gpu-check: measuring"
"$python" benchmarks/run.py --device cuda --out "$results"
