// Note [Threads and lanes]
// Sixteen threads sum a segment, each of them four of the 64 lanes of csrc/math/marginal_gaussian.h, Note [Order of the
// sum]: four neighbours, in one 16-byte access, or, where rows are not aligned, lanes 16 apart, so that scalar accesses
// of neighbouring threads are side by side. In the first case the tree's widths 32 to 4 are sums across threads and 2
// and 1 within a thread; in the second 32 and 16 are within and 8 to 1 across: the same sums, as a + b is b + a.
#include "../math/dequantization.h"
#include "../math/marginal_gaussian.h"
#include "elements.h"
#include "kernels.h"

namespace ald_ext::cuda {
namespace {

constexpr int threads_per_warp = 32;
constexpr unsigned whole_warp = 0xFFFFFFFFu;
constexpr int threads_per_segment = reduction_lanes / quad;
constexpr int segments_per_block = threads_per_block / threads_per_segment;
constexpr int rows_per_block = threads_per_block / threads_per_warp;
constexpr int narrow = 16;  // rows up to this dimension have a thread each

// --- Four lanes of a segment: `first` is the element of the first one ---

template <bool aligned>
__device__ int lane_element(int first, int j) {
    return first + (aligned ? j : j * threads_per_segment);
}

template <bool aligned, typename Value>
__device__ Quad<Value> load_lanes(const Value* segment, int first, int count) {
    Quad<Value> values = {};
    if constexpr (aligned) {  // a quad is inside or outside as a whole
        if (first < count) values = *reinterpret_cast<const Quad<Value>*>(segment + first);
    } else {
#pragma unroll
        for (int j = 0; j < quad; ++j) {
            const int element = lane_element<aligned>(first, j);
            if (element < count) values.value[j] = segment[element];
        }
    }
    return values;
}

template <bool aligned, typename Value>
__device__ void store_lanes(Value* segment, int first, int count, const Quad<Value>& values) {
    if constexpr (aligned) {
        if (first < count) *reinterpret_cast<Quad<Value>*>(segment + first) = values;
    } else {
#pragma unroll
        for (int j = 0; j < quad; ++j) {
            const int element = lane_element<aligned>(first, j);
            if (element < count) segment[element] = values.value[j];
        }
    }
}

// --- Where rows come from: they are given, or dequantized on the way, and kept ---

// 128 bytes of x, and as many of the mean, are under way in a thread at once.
template <typename Scalar>
struct GivenRows {
    static constexpr int loads_under_way = 32 / sizeof(Scalar);
    using Loaded = Quad<Scalar>;

    const Scalar* x;

    template <bool aligned>
    __device__ Loaded load(std::int64_t start, int first, int count) const {
        return load_lanes<aligned>(x + start, first, count);
    }

    template <bool aligned>
    __device__ Quad<Scalar> values(const Loaded& loaded, std::int64_t, int, int) const {
        return loaded;
    }

    __device__ Scalar value(std::int64_t i) const { return x[i]; }

    bool is_aligned() const { return cuda::is_aligned(x); }
};

// Half of that, for the registers of the dequantization.
template <typename Scalar>
struct DequantizedRows {
    static constexpr int loads_under_way = 16 / sizeof(Scalar);
    struct Loaded {
        Quad<std::uint8_t> x;
        Quad<Scalar> h;
    };

    Pixels<Scalar> pixels;
    Scalar* y;

    template <bool aligned>
    __device__ Loaded load(std::int64_t start, int first, int count) const {
        return {load_lanes<aligned>(pixels.x + start, first, count),
                load_lanes<aligned>(pixels.h + start, first, count)};
    }

    __device__ Scalar dequantize(std::uint8_t x, Scalar h) const {
        return dequantize_pixel(static_cast<Scalar>(x), h, largest_pixel<Scalar>(pixels.bits));
    }

