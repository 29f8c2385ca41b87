// What the CPU and the CUDA registration have in common.
#pragma once

#include <torch/csrc/stable/library.h>

#include <utility>

#include "arguments.h"
#include "boundary.h"

namespace ald_ext::ops {

// A step of this number checks its arguments and writes nothing: ald_ext/ops/steps.py, accepts_step.
constexpr std::int64_t only_look = INT64_MIN;

// One step op of a device; Device::run_step<Param>(arguments) does the work. Lr and Number are double and int64, or, in
// the overload `tensor`, tensors; k are the numbers of the step's states, Own the types of its own settings.
template <typename Device, typename Step, typename Lr, typename Number, typename Numbers, typename... Own>
struct StepOp;

template <typename Device, typename Step, typename Lr, typename Number, std::size_t... k, typename... Own>
struct StepOp<Device, Step, Lr, Number, std::index_sequence<k...>, Own...> {
    using Tensors = std::vector<Tensor>;
    using Integers = std::vector<std::int64_t>;
    template <std::size_t>
    using StateTensors = const Tensors&;

    static void run(const Tensors& params, const Tensors& grads, StateTensors<k>... states, Lr lr, double num_data,
                    double temperature, double weight_decay, bool maximize, Own... own, std::int64_t seed, Number step,
                    const Integers& noise_ids, const Integers& offsets, const Integers& row_lengths,
                    const Integers& row_strides) {
        const StepNames& names = names_of<Step>();
        LangevinSettings settings;
        settings.num_data = num_data;
        settings.temperature = temperature;
        settings.weight_decay = weight_decay;
        settings.maximize = maximize;
        std::apply(
            [&](const auto&... setting) {
                (check_own_setting(setting, own, names.op.c_str()), ...);
                ((settings.*setting.field = own), ...);
            },
            Step::own_settings);
        StepClock clock;
        if constexpr (std::is_same_v<Lr, Tensor>) {
            clock = check_clock(lr, step, params, names.op.c_str());
        } else {
            clock = {lr, step == only_look ? 0 : step};
        }
        const StepArguments arguments = check_step(names, params, grads, {{&states...}}, noise_ids,
                                                   {offsets, row_lengths, row_strides}, seed, clock, settings);
        if constexpr (!std::is_same_v<Lr, Tensor>) {
            if (step == only_look) return;
        }
        if (arguments.tensors.empty()) return;
        dispatch_parameter(arguments.type, [&](auto param) { Device::template run_step<decltype(param)>(arguments); });
    }
};

// Both overloads of a step op.
template <typename Device, typename Step, typename... Own>
void implement_step(torch::stable::detail::StableLibrary& library, const std::tuple<OwnSetting<Own>...>&) {
    using Numbers = std::make_index_sequence<state_count<Step>>;
    using Plain = StepOp<Device, Step, double, std::int64_t, Numbers, Own...>;
    using OfTensors = StepOp<Device, Step, Tensor, Tensor, Numbers, Own...>;
    library.impl(Step::name, ALD_EXT_BOX(&Plain::run));
    library.impl((std::string(Step::name) + ".tensor").c_str(), ALD_EXT_BOX(&OfTensors::run));
}

// The steps of latent variables, by Device::run_latent_step<Scalar>(arguments).
template <typename Device>
struct LatentOps {
    static void run_latent(const LatentStepArguments& arguments) {
        if (arguments.z.numel() == 0) return;
        dispatch_floating(arguments.z, [&](auto zero) { Device::template run_latent_step<decltype(zero)>(arguments); });
    }

    static void latent_langevin_step_(const Tensor& z, const Tensor& grad, const Tensor& index, double lr,
                                      double temperature, std::int64_t seed, std::int64_t step, std::int64_t offset) {
        LangevinSettings settings;
        settings.lr = lr;
        settings.temperature = temperature;
        run_latent(
            check_latent_step("ald_ext::latent_langevin_step_", z, nullptr, grad, index, seed, step, offset, settings));
    }

    static void latent_underdamped_step_(const Tensor& z, const Tensor& momenta, const Tensor& grad,
                                         const Tensor& index, double lr, double momentum, double temperature,
                                         std::int64_t seed, std::int64_t step, std::int64_t offset) {
        const char* op = "ald_ext::latent_underdamped_step_";
        check_own_setting(std::get<0>(Sghmc::own_settings), momentum, op);
        LangevinSettings settings;
        settings.lr = lr;
        settings.momentum = momentum;
        settings.temperature = temperature;
        run_latent(check_latent_step(op, z, &momenta, grad, index, seed, step, offset, settings));
    }
};

}  // namespace ald_ext::ops

// Registers the kernels of one device: the functions of that device's translation unit, LatentOps<Device> and the
// steps.
#define ALD_EXT_REGISTER_KERNELS(m, Device)                                                           \
    using namespace ald_ext::ops;                                                                     \
    m.impl("normal_", ALD_EXT_BOX(&normal_));                                                         \
    m.impl("latent_normal_", ALD_EXT_BOX(&latent_normal_));                                           \
    m.impl("latent_langevin_step_", ALD_EXT_BOX(&LatentOps<Device>::latent_langevin_step_));          \
    m.impl("latent_underdamped_step_", ALD_EXT_BOX(&LatentOps<Device>::latent_underdamped_step_));    \
    ald_ext::for_each_step(                                                                           \
        [&](auto step) { implement_step<Device, decltype(step)>(m, decltype(step)::own_settings); }); \
    m.impl("marginal_gaussian_log_prob", ALD_EXT_BOX(&marginal_gaussian_log_prob));                   \
    m.impl("marginal_gaussian_log_prob_backward", ALD_EXT_BOX(&marginal_gaussian_log_prob_backward)); \
    m.impl("langevin_dequantize", ALD_EXT_BOX(&langevin_dequantize));                                 \
    m.impl("langevin_dequantize_backward", ALD_EXT_BOX(&langevin_dequantize_backward));               \
    m.impl("dequantized_log_prob", ALD_EXT_BOX(&dequantized_log_prob));                               \
    m.impl("dequantized_log_prob_backward", ALD_EXT_BOX(&dequantized_log_prob_backward));             \
    m.impl("quantize", ALD_EXT_BOX(&quantize));
