// Note [Threads and noise]
// A chunk of 16 Philox blocks (csrc/math/normal.h, Note [Noise layout]) belongs to four threads; each takes four
// consecutive blocks, and so four consecutive elements in every lane: 16-byte accesses without a shuffle.
#include <algorithm>

#include "../math/langevin_update.h"
#include "../math/normal.h"
#include "../math/rounding.h"
#include "../math/shard.h"
#include "elements.h"
#include "kernels.h"

namespace ald_ext::cuda {
namespace {

constexpr int threads_per_chunk = chunk_blocks / quad;
constexpr int chunks_per_block = threads_per_block / threads_per_chunk;

// The quarter of a chunk that this thread has, in block number `block` of those of a range.
template <typename Scalar>
struct ChunkQuarter {
    static constexpr int lanes = normals_per_block<Scalar>;

    std::uint64_t chunk;
    std::uint32_t first_lane;  // of its four Philox blocks in the chunk
    ThreadElements<lanes, chunk_blocks> elements;

    __device__ ChunkQuarter(std::int64_t block, std::int64_t offset, std::int64_t count) {
        constexpr std::int64_t size = chunk_size<Scalar>;
        chunk = static_cast<std::uint64_t>(offset / size + block * chunks_per_block + threadIdx.x / threads_per_chunk);
        first_lane = threadIdx.x % threads_per_chunk * quad;
        elements = {static_cast<std::int64_t>(chunk) * size + first_lane - offset, count};
    }

    __device__ Values<Scalar, lanes> normals(const NoiseStream& stream) const {
        Values<Scalar, lanes> values;
#pragma unroll
        for (int j = 0; j < quad; ++j) {
            const auto block = normals_of_block<Scalar>(stream, chunk * chunk_blocks, first_lane + j);
#pragma unroll
            for (int k = 0; k < lanes; ++k) values[quad * k + j] = block.lane[k];
        }
        return values;
    }

