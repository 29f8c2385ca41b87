// The ops on CPU tensors: checked arguments, divided among torch's threads.
//
// Note [Results do not depend on the division]
// Noise is a function of the element's index, other loops are elementwise, and the sums of
// csrc/math/marginal_gaussian.h have fixed segments. So work may be cut anywhere, for any number of threads.
#include <atomic>
#include <numeric>

#include "../cpu/kernels.h"
#include "../math/marginal_gaussian.h"
#include "registration.h"

namespace ald_ext::ops {
namespace {

// Below these, waking another thread costs more than it saves. In elements.
constexpr std::int64_t noisy_grain = 16384;
constexpr std::int64_t elementwise_grain = 32768;

template <typename Scalar>
const cpu::KernelTable<Scalar>& kernels() {
    return cpu::capability_in_use().kernels<Scalar>();
}

template <typename Run>
void divide(std::int64_t count, std::int64_t grain, const Run& run) {
    if (count <= grain) {
        if (count > 0) run(0, count);
    } else {
        torch::stable::parallel_for(0, count, grain, run);
    }
}

void normal_(const Tensor& out, std::int64_t seed, std::int64_t step, std::int64_t parameter, std::int64_t offset) {
    check_noise_output(out, {seed, step, parameter, offset}, "ald_ext::normal_");
    dispatch_floating(out, [&](auto zero) {
        using Scalar = decltype(zero);
        Scalar* values = data<Scalar>(out);
        divide(out.numel(), noisy_grain, [&](std::int64_t begin, std::int64_t end) {
            kernels<Scalar>().normal(values + begin, end - begin, {seed, step, parameter, offset + begin});
        });
    });
}

// CUDA does not look at the values, which would make it wait.
void check_index_values(const LatentArguments& rows) {
    const std::int64_t* values = const_data<std::int64_t>(rows.index);
    std::atomic<bool> all_inside{true};
    divide(rows.index.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
        std::uint64_t bits = 0;
        for (std::int64_t row = begin; row < end; ++row) bits |= static_cast<std::uint64_t>(values[row]);
        if (bits > static_cast<std::uint64_t>(max_parameter)) all_inside = false;
    });
    if (all_inside) return;
    for (std::int64_t row = 0; row < rows.index.numel(); ++row) {
        check_range(values[row], 0, max_parameter, rows.op, {"index", row});
    }
}

void latent_normal_(const Tensor& out, const Tensor& index, std::int64_t seed, std::int64_t step, std::int64_t offset) {
    const LatentArguments rows = check_latent("ald_ext::latent_normal_", out, "out", index, seed, step, offset);
    check_index_values(rows);
    dispatch_floating(out, [&](auto zero) {
        using Scalar = decltype(zero);
        Scalar* values = data<Scalar>(out);
        divide(out.numel(), noisy_grain, [&](std::int64_t begin, std::int64_t end) {
            kernels<Scalar>().latent_normal(values, rows.key(), begin, end);
        });
    });
}

// Runs run(tensor, begin, end) over all elements of all tensors, as one range.
template <typename Run>
void divide_tensors(const std::vector<StepTensor>& tensors, const Run& run) {
    std::vector<std::int64_t> ends;
    std::int64_t total = 0;
    for (const StepTensor& tensor : tensors) ends.push_back(total += tensor.numel);
    divide(total, noisy_grain, [&](std::int64_t begin, std::int64_t end) {
        std::size_t i = std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin();
        while (begin < end) {
            const std::int64_t stop = std::min(end, ends[i]);
            const StepTensor& tensor = tensors[i];
            const std::int64_t first = ends[i] - tensor.numel;
            run(tensor, begin - first, stop - first);
            begin = stop;
            ++i;
        }
    });
}

struct CpuDevice {
    template <typename Param>
    static void run_step(const StepArguments& arguments) {
        const cpu::Step<Param> run = cpu::capability_in_use().step_kernels<Param>().of(arguments.kind);
        const std::int64_t seed = arguments.seed, step = arguments.clock.step;
        divide_tensors(arguments.tensors, [&](const StepTensor& tensor, std::int64_t begin, std::int64_t end) {
            run(static_cast<Param*>(tensor.param), static_cast<const Param*>(tensor.grad), tensor.states_of<Param>(),
                {seed, step, tensor.parameter, tensor.shard}, begin, end, arguments.settings);
        });
    }

