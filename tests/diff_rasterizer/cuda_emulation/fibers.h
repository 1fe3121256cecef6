// Runs a block's threads as fibers on one OS thread: a lane that waits switches to the scheduler, so a barrier costs
// nanoseconds, and a block in which nobody can go on is seen at once and reported.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "meeting.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

constexpr size_t kStack = 256 * 1024;
// Lies at the end of each stack: one that has overflowed no longer has it. A guard page per stack would be stricter,
// but the stacks of some dozens of libraries would use up the mappings that a process may have.
constexpr uint64_t kCanary = 0x5ca1ab1e0ddba11;

#if defined(__x86_64__)
// Saves the registers that a called function must preserve and the stack pointer, and continues on another stack.
extern "C" __attribute__((visibility("hidden"))) void gd_fiber_switch(void** from, void* to);
asm(R"(
.text
.hidden gd_fiber_switch
.globl gd_fiber_switch
.type gd_fiber_switch, @function
gd_fiber_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size gd_fiber_switch, .-gd_fiber_switch
)");

struct Context {
    void* stack_pointer = nullptr;
    void start(char* stack, void (*entry)()) {
        void** top = reinterpret_cast<void**>(stack + kStack);
        // From the top: padding that aligns the stack as a call would, the entry's return address, six registers.
        top[-2] = reinterpret_cast<void*>(entry);
        for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
        top[-1] = nullptr;
        stack_pointer = top - 8;
    }
};
inline void switch_context(Context& from, Context& to) { gd_fiber_switch(&from.stack_pointer, to.stack_pointer); }
#else
struct Context {
    ucontext_t state;
    void start(char* stack, void (*entry)()) {
        getcontext(&state);
        state.uc_stack.ss_sp = stack;
        state.uc_stack.ss_size = kStack;
        state.uc_link = nullptr;
        makecontext(&state, entry, 0);
    }
};
inline void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
#endif

enum class State { kRunnable, kWaiting, kFinished };

struct Fiber {
    Thread thread;
    Context context;
    State state;
    Request waits_for;
    uint64_t result;
    // Where the result comes from; seats of a warp's group are lanes.
    int warp() const { return thread.number / kWarp; }
};

struct Engine {
    Block block;
    Fiber fibers[kMaxThreads];
    Fiber* current = nullptr;
    Context scheduler;
    char* stacks = nullptr;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
};

inline Engine& engine() {
    static Engine* const instance = new Engine();
    return *instance;
}

inline Thread& self() { return engine().current->thread; }
inline Block& block() { return engine().block; }

inline void leave() {
    Engine& e = engine();
    switch_context(e.current->context, e.scheduler);
}

inline void fiber_main() {
    Engine& e = engine();
    e.body(e.argument);
    e.current->state = State::kFinished;
    leave();
}

template <typename M>
inline uint64_t meet(M& meeting, int seat, int expected, int first_fiber, const Request& request) {
    Engine& e = engine();
    Fiber& me = *e.current;
    me.waits_for = request;
    if (meeting.join(seat, expected, request, e.block.failure)) {
        // A failed launch is given up: its fibers never run again.
        if (e.block.failure.happened()) leave();
        const int seats = is_block_wide(request.op) ? e.block.threads : kWarp;
        for (int s = 0; s < seats; ++s) {
            Fiber& other = e.fibers[first_fiber + s];
            if (!is_block_wide(request.op) && !(request.mask >> s & 1)) continue;
            other.result = meeting.result(s);
            other.state = State::kRunnable;
        }
        return me.result;
    }
    me.state = State::kWaiting;
    leave();
    return me.result;
}

inline uint64_t meet_block(const Request& request) {
    Engine& e = engine();
    return meet(e.block.all, e.current->thread.number, e.block.threads, 0, request);
}

inline uint64_t meet_warp(const Request& request) {
    Engine& e = engine();
    Fiber& me = *e.current;
    e.block.check_warp_request(me.thread, request);
    if (e.block.failure.happened()) leave();
    return meet(e.block.group(me.warp(), request.mask), me.thread.lane, __builtin_popcount(request.mask),
                me.warp() * kWarp, request);
}

// Describes who waits where when nobody can run.
inline void report_deadlock(Engine& e) {
    int finished = 0, example = -1;
    for (int t = 0; t < e.block.threads; ++t) {
        if (e.fibers[t].state == State::kFinished) ++finished;
        if (e.fibers[t].state == State::kWaiting && example < 0) example = t;
    }
    const Request& r = e.fibers[example].waits_for;
    int same = 0;
    for (int t = 0; t < e.block.threads; ++t)
        same += e.fibers[t].state == State::kWaiting && e.fibers[t].waits_for.line == r.line;
    snprintf(e.block.failure.text, sizeof(e.block.failure.text),
             "deadlock in block (%u, %u, %u): %d of %d threads wait at %s (%s:%d), thread %d first, %d wait elsewhere, "
             "%d have left the kernel",
             e.block.index.x, e.block.index.y, e.block.index.z, same, e.block.threads, op_name(r.op), r.file, r.line,
             example, e.block.threads - finished - same, finished);
}

inline void check_stacks(Engine& e) {
    for (int t = 0; t < e.block.threads; ++t) {
        if (memcmp(e.stacks + t * kStack, &kCanary, sizeof(kCanary)) == 0) continue;
        snprintf(e.block.failure.text, sizeof(e.block.failure.text), "thread %d has overflowed its stack of %d bytes",
                 t, int(kStack));
        return;
    }
}

// Runs body(argument) in every thread of one block. Threads take turns in ascending order, or in descending order with
// `reverse`: a result that depends on it comes from a missing barrier.
inline void run_block(void (*body)(void*), void* argument, bool reverse) {
    Engine& e = engine();
    if (!e.stacks) {
        // One more than there are threads, for the first to overflow into.
        void* const memory = mmap(nullptr, kStack * (kMaxThreads + 1), PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            snprintf(e.block.failure.text, sizeof(e.block.failure.text), "no memory for the stacks of a block");
            return;
        }
        e.stacks = static_cast<char*>(memory) + kStack;
    }
    e.body = body, e.argument = argument;
    e.block.all = Meeting<kMaxThreads>();
    for (auto& warp : e.block.groups)
        for (auto& group : warp)
            if (group.open()) group = Meeting<kWarp>();
    for (int t = 0; t < e.block.threads; ++t) {
        Fiber& f = e.fibers[t];
        const unsigned n = unsigned(t);
        f.thread.index = {n % e.block.dim.x, n / e.block.dim.x % e.block.dim.y, n / (e.block.dim.x * e.block.dim.y)};
        f.thread.number = t, f.thread.lane = t % kWarp;
        f.state = State::kRunnable;
        char* const stack = e.stacks + t * kStack;
        memcpy(stack, &kCanary, sizeof(kCanary));
        f.context.start(stack, fiber_main);
    }
    for (;;) {
        bool progress = false, unfinished = false;
        for (int i = 0; i < e.block.threads; ++i) {
            Fiber& f = e.fibers[reverse ? e.block.threads - 1 - i : i];
            if (f.state == State::kRunnable) {
                e.current = &f;
                switch_context(e.scheduler, f.context);
                if (e.block.failure.happened()) return;
                progress = true;
            }
            unfinished |= f.state != State::kFinished;
        }
        if (!unfinished) return check_stacks(e);
        if (!progress) return report_deadlock(e);
    }
}

}  // namespace emulation
