#include <cstdlib>
#include <stdexcept>

#include "kernels.h"

// CMakeLists.txt defines ALD_EXT_WITH_<SET> for every further instruction set it builds kernels.cpp for.
namespace ald_ext::cpu {

#define ALD_EXT_DECLARE_KERNELS(instruction_set) \
    namespace instruction_set {                  \
    template <typename Scalar>                   \
    KernelTable<Scalar> make_kernel_table();     \
    template <typename Param>                    \
    StepKernels<Param> make_step_kernels();      \
    }

ALD_EXT_DECLARE_KERNELS(portable)
ALD_EXT_DECLARE_KERNELS(avx2)
ALD_EXT_DECLARE_KERNELS(avx512)

namespace {

#define ALD_EXT_CAPABILITY(name, instruction_set, supported)                                               \
    Capability {                                                                                           \
        name, static_cast<bool>(supported),                                                                \
            {instruction_set::make_kernel_table<float>(), instruction_set::make_kernel_table<double>()}, { \
            instruction_set::make_step_kernels<float>(), instruction_set::make_step_kernels<double>(),     \
                instruction_set::make_step_kernels<BFloat16>(), instruction_set::make_step_kernels<Half>() \
        }                                                                                                  \
    }

std::vector<Capability> list_capabilities() {
    std::vector<Capability> list;
#if defined(__aarch64__)
    list.push_back(ALD_EXT_CAPABILITY("neon", portable, true));  // NEON and FMA are part of the base there
#else
    list.push_back(ALD_EXT_CAPABILITY("default", portable, true));
#endif
#if defined(ALD_EXT_WITH_AVX2)
    list.push_back(ALD_EXT_CAPABILITY("avx2", avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
#endif
#if defined(ALD_EXT_WITH_AVX512)
    list.push_back(ALD_EXT_CAPABILITY("avx512", avx512,
                                      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                                          __builtin_cpu_supports("fma")));
#endif
    return list;
}

const Capability& choose_capability() {
    const std::vector<Capability>& built = built_capabilities();
    const char* asked = std::getenv("ALD_EXT_CPU_CAPABILITY");
    if (asked == nullptr || *asked == '\0') {
        const Capability* widest = &built.front();
        for (const Capability& capability : built) {
            if (capability.supported) widest = &capability;
        }
        return *widest;
    }
    std::string usable;
    for (const Capability& capability : built) {
        if (!capability.supported) continue;
        if (capability.name == asked) return capability;
        usable += (usable.empty() ? "" : ", ") + capability.name;
    }
    throw std::runtime_error("ald_ext: ALD_EXT_CPU_CAPABILITY is '" + std::string(asked) +
                             "', expected one that this build has and this machine supports: " + usable);
}

}  // namespace

const std::vector<Capability>& built_capabilities() {
    static const std::vector<Capability> list = list_capabilities();
    return list;
}

const Capability& capability_in_use() {
    static const Capability& chosen = choose_capability();
    return chosen;
}

}  // namespace ald_ext::cpu
