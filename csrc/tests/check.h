// What the C++ tests share: a failed check is printed with what failed, and counted; main returns summary(...).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iomanip>
#include <iostream>
#include <limits>
#include <random>
#include <sstream>
#include <string>

namespace ald_ext::tests {

inline int checks = 0;
inline int failures = 0;
constexpr int failures_shown = 20;

template <typename... Parts>
void check(bool condition, const Parts&... parts) {
    ++checks;
    if (condition) return;
    if (++failures > failures_shown) return;
    std::ostringstream message;
    message << std::setprecision(17);
    (message << ... << parts);
    std::cerr << "FAILED: " << message.str() << "\n";
}

inline int summary(const char* name) {
    std::cout << name << ": " << checks << " checks, " << failures << " failed\n";
    return failures == 0 && checks > 0 ? 0 : 1;
}

// The same bits, or both NaN: which NaN an operation gives is the processor's choice.
template <typename Value>
bool identical(Value a, Value b) {
    return (a != a && b != b) || std::memcmp(&a, &b, sizeof(Value)) == 0;
}

template <typename Scalar>
const char* type_name() {
    return sizeof(Scalar) == 4 ? "float" : "double";
}

// Fixed seeds: the same words in every run and on every machine.
inline std::mt19937_64 random_source(std::uint64_t seed) { return std::mt19937_64(seed); }

template <typename Scalar>
Scalar from_bits(std::uint64_t word) {
    Scalar value;
    if constexpr (sizeof(Scalar) == 4) {
        const std::uint32_t low = static_cast<std::uint32_t>(word);
        std::memcpy(&value, &low, sizeof(value));
    } else {
        std::memcpy(&value, &word, sizeof(value));
    }
    return value;
}

}  // namespace ald_ext::tests
