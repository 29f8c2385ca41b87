// The arguments of each op, checked and reduced to plain values: what the CPU and the CUDA op have in common.
#pragma once

#include <functional>
#include <numeric>
#include <tuple>

#include "../math/normal.h"
#include "../math/settings.h"
#include "checks.h"

namespace ald_ext::ops {

// What changes from step to step.
struct StepClock {
    double lr;
    std::int64_t step;
    DeviceClock device = {};  // overrules the two
};

// A tensor of a step.
struct StepTensor {
    void* param;
    const void* grad;
    States<void*> states;
    std::int64_t numel;
    std::int64_t parameter;  // of its noise
    Shard shard;

    template <typename Param>
    States<Compute<Param>*> states_of() const {
        States<Compute<Param>*> result = {};
        for (int k = 0; k < max_states; ++k) result.of[k] = static_cast<Compute<Param>*>(states.of[k]);
        return result;
    }
};

struct StepArguments {
    StepKind kind;
    std::vector<StepTensor> tensors;  // without the empty ones
    ScalarType type;                  // of the parameters
    std::int64_t device_index;
    std::int64_t seed;
    LangevinSettings settings;
    StepClock clock;
};

inline void check_noise_key(const NoiseKey& key, std::int64_t count, const char* op,
                            const ArgumentName& parameter = "parameter", const ArgumentName& offset = "offset") {
    check_range(key.seed, 0, INT64_MAX, op, "seed");
    check_range(key.step, 0, max_step, op, "step");
    check_range(key.parameter, 0, max_parameter, op, parameter);
    check_range(key.offset, 0, max_elements - count, op, offset);
}

inline void check_contiguous(const Tensor& tensor, const char* op, const char* argument) {
    ALD_EXT_CHECK(tensor.is_contiguous(), op, argument, "got strides ", shape_text(tensor.strides()),
                  ", expected a contiguous tensor");
}

inline void check_noise_output(const Tensor& out, const NoiseKey& key, const char* op) {
    check_floating(out, op, "out");
    check_contiguous(out, op, "out");
    check_noise_key(key, out.numel(), op);
}

inline void check_settings(const LangevinSettings& settings, const char* op) {
    check_not_negative(settings.temperature, op, "temperature");
    check_not_negative(settings.weight_decay, op, "weight_decay");
    check_positive(settings.num_data, op, "num_data");
}

template <typename Value>
void check_own_setting(const OwnSetting<Value>& setting, Value given, const char* op) {
    const double value = static_cast<double>(given);
    if (setting.bounds == Bounds::not_negative) check_not_negative(value, op, setting.name);
    if (setting.bounds == Bounds::positive) check_positive(value, op, setting.name);
    ALD_EXT_CHECK(setting.bounds != Bounds::fraction || (value >= 0.0 && value < 1.0), op, setting.name, "got ", value,
                  ", expected 0 <= ", setting.name, " < 1");
}

inline void check_scalar_argument(const Tensor& tensor, const Tensor& param, const char* op, const char* argument) {
    ALD_EXT_CHECK(tensor.numel() == 1, op, argument, "got a tensor of ", tensor.numel(), " elements, expected one");
    if (!tensor.is_cpu()) check_same_device(tensor, param, op, argument, "params[0]");
}

// lr and step from tensors: read at once where they are on the CPU, left to the kernel on the parameters' device.
inline StepClock check_clock(const Tensor& lr, const Tensor& step, const std::vector<Tensor>& params, const char* op) {
    ALD_EXT_CHECK(!params.empty(), op, "params", "got an empty list, expected at least one tensor");
    const Tensor& param = params[0];
    check_scalar_argument(lr, param, op, "lr");
    check_floating(lr, op, "lr");
    check_scalar_argument(step, param, op, "step");
    check_type(step, ScalarType::Long, op, "step");
    StepClock clock{0.0, 0};
    const bool lr_is_double = lr.scalar_type() == ScalarType::Double;
    if (!lr.is_cpu()) {
        clock.device.lr = lr.const_data_ptr();
        clock.device.lr_is_double = lr_is_double;
    } else {
        clock.lr = lr_is_double ? *const_data<double>(lr) : static_cast<double>(*const_data<float>(lr));
    }
    if (!step.is_cpu()) {
        clock.device.step = const_data<std::int64_t>(step);
    } else {
        clock.step = *const_data<std::int64_t>(step);
    }
    return clock;
}

// The memory of a tensor of a step.
struct MemoryRange {
    const char *begin, *end;
    bool written;
};

inline MemoryRange memory_range(const Tensor& tensor, bool written) {
    const char* begin = static_cast<const char*>(tensor.const_data_ptr());
    return {begin, begin + tensor.numel() * static_cast<std::int64_t>(tensor.element_size()), written};
}

// What a step writes must overlap nothing: two updates of one element would race, and csrc/cpu/kernels.cpp, Note
// [Vector loops], rests on it. What is only read may share memory. `written` and `read` name the arguments.
inline void check_no_overlap(std::vector<MemoryRange> ranges, const char* op, const char* written, const char* read) {
    std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
    const char *written_end = nullptr, *read_end = nullptr;
    for (const MemoryRange& range : ranges) {
        ALD_EXT_CHECK(!range.written || range.begin >= written_end, op, written,
                      "got the same memory twice, expected distinct tensors");
        ALD_EXT_CHECK(range.begin >= (range.written ? read_end : written_end), op, read,
                      "got memory that the step writes, expected tensors distinct from ", written);
        const char*& end = range.written ? written_end : read_end;
        end = std::max(end, range.end);
    }
}

// What is asked of every tensor of a step, read once and as torch's own numbers: each question to torch is a call.
struct Layout {
    explicit Layout(const Tensor& tensor) {
        std::int64_t *first_size = nullptr, *first_stride = nullptr, dim = 0;
        const bool failed = aoti_torch_get_dtype(tensor.get(), &type) != AOTI_TORCH_SUCCESS ||
                            aoti_torch_get_device_type(tensor.get(), &device_type) != AOTI_TORCH_SUCCESS ||
                            aoti_torch_get_device_index(tensor.get(), &device_index) != AOTI_TORCH_SUCCESS ||
                            aoti_torch_get_dim(tensor.get(), &dim) != AOTI_TORCH_SUCCESS ||
                            aoti_torch_get_sizes(tensor.get(), &first_size) != AOTI_TORCH_SUCCESS ||
                            aoti_torch_get_strides(tensor.get(), &first_stride) != AOTI_TORCH_SUCCESS;
        if (failed) fail("ald_ext: got a tensor without sizes or strides, expected a dense one");
        sizes = {first_size, static_cast<std::size_t>(dim)};
        strides = {first_stride, static_cast<std::size_t>(dim)};
    }

