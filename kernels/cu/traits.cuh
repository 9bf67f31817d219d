// What every kernel file shares: integer names, tile sizes, and the asserts that tie them to the launchers in Rust.
//
// Kernel files add their constants here, each with its unit and the launcher that must agree with it.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i16 = short;
using i64 = long long;

static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8, "sizes that the host writes");

// Dynamic shared memory has one name in all kernels (the software device defines it under this name):
//     extern __shared__ __align__(16) unsigned char dynamic_shared[];

// Threads that run in step; `warpSize` is not a compile-time constant.
constexpr int WARP = 32;
