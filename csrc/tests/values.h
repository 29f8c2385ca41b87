// Values to test with, and memory that notices writes beyond it.
#pragma once

#include <algorithm>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../math/rounding.h"
#include "../math/settings.h"
#include "check.h"

namespace ald_ext::tests {

template <typename Param>
const char* param_name() {
    if constexpr (std::is_same_v<Param, BFloat16>) return "bfloat16";
    if constexpr (std::is_same_v<Param, Half>) return "float16";
    return type_name<Param>();
}

// Values between two margins that must stay as they are; data() is `misalignment` elements beyond a multiple of 64
// bytes. The margins, and outputs before they are written, are NaN.
template <typename Value>
class Guarded {
  public:
    explicit Guarded(const std::vector<Value>& values, int misalignment = 1)
        : size_(values.size()),
          begin_(margin + static_cast<std::size_t>(misalignment) * sizeof(Value)),
          lines_((begin_ + size_ * sizeof(Value) + margin) / sizeof(Line) + 1) {
        std::memset(bytes(), canary, lines_.size() * sizeof(Line));
        if (size_ > 0) std::memcpy(bytes() + begin_, values.data(), size_ * sizeof(Value));
    }
    explicit Guarded(std::int64_t size, int misalignment = 1) : Guarded(unwritten(size), misalignment) {}

    Value* data() { return reinterpret_cast<Value*>(bytes() + begin_); }

    std::vector<Value> values() const {
        const std::size_t end = begin_ + size_ * sizeof(Value);
        bool kept = true;
        for (std::size_t i = 0; i < lines_.size() * sizeof(Line); ++i) {
            if (i < begin_ || i >= end) kept = kept && bytes()[i] == canary;
        }
        check(kept, "something wrote beyond its range");
        const Value* first = reinterpret_cast<const Value*>(bytes() + begin_);
        return {first, first + size_};
    }

  private:
    struct alignas(64) Line {
        unsigned char byte[64];
    };
    static constexpr std::size_t margin = 4 * sizeof(Line);
    static constexpr unsigned char canary = 0xFF;

    static std::vector<Value> unwritten(std::int64_t size) {
        std::vector<Value> values(static_cast<std::size_t>(size));
        if (size > 0) std::memset(static_cast<void*>(values.data()), canary, values.size() * sizeof(Value));
        return values;
    }

    unsigned char* bytes() { return lines_.data()->byte; }
    const unsigned char* bytes() const { return lines_.data()->byte; }

    std::size_t size_, begin_;  // in elements; in bytes
    std::vector<Line> lines_;
};

template <typename Value>
void check_same(const std::vector<Value>& got, const std::vector<Value>& expected, const std::string& what) {
    check(got.size() == expected.size(), what, ": got ", got.size(), " values, expected ", expected.size());
    for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
        if (identical(got[i], expected[i])) continue;
        check(false, what, ": element ", i, ": got ", +got[i], ", expected ", +expected[i]);
        return;
    }
    check(true, what);
}

template <typename Value>
void append(std::vector<Value>& values, const std::vector<Value>& more) {
    values.insert(values.end(), more.begin(), more.end());
}

// 16-bit parameters as floats, which say all about them.
template <typename Param>
std::vector<Compute<Param>> widened(const std::vector<Param>& values) {
    std::vector<Compute<Param>> result;
    for (const Param value : values) result.push_back(widen(value));
    return result;
}

// Normal values; `special`: with NaN, infinities, subnormals and the largest finite values strewn in. 16-bit types get
// any bits then.
template <typename Param>
std::vector<Param> random_values(std::int64_t count, std::uint64_t seed, bool special = false) {
    auto random = random_source(seed);
    std::normal_distribution<double> normal;
    std::vector<Param> values(static_cast<std::size_t>(count));
    for (Param& value : values) {
        const double usual = normal(random);
        const bool strange = special && random() % 4 == 0;
        if constexpr (rounds_stochastically<Param>) {
            value = round_stochastically<Param>(static_cast<float>(usual), 0);
            if (strange) value.bits = static_cast<std::uint16_t>(random());
        } else {
            using Limits = std::numeric_limits<Param>;
            const Param choice[] = {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), Limits::denorm_min(),
                                    -Limits::min() / 2,  Limits::max(),      -Limits::max(),      Param(-0.0)};
            value = strange ? choice[random() % 8] : static_cast<Param>(usual);
        }
    }
    return values;
}

template <typename Scalar>
std::vector<Scalar> square_of(std::vector<Scalar> values) {
    for (Scalar& value : values) value *= value;
    return values;
}

inline std::vector<std::uint8_t> random_pixels(std::int64_t count, int bits) {
    auto random = random_source(31);
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(count));
    for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
    return pixels;
}

// h over all its regimes: the interior, beyond the margins, and (special) beyond all bounds.
template <typename Scalar>
std::vector<Scalar> random_places(std::int64_t count, bool special) {
    std::vector<Scalar> places = random_values<Scalar>(count, 32, special);
    for (std::size_t i = 0; i < places.size(); ++i) places[i] *= static_cast<Scalar>(1 << (i % 8));
    return places;
}

