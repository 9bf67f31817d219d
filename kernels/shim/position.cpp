// What each host thread knows of the kernel's thread that it runs.
//
// A library of its own: kernels ask for it all the time, and only a small library's thread-local variables can be had
// without a call; shared memory, which lies in thread-local variables too, is too large for that.
#include "cuda_shim.h"
#include "shim.h"

namespace shim {

__thread Position position;
__thread struct Runner* runner;

}  // namespace shim
