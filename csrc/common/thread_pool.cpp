#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace packrank {
namespace {

// A worker looks for the next call this often before it sleeps: on x86 some 20 to 80 us, more than
// the gap between two kernels of one forward pass.
constexpr int kSpins = 2000;

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Pool {
  public:
    explicit Pool(int num_workers) {
        try {
            for (int i = 0; i < num_workers; ++i) workers_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {
            // The system has no more threads to give: go on with these.
        }
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stop_ = true;
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    void run(int64_t count, void (*body)(void*, int64_t), void* context) {
        body_ = body;
        context_ = context;
        count_ = count;
        next_.store(0, std::memory_order_relaxed);
        running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            generation_.fetch_add(1, std::memory_order_release);
        }
        if (sleepers_.load(std::memory_order_relaxed) > 0) keep_off_this_processor();
        wake_.notify_all();
        drain();
        wait_for_workers();
        if (out_of_memory_.exchange(false)) throw std::bad_alloc();
    }

  private:
    // Linux may wake a worker on its caller's processor, where it waits for milliseconds while
    // another stands idle: half the speed of a call after a pause, measured on two processors.
    void keep_off_this_processor() {
#if defined(__linux__)
        cpu_set_t others;
        const int here = sched_getcpu();
        if (here < 0 || pthread_getaffinity_np(pthread_self(), sizeof(others), &others) != 0)
            return;
        CPU_CLR(here, &others);
        if (CPU_COUNT(&others) == 0) return;
        for (auto& worker : workers_)
            pthread_setaffinity_np(worker.native_handle(), sizeof(others), &others);
#endif
    }

    // Every worker must have left drain() before the next call may change the job.
    void wait_for_workers() {
        int spins = 0;
        while (running_.load(std::memory_order_acquire) > 0) {
            if (++spins < kSpins) {
                relax();
            } else {
                std::unique_lock<std::mutex> lock(mutex_);
                done_.wait(lock, [this] { return running_.load(std::memory_order_acquire) == 0; });
            }
        }
    }

    void drain() {
        try {
            for (;;) {
                const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
                if (index >= count_) return;
                body_(context_, index);
            }
        } catch (const std::bad_alloc&) {
            out_of_memory_.store(true, std::memory_order_relaxed);
            next_.store(count_, std::memory_order_relaxed);
        }
    }

    void work() {
#if defined(__linux__)
        pthread_setname_np(pthread_self(), "packrank");
#endif
        uint64_t seen = 0;
        for (;;) {
            int spins = 0;
            while (generation_.load(std::memory_order_acquire) == seen && ++spins < kSpins) relax();
            if (generation_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                sleepers_.fetch_add(1, std::memory_order_relaxed);
                wake_.wait(lock,
                           [&] { return generation_.load(std::memory_order_acquire) != seen; });
                sleepers_.fetch_sub(1, std::memory_order_relaxed);
            }
            if (stop_) return;
            ++seen;
            drain();
            if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                std::lock_guard<std::mutex> lock(mutex_);
                done_.notify_one();
            }
        }
    }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<int64_t> next_{0};
    std::atomic<int> running_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    std::atomic<bool> out_of_memory_{false};
    int64_t count_ = 0;
    void (*body_)(void*, int64_t) = nullptr;
    void* context_ = nullptr;
};

struct State {
    std::mutex busy;  // held for the length of one call
    std::unique_ptr<Pool> pool;
    int num_threads = 1;
};

// Never destroyed: workers may outlive main().
State* g_state = new State;

// A child of fork() has this thread alone: the parent's workers, and whoever held its locks, do not
// exist there, so the child starts over and leaves the old state behind.
void after_fork_in_child() {
    State* fresh = new State;
    fresh->num_threads = g_state->num_threads;
    g_state = fresh;
}

const int g_registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);

}  // namespace

void set_num_threads(int num_threads) {
    std::lock_guard<std::mutex> lock(g_state->busy);
    if (num_threads == g_state->num_threads) return;
    g_state->pool.reset();
    g_state->num_threads = num_threads;
}

void parallel_for(int64_t count, void (*body)(void*, int64_t), void* context) {
    State& state = *g_state;
    if (count > 1) {
        std::unique_lock<std::mutex> lock(state.busy, std::try_to_lock);
        if (lock.owns_lock() && state.num_threads > 1) {
            if (!state.pool) state.pool = std::make_unique<Pool>(state.num_threads - 1);
            state.pool->run(count, body, context);
            return;
        }
    }
    for (int64_t index = 0; index < count; ++index) body(context, index);
}

void* scratch(size_t bytes) {
    struct Buffer {
        void* data = nullptr;
        size_t size = 0;
        ~Buffer() { std::free(data); }
    };
    thread_local Buffer buffer;
#if defined(__SANITIZE_ADDRESS__)
    const size_t grain = 64;  // no slack that would hide an overrun
    const bool fits = false;
#else
    const size_t grain = 1 << 16;
    const bool fits = buffer.size >= bytes;
#endif
    if (!fits) {
        const size_t rounded = (bytes + grain) / grain * grain;
        void* fresh = std::aligned_alloc(64, rounded);
        if (fresh == nullptr) throw std::bad_alloc();
        std::free(buffer.data);
        buffer.data = fresh;
        buffer.size = rounded;
    }
    return buffer.data;
}

}  // namespace packrank
