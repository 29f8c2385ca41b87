// What the CPU and the CUDA registration have in common.
#pragma once

#include <torch/csrc/stable/library.h>

#include "arguments.h"

namespace ald_ext::ops {

// The step ops of a device; Device::run_step<Param>(arguments) does the work. The overloads `tensor` take lr and step
// as tensors.
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

    static void sgld_step_(const Tensors& params, const Tensors& grads, double lr, double num_data, double temperature,
                           double weight_decay, bool maximize, std::int64_t seed, std::int64_t step,
                           const Integers& parameters, const Integers& offsets) {
        run(check_step("ald_ext::sgld_step_", params, grads, nullptr, parameters, offsets, seed, {lr, step},
                       sgld_settings(num_data, temperature, weight_decay, maximize)));
    }

    static void sgld_step_tensor(const Tensors& params, const Tensors& grads, const Tensor& lr, double num_data,
                                 double temperature, double weight_decay, bool maximize, std::int64_t seed,
                                 const Tensor& step, const Integers& parameters, const Integers& offsets) {
        const char* op = "ald_ext::sgld_step_";
        run(check_step(op, params, grads, nullptr, parameters, offsets, seed, check_clock(lr, step, params, op),
                       sgld_settings(num_data, temperature, weight_decay, maximize)));
    }

    static void psgld_step_(const Tensors& params, const Tensors& grads, const Tensors& square_avgs, double lr,
                            double num_data, double temperature, double weight_decay, bool maximize, double alpha,
                            double eps, std::int64_t freeze_after, std::int64_t seed, std::int64_t step,
                            const Integers& parameters, const Integers& offsets) {
        run(check_step("ald_ext::psgld_step_", params, grads, &square_avgs, parameters, offsets, seed, {lr, step},
                       {0.0, weight_decay, temperature, num_data, maximize, alpha, eps, freeze_after}));
    }

    static void psgld_step_tensor(const Tensors& params, const Tensors& grads, const Tensors& square_avgs,
                                  const Tensor& lr, double num_data, double temperature, double weight_decay,
                                  bool maximize, double alpha, double eps, std::int64_t freeze_after, std::int64_t seed,
                                  const Tensor& step, const Integers& parameters, const Integers& offsets) {
        const char* op = "ald_ext::psgld_step_";
        run(check_step(op, params, grads, &square_avgs, parameters, offsets, seed, check_clock(lr, step, params, op),
                       {0.0, weight_decay, temperature, num_data, maximize, alpha, eps, freeze_after}));
    }
};

}  // namespace ald_ext::ops

// Registers the kernels of one device: the functions of that device's translation unit, and StepOps<Device>.
#define ALD_EXT_REGISTER_KERNELS(m, Device)                                                         \
    using namespace ald_ext::ops;                                                                   \
    m.impl("normal_", TORCH_BOX(&normal_));                                                         \
    m.impl("sgld_step_", TORCH_BOX(&StepOps<Device>::sgld_step_));                                  \
    m.impl("psgld_step_", TORCH_BOX(&StepOps<Device>::psgld_step_));                                \
    m.impl("sgld_step_.tensor", TORCH_BOX(&StepOps<Device>::sgld_step_tensor));                     \
    m.impl("psgld_step_.tensor", TORCH_BOX(&StepOps<Device>::psgld_step_tensor));                   \
    m.impl("marginal_gaussian_log_prob", TORCH_BOX(&marginal_gaussian_log_prob));                   \
    m.impl("marginal_gaussian_log_prob_backward", TORCH_BOX(&marginal_gaussian_log_prob_backward)); \
    m.impl("langevin_dequantize", TORCH_BOX(&langevin_dequantize));                                 \
    m.impl("langevin_dequantize_backward", TORCH_BOX(&langevin_dequantize_backward));               \
    m.impl("dequantized_log_prob", TORCH_BOX(&dequantized_log_prob));                               \
    m.impl("dequantized_log_prob_backward", TORCH_BOX(&dequantized_log_prob_backward));             \
    m.impl("quantize", TORCH_BOX(&quantize));
