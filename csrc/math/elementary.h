// log, exp and sine/cosine of a quarter turn for float and double: branch-free, the same bits everywhere.
// Relative errors are a few units in the last place (csrc/tests/test_math.cpp states and checks the bounds).
#pragma once

#include <limits>
#include <type_traits>

#include "config.h"
#include "polynomials.h"

ALD_EXT_MATH_BEGIN

// Powers of two by exponent bits, and the layout of the two types.
template <typename Scalar>
struct FloatingPoint;

template <>
struct FloatingPoint<float> {
    using Bits = std::int32_t;
    static constexpr int mantissa_bits = 23;
    static constexpr Bits exponent_bias = 127;
    static constexpr Bits sign_bit = std::numeric_limits<Bits>::min();
    static constexpr Bits root_half_bits = 0x3f3504f3;  // sqrt(1/2)
    static constexpr float largest = 0x1.fffffep+127f;
    static constexpr float nan = std::numeric_limits<float>::quiet_NaN();
};

template <>
struct FloatingPoint<double> {
    using Bits = std::int64_t;
    static constexpr int mantissa_bits = 52;
    static constexpr Bits exponent_bias = 1023;
    static constexpr Bits sign_bit = std::numeric_limits<Bits>::min();
    static constexpr Bits root_half_bits = 0x3fe6a09e667f3bcd;  // sqrt(1/2)
    static constexpr double largest = 0x1.fffffffffffffp+1023;
    static constexpr double nan = std::numeric_limits<double>::quiet_NaN();
};

// x = 2^exponent (1 + fraction) with sqrt(1/2) <= 1 + fraction < sqrt(2), for a normal x > 0.
template <typename Scalar>
struct Decomposed {
    Scalar fraction;
    Scalar exponent;
};

template <typename Scalar>
ALD_EXT_INLINE Decomposed<Scalar> decompose(Scalar x) {
    using Format = FloatingPoint<Scalar>;
    using Bits = typename Format::Bits;
    using Word = std::make_unsigned_t<Bits>;  // whose overflow, of a negative x that a caller discards, is defined
    const Word bits = bit_cast<Word>(x);
    const Bits exponent = static_cast<Bits>(bits - Word{Format::root_half_bits}) >> Format::mantissa_bits;
    const Scalar mantissa = bit_cast<Scalar>(bits - (static_cast<Word>(exponent) << Format::mantissa_bits));
    // int32 is wide enough for every exponent, and its conversion to floating point vectorizes everywhere.
    return {mantissa - Scalar(1), static_cast<Scalar>(static_cast<std::int32_t>(exponent))};
}

// log(2^exponent (1 + fraction)); ln 2 is split so that exponent * high is exact.
ALD_EXT_INLINE float log_of(Decomposed<float> x) {
    constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    const float square = x.fraction * x.fraction;
    const float correction =
        fused_multiply_add(x.exponent, ln2_low, square * polynomial(x.fraction, ALD_EXT_LOG_FLOAT));
    return fused_multiply_add(x.exponent, ln2_high, x.fraction + correction);
}

ALD_EXT_INLINE double log_of(Decomposed<double> x) {
    constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
    // log(1 + f) = 2 s + s z Q = f - s (f - z Q) with 2 s = f - s f: exact where f is small.
    const double s = x.fraction / (2.0 + x.fraction);
    const double z = s * s;
    const double tail = s * (x.fraction - z * polynomial(z, ALD_EXT_LOG_DOUBLE));
    const double correction = fused_multiply_add(x.exponent, ln2_low, -tail);
    return fused_multiply_add(x.exponent, ln2_high, x.fraction + correction);
}

// log(x) for a normal x > 0; infinity and NaN give themselves.
template <typename Scalar>
ALD_EXT_INLINE Scalar log_positive(Scalar x) {
    constexpr Scalar largest = FloatingPoint<Scalar>::largest;
    return x <= largest ? log_of(decompose(x)) : x;
}

ALD_EXT_INLINE float exp_fraction(float r) {
    return fused_multiply_add(r * r, polynomial(r, ALD_EXT_EXP_FLOAT), r) + 1.0f;
}

ALD_EXT_INLINE double exp_fraction(double r) {
    return fused_multiply_add(r * r, polynomial(r, ALD_EXT_EXP_DOUBLE), r) + 1.0;
}

// exp(-x) for x >= 0. From x = 87 (float) or 708 (double) on it stays at exp(-87) or exp(-708), the last normal values:
// no caller can tell those from zero. NaN gives NaN.
template <typename Scalar>
ALD_EXT_INLINE Scalar exp_negative(Scalar x) {
    using Format = FloatingPoint<Scalar>;
    using Word = std::make_unsigned_t<typename Format::Bits>;  // whose overflow, of NaN, is defined
    constexpr bool is_float = sizeof(Scalar) == 4;
    constexpr Scalar limit = is_float ? Scalar(87) : Scalar(708);
    constexpr Scalar log2_e = static_cast<Scalar>(0x1.71547652b82fep+0);
    constexpr Scalar ln2_high = is_float ? Scalar(0x1.62e4p-1) : Scalar(0x1.62e42fefa38p-1);
    constexpr Scalar ln2_low = is_float ? Scalar(0x1.7f7d1cp-20) : Scalar(0x1.ef35793c7673p-45);
    // Added to a number, it leaves the nearest integer in the last bits of the mantissa: no conversion, which NaN would
    // not survive.
    constexpr Scalar to_integer = is_float ? Scalar(0x1.8p+23) : Scalar(0x1.8p+52);
    const Scalar bounded = limit < x ? limit : x;
    const Scalar shifted = fused_multiply_add(bounded, log2_e, to_integer);
    const Scalar n = shifted - to_integer;
    const Scalar remainder = fused_multiply_add(n, ln2_low, fused_multiply_add(n, ln2_high, -bounded));
    const Word quotient = bit_cast<Word>(shifted) - bit_cast<Word>(to_integer);
    const Word scale = (static_cast<Word>(Format::exponent_bias) - quotient) << Format::mantissa_bits;
    return exp_fraction(remainder) * bit_cast<Scalar>(scale);
}

// Sine, and cosine less one, of t quarter turns, |t| <= 1/2. Users add the one inside a fused multiply-add, which saves
// its rounding.
template <typename Scalar>
struct SineCosine {
    Scalar sine;
    Scalar cosine_less_one;
};

ALD_EXT_INLINE SineCosine<float> sine_cosine_quarter_turns(float t) {
    const float z = t * t;
    const float sine = fused_multiply_add(t, 0x1.921fb6p+0f, t * z * polynomial(z, ALD_EXT_SINE_FLOAT));
    return {sine, z * polynomial(z, ALD_EXT_COSINE_FLOAT)};
}

ALD_EXT_INLINE SineCosine<double> sine_cosine_quarter_turns(double t) {
    const double z = t * t;
    const double sine = fused_multiply_add(t, 0x1.921fb54442d18p+0, t * z * polynomial(z, ALD_EXT_SINE_DOUBLE));
    return {sine, z * polynomial(z, ALD_EXT_COSINE_DOUBLE)};
}

ALD_EXT_MATH_END
