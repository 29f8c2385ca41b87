// Plain values that cross from csrc/ops to the loops of any instruction set or device.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>

namespace ald_ext {

// The settings of one step of a group of parameters, as in ald_ext.PSGLD, ald_ext.SGHMC and ald_ext.SGNHT. What a step
// does not have keeps the value here.
struct LangevinSettings {
    double lr = 0.0, weight_decay = 0.0, temperature = 1.0, num_data = 1.0;
    bool maximize = false;
    double alpha = 0.0, eps = 0.0;          // pSGLD
    std::int64_t freeze_after = INT64_MAX;  // pSGLD: the last step at which the preconditioner adapts
    double momentum = 0.0;                  // SGHMC
    double diffusion = 0.0;                 // SGNHT
    double localization = 0.0;              // of anchored steps
};

// What the value of a setting has to be.
enum class Bounds { none, not_negative, positive, fraction };

// A setting that some steps have and others do not.
template <typename Value>
struct OwnSetting {
    using Field = Value LangevinSettings::*;
    const char* name;
    Field field;
    Bounds bounds = Bounds::none;
};

// Note [The list of steps]
// Each step once: the names of its op and of the op with anchors, what the op calls the states (elementwise, of zeros
// at first), and the settings beside those of every step. Schemas, registration and tables of kernels follow from
// Steps; the formula of each is in langevin_update.h.
struct Sgld {
    static constexpr const char *name = "sgld_step_", *anchored_name = "sgld_anchored_step_";
    static constexpr std::array<const char*, 0> states = {};
    static constexpr std::tuple<> own_settings = {};
};

struct Psgld {
    static constexpr const char *name = "psgld_step_", *anchored_name = "psgld_anchored_step_";
    static constexpr std::array states = {"square_avgs"};
    static constexpr auto own_settings =
        std::make_tuple(OwnSetting<double>{"alpha", &LangevinSettings::alpha, Bounds::fraction},
                        OwnSetting<double>{"eps", &LangevinSettings::eps, Bounds::not_negative},
                        OwnSetting<std::int64_t>{"freeze_after", &LangevinSettings::freeze_after});
};

struct Sghmc {
    static constexpr const char *name = "sghmc_step_", *anchored_name = "sghmc_anchored_step_";
    static constexpr std::array states = {"momenta"};
    static constexpr auto own_settings =
        std::make_tuple(OwnSetting<double>{"momentum", &LangevinSettings::momentum, Bounds::fraction});
};

struct Sgnht {
    static constexpr const char *name = "sgnht_step_", *anchored_name = "sgnht_anchored_step_";
    static constexpr std::array states = {"momenta", "excess_frictions"};
    static constexpr auto own_settings =
        std::make_tuple(OwnSetting<double>{"diffusion", &LangevinSettings::diffusion, Bounds::positive});
};

// A step whose parameters are pulled towards anchors, which are the last of its states and the one that it only reads.
template <typename Base>
struct Anchored {
    static constexpr const char* name = Base::anchored_name;
    static constexpr auto states = [] {
        std::array<const char*, Base::states.size() + 1> names = {};
        std::size_t count = 0;
        for (const char* state : Base::states) names[count++] = state;
        names[count] = "anchors";
        return names;
    }();
    static constexpr auto own_settings = std::tuple_cat(
        Base::own_settings,
        std::make_tuple(OwnSetting<double>{"localization", &LangevinSettings::localization, Bounds::not_negative}));
};

using Steps = std::tuple<Sgld, Psgld, Sghmc, Sgnht, Anchored<Sgld>, Anchored<Psgld>, Anchored<Sghmc>, Anchored<Sgnht>>;
// In the same order.
enum class StepKind { sgld, psgld, sghmc, sgnht, sgld_anchored, psgld_anchored, sghmc_anchored, sgnht_anchored };

constexpr std::size_t step_count = std::tuple_size_v<Steps>;

template <typename Step>
constexpr int state_count = static_cast<int>(Step::states.size());

// The states that a step writes; those after them it only reads.
template <typename Step>
constexpr int written_states = state_count<Step>;

template <typename Base>
constexpr int written_states<Anchored<Base>> = state_count<Base>;

constexpr int max_states = std::apply([](auto... step) { return std::max({state_count<decltype(step)>...}); }, Steps{});

// One value for each state of a step, in the order of Step::states.
template <typename Value>
struct States {
    Value of[max_states];
};

// Calls use(Step{}) with every step.
template <typename Use>
void for_each_step(const Use& use) {
    std::apply([&](auto... step) { (use(step), ...); }, Steps{});
}

// Calls use(Step{}) with the step of a kind.
template <std::size_t i = 0, typename Use>
decltype(auto) with_step(StepKind kind, const Use& use) {
    if constexpr (i + 1 < step_count) {
        if (static_cast<std::size_t>(kind) != i) return with_step<i + 1>(kind, use);
    }
    return use(std::tuple_element_t<i, Steps>{});
}

// Where on a device to find lr and step when a captured step runs; null where they are plain numbers.
struct DeviceClock {
    const void* lr = nullptr;  // float or double
    bool lr_is_double = false;
    const std::int64_t* step = nullptr;
};

// What the noise of a range of elements is a function of; `offset` is the range's first element in its parameter.
struct NoiseKey {
    std::int64_t seed, step, parameter, offset;
};

// A part of a parameter: shard.h, Note [Shards].
struct Shard {
    std::int64_t offset;
    std::int64_t row_length = 0, row_stride = 0;
};

// What the noise of a shard is a function of.
struct ShardNoiseKey {
    std::int64_t seed, step, parameter;
    Shard shard;
};

// The same for latent variables: rows of `dimension` elements, row r of the parameter index[r] from `offset` on.
struct LatentNoiseKey {
    std::int64_t seed, step;
    const std::int64_t* index;
    std::int64_t dimension;
    std::int64_t offset = 0;
};

// p(precision) of the marginalized Gaussian: Gamma(shape, rate); rate = 0 stands for the improper priors, flat
// (shape = 1) and Jeffreys (shape = 0).
struct PrecisionPrior {
    double shape, rate;
};

// csrc/math/marginal_gaussian.h
struct MarginalGaussian {
    double constant;  // C
    double exponent;  // a + d/2
    double rate;      // b
};

}  // namespace ald_ext
