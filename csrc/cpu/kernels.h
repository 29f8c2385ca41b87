// The loops over csrc/math, one table per instruction set. A loop works on one range, on the calling thread; csrc/ops
// divides the work. Pointers need no alignment beyond the type's.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "../math/rounding.h"
#include "../math/settings.h"

namespace ald_ext::cpu {

// A step of the elements `begin` to `end` of a shard of type Param: float, double, BFloat16 or Half.
template <typename Param>
using Step = void (*)(Param* param, const Param* grad, States<Compute<Param>*> states, const ShardNoiseKey& key,
                      std::int64_t begin, std::int64_t end, const LangevinSettings& settings);

template <typename Param>
struct StepKernels {
    std::array<Step<Param>, step_count> kernels;  // in the order of Steps

    Step<Param> of(StepKind kind) const { return kernels[static_cast<std::size_t>(kind)]; }
};

// A step of the elements `begin` to `end` of latent variables; `momenta` is null for SGLD.
template <typename Scalar>
using LatentStep = void (*)(Scalar* z, const Scalar* grad, Scalar* momenta, LatentNoiseKey key, std::int64_t begin,
                            std::int64_t end, const LangevinSettings& settings);

// A batch of rows of `dimension` values, and where the gradients for x and for the mean go.
template <typename Scalar>
struct LikelihoodGradient {
    const Scalar* grad;  // of each row's log density
    const Scalar *x, *mean;
    const double* squared_distance;
    std::int64_t dimension;
    MarginalGaussian density;
    Scalar *grad_x, *grad_mean;
};

template <typename Scalar>
struct KernelTable {
    void (*normal)(Scalar* out, std::int64_t count, NoiseKey key);
    void (*latent_normal)(Scalar* out, LatentNoiseKey key, std::int64_t begin, std::int64_t end);
    LatentStep<Scalar> latent_sgld, latent_sghmc;
    // r^2 of the segments `begin` to `end` of the batch, rows of `dimension` values, counted row by row.
    void (*squared_distances)(const Scalar* x, const Scalar* mean, std::int64_t dimension, std::int64_t begin,
                              std::int64_t end, double* sums);
    void (*log_probs)(const double* squared_distance, std::int64_t count, const MarginalGaussian& density,
                      Scalar* log_prob);
    // The gradients for the elements `begin` to `end` of the batch; a null output is left out.
    void (*likelihood_gradients)(const LikelihoodGradient<Scalar>& batch, std::int64_t begin, std::int64_t end);
    void (*dequantize)(const std::uint8_t* x, const Scalar* h, Scalar* y, std::int64_t count, int bits);
    void (*dequantize_backward)(const Scalar* grad, const std::uint8_t* x, const Scalar* h, Scalar* grad_h,
                                std::int64_t count, int bits);
    void (*quantize)(const Scalar* y, std::uint8_t* x, std::int64_t count, int bits);
};

struct Capability {
    std::string name;  // default, avx2, avx512 or neon
    bool supported;    // by this machine
    std::tuple<KernelTable<float>, KernelTable<double>> tables;
    std::tuple<StepKernels<float>, StepKernels<double>, StepKernels<BFloat16>, StepKernels<Half>> steps;

    template <typename Scalar>
    const KernelTable<Scalar>& kernels() const {
        return std::get<KernelTable<Scalar>>(tables);
    }

    template <typename Param>
    const StepKernels<Param>& step_kernels() const {
        return std::get<StepKernels<Param>>(steps);
    }
};

// Every instruction set that was built, from the plainest to the widest.
const std::vector<Capability>& built_capabilities();

// The widest supported one, or the one ALD_EXT_CPU_CAPABILITY names. Throws std::runtime_error if that one was not
// built or this machine lacks it. Read once.
const Capability& capability_in_use();

}  // namespace ald_ext::cpu
