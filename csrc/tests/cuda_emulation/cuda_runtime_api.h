// Stands in for CUDA's header of this name, so that the kernels of csrc/cuda compile as plain C++ and run on the CPU.
//
// The threads of a block are fibers that take turns: one runs until it ends, or waits at __syncthreads or a shuffle.
// Blocks run one after another, their threads forwards in one and backwards in the next: a barrier that is missing
// shows in one of the two. One that not every thread of the block or warp reaches ends the program.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3() = default;
    explicit dim3(unsigned x) : x(x) {}
};

enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };
using cudaStream_t = struct CUstream_st*;

inline cudaError_t cudaGetLastError() { return cudaErrorInvalidConfiguration; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid configuration"; }

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};

inline dim3 threadIdx, blockIdx;

namespace ald_ext::emulation {

constexpr unsigned threads_per_warp = 32;

enum class State { ready, at_barrier, at_shuffle, ended };

struct Thread {
    static constexpr std::size_t stack_bytes = 64 * 1024;

    ucontext_t context;
    std::vector<char> stack = std::vector<char>(stack_bytes);
    State state;
    std::uint64_t offered[2];  // to shuffles, in turn: one may still be read while the next is written
    unsigned shuffles;
};

inline std::vector<Thread> threads;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline unsigned launches = 0;
inline unsigned first_block = 0;  // of each launch; those before are left out

inline void wait(State state) {
    Thread& thread = threads[threadIdx.x];
    thread.state = state;
    swapcontext(&thread.context, &scheduler);
}

inline void run_thread() {
    body();
    wait(State::ended);
}

inline void begin_thread(Thread& thread) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    makecontext(&thread.context, run_thread, 0);
    thread.state = State::ready;
    thread.shuffles = 0;
}

inline void resume(unsigned index) {
    threadIdx.x = index;
    swapcontext(&scheduler, &threads[index].context);
}

inline bool all_in(State state, unsigned begin, unsigned end) {
    for (unsigned i = begin; i < end; ++i) {
        if (threads[i].state != state) return false;
    }
    return true;
}

// Lets the threads go on that wait in a group which all of its threads have reached; false if there is none.
inline bool release(State state, unsigned group, unsigned count) {
    bool any = false;
    for (unsigned begin = 0; begin < count; begin += group) {
        if (!all_in(state, begin, begin + group)) continue;
        for (unsigned i = begin; i < begin + group; ++i) threads[i].state = State::ready;
        any = true;
    }
    return any;
}

inline void run_block(unsigned count, bool backwards) {
    for (unsigned i = 0; i < count; ++i) begin_thread(threads[i]);
    while (!all_in(State::ended, 0, count)) {
        for (unsigned i = 0; i < count; ++i) {
            const unsigned index = backwards ? count - 1 - i : i;
            if (threads[index].state == State::ready) resume(index);
        }
        const bool released =
            release(State::at_barrier, count, count) | release(State::at_shuffle, threads_per_warp, count);
        if (!released && !all_in(State::ended, 0, count)) {
            std::fputs("FAILED: a barrier or a shuffle that not all threads reach\n", stderr);
            std::abort();
        }
    }
}

// The value that the thread `source(lane)` of the warp offers.
template <typename Value, typename Source>
Value shuffle(unsigned mask, Value value, const Source& source) {
    static_assert(sizeof(Value) <= sizeof(std::uint64_t), "shuffles move at most 8 bytes");
    if (mask != 0xFFFFFFFFu) std::abort();  // no kernel uses another mask
    Thread& thread = threads[threadIdx.x];
    const unsigned turn = thread.shuffles++ % 2;
    std::memcpy(&thread.offered[turn], &value, sizeof(Value));
    wait(State::at_shuffle);
    const unsigned lane = threadIdx.x % threads_per_warp, warp = threadIdx.x - lane;
    std::memcpy(&value, &threads[warp + source(lane) % threads_per_warp].offered[turn], sizeof(Value));
    return value;
}

}  // namespace ald_ext::emulation

inline void __syncthreads() { ald_ext::emulation::wait(ald_ext::emulation::State::at_barrier); }

template <typename Value>
Value __shfl_sync(unsigned mask, Value value, int source) {
    return ald_ext::emulation::shuffle(mask, value, [=](unsigned) { return static_cast<unsigned>(source); });
}

template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int lane_mask) {
    return ald_ext::emulation::shuffle(mask, value,
                                       [=](unsigned lane) { return lane ^ static_cast<unsigned>(lane_mask); });
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
    using namespace ald_ext::emulation;
    const unsigned count = config->blockDim.x;
    if (config->gridDim.x == 0 || count % threads_per_warp != 0) return cudaErrorInvalidConfiguration;
    threads.resize(count);
    body = [=] { kernel(arguments...); };
    ++launches;
    for (blockIdx.x = first_block; blockIdx.x < config->gridDim.x; ++blockIdx.x) {
        run_block(count, (blockIdx.x + launches) % 2 == 0);
    }
    return cudaSuccess;
}
