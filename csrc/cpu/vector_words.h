// The words of 16 Philox blocks, computed side by side. Compilers do not find the widening multiplications of an
// instruction set by themselves.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../math/normal.h"

ALD_EXT_MATH_BEGIN

#if defined(__AVX512F__)
using WideLanes = __m512i;
ALD_EXT_INLINE WideLanes multiply_low_halves(WideLanes a, WideLanes b) { return _mm512_mul_epu32(a, b); }
#elif defined(__AVX2__)
using WideLanes = __m256i;
ALD_EXT_INLINE WideLanes multiply_low_halves(WideLanes a, WideLanes b) { return _mm256_mul_epu32(a, b); }
#elif defined(__SSE2__)
using WideLanes = __m128i;
ALD_EXT_INLINE WideLanes multiply_low_halves(WideLanes a, WideLanes b) { return _mm_mul_epu32(a, b); }
#else
typedef std::uint64_t WideLanes __attribute__((vector_size(16)));
ALD_EXT_INLINE WideLanes multiply_low_halves(WideLanes a, WideLanes b) { return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu); }
#endif

// Vectors of 64-bit lanes whose low halves are words of the even and of the odd blocks; the high halves are left to
// chance, as nothing reads them: a product needs no shuffle then.
typedef std::uint64_t Lanes __attribute__((vector_size(sizeof(WideLanes))));
constexpr int blocks_of_lanes = 2 * sizeof(Lanes) / 8;

struct VectorWord {
    Lanes even, odd;
};

ALD_EXT_INLINE VectorWord operator^(const VectorWord& a, const VectorWord& b) {
    return {a.even ^ b.even, a.odd ^ b.odd};
}

ALD_EXT_INLINE VectorWord operator^(const VectorWord& a, std::uint32_t b) { return {a.even ^ b, a.odd ^ b}; }
ALD_EXT_INLINE VectorWord operator^(std::uint32_t a, const VectorWord& b) { return b ^ a; }

ALD_EXT_INLINE WideProduct<VectorWord> multiply_wide(std::uint32_t multiplier, const VectorWord& x) {
    const Lanes factor = Lanes{} + multiplier;
    const Lanes even = (Lanes)multiply_low_halves((WideLanes)x.even, (WideLanes)factor);
    const Lanes odd = (Lanes)multiply_low_halves((WideLanes)x.odd, (WideLanes)factor);
    return {{even >> 32, odd >> 32}, {even, odd}};
}

// [word of the block][block]
struct ChunkWords {
    alignas(64) std::uint32_t word[4][chunk_blocks];

    ALD_EXT_INLINE PhiloxBlock<std::uint32_t> block(int lane) const {
        return {{word[0][lane], word[1][lane], word[2][lane], word[3][lane]}};
    }
};

ALD_EXT_INLINE VectorWord load_word(const std::uint32_t* in) {
    Lanes merged;
    memcpy(&merged, in, sizeof(Lanes));
    return {merged, merged >> 32};
}

ALD_EXT_INLINE void store_word(const VectorWord& word, std::uint32_t* out) {
    const Lanes merged = (word.even & 0xFFFFFFFFu) | (word.odd << 32);
    memcpy(out, &merged, sizeof(Lanes));
}

ALD_EXT_INLINE ChunkWords chunk_words(const NoiseStream& stream, std::uint64_t chunk) {
    ChunkWords words;
    VectorWord lane = {};
    for (int i = 0; i < blocks_of_lanes / 2; ++i) {
        lane.even[i] = 2 * i;
        lane.odd[i] = 2 * i + 1;
    }
    for (int first = 0; first < chunk_blocks; first += blocks_of_lanes) {
        const auto block = random_words(stream, chunk * chunk_blocks + first, lane);
        for (int k = 0; k < 4; ++k) store_word(block.word[k], &words.word[k][first]);
    }
    return words;
}

// Of 16 parameters, each with a block below 2^32; `stream` gives what they share.
ALD_EXT_INLINE ChunkWords words_of_parameters(const NoiseStream& stream, const std::uint32_t* block_number,
                                              const std::uint32_t* parameter_low, const std::uint32_t* high_bits) {
    ChunkWords words;
    for (int first = 0; first < chunk_blocks; first += blocks_of_lanes) {
        const auto block =
            philox<philox_rounds>(load_word(block_number + first), stream.step_low, load_word(parameter_low + first),
                                  load_word(high_bits + first), stream.key_low, stream.key_high);
        for (int k = 0; k < 4; ++k) store_word(block.word[k], &words.word[k][first]);
    }
    return words;
}

ALD_EXT_MATH_END
