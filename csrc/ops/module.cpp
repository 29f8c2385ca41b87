// The Python module ald_ext._C. Loading it registers the ops (schemas.cpp, cpu_ops.cpp); it exports what is no tensor
// op.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <string>
#include <vector>

#include "../cpu/kernels.h"
#include "../math/normal.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
    std::vector<std::string> built, usable;
    for (const auto& capability : ald_ext::cpu::built_capabilities()) {
        built.push_back(capability.name);
        if (capability.supported) usable.push_back(capability.name);
    }
    py::dict info;
    info["compiler"] = ALD_EXT_COMPILER;
    info["torch_built_against"] = ALD_EXT_TORCH_VERSION;
    info["cpu_capabilities_built"] = built;
    info["cpu_capabilities_usable"] = usable;
    info["cpu_capability"] = ald_ext::cpu::capability_in_use().name;
    return info;
}

std::array<std::uint32_t, 4> philox(const std::array<std::uint32_t, 4>& counter,
                                    const std::array<std::uint32_t, 2>& key) {
    const auto block =
        ald_ext::philox<ald_ext::philox_rounds>(counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
    return {block.word[0], block.word[1], block.word[2], block.word[3]};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    ald_ext::cpu::capability_in_use();  // a wrong ALD_EXT_CPU_CAPABILITY fails here, not in the middle of a run
    m.def("build_info", &build_info, "Compiler, torch built against, CPU instruction sets built, usable and in use.");
    m.def("philox", &philox, py::arg("counter"), py::arg("key"),
          "One Philox4x32-7 block: four 32-bit words of a 128-bit counter and a 64-bit key.");
}