    // False does not say that they differ: strides of dimensions of size one say nothing, and CPUs have two indices.
    bool is_plainly(const Layout& other, std::int32_t expected_type) const {
        return type == expected_type && is_plainly_beside(other) && same_values(sizes, other.sizes) &&
               same_values(strides, other.strides);
    }

    bool is_plainly_beside(const Layout& other) const {
        return device_type == other.device_type && device_index == other.device_index;
    }

    bool is_plainly_contiguous() const {
        std::uint64_t expected = 1;  // of empty tensors it may overflow
        for (std::size_t d = sizes.size(); d-- > 0; expected *= static_cast<std::uint64_t>(sizes[d])) {
            if (static_cast<std::uint64_t>(strides[d]) != expected) return false;
        }
        return true;
    }

    std::int64_t numel() const {
        return static_cast<std::int64_t>(
            std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{1}, std::multiplies<std::uint64_t>()));
    }

    std::int32_t type = 0, device_type = 0, device_index = 0;
    torch::headeronly::IntHeaderOnlyArrayRef sizes, strides;
};

inline void check_companion(const Tensor& tensor, const Tensor& param, ScalarType type, const char* op,
                            const ArgumentName& argument) {
    check_same_device(tensor, param, op, argument, "its parameter");
    check_type(tensor, type, op, argument);
    check_same_shape(tensor, param, op, argument, "its parameter");
    ALD_EXT_CHECK(same_strides(tensor, param), op, argument, "got strides ", shape_text(tensor.strides()),
                  ", expected ", shape_text(param.strides()), " as of its parameter");
}

// How a step calls itself and its arguments.
struct StepNames {
    StepKind kind;
    std::string op, written, read;
    int state_count, written_states;
    States<const char*> states;
};

template <typename Step, std::size_t kind = 0>
const StepNames& names_of() {
    if constexpr (!std::is_same_v<Step, std::tuple_element_t<kind, Steps>>) {
        return names_of<Step, kind + 1>();
    } else {
        static const StepNames names = [] {
            StepNames result = {static_cast<StepKind>(kind),
                                std::string("ald_ext::") + Step::name,
                                "params",
                                "grads",
                                state_count<Step>,
                                written_states<Step>,
                                {}};
            for (int k = 0; k < state_count<Step>; ++k) {
                result.states.of[k] = Step::states[k];
                (k < written_states<Step> ? result.written : result.read) += std::string(", ") + Step::states[k];
            }
            return result;
        }();
        return names;
    }
}

