// The loops over csrc/math, one table per instruction set. A loop works on one range, on the calling thread; csrc/ops
// divides the work. Pointers need no alignment beyond the type's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../math/settings.h"

namespace ald_ext::cpu {

template <typename Scalar>
struct KernelTable {
    void (*normal)(Scalar* out, std::int64_t count, NoiseKey key);
    void (*sgld_step)(Scalar* param, const Scalar* grad, std::int64_t count, NoiseKey key,
                      const LangevinSettings& settings);
    void (*psgld_step)(Scalar* param, const Scalar* grad, Scalar* square_avg, std::int64_t count, NoiseKey key,
                       const LangevinSettings& settings);
    // At most reduction_segment elements.
    double (*squared_distance)(const Scalar* x, const Scalar* mean, std::int64_t count);
    // factor (x - mean), and its negative; a null output is left out.
    void (*scaled_difference)(const Scalar* x, const Scalar* mean, double factor, std::int64_t count, Scalar* out,
                              Scalar* negative_out);
    void (*dequantize)(const std::uint8_t* x, const Scalar* h, Scalar* y, std::int64_t count, int bits);
    void (*dequantize_backward)(const Scalar* grad, const std::uint8_t* x, const Scalar* h, Scalar* grad_h,
                                std::int64_t count, int bits);
    void (*quantize)(const Scalar* y, std::uint8_t* x, std::int64_t count, int bits);
};

struct Capability {
    std::string name;  // default, avx2, avx512 or neon
    bool supported;    // by this machine
    KernelTable<float> float_kernels;
    KernelTable<double> double_kernels;

    template <typename Scalar>
    const KernelTable<Scalar>& kernels() const {
        if constexpr (sizeof(Scalar) == 4) {
            return float_kernels;
        } else {
            return double_kernels;
        }
    }
};

// Every instruction set that was built, from the plainest to the widest.
const std::vector<Capability>& built_capabilities();

// The widest supported one, or the one ALD_EXT_CPU_CAPABILITY names. Throws std::runtime_error if that one was not
// built or this machine lacks it. Read once.
const Capability& capability_in_use();

}  // namespace ald_ext::cpu