    template <typename Scalar>
    static void run_latent_step(const LatentStepArguments& arguments) {
        check_index_values(arguments.rows);
        const bool sgld = arguments.momenta == nullptr;
        const cpu::LatentStep<Scalar> run = sgld ? kernels<Scalar>().latent_sgld : kernels<Scalar>().latent_sghmc;
        Scalar* z = data<Scalar>(arguments.z);
        const Scalar* grad = const_data<Scalar>(arguments.grad);
        Scalar* momenta = sgld ? nullptr : data<Scalar>(*arguments.momenta);
        const LatentNoiseKey key = arguments.rows.key();
        divide(arguments.z.numel(), noisy_grain, [&](std::int64_t begin, std::int64_t end) {
            run(z, grad, momenta, key, begin, end, arguments.settings);
        });
    }
};

// Loops that follow one another over the same elements take this many at a time, which stay in the nearest cache.
constexpr std::int64_t cached_elements = reduction_segment;

// Calls use(begin, end) for parts of a range.
template <typename Use>
void in_parts(std::int64_t begin, std::int64_t end, std::int64_t size, const Use& use) {
    for (; begin < end; begin += size) use(begin, std::min(begin + size, end));
}

// Where segment `unit` of the batch begins (csrc/math/marginal_gaussian.h, Note [Order of the sum]).
std::int64_t first_element(std::int64_t unit, std::int64_t dimension) {
    const std::int64_t segments = segments_of_row(dimension);
    return unit / segments * dimension + unit % segments * reduction_segment;
}

// r^2 of every row, after prepare(begin, end) for its elements. Segments are the unit of work, so that few long rows
// are divided too.
template <typename Scalar, typename Prepare>
void squared_distances(const Scalar* x, const Scalar* mean, std::int64_t rows, std::int64_t dimension,
                       double* squared_distance, const Prepare& prepare) {
    const std::int64_t segments = segments_of_row(dimension);
    const std::int64_t length = std::max<std::int64_t>(1, std::min(dimension, reduction_segment));
    const auto run = [&](double* sums) {
        divide(rows * segments, std::max<std::int64_t>(1, elementwise_grain / length), [&](auto first, auto last) {
            in_parts(first, last, cached_elements / length, [&](std::int64_t begin, std::int64_t end) {
                prepare(first_element(begin, dimension), first_element(end, dimension));
                kernels<Scalar>().squared_distances(x, mean, dimension, begin, end, sums);
            });
        });
    };
    if (segments == 1) {
        run(squared_distance);
        return;
    }
    std::vector<double> sums(static_cast<std::size_t>(rows * segments));
    run(sums.data());
    for (std::int64_t row = 0; row < rows; ++row) {
        const auto first = sums.begin() + row * segments;
        squared_distance[row] = std::accumulate(first, first + segments, 0.0);
    }
}

// The log density of each row of y, which prepare(begin, end) may write before it is read.
template <typename Scalar, typename Prepare>
std::tuple<Tensor, Tensor> log_prob_and_squared_distance(const Scalar* y, const LikelihoodArguments& arguments,
                                                         const Prepare& prepare) {
    Tensor log_prob = new_rows(arguments.mean, arguments.rows, arguments.mean.scalar_type());
    Tensor squared_distance = new_rows(arguments.mean, arguments.rows, ScalarType::Double);
    double* distances = data<double>(squared_distance);
    squared_distances(y, const_data<Scalar>(arguments.mean), arguments.rows, arguments.dimension, distances, prepare);
    const MarginalGaussian density = make_marginal_gaussian(arguments.prior, arguments.dimension);
    Scalar* out = data<Scalar>(log_prob);
    divide(arguments.rows, noisy_grain, [&](std::int64_t begin, std::int64_t end) {
        kernels<Scalar>().log_probs(distances + begin, end - begin, density, out + begin);
    });
    return {log_prob, squared_distance};
}

std::tuple<Tensor, Tensor> marginal_gaussian_log_prob(const Tensor& x, const Tensor& mean, double shape, double rate) {
    const LikelihoodArguments arguments = check_likelihood("ald_ext::marginal_gaussian_log_prob", x, mean, shape, rate);
    std::tuple<Tensor, Tensor> result;
    dispatch_floating(x, [&](auto zero) {
        using Scalar = decltype(zero);
        const auto nothing = [](std::int64_t, std::int64_t) {};
        result = log_prob_and_squared_distance(const_data<Scalar>(arguments.x), arguments, nothing);
    });
    return result;
}

template <typename Scalar>
cpu::LikelihoodGradient<Scalar> likelihood_gradient(const LikelihoodGradientArguments& arguments, Scalar* grad_x,
                                                    Scalar* grad_mean) {
    const LikelihoodArguments& likelihood = arguments.likelihood;
    return {const_data<Scalar>(arguments.grad),
            const_data<Scalar>(likelihood.x),
            const_data<Scalar>(likelihood.mean),
            const_data<double>(arguments.squared_distance),
            likelihood.dimension,
            make_marginal_gaussian(likelihood.prior, likelihood.dimension),
            grad_x,
            grad_mean};
}

Tensor marginal_gaussian_log_prob_backward(const Tensor& grad, const Tensor& x, const Tensor& mean,
                                           const Tensor& squared_distance, double shape, double rate, bool need_x,
                                           bool need_mean) {
    const LikelihoodGradientArguments arguments = check_likelihood_gradient(
        "ald_ext::marginal_gaussian_log_prob_backward", grad, x, mean, squared_distance, shape, rate);
    Tensor gradients = new_gradients(x, need_x + need_mean);
    dispatch_floating(x, [&](auto zero) {
        using Scalar = decltype(zero);
        Scalar* out = data<Scalar>(gradients);
        const auto batch = likelihood_gradient(arguments, need_x ? out : nullptr,
                                               need_mean ? out + (need_x ? x.numel() : 0) : nullptr);
        divide(x.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
            kernels<Scalar>().likelihood_gradients(batch, begin, end);
        });
    });
    return gradients;
}

