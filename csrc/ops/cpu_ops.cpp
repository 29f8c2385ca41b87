// The ops on CPU tensors: checked arguments, divided among torch's threads.
//
// Note [Results do not depend on the division]
// Noise is a function of the element's index, other loops are elementwise, and the sums of
// csrc/math/marginal_gaussian.h have fixed segments. So work may be cut anywhere, for any number of threads.
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

// Runs run(tensor, begin, count) over all elements of all tensors, as one range.
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
            run(tensor, begin - (ends[i] - tensor.numel), stop - begin);
            begin = stop;
            ++i;
        }
    });
}

struct CpuDevice {
    template <typename Param>
    static void run_step(const StepArguments& arguments) {
        const cpu::StepKernels<Param>& step_kernels = cpu::capability_in_use().step_kernels<Param>();
        const std::int64_t seed = arguments.seed, step = arguments.clock.step;
        divide_tensors(arguments.tensors, [&](const StepTensor& tensor, std::int64_t begin, std::int64_t count) {
            Param* param = static_cast<Param*>(tensor.param) + begin;
            const Param* grad = static_cast<const Param*>(tensor.grad) + begin;
            const NoiseKey key{seed, step, tensor.parameter, tensor.offset + begin};
            if (tensor.square_avg == nullptr) {
                step_kernels.sgld(param, grad, count, key, arguments.settings);
            } else {
                Compute<Param>* square_avg = static_cast<Compute<Param>*>(tensor.square_avg) + begin;
                step_kernels.psgld(param, grad, square_avg, count, key, arguments.settings);
            }
        });
    }
};

// r^2 of every row. Segments are the unit of work, so that few long rows are divided too.
template <typename Scalar>
void squared_distances(const LikelihoodArguments& arguments, double* squared_distance) {
    const Scalar* x = const_data<Scalar>(arguments.x);
    const Scalar* mean = const_data<Scalar>(arguments.mean);
    const std::int64_t dimension = arguments.dimension;
    const std::int64_t segments = (dimension + reduction_segment - 1) / reduction_segment;
    std::vector<double> sums(static_cast<std::size_t>(arguments.rows * segments));
    const std::int64_t segment_length = std::max<std::int64_t>(1, std::min(dimension, reduction_segment));
    const std::int64_t grain = std::max<std::int64_t>(1, elementwise_grain / segment_length);
    divide(arguments.rows * segments, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t unit = begin; unit < end; ++unit) {
            const std::int64_t first = (unit % segments) * reduction_segment;
            const std::int64_t start = (unit / segments) * dimension + first;
            const std::int64_t count = std::min(reduction_segment, dimension - first);
            sums[static_cast<std::size_t>(unit)] = kernels<Scalar>().squared_distance(x + start, mean + start, count);
        }
    });
    for (std::int64_t row = 0; row < arguments.rows; ++row) {
        squared_distance[row] = 0.0;
        for (std::int64_t s = 0; s < segments; ++s) {
            squared_distance[row] += sums[static_cast<std::size_t>(row * segments + s)];
        }
    }
}

std::tuple<Tensor, Tensor> marginal_gaussian_log_prob(const Tensor& x, const Tensor& mean, double shape, double rate) {
    const LikelihoodArguments arguments = check_likelihood("ald_ext::marginal_gaussian_log_prob", x, mean, shape, rate);
    Tensor log_prob = new_rows(x, arguments.rows, x.scalar_type());
    Tensor squared_distance = new_rows(x, arguments.rows, ScalarType::Double);
    double* distances = data<double>(squared_distance);
    dispatch_floating(x, [&](auto zero) {
        using Scalar = decltype(zero);
        squared_distances<Scalar>(arguments, distances);
        const MarginalGaussian density = make_marginal_gaussian(arguments.prior, arguments.dimension);
        Scalar* out = data<Scalar>(log_prob);
        for (std::int64_t row = 0; row < arguments.rows; ++row) {
            out[row] = static_cast<Scalar>(ald_ext::marginal_gaussian_log_prob(density, distances[row]));
        }
    });
    return {log_prob, squared_distance};
}

std::tuple<Tensor, Tensor> marginal_gaussian_log_prob_backward(const Tensor& grad, const Tensor& x, const Tensor& mean,
                                                               const Tensor& squared_distance, double shape,
                                                               double rate, bool need_x, bool need_mean) {
    const LikelihoodGradientArguments arguments = check_likelihood_gradient(
        "ald_ext::marginal_gaussian_log_prob_backward", grad, x, mean, squared_distance, shape, rate);
    const LikelihoodArguments& likelihood = arguments.likelihood;
    Tensor grad_x = new_like(x, x.scalar_type(), need_x);
    Tensor grad_mean = new_like(x, x.scalar_type(), need_mean);
    const std::int64_t dimension = likelihood.dimension;
    const MarginalGaussian density = make_marginal_gaussian(likelihood.prior, dimension);
    dispatch_floating(x, [&](auto zero) {
        using Scalar = decltype(zero);
        const Scalar* grads = const_data<Scalar>(arguments.grad);
        const double* distances = const_data<double>(arguments.squared_distance);
        const Scalar* xs = const_data<Scalar>(likelihood.x);
        const Scalar* means = const_data<Scalar>(likelihood.mean);
        Scalar* out_x = need_x ? data<Scalar>(grad_x) : nullptr;
        Scalar* out_mean = need_mean ? data<Scalar>(grad_mean) : nullptr;
        divide(likelihood.rows * dimension, elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
            while (begin < end) {
                const std::int64_t row = begin / dimension;
                const std::int64_t stop = std::min(end, (row + 1) * dimension);
                const double factor =
                    static_cast<double>(grads[row]) * marginal_gaussian_score_factor(density, distances[row]);
                kernels<Scalar>().scaled_difference(xs + begin, means + begin, factor, stop - begin,
                                                    need_x ? out_x + begin : nullptr,
                                                    need_mean ? out_mean + begin : nullptr);
                begin = stop;
            }
        });
    });
    return {grad_x, grad_mean};
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