// Where the tensors of a step lie in their parameters, as the op is given it.
struct ShardLists {
    const std::vector<std::int64_t>&offsets, &row_lengths, &row_strides;

    // Empty lists stand for zeros.
    Shard at(std::size_t i) const {
        return {offsets.empty() ? 0 : offsets[i], row_lengths.empty() ? 0 : row_lengths[i],
                row_strides.empty() ? 0 : row_strides[i]};
    }
};

// How many elements of its parameter a shard spans, at most max_elements; csrc/math/shard.h.
inline std::int64_t check_rows(const Shard& shard, std::int64_t numel, const char* op, std::int64_t index) {
    const std::int64_t length = shard.row_length, stride = shard.row_stride;
    if (length == 0 && (stride == 0 || numel == 0)) return numel;
    ALD_EXT_CHECK(length >= 1, op, ArgumentName("row_lengths", index), "got ", length, " beside a row stride of ",
                  stride, ", expected at least 1, or 0 for both");
    ALD_EXT_CHECK(stride >= length, op, ArgumentName("row_strides", index), "got ", stride,
                  ", expected at least the row length, ", length);
    if (numel == 0) return 0;
    const std::int64_t whole_strides = (numel - 1) / length, last = (numel - 1) % length + 1;
    ALD_EXT_CHECK(whole_strides <= (max_elements - last) / stride, op, ArgumentName("row_strides", index), "got ",
                  stride, " for ", whole_strides + 1, " rows, expected element indices below ", max_elements);
    return whole_strides * stride + last;
}

// Empty noise_ids stand for 0, 1, 2, ...
inline StepArguments check_step(const StepNames& names, const std::vector<Tensor>& params,
                                const std::vector<Tensor>& grads, const States<const std::vector<Tensor>*>& states,
                                const std::vector<std::int64_t>& noise_ids, const ShardLists& shards, std::int64_t seed,
                                const StepClock& clock, LangevinSettings settings) {
    const char* op = names.op.c_str();
    const std::size_t count = params.size();
    ALD_EXT_CHECK(count > 0, op, "params", "got an empty list, expected at least one tensor");
    const auto check_length = [&](std::size_t length, const char* argument) {
        ALD_EXT_CHECK(length == count, op, argument, "got ", length, " items, expected ", count,
                      ", one for each of params");
    };
    check_length(grads.size(), "grads");
    for (int k = 0; k < names.state_count; ++k) check_length(states.of[k]->size(), names.states.of[k]);
    if (!noise_ids.empty()) check_length(noise_ids.size(), "noise_ids");
    if (!shards.offsets.empty()) check_length(shards.offsets.size(), "offsets");
    if (!shards.row_lengths.empty() || !shards.row_strides.empty()) {
        check_length(shards.row_lengths.size(), "row_lengths");
        check_length(shards.row_strides.size(), "row_strides");
    }
    check_settings(settings, op);
    check_not_negative(clock.lr, op, "lr");
    settings.lr = clock.lr;

    const Layout first(params[0]);
    const ScalarType type = params[0].scalar_type();
    check_parameter_type(type, op, {"params", 0});
    StepArguments arguments{names.kind, {}, type, first.device_index, seed, settings, clock};
    arguments.tensors.reserve(count);
    const ScalarType state_type = compute_type(type);
    const std::int32_t plain_state_type =
        state_type == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
    const std::int64_t param_size = static_cast<std::int64_t>(params[0].element_size());
    const std::int64_t state_size = state_type == ScalarType::Double ? 8 : 4;
    std::vector<MemoryRange> ranges;
    ranges.reserve((2 + names.state_count) * count);
    const auto add_range = [&](const void* memory, std::int64_t size, bool written) {
        const char* begin = static_cast<const char*>(memory);
        ranges.push_back({begin, begin + size, written});
    };
    for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t index = static_cast<std::int64_t>(i);
        const Tensor& param = params[i];
        const Layout layout(param);
        const ArgumentName name("params", index);
        if (layout.type != first.type) {
            check_parameter_type(param.scalar_type(), op, name);
            check_type(param, type, op, name);
        }
        if (!layout.is_plainly_beside(first)) check_same_device(param, params[0], op, name, "params[0]");
        ALD_EXT_CHECK(layout.is_plainly_contiguous() || is_dense(param), op, name, "got strides ",
                      shape_text(layout.strides), " for shape ", shape_text(layout.sizes),
                      ", expected a tensor that fills its memory without gaps or overlaps");
        if (!Layout(grads[i]).is_plainly(layout, first.type)) {
            check_companion(grads[i], param, type, op, {"grads", index});
        }
        for (int k = 0; k < names.state_count; ++k) {
            const Tensor& state = (*states.of[k])[i];
            if (!Layout(state).is_plainly(layout, plain_state_type)) {
                check_companion(state, param, state_type, op, {names.states.of[k], index});
            }
        }
        const std::int64_t numel = layout.numel();
        const std::int64_t noise_id = noise_ids.empty() ? index : noise_ids[i];
        Shard shard = shards.at(i);
        const std::int64_t span = check_rows(shard, numel, op, index);
        const NoiseKey key = {seed, clock.step, noise_id, shard.offset};
        check_noise_key(key, span, op, {"noise_ids", index}, {"offsets", index});
        if (numel == 0) continue;
        if (span == numel) shard = {shard.offset};  // the rows are one range
        void* const values = param.mutable_data_ptr();
        const void* const grad = grads[i].const_data_ptr();
        StepTensor tensor = {values, grad, {}, numel, noise_id, shard};
        add_range(values, numel * param_size, true);
        add_range(grad, numel * param_size, false);
        for (int k = 0; k < names.state_count; ++k) {
            const Tensor& state = (*states.of[k])[i];
            const bool is_written = k < names.written_states;
            tensor.states.of[k] = is_written ? state.mutable_data_ptr() : const_cast<void*>(state.const_data_ptr());
            add_range(tensor.states.of[k], numel * state_size, is_written);
        }
        arguments.tensors.push_back(tensor);
    }
    check_no_overlap(std::move(ranges), op, names.written.c_str(), names.read.c_str());
    return arguments;
}