// CUDA does not look at the values, which would make it wait; there a pixel above 2^bits - 1 gives NaN.
void check_pixel_values(const Tensor& x, std::int64_t bits, const char* op) {
    if (bits == 8 || x.numel() == 0) return;
    const int largest = (1 << bits) - 1;
    const std::uint8_t* pixels = const_data<std::uint8_t>(x);
    const int found = *std::max_element(pixels, pixels + x.numel());
    ALD_EXT_CHECK(found <= largest, op, "x", "got a pixel of ", found, ", expected 0 to ", largest,
                  " for bits = ", bits);
}

Tensor langevin_dequantize(const Tensor& x, const Tensor& h, std::int64_t bits) {
    const char* op = "ald_ext::langevin_dequantize";
    const PixelArguments arguments = check_pixels(op, x, h, bits);
    check_pixel_values(arguments.x, bits, op);
    Tensor y = new_like(h, h.scalar_type());
    dispatch_floating(h, [&](auto zero) {
        using Scalar = decltype(zero);
        const std::uint8_t* pixels = const_data<std::uint8_t>(arguments.x);
        const Scalar* in = const_data<Scalar>(arguments.h);
        Scalar* out = data<Scalar>(y);
        divide(h.numel(), noisy_grain, [&](std::int64_t begin, std::int64_t end) {
            kernels<Scalar>().dequantize(pixels + begin, in + begin, out + begin, end - begin, static_cast<int>(bits));
        });
    });
    return y;
}

