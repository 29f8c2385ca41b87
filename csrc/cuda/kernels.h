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
    Compute<Param>* square_avg;  // null for SGLD
    std::int64_t numel, parameter, offset;
};

template <typename Scalar>
void normal(Scalar* out, std::int64_t count, const NoiseKey& key, cudaStream_t stream);

template <typename Param>
void langevin_step(const std::vector<StepTensor<Param>>& tensors, std::int64_t seed, std::int64_t step,
                   const DeviceClock& clock, const LangevinSettings& settings, cudaStream_t stream);

// The doubles that marginal_gaussian_log_prob needs beside its outputs.
std::int64_t likelihood_workspace(std::int64_t rows, std::int64_t dimension);

template <typename Scalar>
void marginal_gaussian_log_prob(const Scalar* x, const Scalar* mean, std::int64_t rows, std::int64_t dimension,
                                const PrecisionPrior& prior, double* workspace, double* squared_distance,
                                Scalar* log_prob, cudaStream_t stream);

// A null output is left out.
template <typename Scalar>
void marginal_gaussian_log_prob_backward(const Scalar* grad, const Scalar* x, const Scalar* mean,
                                         const double* squared_distance, std::int64_t rows, std::int64_t dimension,
                                         const PrecisionPrior& prior, Scalar* grad_x, Scalar* grad_mean,
                                         cudaStream_t stream);

template <typename Scalar>
void dequantize(const std::uint8_t* x, const Scalar* h, Scalar* y, std::int64_t count, int bits, cudaStream_t stream);

template <typename Scalar>
void dequantize_backward(const Scalar* grad, const std::uint8_t* x, const Scalar* h, Scalar* grad_h, std::int64_t count,
                         int bits, cudaStream_t stream);

template <typename Scalar>
void quantize(const Scalar* y, std::uint8_t* x, std::int64_t count, int bits, cudaStream_t stream);

}  // namespace ald_ext::cuda
