// Argument checks shared by the CPU and CUDA ops. Every message names the op, the argument, what was got and what was
// expected; an op checks all its arguments before it writes anything.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "../math/rounding.h"

namespace ald_ext::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The name of an argument, or of an item of a list; spelled out only where a check fails.
struct ArgumentName {
    ArgumentName(const char* argument, std::int64_t index = -1) : argument(argument), index(index) {}

    const char* argument;
    std::int64_t index;
};

// The parts of messages. Streams would ask the locale of torch's C++ runtime how to write a number, which a module with
// a runtime of its own does not find (boundary.h).
inline std::string text_of(const std::string& text) { return text; }

inline std::string text_of(const char* text) { return text; }

inline std::string text_of(const ArgumentName& name) {
    return name.index < 0 ? name.argument : name.argument + ("[" + std::to_string(name.index) + "]");
}

template <typename Number, std::enable_if_t<std::is_arithmetic_v<Number>, bool> = true>
std::string text_of(Number number) {
    if constexpr (std::is_integral_v<Number>) {
        return std::to_string(number);
    } else {
        char text[32] = {};
        std::snprintf(text, sizeof text, "%g", number);
        std::replace(text, text + sizeof text, ',', '.');  // of some locales of C
        return text;
    }
}

// STD_TORCH_CHECK would put the file and line of this build into the message.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    throw std::runtime_error((text_of(parts) + ...));
}

#define ALD_EXT_CHECK(condition, op, argument, ...)                                    \
    do {                                                                               \
        if (!(condition)) ::ald_ext::ops::fail(op, ": ", argument, ": ", __VA_ARGS__); \
    } while (false)

inline std::string device_name(const Tensor& tensor) {
    if (tensor.is_cpu()) return "cpu";
    return (tensor.is_cuda() ? "cuda:" : "device ") + std::to_string(tensor.get_device_index());
}

template <typename Array>
std::string shape_text(const Array& array) {
    std::string text = "(";
    for (std::size_t i = 0; i < array.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(array[i]);
    return text + ")";
}

template <typename Array>
bool same_values(const Array& first, const Array& second) {
    return first.size() == second.size() && std::equal(first.begin(), first.end(), second.begin());
}

// Strides of dimensions of size one (and of empty tensors) say nothing.
inline bool same_strides(const Tensor& first, const Tensor& second) {
    if (first.numel() == 0) return true;
    for (std::int64_t d = 0; d < first.dim(); ++d) {
        if (first.size(d) != 1 && first.stride(d) != second.stride(d)) return false;
    }
    return true;
}

// True if the elements fill one range of memory, in whatever order of the dimensions.
inline bool is_dense(const Tensor& tensor) {
    if (tensor.is_contiguous()) return true;
    std::vector<std::pair<std::int64_t, std::int64_t>> dimensions;  // stride, size
    for (std::int64_t d = 0; d < tensor.dim(); ++d) {
        if (tensor.size(d) != 1) dimensions.emplace_back(tensor.stride(d), tensor.size(d));
    }
    std::sort(dimensions.begin(), dimensions.end());
    std::int64_t expected = 1;
    for (const auto& [stride, size] : dimensions) {
        if (stride != expected) return false;
        expected *= size;
    }
    return true;
}

inline void check_floating(const Tensor& tensor, const char* op, const ArgumentName& argument) {
    const ScalarType type = tensor.scalar_type();
    ALD_EXT_CHECK(type == ScalarType::Float || type == ScalarType::Double, op, argument, "got dtype ",
                  torch::headeronly::toString(type), ", expected Float or Double (float32 or float64)");
}

// The types of parameters; 16-bit ones are rounded stochastically.
inline void check_parameter_type(ScalarType type, const char* op, const ArgumentName& argument) {
    ALD_EXT_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
                      type == ScalarType::Half,
                  op, argument, "got dtype ", torch::headeronly::toString(type),
                  ", expected Float, Double, BFloat16 or Half (float32, float64, bfloat16 or float16)");
}

