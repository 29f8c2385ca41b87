// Launchers of the CUDA kernels, on a stream of the current device. None of them synchronizes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "../math/rounding.h"
#include "../math/settings.h"

namespace ald_ext::cuda {

// Param: float, double, BFloat16 or Half.
template <typename Param>
struct StepTensor {
    Param* param;
    const Param* grad;
    States<Compute<Param>*> states;
    std::int64_t numel, parameter;
    Shard shard;
};

template <typename Scalar>
void normal(Scalar* out, std::int64_t count, const NoiseKey& key, cudaStream_t stream);

template <typename Param>
void langevin_step(StepKind kind, const std::vector<StepTensor<Param>>& tensors, std::int64_t seed, std::int64_t step,
                   const DeviceClock& clock, const LangevinSettings& settings, cudaStream_t stream);

// Latent variables, `count` elements; momenta is null for SGLD.
template <typename Scalar>
struct LatentBatch {
    Scalar* z;
    const Scalar* grad;
    Scalar* momenta;
    std::int64_t count;
    LatentNoiseKey key;
};

template <typename Scalar>
void latent_normal(Scalar* out, std::int64_t count, const LatentNoiseKey& key, cudaStream_t stream);

template <typename Scalar>
void latent_step(const LatentBatch<Scalar>& batch, const LangevinSettings& settings, cudaStream_t stream);

// Pixels of `bits` bits and the h by which they are dequantized.
template <typename Scalar>
struct Pixels {
    const std::uint8_t* x;
    const Scalar* h;
    int bits;
};

template <typename Scalar>
void dequantize(const Pixels<Scalar>& pixels, Scalar* y, std::int64_t count, cudaStream_t stream);

template <typename Scalar>
void dequantize_backward(const Scalar* grad, const Pixels<Scalar>& pixels, Scalar* grad_h, std::int64_t count,
                         cudaStream_t stream);

template <typename Scalar>
void quantize(const Scalar* y, std::uint8_t* x, std::int64_t count, int bits, cudaStream_t stream);

// Rows of `dimension` values, and where their log densities go.
template <typename Scalar>
struct LogProbArguments {
    const Scalar* mean;
    std::int64_t rows, dimension;
    PrecisionPrior prior;
    double* workspace;  // likelihood_workspace(rows, dimension) doubles
    double* squared_distance;
    Scalar* log_prob;
};

std::int64_t likelihood_workspace(std::int64_t rows, std::int64_t dimension);

template <typename Scalar>
void marginal_gaussian_log_prob(const Scalar* x, const LogProbArguments<Scalar>& arguments, cudaStream_t stream);

// Of y, which it dequantizes and keeps.
template <typename Scalar>
void dequantized_log_prob(const Pixels<Scalar>& pixels, Scalar* y, const LogProbArguments<Scalar>& arguments,
                          cudaStream_t stream);

// `grad` and `squared_distance` hold one value a row; a null output is left out.
template <typename Scalar>
struct GradientArguments {
    const Scalar *grad, *x, *mean;
    const double* squared_distance;
    std::int64_t rows, dimension;
    PrecisionPrior prior;
    Scalar *grad_x, *grad_mean;
};

template <typename Scalar>
void marginal_gaussian_log_prob_backward(const GradientArguments<Scalar>& arguments, cudaStream_t stream);

// With y as x, and the gradient for h in the place of that for x.
template <typename Scalar>
void dequantized_log_prob_backward(const Pixels<Scalar>& pixels, const GradientArguments<Scalar>& arguments,
                                   cudaStream_t stream);

}  // namespace ald_ext::cuda