// The number of values of a row; 0 without rows, whose other sizes may be such that their product overflows.
inline std::int64_t row_dimension(const Tensor& rows) { return rows.size(0) == 0 ? 0 : rows.numel() / rows.size(0); }

// What keys the noise of latent rows.
struct LatentArguments {
    const char* op;
    Tensor index;  // contiguous
    std::int64_t seed, step, dimension, offset;

    LatentNoiseKey key() const { return {seed, step, const_data<std::int64_t>(index), dimension, offset}; }
};

inline LatentArguments check_latent(const char* op, const Tensor& rows, const char* name, const Tensor& index,
                                    std::int64_t seed, std::int64_t step, std::int64_t offset) {
    check_floating(rows, op, name);
    ALD_EXT_CHECK(rows.dim() >= 1, op, name, "got a tensor without dimensions, expected (n, ...)");
    check_contiguous(rows, op, name);
    check_type(index, ScalarType::Long, op, "index");
    check_same_device(index, rows, op, "index", name);
    ALD_EXT_CHECK(index.dim() == 1 && index.size(0) == rows.size(0), op, "index", "got shape ",
                  shape_text(index.sizes()), ", expected (", rows.size(0), "), one datum a row of ", name);
    const std::int64_t dimension = row_dimension(rows);
    check_noise_key({seed, step, 0, offset}, dimension, op);
    return {op, torch::stable::contiguous(index), seed, step, dimension, offset};
}

struct LatentStepArguments {
    LatentArguments rows;
    const Tensor& z;
    const Tensor* momenta;  // null for SGLD
    Tensor grad;            // contiguous
    LangevinSettings settings;
};

inline void check_latent_companion(const Tensor& tensor, const Tensor& z, const char* op, const char* name) {
    check_same_device(tensor, z, op, name, "z");
    check_type(tensor, z.scalar_type(), op, name);
    check_same_shape(tensor, z, op, name, "z");
}

// `momenta` is null for SGLD.
inline LatentStepArguments check_latent_step(const char* op, const Tensor& z, const Tensor* momenta, const Tensor& grad,
                                             const Tensor& index, std::int64_t seed, std::int64_t step,
                                             std::int64_t offset, const LangevinSettings& settings) {
    check_settings(settings, op);
    check_not_negative(settings.lr, op, "lr");
    check_floating(z, op, "z");
    check_latent_companion(grad, z, op, "grad");
    if (momenta != nullptr) {
        check_latent_companion(*momenta, z, op, "momenta");
        check_contiguous(*momenta, op, "momenta");
    }
    const LatentArguments rows = check_latent(op, z, "z", index, seed, step, offset);
    const Tensor gradient = torch::stable::contiguous(grad);
    if (z.numel() > 0) {
        std::vector<MemoryRange> ranges = {memory_range(z, true), memory_range(gradient, false),
                                           memory_range(rows.index, false)};
        if (momenta != nullptr) ranges.push_back(memory_range(*momenta, true));
        check_no_overlap(std::move(ranges), op, momenta != nullptr ? "z, momenta" : "z", "grad, index");
    }
    return {rows, z, momenta, gradient, settings};
}

