// The Python module ald_ext._C_cuda. Loading it registers the CUDA kernels of the ops that ald_ext._C defined.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

py::dict build_info() {
    py::dict info;
    info["nvcc"] = ALD_EXT_NVCC_VERSION;
    info["architectures"] = ALD_EXT_CUDA_ARCHITECTURES;
    info["cuda_runtime"] = CUDART_VERSION;
    info["torch_built_against"] = ALD_EXT_TORCH_VERSION;
    return info;
}

}  // namespace

PYBIND11_MODULE(_C_cuda, m) {
    m.def("build_info", &build_info, "nvcc, architectures and CUDA runtime of the CUDA module, torch built against.");
}
