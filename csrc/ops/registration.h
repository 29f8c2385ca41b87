// What the CPU and the CUDA registration have in common.
#pragma once

#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "boundary.h"

namespace ald_ext::ops {

// The step ops of a device; Device::run_step<Param>(arguments) does the work, of latent variables
// Device::run_latent_step<Scalar>(arguments). The overloads `tensor` take lr and step as tensors.
template <typename Device>
struct StepOps {
    using Tensors = std::vector<Tensor>;
    using Integers = std::vector<std::int64_t>;

    static void run(const StepArguments& arguments) {
        if (arguments.tensors.empty()) return;
        dispatch_parameter(arguments.type, [&](auto param) { Device::template run_step<decltype(param)>(arguments); });
    }

    static LangevinSettings sgld_settings(double num_data, double temperature, double weight_decay, bool maximize) {
        return {0.0, weight_decay, temperature, num_data, maximize, 0.0, 0.0, 0};
    }

    static LangevinSettings sghmc_settings(double num_data, double temperature, double weight_decay, bool maximize,
                                           double momentum) {
        return {0.0, weight_decay, temperature, num_data, maximize, 0.0, 0.0, 0, momentum};
    }

    static void sgld_step_(const Tensors& params, const Tensors& grads, double lr, double num_data, double temperature,
                           double weight_decay, bool maximize, std::int64_t seed, std::int64_t step,
                           const Integers& noise_ids, const Integers& offsets) {
        run(check_step(sgld_names, params, grads, {}, noise_ids, offsets, seed, {lr, step},
                       sgld_settings(num_data, temperature, weight_decay, maximize)));
    }

    static void sgld_step_tensor(const Tensors& params, const Tensors& grads, const Tensor& lr, double num_data,
                                 double temperature, double weight_decay, bool maximize, std::int64_t seed,
                                 const Tensor& step, const Integers& noise_ids, const Integers& offsets) {
        run(check_step(sgld_names, params, grads, {}, noise_ids, offsets, seed,
                       check_clock(lr, step, params, sgld_names.op),
                       sgld_settings(num_data, temperature, weight_decay, maximize)));
    }

    static void psgld_step_(const Tensors& params, const Tensors& grads, const Tensors& square_avgs, double lr,
                            double num_data, double temperature, double weight_decay, bool maximize, double alpha,
                            double eps, std::int64_t freeze_after, std::int64_t seed, std::int64_t step,
                            const Integers& noise_ids, const Integers& offsets) {
        run(check_step(psgld_names, params, grads, square_avgs, noise_ids, offsets, seed, {lr, step},
                       {0.0, weight_decay, temperature, num_data, maximize, alpha, eps, freeze_after}));
    }

    static void psgld_step_tensor(const Tensors& params, const Tensors& grads, const Tensors& square_avgs,
                                  const Tensor& lr, double num_data, double temperature, double weight_decay,
                                  bool maximize, double alpha, double eps, std::int64_t freeze_after, std::int64_t seed,
                                  const Tensor& step, const Integers& noise_ids, const Integers& offsets) {
        run(check_step(psgld_names, params, grads, square_avgs, noise_ids, offsets, seed,
                       check_clock(lr, step, params, psgld_names.op),
                       {0.0, weight_decay, temperature, num_data, maximize, alpha, eps, freeze_after}));
    }

    static void sghmc_step_(const Tensors& params, const Tensors& grads, const Tensors& momenta, double lr,
                            double num_data, double temperature, double weight_decay, bool maximize, double momentum,
                            std::int64_t seed, std::int64_t step, const Integers& noise_ids, const Integers& offsets) {
        run(check_step(sghmc_names, params, grads, momenta, noise_ids, offsets, seed, {lr, step},
                       sghmc_settings(num_data, temperature, weight_decay, maximize, momentum)));
    }