    template <bool aligned>
    __device__ Quad<Scalar> values(const Loaded& loaded, std::int64_t start, int first, int count) const {
        Quad<Scalar> result;
#pragma unroll
        for (int j = 0; j < quad; ++j) {
            const Scalar value = dequantize(loaded.x.value[j], loaded.h.value[j]);
            result.value[j] = lane_element<aligned>(first, j) < count ? value : Scalar(0);
        }
        store_lanes<aligned>(y + start, first, count, result);
        return result;
    }

    __device__ Scalar value(std::int64_t i) const { return y[i] = dequantize(pixels.x[i], pixels.h[i]); }

    bool is_aligned() const { return cuda::is_aligned(pixels.x) && cuda::is_aligned(pixels.h) && cuda::is_aligned(y); }
};

// A batch of rows of `dimension` values; a row has `segments` segments.
template <typename Scalar>
struct Batch {
    const Scalar* mean;
    std::int64_t rows, dimension, segments;
};

template <typename Scalar>
struct LogProbOutput {
    MarginalGaussian density;
    double* squared_distance;
    Scalar* log_prob;

    __device__ void write(std::int64_t row, double sum) const {
        squared_distance[row] = sum;
        log_prob[row] = static_cast<Scalar>(ald_ext::marginal_gaussian_log_prob(density, sum));
    }
};

// --- Sums ---

template <typename Scalar>
__device__ Scalar add_within_thread(const Quad<Scalar>& sums) {
    return (sums.value[0] + sums.value[2]) + (sums.value[1] + sums.value[3]);
}

template <typename Scalar>
__device__ Scalar add_across_threads(Scalar sum) {
#pragma unroll
    for (int distance = threads_per_segment / 2; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(whole_warp, sum, distance);
    }
    return sum;
}

template <bool aligned, typename Scalar>
__device__ Scalar add_lanes(Quad<Scalar> sums) {
    if constexpr (aligned) {
#pragma unroll
        for (int j = 0; j < quad; ++j) sums.value[j] = add_across_threads(sums.value[j]);
        return add_within_thread(sums);
    } else {
        return add_across_threads(add_within_thread(sums));
    }
}

// r^2 of a segment, in each of its sixteen threads. Values beyond `count` are zeros, which add nothing.
template <bool aligned, typename Source, typename Scalar>
__device__ Scalar segment_sum(const Source& source, const Scalar* mean, std::int64_t start, int count, int thread) {
    constexpr int loads = Source::loads_under_way;
    Quad<Scalar> sums = {};
    for (int first = aligned ? quad * thread : thread; first < count; first += loads * reduction_lanes) {
        typename Source::Loaded xs[loads];
        Quad<Scalar> means[loads];
#pragma unroll
        for (int k = 0; k < loads; ++k) {
            xs[k] = source.template load<aligned>(start, first + k * reduction_lanes, count);
            means[k] = load_lanes<aligned>(mean + start, first + k * reduction_lanes, count);
        }
#pragma unroll
        for (int k = 0; k < loads; ++k) {
            const Quad<Scalar> x = source.template values<aligned>(xs[k], start, first + k * reduction_lanes, count);
#pragma unroll
            for (int j = 0; j < quad; ++j) {
                sums.value[j] = add_squared_difference(sums.value[j], x.value[j], means[k].value[j]);
            }
        }
    }
    return add_lanes<aligned>(sums);
}

// Rows of one segment get their log density here; of longer ones, the sum of each segment is kept.
template <bool aligned, typename Source, typename Scalar>
__global__ void __launch_bounds__(threads_per_block, blocks_per_multiprocessor)
    segment_kernel(Source source, Batch<Scalar> batch, LogProbOutput<Scalar> output, double* segment_sums) {
    __shared__ Scalar sums[segments_per_block];
    const std::int64_t units = batch.rows * batch.segments;
    const std::int64_t first_unit = static_cast<std::int64_t>(blockIdx.x) * segments_per_block;
    const int slot = threadIdx.x / threads_per_segment, thread = threadIdx.x % threads_per_segment;
    const std::int64_t unit = first_unit + slot;
    std::int64_t start = 0, count = 0;
    if (unit < units) {
        const std::int64_t row = batch.segments == 1 ? unit : unit / batch.segments;
        const std::int64_t first = (unit - row * batch.segments) * reduction_segment;
        start = row * batch.dimension + first;
        count = batch.dimension - first < reduction_segment ? batch.dimension - first : reduction_segment;
    }
    const Scalar sum = segment_sum<aligned>(source, batch.mean, start, static_cast<int>(count), thread);
    if (thread == 0) sums[slot] = sum;
    __syncthreads();

    // Neighbouring threads finish: a logarithm takes a warp as long as one thread.
    const std::int64_t finished = first_unit + threadIdx.x;
    if (threadIdx.x >= segments_per_block || finished >= units) return;
    const double squared_distance = static_cast<double>(sums[threadIdx.x]);
    if (batch.segments == 1) {
        output.write(finished, squared_distance);
    } else {
        segment_sums[finished] = squared_distance;
    }
}

// A warp a row: its threads fetch the sums together and add them in order.
template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    long_rows_kernel(const double* segment_sums, std::int64_t rows, std::int64_t segments,
                     LogProbOutput<Scalar> output) {
    const int lane = threadIdx.x % threads_per_warp;
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * rows_per_block + threadIdx.x / threads_per_warp;
    if (row >= rows) return;
    double sum = 0.0;
    for (std::int64_t first = 0; first < segments; first += threads_per_warp) {
        const double fetched = first + lane < segments ? segment_sums[row * segments + first + lane] : 0.0;
#pragma unroll
        for (int i = 0; i < threads_per_warp; ++i) sum += __shfl_sync(whole_warp, fetched, i);
    }
    if (lane == 0) output.write(row, sum);
}

// The lanes from `narrow` on would be zeros, and add nothing.
template <typename Source, typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    narrow_rows_kernel(Source source, Batch<Scalar> batch, LogProbOutput<Scalar> output) {
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * threads_per_block + threadIdx.x;
    if (row >= batch.rows) return;
    const std::int64_t start = row * batch.dimension;
    Scalar sums[narrow];
#pragma unroll
    for (int lane = 0; lane < narrow; ++lane) {
        sums[lane] = Scalar(0);
        if (lane < batch.dimension) {
            sums[lane] = add_squared_difference(sums[lane], source.value(start + lane), batch.mean[start + lane]);
        }
    }
#pragma unroll
    for (int width = narrow / 2; width > 0; width /= 2) {
#pragma unroll
        for (int lane = 0; lane < narrow / 2; ++lane) {
            if (lane < width) sums[lane] += sums[lane + width];
        }
    }
    output.write(row, static_cast<double>(sums[0]));
}

// --- Gradients ---

// csrc/cuda/kernels.h, GradientArguments, for the kernel.
template <typename Scalar>
struct GradientBatch {
    const Scalar *grad, *x, *mean;
    const double* squared_distance;
    std::int64_t count, dimension;
    MarginalGaussian density;
    Scalar *grad_x, *grad_mean;

