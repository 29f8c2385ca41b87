// 16-bit floating point numbers, and how a float becomes one: by stochastic rounding.
//
// Note [Stochastic rounding]
// A value between two neighbours of the 16-bit format goes up with the probability that makes its mean right:
// (value - lower) / (upper - lower), resolved to 2^-16 (bfloat16) or 2^-13 (float16). A Langevin step is often below
// half a unit in the last place, where rounding to nearest would lose it, drift and noise. Finite values beyond the
// largest finite one go to it or to infinity as in rounding to nearest.
#pragma once

#include "config.h"

// Types, not code: the same for every instruction set.
namespace ald_ext {

struct BFloat16 {
    std::uint16_t bits;
};

struct Half {
    std::uint16_t bits;
};

// The type in which an update of a parameter is computed, and its state is kept.
template <typename Param>
struct ComputeType {
    using type = Param;
};

template <>
struct ComputeType<BFloat16> {
    using type = float;
};

template <>
struct ComputeType<Half> {
    using type = float;
};

template <typename Param>
using Compute = typename ComputeType<Param>::type;

template <typename Param>
constexpr bool rounds_stochastically = sizeof(Param) == 2;

}  // namespace ald_ext

ALD_EXT_MATH_BEGIN

ALD_EXT_INLINE float widen(float value) { return value; }
ALD_EXT_INLINE double widen(double value) { return value; }

ALD_EXT_INLINE float widen(BFloat16 value) { return bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

ALD_EXT_INLINE float widen(Half value) {
    const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
    const std::uint32_t magnitude = value.bits & 0x7FFFu;
    const float subnormal = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
    const std::uint32_t rebias = magnitude >= 0x7C00u ? 224u << 23 : 112u << 23;  // infinities and NaN keep all ones
    const std::uint32_t normal = (magnitude << 13) + rebias;
    return bit_cast<float>((magnitude < 0x0400u ? bit_cast<std::uint32_t>(subnormal) : normal) | sign);
}

// `random`: 32 random bits.
template <typename Param>
ALD_EXT_INLINE Param round_stochastically(Compute<Param> value, std::uint32_t random);

template <>
ALD_EXT_INLINE float round_stochastically<float>(float value, std::uint32_t) {
    return value;
}

template <>
ALD_EXT_INLINE double round_stochastically<double>(double value, std::uint32_t) {
    return value;
}

template <>
ALD_EXT_INLINE BFloat16 round_stochastically<BFloat16>(float value, std::uint32_t random) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
    // The result is made in the upper half: selections between 16-bit values by 32-bit conditions are not vectorized.
    const std::uint32_t rounded = magnitude + (random >> 16);
    const std::uint32_t finite = rounded < 0x7F7F0000u ? rounded : 0x7F7F0000u;
    const std::uint32_t beyond = magnitude > 0x7F800000u ? 0x7FC00000u : 0x7F800000u;  // NaN or infinity
    const std::uint32_t result = magnitude < 0x7F7F8000u ? finite : beyond;
    return {static_cast<std::uint16_t>((result | (bits & 0x80000000u)) >> 16)};
}

template <>
ALD_EXT_INLINE Half round_stochastically<Half>(float value, std::uint32_t random) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
    // Units of the last place: of the value's binade, or 2^-24 below the smallest normal number, 2^-14.
    const std::uint32_t exponent = magnitude >> 23;
    const std::uint32_t at_least_normal = exponent > 113u ? exponent : 113u;
    const std::uint32_t binade = at_least_normal < 142u ? at_least_normal : 142u;
    const float units = bit_cast<float>(magnitude) * bit_cast<float>((264u - binade) << 23);
    const float offset = static_cast<float>(static_cast<std::int32_t>(random >> 19)) * 0x1p-13f;
    const float bounded = units < 4096.0f ? units : 4096.0f;  // NaN too: no integer can hold it
    const std::uint32_t count = static_cast<std::uint32_t>(static_cast<std::int32_t>(bounded + offset));
    const std::uint32_t rounded = ((binade - 113u) << 26) + (count << 16);
    const std::uint32_t finite = rounded < 0x7BFF0000u ? rounded : 0x7BFF0000u;
    const std::uint32_t beyond = magnitude > 0x7F800000u ? 0x7E000000u : 0x7C000000u;  // NaN or infinity
    const std::uint32_t result = magnitude < 0x477FF000u ? finite : beyond;            // 65520
    return {static_cast<std::uint16_t>((result | (bits & 0x80000000u)) >> 16)};
}

ALD_EXT_MATH_END