// csrc/math/rounding.h, ComputeType
inline ScalarType compute_type(ScalarType type) {
    return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_type(const Tensor& tensor, ScalarType expected, const char* op, const ArgumentName& argument) {
    const ScalarType type = tensor.scalar_type();
    ALD_EXT_CHECK(type == expected, op, argument, "got dtype ", torch::headeronly::toString(type), ", expected ",
                  torch::headeronly::toString(expected));
}

inline bool same_device(const Tensor& first, const Tensor& second) {
    if (first.is_cpu() || second.is_cpu()) return first.is_cpu() && second.is_cpu();
    return first.is_cuda() == second.is_cuda() && first.get_device_index() == second.get_device_index();
}

inline void check_same_device(const Tensor& tensor, const Tensor& reference, const char* op,
                              const ArgumentName& argument, const char* reference_name) {
    ALD_EXT_CHECK(same_device(tensor, reference), op, argument, "got a tensor on ", device_name(tensor), ", expected ",
                  device_name(reference), ", where ", reference_name, " is");
}

inline void check_same_shape(const Tensor& tensor, const Tensor& reference, const char* op,
                             const ArgumentName& argument, const char* reference_name) {
    ALD_EXT_CHECK(same_values(tensor.sizes(), reference.sizes()), op, argument, "got shape ",
                  shape_text(tensor.sizes()), ", expected ", shape_text(reference.sizes()), " as of ", reference_name);
}

inline void check_range(std::int64_t value, std::int64_t low, std::int64_t high, const char* op,
                        const ArgumentName& argument) {
    ALD_EXT_CHECK(low <= value && value <= high, op, argument, "got ", value, ", expected ", low, " to ", high);
}

inline void check_not_negative(double value, const char* op, const ArgumentName& argument) {
    ALD_EXT_CHECK(std::isfinite(value) && value >= 0.0, op, argument, "got ", value, ", expected a finite number >= 0");
}

inline void check_positive(double value, const char* op, const ArgumentName& argument) {
    ALD_EXT_CHECK(std::isfinite(value) && value > 0.0, op, argument, "got ", value, ", expected a finite number > 0");
}

// Calls use(float{}) or use(double{}) after the type of a checked tensor.
template <typename Use>
void dispatch_floating(const Tensor& tensor, const Use& use) {
    if (tensor.scalar_type() == ScalarType::Float) {
        use(float{});
    } else {
        use(double{});
    }
}

// Calls use(Param{}) after a type that check_parameter_type let pass.
template <typename Use>
void dispatch_parameter(ScalarType type, const Use& use) {
    switch (type) {
        case ScalarType::Float:
            return use(float{});
        case ScalarType::Double:
            return use(double{});
        case ScalarType::BFloat16:
            return use(BFloat16{});
        default:
            return use(Half{});
    }
}

template <typename Scalar>
Scalar* data(const Tensor& tensor) {
    return static_cast<Scalar*>(tensor.mutable_data_ptr());
}

template <typename Scalar>
const Scalar* const_data(const Tensor& tensor) {
    return static_cast<const Scalar*>(tensor.const_data_ptr());
}

inline Tensor new_rows(const Tensor& like, std::int64_t rows, ScalarType type) {
    const std::vector<std::int64_t> size{rows};
    return torch::stable::new_empty(like, size, type);
}

// A contiguous tensor of the shape of `like`.
inline Tensor new_like(const Tensor& like, ScalarType type) {
    return torch::stable::new_empty(like, like.sizes(), type);
}

// `count` tensors of the shape of `like`, stacked: one allocation, which the allocator reuses sooner than two.
inline Tensor new_gradients(const Tensor& like, std::int64_t count) {
    std::vector<std::int64_t> size{count};
    size.insert(size.end(), like.sizes().begin(), like.sizes().end());
    return torch::stable::new_empty(like, size, like.scalar_type());
}

}  // namespace ald_ext::ops