inline std::vector<std::int64_t> data_indices(std::int64_t rows, std::uint64_t seed) {
    auto random = random_source(seed);
    std::vector<std::int64_t> data(static_cast<std::size_t>(rows));
    // Of all sizes, the largest too.
    for (std::int64_t& datum : data) datum = static_cast<std::int64_t>(random() >> (20 + random() % 44));
    if (rows > 1) data[1] = (std::int64_t{1} << 44) - 1;
    return data;
}

// Pointers to element `begin` of the states of a step, which lie in memory one after another, `count` elements each.
template <typename Scalar>
States<Scalar*> states_at(Scalar* states, std::int64_t count, std::int64_t begin) {
    States<Scalar*> result = {};
    for (int k = 0; k < max_states; ++k) result.of[k] = states + k * count + begin;
    return result;
}

struct NamedSettings {
    const char* name;
    LangevinSettings settings;
    StepKind kind;
};

inline const NamedSettings steps_to_test[] = {
    {"sgld, noisy", {.lr = 0.1, .weight_decay = 0.01, .temperature = 1.5, .num_data = 100}, StepKind::sgld},
    {"sgld, T = 0, maximize",
     {.lr = 0.1, .weight_decay = 0.01, .temperature = 0, .num_data = 100, .maximize = true},
     StepKind::sgld},
    {"psgld, adapting, noisy",
     {.lr = 0.01, .weight_decay = 0.1, .temperature = 0.5, .num_data = 10, .alpha = 0.99, .eps = 0.1},
     StepKind::psgld},
    {"psgld, adapting, T = 0, maximize",
     {.lr = 0.01, .weight_decay = 0.1, .temperature = 0, .num_data = 10, .maximize = true, .alpha = 0.99, .eps = 1e-8},
     StepKind::psgld},
    {"psgld, frozen, noisy",
     {.lr = 0.01, .temperature = 2, .alpha = 0.9, .eps = 0.1, .freeze_after = -1},
     StepKind::psgld},
    {"psgld, frozen, T = 0",
     {.lr = 0.01, .temperature = 0, .alpha = 0.9, .eps = 1e-3, .freeze_after = -1},
     StepKind::psgld},
    {"sghmc, noisy",
     {.lr = 0.1, .weight_decay = 0.01, .temperature = 1.5, .num_data = 100, .momentum = 0.9},
     StepKind::sghmc},
    {"sghmc, T = 0, maximize",
     {.lr = 0.1, .weight_decay = 0.01, .temperature = 0, .num_data = 100, .maximize = true, .momentum = 0.5},
     StepKind::sghmc},
    {"sghmc, no momentum", {.lr = 0.5, .momentum = 0}, StepKind::sghmc},
    {"sghmc, lr = 0", {.lr = 0, .weight_decay = 0.1, .momentum = 0.9}, StepKind::sghmc},
    {"sgnht, noisy",
     {.lr = 0.1, .weight_decay = 0.01, .temperature = 1.5, .num_data = 100, .diffusion = 0.1},
     StepKind::sgnht},
    {"sgnht, T = 0, maximize",
     {.lr = 0.1, .weight_decay = 0.01, .temperature = 0, .num_data = 100, .maximize = true, .diffusion = 0.5},
     StepKind::sgnht},
    {"sgnht, lr = 0", {.lr = 0, .weight_decay = 0.1, .diffusion = 0.1}, StepKind::sgnht},
    {"sgld, anchored, noisy",
     {.lr = 0.1, .weight_decay = 0.01, .temperature = 1.5, .num_data = 100, .localization = 30},
     StepKind::sgld_anchored},
    {"psgld, anchored, maximize",
     {.lr = 0.01, .temperature = 0.5, .num_data = 10, .maximize = true, .alpha = 0.9, .eps = 0.1, .localization = 5},
     StepKind::psgld_anchored},
    {"psgld, anchored, frozen, T = 0",
     {.lr = 0.01, .temperature = 0, .alpha = 0.9, .eps = 1e-3, .freeze_after = -1, .localization = 0.5},
     StepKind::psgld_anchored},
    {"sghmc, anchored, noisy",
     {.lr = 0.1, .temperature = 1.5, .num_data = 100, .momentum = 0.9, .localization = 30},
     StepKind::sghmc_anchored},
    {"sgnht, anchored, noisy",
     {.lr = 0.1, .temperature = 1.5, .num_data = 100, .diffusion = 0.1, .localization = 30},
     StepKind::sgnht_anchored},
};

inline const NamedSettings& step_to_test(const std::string& name) {
    for (const NamedSettings& step : steps_to_test) {
        if (step.name == name) return step;
    }
    throw std::runtime_error("steps_to_test has no \"" + name + "\"");
}

}  // namespace ald_ext::tests
