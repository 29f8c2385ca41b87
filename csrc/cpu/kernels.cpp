// Compiled once per instruction set; ALD_EXT_INSTRUCTION_SET names the namespace (see csrc/math/config.h).
//
// Note [Vector loops]
// Loops over 16 blocks, 64 lanes or a range are written so that the compiler vectorizes them: no branch, no call, no
// inner loop. `ivdep` states that param, grad, square_avg and outputs do not overlap, which csrc/ops checks.
#include "kernels.h"

#include "../math/dequantization.h"
#include "../math/langevin_update.h"
#include "../math/marginal_gaussian.h"
#include "../math/normal.h"
#include "vector_words.h"

#define ALD_EXT_VECTORIZE _Pragma("GCC ivdep")

namespace ald_ext::cpu {
inline namespace ALD_EXT_INSTRUCTION_SET {
namespace {

// Calls run(pair) with a constant, for every pair of lanes of a block.
template <typename Scalar, typename Run>
ALD_EXT_INLINE void for_each_constant_pair(const Run& run) {
    run(std::integral_constant<int, 0>{});
    if constexpr (pairs_per_block<Scalar> == 2) run(std::integral_constant<int, 1>{});
}

// Calls use(i, first, second) with the normals i and i + 16 of a pair of lanes.
template <typename Scalar, int pair, typename Use>
ALD_EXT_INLINE void for_each_pair(const ChunkWords& words, const Use& use) {
    ALD_EXT_VECTORIZE
    for (int lane = 0; lane < chunk_blocks; ++lane) {
        const NormalPair<Scalar> normals = normal_pair<Scalar, pair>(words.block(lane));
        use(lane, normals.first, normals.second);
    }
}

template <typename Scalar>
void fill_chunk(Scalar* out, const NoiseStream& stream, std::uint64_t chunk) {
    const ChunkWords words = chunk_words(stream, chunk);
    const auto fill = [&](auto pair) {
        Scalar* lanes = out + 2 * pair * chunk_blocks;
        for_each_pair<Scalar, pair>(words, [=](int i, Scalar first, Scalar second) {
            lanes[i] = first;
            lanes[chunk_blocks + i] = second;
        });
    };
    for_each_constant_pair<Scalar>(fill);
}

// For every element of the range, prepared = prepare(index), then finish(index, normal, prepared): a chunk's preparation
// comes before its noise, so that square roots and divisions of the one run beside the multiplications of the other.
template <typename Scalar, typename Prepare, typename Finish>
ALD_EXT_INLINE void for_each_normal(std::int64_t count, const NoiseKey& key, const Prepare& prepare,
                                    const Finish& finish) {
    const NoiseStream stream = make_noise_stream(key.seed, key.step, key.parameter);
    constexpr std::int64_t size = chunk_size<Scalar>;
    Scalar prepared[size];
    std::int64_t begin = 0;
    while (begin < count) {
        const std::int64_t element = key.offset + begin;
        const std::uint64_t chunk = static_cast<std::uint64_t>(element / size);
        const std::int64_t first = element % size;
        const std::int64_t length = size - first < count - begin ? size - first : count - begin;
        if (length == size) {
            const ChunkWords words = chunk_words(stream, chunk);
            for_each_constant_pair<Scalar>([&](auto pair) {
                const std::int64_t base = begin + 2 * pair * chunk_blocks;
                ALD_EXT_VECTORIZE
                for (int i = 0; i < 2 * chunk_blocks; ++i) prepared[i] = prepare(base + i);
                for_each_pair<Scalar, pair>(words, [&](int i, Scalar first, Scalar second) {
                    finish(base + i, first, prepared[i]);
                    finish(base + chunk_blocks + i, second, prepared[chunk_blocks + i]);
                });
            });
        } else {
            Scalar normals[size];
            fill_chunk(normals, stream, chunk);
            ALD_EXT_VECTORIZE
            for (std::int64_t i = begin; i < begin + length; ++i) finish(i, normals[first + i - begin], prepare(i));
        }
        begin += length;
    }
}

// The same with normals of zero where there is no noise to add.
template <typename Scalar, typename Prepare, typename Finish>
ALD_EXT_INLINE void for_each_element(std::int64_t count, const NoiseKey& key, bool noisy, const Prepare& prepare,
                                     const Finish& finish) {
    if (noisy) {
        for_each_normal<Scalar>(count, key, prepare, finish);
    } else {
        ALD_EXT_VECTORIZE
        for (std::int64_t i = 0; i < count; ++i) finish(i, Scalar(0), prepare(i));
    }
}

template <typename Scalar>
void normal(Scalar* out, std::int64_t count, NoiseKey key) {
    const auto prepare = [](std::int64_t) { return Scalar(0); };
    for_each_normal<Scalar>(count, key, prepare, [=](std::int64_t i, Scalar xi, Scalar) { out[i] = xi; });
}

template <typename Scalar>
void sgld_step(Scalar* param, const Scalar* grad, std::int64_t count, NoiseKey key, const LangevinSettings& settings) {
    const StepScalars<Scalar> step = make_step_scalars<Scalar>(settings);
    const auto prepare = [](std::int64_t) { return Scalar(0); };
    for_each_element<Scalar>(
        count, key, settings.temperature > 0.0, prepare,
        [=](std::int64_t i, Scalar xi, Scalar) { param[i] = sgld_update(param[i], grad[i], xi, step); });
}

template <bool adapt, typename Scalar>
void psgld_step_adapting(Scalar* param, const Scalar* grad, Scalar* square_avg, std::int64_t count, const NoiseKey& key,
                         const LangevinSettings& settings) {
    const StepScalars<Scalar> step = make_step_scalars<Scalar>(settings);
    const auto prepare = [=](std::int64_t i) {
        Scalar v = square_avg[i];
        const Scalar root = root_of_preconditioner<adapt>(param[i], grad[i], v, step);
        if (adapt) square_avg[i] = v;
        return root;
    };
    for_each_element<Scalar>(
        count, key, settings.temperature > 0.0, prepare,
        [=](std::int64_t i, Scalar xi, Scalar root) { param[i] = psgld_update(param[i], grad[i], root, xi, step); });
}

template <typename Scalar>
void psgld_step(Scalar* param, const Scalar* grad, Scalar* square_avg, std::int64_t count, NoiseKey key,
                const LangevinSettings& settings) {
    const auto run = settings.adapt ? psgld_step_adapting<true, Scalar> : psgld_step_adapting<false, Scalar>;
    run(param, grad, square_avg, count, key, settings);
}

template <typename Scalar>
double squared_distance(const Scalar* x, const Scalar* mean, std::int64_t count) {
    Scalar sums[reduction_lanes] = {};
    const std::int64_t whole = count - count % reduction_lanes;
    for (std::int64_t begin = 0; begin < whole; begin += reduction_lanes) {
        ALD_EXT_VECTORIZE
        for (int lane = 0; lane < reduction_lanes; ++lane) {
            sums[lane] = add_squared_difference(sums[lane], x[begin + lane], mean[begin + lane]);
        }
    }
    for (std::int64_t i = whole; i < count; ++i)
        sums[i - whole] = add_squared_difference(sums[i - whole], x[i], mean[i]);
    for (int width = reduction_lanes / 2; width > 0; width /= 2) {
        for (int lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
    }
    return static_cast<double>(sums[0]);
}

template <typename Scalar>
void scaled_difference(const Scalar* x, const Scalar* mean, double factor, std::int64_t count, Scalar* out,
                       Scalar* negative_out) {
    const Scalar scale = static_cast<Scalar>(factor);
    if (out != nullptr && negative_out != nullptr) {
        ALD_EXT_VECTORIZE
        for (std::int64_t i = 0; i < count; ++i) {
            const Scalar value = scale * (x[i] - mean[i]);
            out[i] = value;
            negative_out[i] = -value;
        }
    } else if (out != nullptr) {
        ALD_EXT_VECTORIZE
        for (std::int64_t i = 0; i < count; ++i) out[i] = scale * (x[i] - mean[i]);
    } else if (negative_out != nullptr) {
        ALD_EXT_VECTORIZE
        for (std::int64_t i = 0; i < count; ++i) negative_out[i] = -(scale * (x[i] - mean[i]));
    }
}

template <typename Scalar>
Scalar largest_pixel(int bits) {
    return static_cast<Scalar>((1 << bits) - 1);
}

template <typename Scalar>
void dequantize(const std::uint8_t* x, const Scalar* h, Scalar* y, std::int64_t count, int bits) {
    const Scalar largest = largest_pixel<Scalar>(bits);
    ALD_EXT_VECTORIZE
    for (std::int64_t i = 0; i < count; ++i) y[i] = dequantize_pixel(static_cast<Scalar>(x[i]), h[i], largest);
}

template <typename Scalar>
void dequantize_backward(const Scalar* grad, const std::uint8_t* x, const Scalar* h, Scalar* grad_h, std::int64_t count,
                         int bits) {
    const Scalar largest = largest_pixel<Scalar>(bits);
    ALD_EXT_VECTORIZE
    for (std::int64_t i = 0; i < count; ++i) {
        grad_h[i] = grad[i] * dequantize_pixel_gradient(static_cast<Scalar>(x[i]), h[i], largest);
    }
}

template <typename Scalar>
void quantize(const Scalar* y, std::uint8_t* x, std::int64_t count, int bits) {
    const Scalar largest = largest_pixel<Scalar>(bits);
    ALD_EXT_VECTORIZE
    for (std::int64_t i = 0; i < count; ++i) x[i] = quantize_pixel(y[i], largest);
}

}  // namespace

template <typename Scalar>
KernelTable<Scalar> make_kernel_table() {
    return {normal<Scalar>,
            sgld_step<Scalar>,
            psgld_step<Scalar>,
            squared_distance<Scalar>,
            scaled_difference<Scalar>,
            dequantize<Scalar>,
            dequantize_backward<Scalar>,
            quantize<Scalar>};
}

template KernelTable<float> make_kernel_table<float>();
template KernelTable<double> make_kernel_table<double>();

}  // namespace ALD_EXT_INSTRUCTION_SET
}  // namespace ald_ext::cpu