    static void sghmc_step_tensor(const Tensors& params, const Tensors& grads, const Tensors& momenta, const Tensor& lr,
                                  double num_data, double temperature, double weight_decay, bool maximize,
                                  double momentum, std::int64_t seed, const Tensor& step, const Integers& noise_ids,
                                  const Integers& offsets) {
        run(check_step(sghmc_names, params, grads, momenta, noise_ids, offsets, seed,
                       check_clock(lr, step, params, sghmc_names.op),
                       sghmc_settings(num_data, temperature, weight_decay, maximize, momentum)));
    }

    static void run_latent(const LatentStepArguments& arguments) {
        if (arguments.z.numel() == 0) return;
        dispatch_floating(arguments.z, [&](auto zero) { Device::template run_latent_step<decltype(zero)>(arguments); });
    }

    static void latent_langevin_step_(const Tensor& z, const Tensor& grad, const Tensor& index, double lr,
                                      double temperature, std::int64_t seed, std::int64_t step) {
        run_latent(check_latent_step("ald_ext::latent_langevin_step_", z, nullptr, grad, index, seed, step,
                                     {lr, 0.0, temperature, 1.0, false, 0.0, 0.0, 0}));
    }

    static void latent_underdamped_step_(const Tensor& z, const Tensor& momenta, const Tensor& grad,
                                         const Tensor& index, double lr, double momentum, double temperature,
                                         std::int64_t seed, std::int64_t step) {
        run_latent(check_latent_step("ald_ext::latent_underdamped_step_", z, &momenta, grad, index, seed, step,
                                     {lr, 0.0, temperature, 1.0, false, 0.0, 0.0, 0, momentum}));
    }
};

}  // namespace ald_ext::ops

// Registers the kernels of one device: the functions of that device's translation unit, and StepOps<Device>.
#define ALD_EXT_REGISTER_KERNELS(m, Device)                                                           \
    using namespace ald_ext::ops;                                                                     \
    m.impl("normal_", ALD_EXT_BOX(&normal_));                                                         \
    m.impl("latent_normal_", ALD_EXT_BOX(&latent_normal_));                                           \
    m.impl("latent_langevin_step_", ALD_EXT_BOX(&StepOps<Device>::latent_langevin_step_));            \
    m.impl("latent_underdamped_step_", ALD_EXT_BOX(&StepOps<Device>::latent_underdamped_step_));      \
    m.impl("sgld_step_", ALD_EXT_BOX(&StepOps<Device>::sgld_step_));                                  \
    m.impl("psgld_step_", ALD_EXT_BOX(&StepOps<Device>::psgld_step_));                                \
    m.impl("sghmc_step_", ALD_EXT_BOX(&StepOps<Device>::sghmc_step_));                                \
    m.impl("sgld_step_.tensor", ALD_EXT_BOX(&StepOps<Device>::sgld_step_tensor));                     \
    m.impl("psgld_step_.tensor", ALD_EXT_BOX(&StepOps<Device>::psgld_step_tensor));                   \
    m.impl("sghmc_step_.tensor", ALD_EXT_BOX(&StepOps<Device>::sghmc_step_tensor));                   \
    m.impl("marginal_gaussian_log_prob", ALD_EXT_BOX(&marginal_gaussian_log_prob));                   \
    m.impl("marginal_gaussian_log_prob_backward", ALD_EXT_BOX(&marginal_gaussian_log_prob_backward)); \
    m.impl("langevin_dequantize", ALD_EXT_BOX(&langevin_dequantize));                                 \
    m.impl("langevin_dequantize_backward", ALD_EXT_BOX(&langevin_dequantize_backward));               \
    m.impl("dequantized_log_prob", ALD_EXT_BOX(&dequantized_log_prob));                               \
    m.impl("dequantized_log_prob_backward", ALD_EXT_BOX(&dequantized_log_prob_backward));             \
    m.impl("quantize", ALD_EXT_BOX(&quantize));
