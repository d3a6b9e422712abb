// One pool of threads for every kernel of the process.
//
// A call hands out indices one by one, so a slow core takes fewer of them; what an index computes
// never depends on who computes it. A call that finds the pool busy (another Python thread is in a
// kernel) runs on its own thread alone: the pool never has more than num_threads - 1 workers,
// however many callers there are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace packrank {

// Threads that a kernel may use, the caller's included. At least 1.
void set_num_threads(int num_threads);

// Calls body(context, index) once for every index in [0, count), in any order, and returns when all
// are done. A body may run out of memory: then the other indices may be skipped, and std::bad_alloc
// is thrown here.
void parallel_for(int64_t count, void (*body)(void* context, int64_t index), void* context);

// The calling thread's own buffer, 64-byte aligned, at least this large; the next call may move it.
// Throws std::bad_alloc.
void* scratch(size_t bytes);

}  // namespace packrank
