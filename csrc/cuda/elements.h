// What the kernels share: how they are launched, and which elements of a range a thread has.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace ald_ext::cuda {

constexpr int threads_per_block = 128;
constexpr int quad = 4;

// As second number of __launch_bounds__ it grants a thread 96 registers. Without one, nvcc aims at more threads and
// moves loads down to their uses.
constexpr int blocks_per_multiprocessor = 5;

inline std::int64_t divide_up(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

// Blocks of threads_per_block threads, if any.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), std::int64_t blocks, cudaStream_t stream,
            const Arguments&... arguments) {
    if (blocks == 0) return;
    const auto fail = [&](const std::string& why) {
        throw std::runtime_error(std::string("ald_ext: launching ") + name + " failed: " + why);
    };
    if (blocks > INT32_MAX) fail(std::to_string(blocks) + " blocks, more than CUDA allows");
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(threads_per_block);
    config.stream = stream;
    if (cudaLaunchKernelEx(&config, kernel, arguments...) != cudaSuccess) {
        fail(cudaGetErrorString(cudaGetLastError()));  // taken back, or torch would find it at its next launch
    }
}

// Four neighbours, for one access of at most 16 bytes (two for double).
template <typename Scalar>
struct alignas(quad * sizeof(Scalar) < 16 ? quad * sizeof(Scalar) : 16) Quad {
    Scalar value[quad];
};

template <typename Scalar>
__host__ __device__ bool is_aligned(const Scalar* data) {
    return reinterpret_cast<std::uintptr_t>(data) % alignof(Quad<Scalar>) == 0;
}

// Values of a thread. They stay in registers, as every index is known once the loops over them are unrolled.
template <typename Scalar, int quads>
struct Values {
    Quad<Scalar> quad_at[quads];

    __device__ Scalar& operator[](int e) { return quad_at[e / quad].value[e % quad]; }
    __device__ Scalar operator[](int e) const { return quad_at[e / quad].value[e % quad]; }
};

// The elements of a thread: quads of neighbours, `stride` apart. All loads are under way before the first value is
// used: where the range begins or ends within them, or is not aligned, element by element.
template <int quads, int stride>
struct ThreadElements {
    static constexpr int size = quads * quad;

    std::int64_t first;  // index in the range; negative before the range begins
    std::int64_t count;  // of the range

    __device__ std::int64_t index(int e) const { return first + e / quad * stride + e % quad; }
    __device__ bool inside(int e) const { return index(e) >= 0 && index(e) < count; }
    __device__ bool none_inside() const { return first >= count; }

    template <typename Scalar>
    __device__ bool in_whole_quads(const Scalar* data) const {
        return first >= 0 && index(size - 1) < count && is_aligned(data + first);
    }

    template <typename Scalar>
    __device__ Values<Scalar, quads> load(const Scalar* data) const {
        Values<Scalar, quads> values = {};
        if (in_whole_quads(data)) {
#pragma unroll
            for (int k = 0; k < quads; ++k) {
                values.quad_at[k] = *reinterpret_cast<const Quad<Scalar>*>(data + index(quad * k));
            }
        } else {
#pragma unroll
            for (int e = 0; e < size; ++e) {
                if (inside(e)) values[e] = data[index(e)];
            }
        }
        return values;
    }

    template <typename Scalar>
    __device__ void store(Scalar* data, const Values<Scalar, quads>& values) const {
        if (in_whole_quads(data)) {
#pragma unroll
            for (int k = 0; k < quads; ++k) {
                *reinterpret_cast<Quad<Scalar>*>(data + index(quad * k)) = values.quad_at[k];
            }
        } else {
#pragma unroll
            for (int e = 0; e < size; ++e) {
                if (inside(e)) data[index(e)] = values[e];
            }
        }
    }
};

// Of elementwise kernels: 64 bytes of each tensor in flight a thread, and neighbours of a warp side by side.
template <typename Scalar>
constexpr int elementwise_quads = 16 / sizeof(Scalar);

template <typename Scalar>
constexpr int elements_per_block = quad * threads_per_block * elementwise_quads<Scalar>;

template <typename Scalar>
using ElementwiseElements = ThreadElements<elementwise_quads<Scalar>, quad * threads_per_block>;

template <typename Scalar>
__device__ ElementwiseElements<Scalar> elementwise_elements(std::int64_t count) {
    return {static_cast<std::int64_t>(blockIdx.x) * elements_per_block<Scalar> + threadIdx.x * quad, count};
}

template <typename Scalar>
__host__ __device__ Scalar largest_pixel(int bits) {
    return static_cast<Scalar>((1 << bits) - 1);
}

}  // namespace ald_ext::cuda
