// The ops on CUDA tensors: the checks of the CPU ops, then the launchers of csrc/cuda on torch's current stream.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/kernels.h"
#include "registration.h"

namespace ald_ext::ops {
namespace {

using torch::stable::accelerator::DeviceGuard;

cudaStream_t current_stream(std::int32_t device_index) {
    void* stream = nullptr;
    if (aoti_torch_get_current_cuda_stream(device_index, &stream) != AOTI_TORCH_SUCCESS) {
        fail("ald_ext: torch gave no current stream for device ", device_index);
    }
    return static_cast<cudaStream_t>(stream);
}

void normal_(const Tensor& out, std::int64_t seed, std::int64_t step, std::int64_t parameter, std::int64_t offset) {
    const char* op = "ald_ext::normal_";
    check_noise_output(out, {seed, step, parameter, offset}, op);
    const DeviceGuard guard(out.get_device_index());
    dispatch_floating(out, [&](auto zero) {
        using Scalar = decltype(zero);
        cuda::normal(data<Scalar>(out), out.numel(), {seed, step, parameter, offset},
                     current_stream(out.get_device_index()));
    });
}

void latent_normal_(const Tensor& out, const Tensor& index, std::int64_t seed, std::int64_t step, std::int64_t offset) {
    const LatentArguments rows = check_latent("ald_ext::latent_normal_", out, "out", index, seed, step, offset);
    const DeviceGuard guard(out.get_device_index());
    dispatch_floating(out, [&](auto zero) {
        using Scalar = decltype(zero);
        cuda::latent_normal(data<Scalar>(out), out.numel(), rows.key(), current_stream(out.get_device_index()));
    });
}

struct CudaDevice {
    template <typename Param>
    static void run_step(const StepArguments& arguments) {
        std::vector<cuda::StepTensor<Param>> tensors;
        tensors.reserve(arguments.tensors.size());
        for (const StepTensor& tensor : arguments.tensors) {
            tensors.push_back({static_cast<Param*>(tensor.param), static_cast<const Param*>(tensor.grad),
                               tensor.states_of<Param>(), tensor.numel, tensor.parameter, tensor.shard});
        }
        const DeviceGuard guard(arguments.device_index);
        cuda::langevin_step(arguments.kind, tensors, arguments.seed, arguments.clock.step, arguments.clock.device,
                            arguments.settings, current_stream(arguments.device_index));
    }

    template <typename Scalar>
    static void run_latent_step(const LatentStepArguments& arguments) {
        const Tensor& z = arguments.z;
        const DeviceGuard guard(z.get_device_index());
        Scalar* momenta = arguments.momenta == nullptr ? nullptr : data<Scalar>(*arguments.momenta);
        cuda::latent_step<Scalar>(
            {data<Scalar>(z), const_data<Scalar>(arguments.grad), momenta, z.numel(), arguments.rows.key()},
            arguments.settings, current_stream(z.get_device_index()));
    }
};

// What a log density is written to, and from where.
struct LogProbTensors {
    LogProbTensors(const LikelihoodArguments& likelihood)
        : likelihood(likelihood),
          workspace(new_rows(likelihood.mean, cuda::likelihood_workspace(likelihood.rows, likelihood.dimension),
                             ScalarType::Double)),
          squared_distance(new_rows(likelihood.mean, likelihood.rows, ScalarType::Double)),
          log_prob(new_rows(likelihood.mean, likelihood.rows, likelihood.mean.scalar_type())) {}

    template <typename Scalar>
    cuda::LogProbArguments<Scalar> arguments() const {
        return {const_data<Scalar>(likelihood.mean),
                likelihood.rows,
                likelihood.dimension,
                likelihood.prior,
                data<double>(workspace),
                data<double>(squared_distance),
                data<Scalar>(log_prob)};
    }

