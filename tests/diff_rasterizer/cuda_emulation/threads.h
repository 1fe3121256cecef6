// Runs a block's threads as OS threads, so that ThreadSanitizer sees which memory they share. Slow: for tiny launches.
#pragma once

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "meeting.h"

#if defined(__SANITIZE_THREAD__)
extern "C" {
void AnnotateIgnoreSyncBegin(const char* file, int line);
void AnnotateIgnoreSyncEnd(const char* file, int line);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace emulation {

// While one lives, what its thread does orders nothing between threads in ThreadSanitizer's eyes. Shuffles and votes
// make lanes wait for each other but, unlike barriers, do not order their accesses to memory.
class Unordered {
  public:
    explicit Unordered(bool active) : active_(active) {
#if defined(__SANITIZE_THREAD__)
        if (!active_) return;
        AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
    }
    ~Unordered() {
#if defined(__SANITIZE_THREAD__)
        if (!active_) return;
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
        AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
#endif
        (void)active_;
    }
    Unordered(const Unordered&) = delete;

  private:
    bool active_;
};

// One lock for a block's barrier and one per warp: a lane waiting for its warp orders nothing between other warps.
struct Hall {
    std::mutex mutex;
    std::condition_variable changed;
    uint64_t generation[kWarp] = {};
};

struct Engine {
    Block block;
    Hall all;
    Hall warps[kMaxThreads / kWarp];
    int skipped_line = 0;
    const char* skipped_file = "";
};

inline Engine& engine() {
    static Engine* const instance = new Engine();
    return *instance;
}
inline Thread& self() {
    static thread_local Thread thread;
    return thread;
}
inline Block& block() { return engine().block; }

// A thread cannot be abandoned, so a failure ends the process.
[[noreturn]] inline void give_up() {
    fprintf(stderr, "emulation: %s\n", block().failure.text);
    fflush(stderr);
    _exit(3);
}

template <typename M>
inline uint64_t meet(Hall& hall, M& meeting, int slot, int seat, int expected, const Request& request,
                     std::unique_lock<std::mutex>& lock) {
    const uint64_t generation = hall.generation[slot];
    if (meeting.join(seat, expected, request, block().failure)) {
        if (block().failure.happened()) give_up();
        ++hall.generation[slot];
        hall.changed.notify_all();
    } else if (!hall.changed.wait_for(lock, std::chrono::seconds(60),
                                      [&] { return hall.generation[slot] != generation; })) {
        snprintf(block().failure.text, sizeof(block().failure.text), "deadlock: thread waits for 60 s at %s (%s:%d)",
                 op_name(request.op), request.file, request.line);
        give_up();
    }
    return meeting.result(seat);
}

inline bool skipped(const Request& r) {
    const Engine& e = engine();
    return e.skipped_line == r.line && strstr(r.file, e.skipped_file) != nullptr;
}

inline uint64_t meet_block(const Request& request) {
    if (skipped(request)) return 0;
    Engine& e = engine();
    std::unique_lock<std::mutex> lock(e.all.mutex);
    return meet(e.all, e.block.all, 0, self().number, e.block.threads, request, lock);
}

inline uint64_t meet_warp(const Request& request) {
    if (skipped(request)) return 0;
    Engine& e = engine();
    const Thread& t = self();
    const int warp = t.number / kWarp;
    const Unordered unordered(request.op != Op::kWarpBarrier);
    std::unique_lock<std::mutex> lock(e.warps[warp].mutex);
    e.block.check_warp_request(t, request);
    if (e.block.failure.happened()) give_up();
    Meeting<kWarp>& group = e.block.group(warp, request.mask);
    const int slot = int(&group - e.block.groups[warp]);
    return meet(e.warps[warp], group, slot, t.lane, __builtin_popcount(request.mask), request, lock);
}

inline void run_block(void (*body)(void*), void* argument, bool) {
    Engine& e = engine();
    std::vector<std::thread> threads;
    for (int t = 0; t < e.block.threads; ++t) {
        threads.emplace_back([=, &e] {
            const unsigned n = unsigned(t), dx = e.block.dim.x, dy = e.block.dim.y;
            self() = {{n % dx, n / dx % dy, n / (dx * dy)}, t, t % kWarp};
            body(argument);
        });
    }
    for (std::thread& thread : threads) thread.join();
}

}  // namespace emulation
