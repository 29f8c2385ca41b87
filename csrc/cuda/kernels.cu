// Note [Threads and noise]
// A chunk of 16 Philox blocks (csrc/math/normal.h, Note [Noise layout]) belongs to four threads; each takes four
// consecutive blocks, and so four consecutive elements in every lane: 16-byte accesses without a shuffle.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "../math/dequantization.h"
#include "../math/langevin_update.h"
#include "../math/marginal_gaussian.h"
#include "../math/normal.h"
#include "../math/rounding.h"
#include "kernels.h"

namespace ald_ext::cuda {
namespace {

constexpr int threads_per_block = 128;
constexpr int quad = 4;
constexpr int threads_per_chunk = chunk_blocks / quad;
constexpr int chunks_per_block = threads_per_block / threads_per_chunk;

void check_launch(const char* kernel) {
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string("ald_ext: launching ") + kernel + " failed: " + cudaGetErrorString(error));
    }
}

std::int64_t divide_up(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

template <typename Scalar>
struct alignas(quad * sizeof(Scalar) < 16 ? quad * sizeof(Scalar) : 16) Quad {
    Scalar value[quad];
};

// Four consecutive elements of a range: in one access where all are inside and aligned.
struct QuadAccess {
    std::int64_t index;
    std::int64_t count;

    template <typename Scalar>
    __device__ bool vectorized(const Scalar* data) const {
        return index >= 0 && index + quad <= count &&
               reinterpret_cast<std::uintptr_t>(data + index) % alignof(Quad<Scalar>) == 0;
    }

    __device__ bool inside(int j) const { return index + j >= 0 && index + j < count; }

    template <typename Scalar>
    __device__ Quad<Scalar> load(const Scalar* data) const {
        Quad<Scalar> result = {};
        if (vectorized(data)) {
            result = *reinterpret_cast<const Quad<Scalar>*>(data + index);
        } else {
            for (int j = 0; j < quad; ++j) {
                if (inside(j)) result.value[j] = data[index + j];
            }
        }
        return result;
    }

    template <typename Scalar>
    __device__ void store(Scalar* data, const Quad<Scalar>& values) const {
        if (vectorized(data)) {
            *reinterpret_cast<Quad<Scalar>*>(data + index) = values;
        } else {
            for (int j = 0; j < quad; ++j) {
                if (inside(j)) data[index + j] = values.value[j];
            }
        }
    }
};

// The normals of this thread's quarter of a chunk: [lane of the block][element of the quad].
template <typename Scalar>
struct QuarterChunk {
    Quad<Scalar> lane[normals_per_block<Scalar>];
};

// The rounding words of the same elements (csrc/math/rounding.h).
__device__ QuarterChunk<std::uint32_t> quarter_chunk_words(const NoiseStream& stream, std::uint64_t chunk,
                                                           int quarter) {
    QuarterChunk<std::uint32_t> words;
#pragma unroll
    for (int j = 0; j < quad; ++j) {
        const auto block = random_words(stream, chunk * chunk_blocks, static_cast<std::uint32_t>(quarter * quad + j));
#pragma unroll
        for (int k = 0; k < 4; ++k) words.lane[k].value[j] = block.word[k];
    }
    return words;
}

template <typename Scalar>
__device__ QuarterChunk<Scalar> quarter_chunk_normals(const NoiseStream& stream, std::uint64_t chunk, int quarter) {
    QuarterChunk<Scalar> normals;
#pragma unroll
    for (int j = 0; j < quad; ++j) {
        const NormalBlock<Scalar> block =
            normals_of_block<Scalar>(stream, chunk * chunk_blocks, static_cast<std::uint32_t>(quarter * quad + j));
#pragma unroll
        for (int k = 0; k < normals_per_block<Scalar>; ++k) normals.lane[k].value[j] = block.lane[k];
    }
    return normals;
}

// Where this thread stands: a quarter of the chunk `block` blocks after the chunk of the first element.
template <typename Scalar>
struct Position {
    std::uint64_t chunk;
    int quarter;
    std::int64_t first;  // index, in the range, of lane 0 of the quad; negative before the range begins

    __device__ Position(std::int64_t block, std::int64_t offset) {
        constexpr std::int64_t size = chunk_size<Scalar>;
        quarter = threadIdx.x % threads_per_chunk;
        chunk = static_cast<std::uint64_t>(offset / size + block * chunks_per_block + threadIdx.x / threads_per_chunk);
        first = static_cast<std::int64_t>(chunk) * size + quarter * quad - offset;
    }

    __device__ QuadAccess access(int lane, std::int64_t count) const { return {first + lane * chunk_blocks, count}; }
};

template <typename Scalar>
std::int64_t blocks_for(std::int64_t count, std::int64_t offset) {
    constexpr std::int64_t size = chunk_size<Scalar>;
    return divide_up(divide_up(offset + count, size) - offset / size, chunks_per_block);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    normal_kernel(Scalar* out, std::int64_t count, NoiseStream stream, std::int64_t offset) {
    const Position<Scalar> position(blockIdx.x, offset);
    if (position.first >= count) return;
    const QuarterChunk<Scalar> normals = quarter_chunk_normals<Scalar>(stream, position.chunk, position.quarter);
#pragma unroll
    for (int k = 0; k < normals_per_block<Scalar>; ++k) position.access(k, count).store(out, normals.lane[k]);
}

// Tensors of one launch, by value: below the 4 KB that every device takes as parameters.
constexpr int tensors_per_launch = 48;

template <typename Param>
struct StepBatch {
    StepTensor<Param> tensors[tensors_per_launch];
    std::int64_t first_block[tensors_per_launch + 1];
    int count;
    std::int64_t seed, step;
    DeviceClock clock;
    LangevinSettings settings;
};

static_assert(sizeof(StepBatch<double>) <= 4096, "kernel parameters are limited to 4 KB");

// What a step needs to know beside its tensors.
template <typename Scalar>
struct StepState {
    StepScalars<Scalar> scalars;
    std::int64_t step;
    bool adapt;
};

template <typename Param>
__device__ StepState<Compute<Param>> make_step_state(const StepBatch<Param>& batch) {
    LangevinSettings settings = batch.settings;
    const DeviceClock& clock = batch.clock;
    if (clock.lr != nullptr) {
        settings.lr = clock.lr_is_double ? *static_cast<const double*>(clock.lr)
                                         : static_cast<double>(*static_cast<const float*>(clock.lr));
    }
    const std::int64_t step = clock.step != nullptr ? *clock.step : batch.step;
    return {make_step_scalars<Compute<Param>>(settings), step, step <= settings.freeze_after};
}

template <typename Param, bool preconditioned, bool noisy>
__global__ void __launch_bounds__(threads_per_block) step_kernel(const __grid_constant__ StepBatch<Param> batch) {
    using Scalar = Compute<Param>;
    __shared__ StepState<Scalar> state;
    if (threadIdx.x == 0) state = make_step_state(batch);
    __syncthreads();

    int i = 0;
    while (blockIdx.x >= batch.first_block[i + 1]) ++i;
    const StepTensor<Param>& tensor = batch.tensors[i];
    const Position<Scalar> position(blockIdx.x - batch.first_block[i], tensor.offset);
    if (position.first >= tensor.numel) return;

    QuarterChunk<Scalar> normals = {};
    if constexpr (noisy) {
        const NoiseStream stream = make_noise_stream(batch.seed, state.step, tensor.parameter);
        normals = quarter_chunk_normals<Scalar>(stream, position.chunk, position.quarter);
    }
    QuarterChunk<std::uint32_t> rounding = {};
    if constexpr (rounds_stochastically<Param>) {
        const NoiseStream stream = make_noise_stream(batch.seed, state.step, tensor.parameter, NoisePurpose::rounding);
        rounding = quarter_chunk_words(stream, position.chunk, position.quarter);
    }
#pragma unroll
    for (int k = 0; k < normals_per_block<Scalar>; ++k) {
        const QuadAccess access = position.access(k, tensor.numel);
        Quad<Param> param = access.load(static_cast<const Param*>(tensor.param));
        const Quad<Param> grad = access.load(tensor.grad);
        Quad<Scalar> square_avg = {};
        if constexpr (preconditioned) square_avg = access.load(static_cast<const Scalar*>(tensor.square_avg));
#pragma unroll
        for (int j = 0; j < quad; ++j) {
            const Scalar xi = normals.lane[k].value[j];
            const Scalar theta = widen(param.value[j]), gradient = widen(grad.value[j]);
            Scalar value;
            if constexpr (preconditioned) {
                Scalar& v = square_avg.value[j];
                const Scalar root = state.adapt ? root_of_preconditioner<true>(theta, gradient, v, state.scalars)
                                                : root_of_preconditioner<false>(theta, gradient, v, state.scalars);
                value = psgld_update(theta, gradient, root, xi, state.scalars);
            } else {
                value = sgld_update(theta, gradient, xi, state.scalars);
            }
            param.value[j] = round_stochastically<Param>(value, rounding.lane[k].value[j]);
        }
        access.store(tensor.param, param);
        if (preconditioned && state.adapt) access.store(tensor.square_avg, square_avg);
    }
}

template <typename Param>
using StepKernel = void (*)(StepBatch<Param>);

template <typename Param>
StepKernel<Param> choose_step_kernel(bool preconditioned, bool noisy) {
    if (preconditioned) return noisy ? step_kernel<Param, true, true> : step_kernel<Param, true, false>;
    return noisy ? step_kernel<Param, false, true> : step_kernel<Param, false, false>;
}

// A quad of an elementwise kernel.
__device__ QuadAccess elementwise_access(std::int64_t count) {
    return {(static_cast<std::int64_t>(blockIdx.x) * threads_per_block + threadIdx.x) * quad, count};
}

unsigned elementwise_blocks(std::int64_t count) {
    return static_cast<unsigned>(divide_up(count, threads_per_block * quad));
}

// Note [Order of the sum] of csrc/math/marginal_gaussian.h: 64 threads are the 64 lanes of one segment.
constexpr int segments_per_block = threads_per_block / reduction_lanes;

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    segment_sum_kernel(const Scalar* x, const Scalar* mean, std::int64_t units, std::int64_t segments,
                       std::int64_t dimension, double* segment_sums) {
    __shared__ Scalar sums[segments_per_block][reduction_lanes];
    const int lane = threadIdx.x % reduction_lanes;
    const int slot = threadIdx.x / reduction_lanes;
    const std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * segments_per_block + slot;
    Scalar sum = 0;
    if (unit < units) {
        const std::int64_t first = (unit % segments) * reduction_segment;
        const std::int64_t start = (unit / segments) * dimension + first;
        const std::int64_t count = dimension - first < reduction_segment ? dimension - first : reduction_segment;
        for (std::int64_t i = lane; i < count; i += reduction_lanes) {
            sum = add_squared_difference(sum, x[start + i], mean[start + i]);
        }
    }
    sums[slot][lane] = sum;
    for (int width = reduction_lanes / 2; width > 0; width /= 2) {
        __syncthreads();
        if (lane < width) sums[slot][lane] += sums[slot][lane + width];
    }
    if (lane == 0 && unit < units) segment_sums[unit] = static_cast<double>(sums[slot][0]);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    log_prob_kernel(const double* segment_sums, std::int64_t rows, std::int64_t segments, MarginalGaussian density,
                    double* squared_distance, Scalar* log_prob) {
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * threads_per_block + threadIdx.x;
    if (row >= rows) return;
    double sum = 0.0;
    for (std::int64_t s = 0; s < segments; ++s) sum += segment_sums[row * segments + s];
    squared_distance[row] = sum;
    log_prob[row] = static_cast<Scalar>(ald_ext::marginal_gaussian_log_prob(density, sum));
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    score_factor_kernel(const Scalar* grad, const double* squared_distance, std::int64_t rows, MarginalGaussian density,
                        Scalar* factors) {
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * threads_per_block + threadIdx.x;
    if (row >= rows) return;
    const double factor =
        static_cast<double>(grad[row]) * marginal_gaussian_score_factor(density, squared_distance[row]);
    factors[row] = static_cast<Scalar>(factor);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    scaled_difference_kernel(const Scalar* x, const Scalar* mean, const Scalar* factors, std::int64_t count,
                             std::int64_t dimension, Scalar* out, Scalar* negative_out) {
    const QuadAccess access = elementwise_access(count);
    if (access.index >= count) return;
    const Quad<Scalar> xs = access.load(x), means = access.load(mean);
    Quad<Scalar> values = {}, negatives = {};
#pragma unroll
    for (int j = 0; j < quad; ++j) {
        if (!access.inside(j)) continue;
        values.value[j] = factors[(access.index + j) / dimension] * (xs.value[j] - means.value[j]);
        negatives.value[j] = -values.value[j];
    }
    if (out != nullptr) access.store(out, values);
    if (negative_out != nullptr) access.store(negative_out, negatives);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    dequantize_kernel(const std::uint8_t* x, const Scalar* h, Scalar* y, std::int64_t count, Scalar largest) {
    const QuadAccess access = elementwise_access(count);
    if (access.index >= count) return;
    Quad<Scalar> values = access.load(h);
#pragma unroll
    for (int j = 0; j < quad; ++j) {
        if (!access.inside(j)) continue;
        const Scalar pixel = static_cast<Scalar>(x[access.index + j]);
        values.value[j] = dequantize_pixel(pixel, values.value[j], largest);
    }
    access.store(y, values);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    dequantize_backward_kernel(const Scalar* grad, const std::uint8_t* x, const Scalar* h, Scalar* grad_h,
                               std::int64_t count, Scalar largest) {
    const QuadAccess access = elementwise_access(count);
    if (access.index >= count) return;
    const Quad<Scalar> upstream = access.load(grad);
    Quad<Scalar> values = access.load(h);
#pragma unroll
    for (int j = 0; j < quad; ++j) {
        if (!access.inside(j)) continue;
        const Scalar pixel = static_cast<Scalar>(x[access.index + j]);
        values.value[j] = upstream.value[j] * dequantize_pixel_gradient(pixel, values.value[j], largest);
    }
    access.store(grad_h, values);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    quantize_kernel(const Scalar* y, std::uint8_t* x, std::int64_t count, Scalar largest) {
    const QuadAccess access = elementwise_access(count);
    if (access.index >= count) return;
    const Quad<Scalar> values = access.load(y);
#pragma unroll
    for (int j = 0; j < quad; ++j) {
        if (access.inside(j)) x[access.index + j] = quantize_pixel(values.value[j], largest);
    }
}

unsigned row_blocks(std::int64_t rows) { return static_cast<unsigned>(divide_up(rows, threads_per_block)); }

template <typename Scalar>
Scalar largest_pixel(int bits) {
    return static_cast<Scalar>((1 << bits) - 1);
}

}  // namespace

template <typename Scalar>
void normal(Scalar* out, std::int64_t count, const NoiseKey& key, cudaStream_t stream) {
    if (count == 0) return;
    const NoiseStream noise = make_noise_stream(key.seed, key.step, key.parameter);
    const unsigned blocks = static_cast<unsigned>(blocks_for<Scalar>(count, key.offset));
    normal_kernel<Scalar><<<blocks, threads_per_block, 0, stream>>>(out, count, noise, key.offset);
    check_launch("normal");
}

template <typename Param>
void langevin_step(const std::vector<StepTensor<Param>>& tensors, std::int64_t seed, std::int64_t step,
                   const DeviceClock& clock, const LangevinSettings& settings, cudaStream_t stream) {
    for (std::size_t begin = 0; begin < tensors.size(); begin += tensors_per_launch) {
        StepBatch<Param> batch = {};
        batch.count = static_cast<int>(std::min<std::size_t>(tensors_per_launch, tensors.size() - begin));
        batch.seed = seed;
        batch.step = step;
        batch.clock = clock;
        batch.settings = settings;
        for (int i = 0; i < batch.count; ++i) {
            const StepTensor<Param>& tensor = tensors[begin + i];
            batch.tensors[i] = tensor;
            batch.first_block[i + 1] = batch.first_block[i] + blocks_for<Compute<Param>>(tensor.numel, tensor.offset);
        }
        const auto kernel =
            choose_step_kernel<Param>(batch.tensors[0].square_avg != nullptr, settings.temperature > 0.0);
        kernel<<<static_cast<unsigned>(batch.first_block[batch.count]), threads_per_block, 0, stream>>>(batch);
        check_launch("langevin_step");
    }
}

std::int64_t squared_distance_segments(std::int64_t rows, std::int64_t dimension) {
    return rows * divide_up(dimension, reduction_segment);
}

template <typename Scalar>
void marginal_gaussian_log_prob(const Scalar* x, const Scalar* mean, std::int64_t rows, std::int64_t dimension,
                                const PrecisionPrior& prior, double* segment_sums, double* squared_distance,
                                Scalar* log_prob, cudaStream_t stream) {
    if (rows == 0) return;
    const std::int64_t segments = divide_up(dimension, reduction_segment), units = rows * segments;
    if (units > 0) {
        const unsigned blocks = static_cast<unsigned>(divide_up(units, segments_per_block));
        segment_sum_kernel<Scalar>
            <<<blocks, threads_per_block, 0, stream>>>(x, mean, units, segments, dimension, segment_sums);
        check_launch("segment_sum");
    }
    log_prob_kernel<Scalar><<<row_blocks(rows), threads_per_block, 0, stream>>>(
        segment_sums, rows, segments, make_marginal_gaussian(prior, dimension), squared_distance, log_prob);
    check_launch("marginal_gaussian_log_prob");
}

template <typename Scalar>
void marginal_gaussian_log_prob_backward(const Scalar* grad, const Scalar* x, const Scalar* mean,
                                         const double* squared_distance, std::int64_t rows, std::int64_t dimension,
                                         const PrecisionPrior& prior, Scalar* factors, Scalar* grad_x,
                                         Scalar* grad_mean, cudaStream_t stream) {
    const std::int64_t count = rows * dimension;
    if (count == 0 || (grad_x == nullptr && grad_mean == nullptr)) return;
    score_factor_kernel<Scalar><<<row_blocks(rows), threads_per_block, 0, stream>>>(
        grad, squared_distance, rows, make_marginal_gaussian(prior, dimension), factors);
    check_launch("score_factor");
    scaled_difference_kernel<Scalar><<<elementwise_blocks(count), threads_per_block, 0, stream>>>(
        x, mean, factors, count, dimension, grad_x, grad_mean);
    check_launch("scaled_difference");
}

template <typename Scalar>
void dequantize(const std::uint8_t* x, const Scalar* h, Scalar* y, std::int64_t count, int bits, cudaStream_t stream) {
    if (count == 0) return;
    dequantize_kernel<Scalar>
        <<<elementwise_blocks(count), threads_per_block, 0, stream>>>(x, h, y, count, largest_pixel<Scalar>(bits));
    check_launch("dequantize");
}

template <typename Scalar>
void dequantize_backward(const Scalar* grad, const std::uint8_t* x, const Scalar* h, Scalar* grad_h, std::int64_t count,
                         int bits, cudaStream_t stream) {
    if (count == 0) return;
    dequantize_backward_kernel<Scalar><<<elementwise_blocks(count), threads_per_block, 0, stream>>>(
        grad, x, h, grad_h, count, largest_pixel<Scalar>(bits));
    check_launch("dequantize_backward");
}

template <typename Scalar>
void quantize(const Scalar* y, std::uint8_t* x, std::int64_t count, int bits, cudaStream_t stream) {
    if (count == 0) return;
    quantize_kernel<Scalar>
        <<<elementwise_blocks(count), threads_per_block, 0, stream>>>(y, x, count, largest_pixel<Scalar>(bits));
    check_launch("quantize");
}

#define ALD_EXT_INSTANTIATE(Scalar)                                                                                    \
    template void normal<Scalar>(Scalar*, std::int64_t, const NoiseKey&, cudaStream_t);                                \
    template void marginal_gaussian_log_prob<Scalar>(const Scalar*, const Scalar*, std::int64_t, std::int64_t,         \
                                                     const PrecisionPrior&, double*, double*, Scalar*, cudaStream_t);  \
    template void marginal_gaussian_log_prob_backward<Scalar>(                                                         \
        const Scalar*, const Scalar*, const Scalar*, const double*, std::int64_t, std::int64_t, const PrecisionPrior&, \
        Scalar*, Scalar*, Scalar*, cudaStream_t);                                                                      \
    template void dequantize<Scalar>(const std::uint8_t*, const Scalar*, Scalar*, std::int64_t, int, cudaStream_t);    \
    template void dequantize_backward<Scalar>(const Scalar*, const std::uint8_t*, const Scalar*, Scalar*,              \
                                              std::int64_t, int, cudaStream_t);                                        \
    template void quantize<Scalar>(const Scalar*, std::uint8_t*, std::int64_t, int, cudaStream_t);

ALD_EXT_INSTANTIATE(float)
ALD_EXT_INSTANTIATE(double)

#define ALD_EXT_INSTANTIATE_STEP(Param)                                                                   \
    template void langevin_step<Param>(const std::vector<StepTensor<Param>>&, std::int64_t, std::int64_t, \
                                       const DeviceClock&, const LangevinSettings&, cudaStream_t);

ALD_EXT_INSTANTIATE_STEP(float)
ALD_EXT_INSTANTIATE_STEP(double)
ALD_EXT_INSTANTIATE_STEP(BFloat16)
ALD_EXT_INSTANTIATE_STEP(Half)

}  // namespace ald_ext::cuda
