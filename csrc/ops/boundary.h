// What stands between an op's kernel and torch: no C++ exception leaves a module.
//
// Note [Exceptions stay inside]
// A module may carry a C++ runtime of its own, where the compiler links libstdc++ and libgcc statically. An exception
// of that runtime means nothing to torch's: one that left the module would end the process. So what a kernel throws is
// caught here, in the module, and its text is given to torch, which raises an error of its own from there. That error
// passes through one frame of ours, guarded(), which has nothing to destroy and so asks no runtime of ours for help.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <exception>
#include <string>

namespace ald_ext::ops {

using BoxedKernel = void (*)(StableIValue*, std::uint64_t, std::uint64_t);

// Torch's wrappers name the header and line of this build where one of torch's own functions fails; those of torch 2.13
// and newer after what that function said.
inline std::string without_build_path(const std::string& message) {
    const std::size_t origin = message.find(" (originally from ");
    if (origin != std::string::npos) return message.substr(0, origin);
    const std::size_t path = message.find(" API call failed at ");
    return path == std::string::npos ? message : message.substr(0, path) + " API call failed";
}

// The text of what the kernel threw, until the thread's next call; null if it returned. Not inlined, as guarded() would
// then have something to destroy.
[[gnu::noinline]] inline const char* run_and_catch(BoxedKernel kernel, StableIValue* stack, std::uint64_t num_args,
                                                   std::uint64_t num_outputs) noexcept {
    static thread_local std::string message;
    try {
        kernel(stack, num_args, num_outputs);
        return nullptr;
    } catch (const std::exception& error) {
        message = without_build_path(error.what());
    } catch (...) {
        message = "ald_ext: a kernel threw what is no std::exception";
    }
    return message.c_str();
}

template <BoxedKernel kernel>
void guarded(StableIValue* stack, std::uint64_t num_args, std::uint64_t num_outputs) {
    const char* message = run_and_catch(kernel, stack, num_args, num_outputs);
    if (message != nullptr) aoti_torch_check(false, "ald_ext", "", 0, message);
}

}  // namespace ald_ext::ops

#define ALD_EXT_BOX(function) &::ald_ext::ops::guarded<&TORCH_BOX(function)>