    __device__ Scalar factor(std::int64_t row) const {
        const double score = marginal_gaussian_score_factor(density, squared_distance[row]);
        return static_cast<Scalar>(static_cast<double>(grad[row]) * score);
    }
};

// The rows of a block of an elementwise kernel, from that of its first element on. A block has fewer than 2^31
// elements, so what is counted from its beginning needs no 64 bits.
struct BlockRows {
    std::int64_t first;
    unsigned length;  // of the block, in elements
    unsigned head;    // those of them in the first row
    unsigned width;   // those in a further row, unless the block ends before

    unsigned count;  // of rows

    __device__ BlockRows(std::int64_t begin, unsigned size, std::int64_t elements, std::int64_t dimension) {
        first = begin / dimension;
        const std::int64_t rest_of_row = (first + 1) * dimension - begin;
        length = elements - begin < size ? static_cast<unsigned>(elements - begin) : size;
        head = rest_of_row < length ? static_cast<unsigned>(rest_of_row) : length;
        width = dimension < size ? static_cast<unsigned>(dimension) : size;
        count = 1 + (length - head + width - 1) / width;
    }
};

// Walks from an element of the block to the next ones.
struct RowWalk {
    unsigned row;   // of the block's rows
    unsigned left;  // elements of it, this one among them

