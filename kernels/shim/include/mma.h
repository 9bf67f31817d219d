// Stands in for CUDA's own header of that name: the software device has matrix fragments in its one header.
#include "../cuda_shim.h"