// x and mean as rows of `dimension` values.
struct LikelihoodArguments {
    Tensor x, mean;  // contiguous
    std::int64_t rows, dimension;
    PrecisionPrior prior;
};

inline LikelihoodArguments check_likelihood(const char* op, const Tensor& x, const Tensor& mean, double shape,
                                            double rate) {
    check_floating(x, op, "x");
    check_type(mean, x.scalar_type(), op, "mean");
    check_same_device(mean, x, op, "mean", "x");
    ALD_EXT_CHECK(x.dim() >= 1, op, "x", "got a tensor without dimensions, expected (N, ...)");
    check_same_shape(mean, x, op, "mean", "x");
    check_not_negative(shape, op, "shape");
    check_not_negative(rate, op, "rate");
    ALD_EXT_CHECK(rate == 0.0 || shape > 0.0, op, "shape", "got ", shape, ", expected > 0 for a Gamma prior with rate ",
                  rate);
    const std::int64_t dimension = row_dimension(x);
    return {torch::stable::contiguous(x), torch::stable::contiguous(mean), x.size(0), dimension, {shape, rate}};
}

struct LikelihoodGradientArguments {
    LikelihoodArguments likelihood;
    Tensor grad, squared_distance;  // contiguous, one value a row
};

inline Tensor check_rows(const Tensor& tensor, ScalarType type, const LikelihoodArguments& arguments, const char* op,
                         const char* argument) {
    check_type(tensor, type, op, argument);
    check_same_device(tensor, arguments.x, op, argument, "x");
    ALD_EXT_CHECK(tensor.dim() == 1 && tensor.size(0) == arguments.rows, op, argument, "got shape ",
                  shape_text(tensor.sizes()), ", expected (", arguments.rows, "), one value a row of x");
    return torch::stable::contiguous(tensor);
}

inline LikelihoodGradientArguments check_likelihood_gradient(const char* op, const Tensor& grad, const Tensor& x,
                                                             const Tensor& mean, const Tensor& squared_distance,
                                                             double shape, double rate) {
    const LikelihoodArguments likelihood = check_likelihood(op, x, mean, shape, rate);
    return {likelihood, check_rows(grad, x.scalar_type(), likelihood, op, "grad"),
            check_rows(squared_distance, ScalarType::Double, likelihood, op, "squared_distance")};
}

inline void check_bits(std::int64_t bits, const char* op) { check_range(bits, 1, 8, op, "bits"); }

struct PixelArguments {
    Tensor x, h;  // contiguous
};

inline PixelArguments check_pixels(const char* op, const Tensor& x, const Tensor& h, std::int64_t bits) {
    check_type(x, ScalarType::Byte, op, "x");
    check_floating(h, op, "h");
    check_same_device(h, x, op, "h", "x");
    check_same_shape(h, x, op, "h", "x");
    check_bits(bits, op);
    return {torch::stable::contiguous(x), torch::stable::contiguous(h)};
}

// What the one-pass gradient reads beside the pixels, of which y, and so all else, is to fit h.
inline LikelihoodGradientArguments check_dequantized_gradient(const char* op, const Tensor& grad, const Tensor& h,
                                                              const Tensor& y, const Tensor& mean,
                                                              const Tensor& squared_distance, double shape,
                                                              double rate) {
    check_type(y, h.scalar_type(), op, "y");
    check_same_device(y, h, op, "y", "h");
    check_same_shape(y, h, op, "y", "h");
    return check_likelihood_gradient(op, grad, y, mean, squared_distance, shape, rate);
}

inline Tensor check_pixel_gradient(const char* op, const Tensor& grad, const Tensor& h) {
    check_type(grad, h.scalar_type(), op, "grad");
    check_same_device(grad, h, op, "grad", "h");
    check_same_shape(grad, h, op, "grad", "h");
    return torch::stable::contiguous(grad);
}

inline Tensor check_dequantized(const char* op, const Tensor& y, std::int64_t bits) {
    check_floating(y, op, "y");
    check_bits(bits, op);
    return torch::stable::contiguous(y);
}

}  // namespace ald_ext::ops
