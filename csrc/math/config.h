// What every header of csrc/math needs: the function qualifiers, the namespace of an instruction set, and the exact
// multiply-add on which "the same bits everywhere" rests.
//
// Note [Same bits everywhere]
// Every result here is built from +, -, *, /, sqrt (all correctly rounded by IEEE 754), integer arithmetic and
// fused_multiply_add. The compilers are told not to contract a * b + c by themselves (-ffp-contract=off, -fmad=false),
// so the baseline, AVX2, AVX-512, NEON and CUDA builds of one formula return the same bits. No libm call is allowed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ALD_EXT_INLINE __host__ __device__ __forceinline__
#else
#define ALD_EXT_INLINE inline __attribute__((always_inline))
#endif

// csrc/cpu compiles these headers once per instruction set into one library. An inline function must not be merged by
// the linker across those builds, hence the namespace.
#ifndef ALD_EXT_INSTRUCTION_SET
#define ALD_EXT_INSTRUCTION_SET portable
#endif
#define ALD_EXT_MATH_BEGIN \
    namespace ald_ext {    \
    inline namespace ALD_EXT_INSTRUCTION_SET {
#define ALD_EXT_MATH_END \
    }                    \
    }

ALD_EXT_MATH_BEGIN

template <typename To, typename From>
ALD_EXT_INLINE To bit_cast(From value) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast between types of different sizes");
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}

#if defined(__CUDA_ARCH__)
ALD_EXT_INLINE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
ALD_EXT_INLINE double fused_multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
#elif defined(__FMA__) || defined(__aarch64__)
ALD_EXT_INLINE float fused_multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
ALD_EXT_INLINE double fused_multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
// Without an FMA unit: the product of two floats is exact in double; the sum is rounded to odd there (its last bit set
// when it is inexact), after which the rounding to float is the only one that counts. Vectorizes, unlike a call of
// libm.
ALD_EXT_INLINE float fused_multiply_add(float a, float b, float c) {
    const double product = static_cast<double>(a) * static_cast<double>(b);
    const double addend = static_cast<double>(c);
    const double sum = product + addend;
    const double addend_seen = sum - product;
    const double error = (product - (sum - addend_seen)) + (addend - addend_seen);
    // Truncate towards zero (one bit less where the rounding went away from it), then set the last bit.
    const std::uint64_t bits = bit_cast<std::uint64_t>(sum);
    const std::uint64_t overshoot = (bits ^ bit_cast<std::uint64_t>(error)) >> 63;
    const double odd = bit_cast<double>((bits - overshoot) | 1u);
    return static_cast<float>((error < 0.0) | (error > 0.0) ? odd : sum);  // not where infinities made it NaN
}
ALD_EXT_INLINE double fused_multiply_add(double a, double b, double c) { return std::fma(a, b, c); }
#endif

#if defined(__CUDA_ARCH__)
ALD_EXT_INLINE float square_root(float x) { return __fsqrt_rn(x); }
ALD_EXT_INLINE double square_root(double x) { return __dsqrt_rn(x); }
#else
ALD_EXT_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
ALD_EXT_INLINE double square_root(double x) { return __builtin_sqrt(x); }
#endif

// c_0 + c_1 x + ... + c_n x^n by Horner's rule; unrolled by recursion, because a loop here keeps compilers from
// vectorizing the loop around it.
template <typename Scalar>
ALD_EXT_INLINE Scalar polynomial(Scalar, Scalar last) {
    return last;
}

template <typename Scalar, typename... More>
ALD_EXT_INLINE Scalar polynomial(Scalar x, Scalar first, More... more) {
    return fused_multiply_add(polynomial(x, more...), x, first);
}

ALD_EXT_MATH_END