    // For rounding (csrc/math/rounding.h).
    __device__ Values<std::uint32_t, 4> words(const NoiseStream& stream) const {
        Values<std::uint32_t, 4> values;
#pragma unroll
        for (int j = 0; j < quad; ++j) {
            const auto block = random_words(stream, chunk * chunk_blocks, first_lane + j);
#pragma unroll
            for (int k = 0; k < 4; ++k) values[quad * k + j] = block.word[k];
        }
        return values;
    }
};

template <typename Scalar>
std::int64_t blocks_for(std::int64_t count, std::int64_t offset) {
    constexpr std::int64_t size = chunk_size<Scalar>;
    return divide_up(divide_up(offset + count, size) - offset / size, chunks_per_block);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    normal_kernel(Scalar* out, std::int64_t count, NoiseStream stream, std::int64_t offset) {
    const ChunkQuarter<Scalar> quarter(blockIdx.x, offset, count);
    if (quarter.elements.none_inside()) return;
    quarter.elements.store(out, quarter.normals(stream));
}

// What a step needs to know beside its tensors.
template <typename Scalar>
struct StepState {
    StepScalars<Scalar> scalars;
    std::int64_t step;
    bool adapt;
};

template <typename Scalar>
ALD_EXT_INLINE StepState<Scalar> make_step_state(const LangevinSettings& settings, std::int64_t step) {
    return {make_step_scalars<Scalar>(settings), step, step <= settings.freeze_after};
}

// Every device takes 4 KB of kernel parameters; what a batch has beside its tensors is below 320 bytes.
constexpr std::size_t parameter_bytes = 4096;
constexpr int tensors_per_launch = (parameter_bytes - 320) / (sizeof(StepTensor<double>) + sizeof(unsigned));

template <typename Param>
struct StepBatch {
    StepTensor<Param> tensors[tensors_per_launch];
    unsigned first_block[tensors_per_launch];
    int count;
    std::int64_t seed;
    StepState<Compute<Param>> state;
    DeviceClock clock;  // where it has lr or step, `state` is made anew, from `settings`
    LangevinSettings settings;
};

static_assert(sizeof(StepBatch<double>) <= parameter_bytes, "fewer tensors per launch");

template <typename Param>
__device__ StepState<Compute<Param>> current_state(const StepBatch<Param>& batch) {
    const DeviceClock& clock = batch.clock;
    if (clock.lr == nullptr && clock.step == nullptr) return batch.state;
    LangevinSettings settings = batch.settings;
    if (clock.lr != nullptr) {
        settings.lr = clock.lr_is_double ? *static_cast<const double*>(clock.lr)
                                         : static_cast<double>(*static_cast<const float*>(clock.lr));
    }
    return make_step_state<Compute<Param>>(settings, clock.step != nullptr ? *clock.step : batch.state.step);
}

// The last tensor that begins at or before this block.
template <typename Param>
__device__ int tensor_of_block(const StepBatch<Param>& batch) {
    int low = 0, high = batch.count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (batch.first_block[middle] <= blockIdx.x) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

template <typename Update>
constexpr bool writes_state = Update::prepare_writes || Update::finish_writes;

// Note [The update of a step] in csrc/math/langevin_update.h, all at once.
template <typename Update, typename Scalar>
__device__ Scalar update(Scalar theta, Scalar gradient, States<Scalar>& state, Scalar xi,
                         const StepScalars<Scalar>& step) {
    const Scalar prepared = Update::prepare(theta, gradient, state, step);
    return Update::finish(theta, gradient, xi, prepared, state, step);
}

template <typename Param, typename Step, bool noisy>
__global__ void __launch_bounds__(threads_per_block, blocks_per_multiprocessor)
    step_kernel(const __grid_constant__ StepBatch<Param> batch) {
    using Scalar = Compute<Param>;
    using Adapting = Update<Step>;
    const int i = tensor_of_block(batch);
    const StepTensor<Param>& tensor = batch.tensors[i];
    const ChunkQuarter<Scalar> quarter(blockIdx.x - batch.first_block[i], tensor.shard.offset, tensor.numel);
    const auto& elements = quarter.elements;
    // On their way while the state and the noise are made.
    auto params = elements.load(static_cast<const Param*>(tensor.param));
    const auto grads = elements.load(tensor.grad);
    Values<Scalar, ChunkQuarter<Scalar>::lanes> states[max_states] = {}, normals = {}, updated;
#pragma unroll
    for (int k = 0; k < state_count<Step>; ++k) {
        states[k] = elements.load(static_cast<const Scalar*>(tensor.states.of[k]));
    }

    __shared__ StepState<Scalar> shared_state;
    if (threadIdx.x == 0) shared_state = current_state(batch);
    __syncthreads();
    if (elements.none_inside()) return;
    const StepState<Scalar> state = shared_state;

    if constexpr (noisy) normals = quarter.normals(make_noise_stream(batch.seed, state.step, tensor.parameter));
#pragma unroll
    for (int e = 0; e < elements.size; ++e) {
        const Scalar theta = widen(params[e]), gradient = widen(grads[e]), xi = normals[e];
        States<Scalar> own = {};
#pragma unroll
        for (int k = 0; k < state_count<Step>; ++k) own.of[k] = states[k][e];
        updated[e] = state.adapt ? update<Adapting>(theta, gradient, own, xi, state.scalars)
                                 : update<typename Adapting::Frozen>(theta, gradient, own, xi, state.scalars);
#pragma unroll
        for (int k = 0; k < state_count<Step>; ++k) states[k][e] = own.of[k];
    }
    using Frozen = typename Adapting::Frozen;
    if (writes_state<Frozen> || (writes_state<Adapting> && state.adapt)) {
#pragma unroll
        for (int k = 0; k < written_states<Step>; ++k) elements.store(tensor.states.of[k], states[k]);
    }
    Values<std::uint32_t, 4> random = {};
    if constexpr (rounds_stochastically<Param>) {
        random = quarter.words(make_noise_stream(batch.seed, state.step, tensor.parameter, NoisePurpose::rounding));
    }
#pragma unroll
    for (int e = 0; e < elements.size; ++e) params[e] = round_stochastically<Param>(updated[e], random[e]);
    elements.store(tensor.param, params);
}

__device__ inline std::int64_t element_of_thread(unsigned first_block = 0) {
    return static_cast<std::int64_t>(blockIdx.x - first_block) * threads_per_block + threadIdx.x;
}

// Of tensors whose rows are no range of their parameter (csrc/math/shard.h). Rows begin and end anywhere in a chunk:
// one thread an element.
template <typename Param, typename Step>
__global__ void __launch_bounds__(threads_per_block)
    step_of_rows_kernel(const __grid_constant__ StepBatch<Param> batch) {
    using Scalar = Compute<Param>;
    using Adapting = Update<Step>;
    __shared__ StepState<Scalar> shared_state;
    if (threadIdx.x == 0) shared_state = current_state(batch);
    __syncthreads();
    const StepState<Scalar> state = shared_state;

    const int tensor_index = tensor_of_block(batch);
    const StepTensor<Param>& tensor = batch.tensors[tensor_index];
    const std::int64_t i = element_of_thread(batch.first_block[tensor_index]);
    if (i >= tensor.numel) return;
    const std::int64_t element = element_of_parameter(tensor.shard, i);
    Scalar xi = 0;
    if (batch.settings.temperature > 0.0) {
        xi = normal_of_element<Scalar>(make_noise_stream(batch.seed, state.step, tensor.parameter), element);
    }
    const Scalar theta = widen(tensor.param[i]), gradient = widen(tensor.grad[i]);
    States<Scalar> own = {};
#pragma unroll
    for (int k = 0; k < state_count<Step>; ++k) own.of[k] = tensor.states.of[k][i];
    const Scalar updated = state.adapt ? update<Adapting>(theta, gradient, own, xi, state.scalars)
                                       : update<typename Adapting::Frozen>(theta, gradient, own, xi, state.scalars);
#pragma unroll
    for (int k = 0; k < written_states<Step>; ++k) tensor.states.of[k][i] = own.of[k];
    std::uint32_t random = 0;
    if constexpr (rounds_stochastically<Param>) {
        random = rounding_word_of_element(
            make_noise_stream(batch.seed, state.step, tensor.parameter, NoisePurpose::rounding), element);
    }
    tensor.param[i] = round_stochastically<Param>(updated, random);
}

template <typename Param>
using StepKernel = void (*)(StepBatch<Param>);

template <typename Param>
StepKernel<Param> choose_step_kernel(StepKind kind, bool noisy, bool of_rows) {
    return with_step(kind, [=](auto step) -> StepKernel<Param> {
        using Step = decltype(step);
        if (of_rows) return step_of_rows_kernel<Param, Step>;
        return noisy ? step_kernel<Param, Step, true> : step_kernel<Param, Step, false>;
    });
}

// Of the tensors that are made of rows, or of those that are not.
template <typename Param>
void launch_steps(StepKind kind, const std::vector<StepTensor<Param>>& tensors, bool of_rows, StepBatch<Param> batch,
                  cudaStream_t stream) {
    const auto kernel = choose_step_kernel<Param>(kind, batch.settings.temperature > 0.0, of_rows);
    std::int64_t blocks = 0;
    const auto launch_batch = [&] {
        launch("langevin_step", kernel, blocks, stream, batch);
        batch.count = 0;
        blocks = 0;
    };
    for (const StepTensor<Param>& tensor : tensors) {
        if ((tensor.shard.row_length > 0) != of_rows) continue;
        if (batch.count == tensors_per_launch) launch_batch();
        batch.tensors[batch.count] = tensor;
        batch.first_block[batch.count++] = static_cast<unsigned>(blocks);
        blocks += of_rows ? divide_up(tensor.numel, threads_per_block)
                          : blocks_for<Compute<Param>>(tensor.numel, tensor.shard.offset);
    }
    if (batch.count > 0) launch_batch();
}

// Latent rows are short and their blocks hardly shared: one thread an element.
template <typename Scalar>
__device__ Scalar latent_normal_of(const LatentNoiseKey& key, std::int64_t i) {
    const std::int64_t row = i / key.dimension, element = key.offset + i - row * key.dimension;
    return normal_of_element<Scalar>(make_noise_stream(key.seed, key.step, key.index[row]), element);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    latent_normal_kernel(Scalar* out, std::int64_t count, LatentNoiseKey key) {
    const std::int64_t i = element_of_thread();
    if (i < count) out[i] = latent_normal_of<Scalar>(key, i);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    latent_step_kernel(LatentBatch<Scalar> batch, StepScalars<Scalar> step, bool noisy) {
    const std::int64_t i = element_of_thread();
    if (i >= batch.count) return;
    const Scalar z = batch.z[i], gradient = batch.grad[i];
    const Scalar xi = noisy ? latent_normal_of<Scalar>(batch.key, i) : Scalar(0);
    States<Scalar> p = {batch.momenta == nullptr ? Scalar(0) : batch.momenta[i]};
    if (batch.momenta == nullptr) {
        batch.z[i] = update<Update<Sgld>>(z, gradient, p, xi, step);
    } else {
        batch.z[i] = update<Update<Sghmc>>(z, gradient, p, xi, step);
        batch.momenta[i] = p.of[0];
    }
}

}  // namespace

template <typename Scalar>
void normal(Scalar* out, std::int64_t count, const NoiseKey& key, cudaStream_t stream) {
    const NoiseStream noise = make_noise_stream(key.seed, key.step, key.parameter);
    launch("normal", normal_kernel<Scalar>, blocks_for<Scalar>(count, key.offset), stream, out, count, noise,
           key.offset);
}

template <typename Param>
void langevin_step(StepKind kind, const std::vector<StepTensor<Param>>& tensors, std::int64_t seed, std::int64_t step,
                   const DeviceClock& clock, const LangevinSettings& settings, cudaStream_t stream) {
    StepBatch<Param> batch = {};
    batch.seed = seed;
    batch.state = make_step_state<Compute<Param>>(settings, step);
    batch.clock = clock;
    batch.settings = settings;
    for (const bool of_rows : {false, true}) launch_steps(kind, tensors, of_rows, batch, stream);
}

template <typename Scalar>
void latent_normal(Scalar* out, std::int64_t count, const LatentNoiseKey& key, cudaStream_t stream) {
    launch("latent_normal", latent_normal_kernel<Scalar>, divide_up(count, threads_per_block), stream, out, count, key);
}

template <typename Scalar>
void latent_step(const LatentBatch<Scalar>& batch, const LangevinSettings& settings, cudaStream_t stream) {
    launch("latent_step", latent_step_kernel<Scalar>, divide_up(batch.count, threads_per_block), stream, batch,
           make_step_scalars<Scalar>(settings), settings.temperature > 0.0);
}

#define ALD_EXT_INSTANTIATE(Scalar)                                                                  \
    template void normal<Scalar>(Scalar*, std::int64_t, const NoiseKey&, cudaStream_t);              \
    template void latent_normal<Scalar>(Scalar*, std::int64_t, const LatentNoiseKey&, cudaStream_t); \
    template void latent_step<Scalar>(const LatentBatch<Scalar>&, const LangevinSettings&, cudaStream_t);

ALD_EXT_INSTANTIATE(float)
ALD_EXT_INSTANTIATE(double)

#define ALD_EXT_INSTANTIATE_STEP(Param)                                                                             \
    template void langevin_step<Param>(StepKind, const std::vector<StepTensor<Param>>&, std::int64_t, std::int64_t, \
                                       const DeviceClock&, const LangevinSettings&, cudaStream_t);

ALD_EXT_INSTANTIATE_STEP(float)
ALD_EXT_INSTANTIATE_STEP(double)
ALD_EXT_INSTANTIATE_STEP(BFloat16)
ALD_EXT_INSTANTIATE_STEP(Half)

#undef ALD_EXT_INSTANTIATE
#undef ALD_EXT_INSTANTIATE_STEP

}  // namespace ald_ext::cuda