    const LikelihoodArguments& likelihood;
    Tensor workspace, squared_distance, log_prob;
};

template <typename Scalar>
cuda::Pixels<Scalar> pixels_of(const PixelArguments& arguments, std::int64_t bits) {
    return {const_data<std::uint8_t>(arguments.x), const_data<Scalar>(arguments.h), static_cast<int>(bits)};
}

template <typename Scalar>
cuda::GradientArguments<Scalar> gradient_arguments(const LikelihoodGradientArguments& arguments, Scalar* grad_x,
                                                   Scalar* grad_mean) {
    const LikelihoodArguments& likelihood = arguments.likelihood;
    return {const_data<Scalar>(arguments.grad),
            const_data<Scalar>(likelihood.x),
            const_data<Scalar>(likelihood.mean),
            const_data<double>(arguments.squared_distance),
            likelihood.rows,
            likelihood.dimension,
            likelihood.prior,
            grad_x,
            grad_mean};
}

std::tuple<Tensor, Tensor> marginal_gaussian_log_prob(const Tensor& x, const Tensor& mean, double shape, double rate) {
    const LikelihoodArguments likelihood =
        check_likelihood("ald_ext::marginal_gaussian_log_prob", x, mean, shape, rate);
    const DeviceGuard guard(x.get_device_index());
    const LogProbTensors tensors(likelihood);
    dispatch_floating(x, [&](auto zero) {
        using Scalar = decltype(zero);
        cuda::marginal_gaussian_log_prob(const_data<Scalar>(likelihood.x), tensors.arguments<Scalar>(),
                                         current_stream(x.get_device_index()));
    });
    return {tensors.log_prob, tensors.squared_distance};
}

Tensor marginal_gaussian_log_prob_backward(const Tensor& grad, const Tensor& x, const Tensor& mean,
                                           const Tensor& squared_distance, double shape, double rate, bool need_x,
                                           bool need_mean) {
    const LikelihoodGradientArguments arguments = check_likelihood_gradient(
        "ald_ext::marginal_gaussian_log_prob_backward", grad, x, mean, squared_distance, shape, rate);
    const DeviceGuard guard(x.get_device_index());
    Tensor gradients = new_gradients(x, need_x + need_mean);
    dispatch_floating(x, [&](auto zero) {
        using Scalar = decltype(zero);
        Scalar* out = data<Scalar>(gradients);
        Scalar* grad_mean = need_mean ? out + (need_x ? x.numel() : 0) : nullptr;
        cuda::marginal_gaussian_log_prob_backward(gradient_arguments(arguments, need_x ? out : nullptr, grad_mean),
                                                  current_stream(x.get_device_index()));
    });
    return gradients;
}

Tensor langevin_dequantize(const Tensor& x, const Tensor& h, std::int64_t bits) {
    const PixelArguments arguments = check_pixels("ald_ext::langevin_dequantize", x, h, bits);
    const DeviceGuard guard(h.get_device_index());
    Tensor y = new_like(h, h.scalar_type());
    dispatch_floating(h, [&](auto zero) {
        using Scalar = decltype(zero);
        cuda::dequantize(pixels_of<Scalar>(arguments, bits), data<Scalar>(y), h.numel(),
                         current_stream(h.get_device_index()));
    });
    return y;
}

Tensor langevin_dequantize_backward(const Tensor& grad, const Tensor& x, const Tensor& h, std::int64_t bits) {
    const char* op = "ald_ext::langevin_dequantize_backward";
    const PixelArguments arguments = check_pixels(op, x, h, bits);
    const Tensor upstream = check_pixel_gradient(op, grad, h);
    const DeviceGuard guard(h.get_device_index());
    Tensor grad_h = new_like(h, h.scalar_type());
    dispatch_floating(h, [&](auto zero) {
        using Scalar = decltype(zero);
        cuda::dequantize_backward(const_data<Scalar>(upstream), pixels_of<Scalar>(arguments, bits),
                                  data<Scalar>(grad_h), h.numel(), current_stream(h.get_device_index()));
    });
    return grad_h;
}

std::tuple<Tensor, Tensor, Tensor> dequantized_log_prob(const Tensor& x, const Tensor& h, const Tensor& mean,
                                                        double shape, double rate, std::int64_t bits) {
    const char* op = "ald_ext::dequantized_log_prob";
    const PixelArguments pixels = check_pixels(op, x, h, bits);
    const LikelihoodArguments likelihood = check_likelihood(op, h, mean, shape, rate);
    const DeviceGuard guard(h.get_device_index());
    Tensor y = new_like(h, h.scalar_type());
    const LogProbTensors tensors(likelihood);
    dispatch_floating(h, [&](auto zero) {
        using Scalar = decltype(zero);
        cuda::dequantized_log_prob(pixels_of<Scalar>(pixels, bits), data<Scalar>(y), tensors.arguments<Scalar>(),
                                   current_stream(h.get_device_index()));
    });
    return {y, tensors.log_prob, tensors.squared_distance};
}

Tensor dequantized_log_prob_backward(const Tensor& grad, const Tensor& x, const Tensor& h, const Tensor& mean,
                                     const Tensor& y, const Tensor& squared_distance, double shape, double rate,
                                     std::int64_t bits) {
    const char* op = "ald_ext::dequantized_log_prob_backward";
    const PixelArguments pixels = check_pixels(op, x, h, bits);
    const LikelihoodGradientArguments arguments =
        check_dequantized_gradient(op, grad, h, y, mean, squared_distance, shape, rate);
    const DeviceGuard guard(h.get_device_index());
    Tensor gradients = new_gradients(h, 2);
    dispatch_floating(h, [&](auto zero) {
        using Scalar = decltype(zero);
        Scalar* grad_h = data<Scalar>(gradients);
        cuda::dequantized_log_prob_backward(pixels_of<Scalar>(pixels, bits),
                                            gradient_arguments(arguments, grad_h, grad_h + h.numel()),
                                            current_stream(h.get_device_index()));
    });
    return gradients;
}

Tensor quantize(const Tensor& y, std::int64_t bits) {
    const Tensor values = check_dequantized("ald_ext::quantize", y, bits);
    const DeviceGuard guard(y.get_device_index());
    Tensor x = new_like(y, ScalarType::Byte);
    dispatch_floating(y, [&](auto zero) {
        using Scalar = decltype(zero);
        cuda::quantize(const_data<Scalar>(values), data<std::uint8_t>(x), y.numel(), static_cast<int>(bits),
                       current_stream(y.get_device_index()));
    });
    return x;
}

}  // namespace
}  // namespace ald_ext::ops

STABLE_TORCH_LIBRARY_IMPL(ald_ext, CUDA, m) { ALD_EXT_REGISTER_KERNELS(m, CudaDevice) }