Tensor langevin_dequantize_backward(const Tensor& grad, const Tensor& x, const Tensor& h, std::int64_t bits) {
    const char* op = "ald_ext::langevin_dequantize_backward";
    const PixelArguments arguments = check_pixels(op, x, h, bits);
    const Tensor upstream = check_pixel_gradient(op, grad, h);
    Tensor grad_h = new_like(h, h.scalar_type());
    dispatch_floating(h, [&](auto zero) {
        using Scalar = decltype(zero);
        const Scalar* up = const_data<Scalar>(upstream);
        const std::uint8_t* pixels = const_data<std::uint8_t>(arguments.x);
        const Scalar* in = const_data<Scalar>(arguments.h);
        Scalar* out = data<Scalar>(grad_h);
        divide(h.numel(), noisy_grain, [&](std::int64_t begin, std::int64_t end) {
            kernels<Scalar>().dequantize_backward(up + begin, pixels + begin, in + begin, out + begin, end - begin,
                                                  static_cast<int>(bits));
        });
    });
    return grad_h;
}

std::tuple<Tensor, Tensor, Tensor> dequantized_log_prob(const Tensor& x, const Tensor& h, const Tensor& mean,
                                                        double shape, double rate, std::int64_t bits) {
    const char* op = "ald_ext::dequantized_log_prob";
    const PixelArguments pixels = check_pixels(op, x, h, bits);
    const LikelihoodArguments likelihood = check_likelihood(op, h, mean, shape, rate);
    check_pixel_values(pixels.x, bits, op);
    Tensor y = new_like(h, h.scalar_type());
    std::tuple<Tensor, Tensor> result;
    dispatch_floating(h, [&](auto zero) {
        using Scalar = decltype(zero);
        const std::uint8_t* pixel = const_data<std::uint8_t>(pixels.x);
        const Scalar* in = const_data<Scalar>(pixels.h);
        Scalar* out = data<Scalar>(y);
        result = log_prob_and_squared_distance<Scalar>(out, likelihood, [&](std::int64_t begin, std::int64_t end) {
            kernels<Scalar>().dequantize(pixel + begin, in + begin, out + begin, end - begin, static_cast<int>(bits));
        });
    });
    return {y, std::get<0>(result), std::get<1>(result)};
}

Tensor dequantized_log_prob_backward(const Tensor& grad, const Tensor& x, const Tensor& h, const Tensor& mean,
                                     const Tensor& y, const Tensor& squared_distance, double shape, double rate,
                                     std::int64_t bits) {
    const char* op = "ald_ext::dequantized_log_prob_backward";
    const PixelArguments pixels = check_pixels(op, x, h, bits);
    const LikelihoodGradientArguments arguments =
        check_dequantized_gradient(op, grad, h, y, mean, squared_distance, shape, rate);
    Tensor gradients = new_gradients(h, 2);
    dispatch_floating(h, [&](auto zero) {
        using Scalar = decltype(zero);
        const std::uint8_t* pixel = const_data<std::uint8_t>(pixels.x);
        const Scalar* in = const_data<Scalar>(pixels.h);
        Scalar* grad_h = data<Scalar>(gradients);
        const auto batch = likelihood_gradient(arguments, grad_h, grad_h + h.numel());
        divide(h.numel(), noisy_grain, [&](std::int64_t first, std::int64_t last) {
            in_parts(first, last, cached_elements, [&](std::int64_t begin, std::int64_t end) {
                // The gradient for y, and in its place the one for h.
                kernels<Scalar>().likelihood_gradients(batch, begin, end);
                kernels<Scalar>().dequantize_backward(grad_h + begin, pixel + begin, in + begin, grad_h + begin,
                                                      end - begin, static_cast<int>(bits));
            });
        });
    });
    return gradients;
}

Tensor quantize(const Tensor& y, std::int64_t bits) {
    const Tensor values = check_dequantized("ald_ext::quantize", y, bits);
    Tensor x = new_like(y, ScalarType::Byte);
    dispatch_floating(y, [&](auto zero) {
        using Scalar = decltype(zero);
        const Scalar* in = const_data<Scalar>(values);
        std::uint8_t* out = data<std::uint8_t>(x);
        divide(y.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
            kernels<Scalar>().quantize(in + begin, out + begin, end - begin, static_cast<int>(bits));
        });
    });
    return x;
}

}  // namespace
}  // namespace ald_ext::ops

STABLE_TORCH_LIBRARY_IMPL(ald_ext, CPU, m) { ALD_EXT_REGISTER_KERNELS(m, CpuDevice) }
