// Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), a counter-based
// generator: 128 random bits are a pure function of a 64-bit key and a 128-bit counter.
#pragma once

#include "config.h"

ALD_EXT_MATH_BEGIN

struct PhiloxBlock {
    std::uint32_t word[4];
};

ALD_EXT_INLINE std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) {
    return static_cast<std::uint32_t>((static_cast<std::uint64_t>(a) * b) >> 32);
}

constexpr int philox_rounds = 10;

// Recursion instead of a loop, so that the loop over blocks around it vectorizes.
template <int rounds>
ALD_EXT_INLINE PhiloxBlock philox_run(PhiloxBlock state, std::uint32_t key_low, std::uint32_t key_high) {
    constexpr std::uint32_t multiplier_even = 0xD2511F53u, multiplier_odd = 0xCD9E8D57u;
    constexpr std::uint32_t golden_ratio = 0x9E3779B9u, root_three_less_one = 0xBB67AE85u;
    const PhiloxBlock next = {
        {multiply_high(multiplier_odd, state.word[2]) ^ state.word[1] ^ key_low, multiplier_odd * state.word[2],
         multiply_high(multiplier_even, state.word[0]) ^ state.word[3] ^ key_high, multiplier_even * state.word[0]}};
    if constexpr (rounds == 1) {
        return next;
    } else {
        return philox_run<rounds - 1>(next, key_low + golden_ratio, key_high + root_three_less_one);
    }
}

ALD_EXT_INLINE PhiloxBlock philox(PhiloxBlock counter, std::uint32_t key_low, std::uint32_t key_high) {
    return philox_run<philox_rounds>(counter, key_low, key_high);
}

ALD_EXT_MATH_END
