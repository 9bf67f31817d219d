// Stands in for CUDA's own header of that name: the software device has half precision in its one header.
#include "../cuda_shim.h"
