// Philox4x32 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), a counter-based
// generator: 128 random bits are a pure function of a 64-bit key and a 128-bit counter.
//
// Note [Seven rounds]
// Seven is the authors' smallest number of rounds that passes all of BigCrush. It passes `make noise-check`, in whose
// avalanche test six fail: there is no round to spare. Ten, the authors' default, take a fifth more time for a normal.
#pragma once

#include <type_traits>

#include "config.h"

ALD_EXT_MATH_BEGIN

constexpr int philox_rounds = 7;

template <typename Word>
struct WideProduct {
    Word high, low;
};

ALD_EXT_INLINE WideProduct<std::uint32_t> multiply_wide(std::uint32_t multiplier, std::uint32_t x) {
    const std::uint64_t product = static_cast<std::uint64_t>(multiplier) * x;
    return {static_cast<std::uint32_t>(product >> 32), static_cast<std::uint32_t>(product)};
}

template <typename Word>
struct PhiloxBlock {
    Word word[4];
};

// A word is an integer or a vector of them (csrc/cpu/vector_words.h). Words of the counter that all lanes share stay
// integers until the rounds mix them with the others.
template <int rounds, typename Word0, typename Word1, typename Word2, typename Word3>
ALD_EXT_INLINE auto philox(Word0 word0, Word1 word1, Word2 word2, Word3 word3, std::uint32_t key_low,
                           std::uint32_t key_high) {
    constexpr std::uint32_t multiplier_even = 0xD2511F53u, multiplier_odd = 0xCD9E8D57u;
    constexpr std::uint32_t golden_ratio = 0x9E3779B9u, root_three_less_one = 0xBB67AE85u;
    if constexpr (rounds == 0) {
        return PhiloxBlock<Word0>{{word0, word1, word2, word3}};
    } else {
        const auto even = multiply_wide(multiplier_even, word0);
        const auto odd = multiply_wide(multiplier_odd, word2);
        return philox<rounds - 1>(odd.high ^ word1 ^ key_low, odd.low, even.high ^ word3 ^ key_high, even.low,
                                  key_low + golden_ratio, key_high + root_three_less_one);
    }
}

ALD_EXT_MATH_END
