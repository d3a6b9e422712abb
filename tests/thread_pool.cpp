// Three callers at once, calls of several sizes, bodies that run out of memory, and a change of the
// number of threads. Built by tests/sanitize.py with ThreadSanitizer.
#include "../csrc/common/thread_pool.h"

#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

namespace {

void expect(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "thread pool: %s\n", what);
    std::exit(1);
}

void call(int64_t count) {
    std::vector<int64_t> out(count);
    packrank::parallel_for(
        count,
        [](void* context, int64_t index) {
            char* own = static_cast<char*>(packrank::scratch(100 + index * 1000));
            own[0] = own[99 + index * 1000] = 1;
            static_cast<int64_t*>(context)[index] += index + 1;
        },
        out.data());
    for (int64_t i = 0; i < count; ++i) expect(out[i] == i + 1, "an index ran other than once");
}

void caller() {
    for (int round = 0; round < 1000; ++round)
        for (int64_t count : {0, 1, 2, 37}) call(count);
}

}  // namespace

int main() {
    for (int num_threads : {4, 2, 1, 3}) {
        packrank::set_num_threads(num_threads);
        std::thread first(caller), second(caller);
        caller();
        first.join();
        second.join();
        bool thrown = false;
        try {
            packrank::parallel_for(
                20,
                [](void*, int64_t index) {
                    if (index == 7) throw std::bad_alloc();
                },
                nullptr);
        } catch (const std::bad_alloc&) {
            thrown = true;
        }
        expect(thrown, "a body ran out of memory in silence");
        call(37);
    }
}