    __device__ RowWalk(const BlockRows& rows, unsigned element) {
        const bool in_head = element < rows.head;
        const unsigned beyond = in_head ? 0 : element - rows.head;
        row = in_head ? 0 : 1 + beyond / rows.width;
        left = in_head ? rows.head - element : rows.width - beyond % rows.width;
    }

    __device__ void advance(const BlockRows& rows) {
        if (--left > 0) return;
        ++row;
        left = rows.width;
    }
};

// grad_x = factor (x - mean), and grad_mean is its negative. Every row's factor is computed once a block, and each quad
// finds its row by a division of 32-bit numbers. `dequantized`: x is what `pixels` were dequantized to, and grad_x the
// gradient for their h.
template <bool dequantized, typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    gradient_kernel(const __grid_constant__ GradientBatch<Scalar> batch, Pixels<Scalar> pixels) {
    constexpr int size = elements_per_block<Scalar>, quads = elementwise_quads<Scalar>;
    __shared__ Scalar factors[size];
    const auto elements = elementwise_elements<Scalar>(batch.count);
    auto values = elements.load(batch.x);
    const auto means = elements.load(batch.mean);
    Values<std::uint8_t, quads> pixel_values = {};
    Values<Scalar, quads> h = {};
    if constexpr (dequantized) {
        pixel_values = elements.load(pixels.x);
        h = elements.load(pixels.h);
    }

    const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * size;
    const BlockRows rows(begin, size, batch.count, batch.dimension);
    for (unsigned row = threadIdx.x; row < rows.count; row += threads_per_block) {
        factors[row] = batch.factor(rows.first + row);
    }
    __syncthreads();
    if (elements.none_inside()) return;

#pragma unroll
    for (int k = 0; k < quads; ++k) {
        RowWalk walk(rows, static_cast<unsigned>(elements.index(quad * k) - begin));
#pragma unroll
        for (int j = 0; j < quad; ++j) {
            const int e = quad * k + j;
            values[e] = factors[walk.row] * (values[e] - means[e]);
            walk.advance(rows);
        }
    }
    if (batch.grad_mean != nullptr) {
        Values<Scalar, quads> negatives;
#pragma unroll
        for (int e = 0; e < elements.size; ++e) negatives[e] = -values[e];
        elements.store(batch.grad_mean, negatives);
    }
    if (batch.grad_x == nullptr) return;
    if constexpr (dequantized) {
        const Scalar largest = largest_pixel<Scalar>(pixels.bits);
#pragma unroll
        for (int e = 0; e < elements.size; ++e) {
            values[e] *= dequantize_pixel_gradient(static_cast<Scalar>(pixel_values[e]), h[e], largest);
        }
    }
    elements.store(batch.grad_x, values);
}

// --- Launches ---

template <bool aligned, typename Source, typename Scalar>
void launch_segments(const char* name, const Source& source, const Batch<Scalar>& batch,
                     const LogProbOutput<Scalar>& output, double* workspace, cudaStream_t stream) {
    const std::int64_t blocks = divide_up(batch.rows * batch.segments, segments_per_block);
    launch(name, segment_kernel<aligned, Source, Scalar>, blocks, stream, source, batch, output, workspace);
}

template <typename Source, typename Scalar>
void launch_log_prob(const char* name, const Source& source, const LogProbArguments<Scalar>& arguments,
                     cudaStream_t stream) {
    const std::int64_t dimension = arguments.dimension;
    const Batch<Scalar> batch = {arguments.mean, arguments.rows, dimension, segments_of_row(dimension)};
    const LogProbOutput<Scalar> output = {make_marginal_gaussian(arguments.prior, dimension),
                                          arguments.squared_distance, arguments.log_prob};
    if (dimension <= narrow) {
        const auto kernel = narrow_rows_kernel<Source, Scalar>;
        launch(name, kernel, divide_up(batch.rows, threads_per_block), stream, source, batch, output);
        return;
    }
    const bool aligned = dimension % quad == 0 && source.is_aligned() && is_aligned(batch.mean);
    const auto launch_sums = aligned ? launch_segments<true, Source, Scalar> : launch_segments<false, Source, Scalar>;
    launch_sums(name, source, batch, output, arguments.workspace, stream);
    if (batch.segments > 1) {
        launch(name, long_rows_kernel<Scalar>, divide_up(batch.rows, rows_per_block), stream, arguments.workspace,
               batch.rows, batch.segments, output);
    }
}

template <bool dequantized, typename Scalar>
void launch_gradient(const char* name, const GradientArguments<Scalar>& arguments, const Pixels<Scalar>& pixels,
                     cudaStream_t stream) {
    const std::int64_t count = arguments.rows * arguments.dimension;
    if (arguments.grad_x == nullptr && arguments.grad_mean == nullptr) return;
    const GradientBatch<Scalar> batch = {arguments.grad,
                                         arguments.x,
                                         arguments.mean,
                                         arguments.squared_distance,
                                         count,
                                         arguments.dimension,
                                         make_marginal_gaussian(arguments.prior, arguments.dimension),
                                         arguments.grad_x,
                                         arguments.grad_mean};
    launch(name, gradient_kernel<dequantized, Scalar>, divide_up(count, elements_per_block<Scalar>), stream, batch,
           pixels);
}

}  // namespace

std::int64_t likelihood_workspace(std::int64_t rows, std::int64_t dimension) {
    const std::int64_t segments = segments_of_row(dimension);
    return segments == 1 ? 0 : rows * segments;
}

template <typename Scalar>
void marginal_gaussian_log_prob(const Scalar* x, const LogProbArguments<Scalar>& arguments, cudaStream_t stream) {
    launch_log_prob("marginal_gaussian_log_prob", GivenRows<Scalar>{x}, arguments, stream);
}

template <typename Scalar>
void dequantized_log_prob(const Pixels<Scalar>& pixels, Scalar* y, const LogProbArguments<Scalar>& arguments,
                          cudaStream_t stream) {
    launch_log_prob("dequantized_log_prob", DequantizedRows<Scalar>{pixels, y}, arguments, stream);
}

template <typename Scalar>
void marginal_gaussian_log_prob_backward(const GradientArguments<Scalar>& arguments, cudaStream_t stream) {
    launch_gradient<false, Scalar>("marginal_gaussian_log_prob_backward", arguments, {}, stream);
}

template <typename Scalar>
void dequantized_log_prob_backward(const Pixels<Scalar>& pixels, const GradientArguments<Scalar>& arguments,
                                   cudaStream_t stream) {
    launch_gradient<true, Scalar>("dequantized_log_prob_backward", arguments, pixels, stream);
}

#define ALD_EXT_INSTANTIATE(Scalar)                                                                                 \
    template void marginal_gaussian_log_prob<Scalar>(const Scalar*, const LogProbArguments<Scalar>&, cudaStream_t); \
    template void dequantized_log_prob<Scalar>(const Pixels<Scalar>&, Scalar*, const LogProbArguments<Scalar>&,     \
                                               cudaStream_t);                                                       \
    template void marginal_gaussian_log_prob_backward<Scalar>(const GradientArguments<Scalar>&, cudaStream_t);      \
    template void dequantized_log_prob_backward<Scalar>(const Pixels<Scalar>&, const GradientArguments<Scalar>&,    \
                                                        cudaStream_t);

ALD_EXT_INSTANTIATE(float)
ALD_EXT_INSTANTIATE(double)

#undef ALD_EXT_INSTANTIATE

}  // namespace ald_ext::cuda
