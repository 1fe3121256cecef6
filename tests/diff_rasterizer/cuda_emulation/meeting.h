// A meeting: the lanes of a block or of a warp arrive one after the other, and when the last has come each gets its
// result. Barriers, shuffles and ballots are all meetings; how a lane waits is the business of fibers.h or threads.h.
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <string.h>

namespace emulation {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;

enum class Op { kBarrier, kBarrierCount, kBarrierOr, kBarrierAnd, kWarpBarrier, kShuffle, kUp, kDown, kXor, kBallot };

inline const char* op_name(Op op) {
    static const char* const names[] = {
        "__syncthreads", "__syncthreads_count", "__syncthreads_or", "__syncthreads_and", "__syncwarp",
        "__shfl_sync",   "__shfl_up_sync",      "__shfl_down_sync", "__shfl_xor_sync",   "a vote"};
    return names[int(op)];
}

inline bool is_block_wide(Op op) { return op <= Op::kBarrierAnd; }

// What one lane brings.
struct Request {
    Op op;
    uint32_t mask;   // lanes that are expected, for operations of a warp
    uint64_t value;  // bits of the operand
    int source, width;
    const char* file;
    int line;
};

// The message of the first thing that went wrong in a launch; empty when nothing did.
struct Failure {
    char text[512] = "";
    bool happened() const { return text[0] != 0; }
};

template <int kSeats>
class Meeting {
  public:
    bool open() const { return arrived_ > 0; }
    uint32_t mask() const { return first_.mask; }
    const Request& first() const { return first_; }
    int arrived() const { return arrived_; }
    uint64_t result(int seat) const { return results_[seat]; }

    // Returns true when this was the last lane that `expected` named. `who` is for messages.
    bool join(int seat, int expected, const Request& request, Failure& failure) {
        if (arrived_ == 0) {
            first_ = request;
            memset(here_, 0, sizeof(here_));
        } else if (request.op != first_.op || request.line != first_.line || strcmp(request.file, first_.file) != 0) {
            snprintf(failure.text, sizeof(failure.text),
                     "divergent synchronisation: lane %d is at %s (%s:%d) while others wait at %s (%s:%d)", seat,
                     op_name(request.op), request.file, request.line, op_name(first_.op), first_.file, first_.line);
            return true;
        }
        requests_[seat] = request;
        here_[seat] = true;
        if (++arrived_ < expected) return false;
        for (int s = 0; s < kSeats; ++s)
            if (here_[s]) results_[s] = outcome(s, failure);
        arrived_ = 0;
        return true;
    }

  private:
    uint64_t outcome(int seat, Failure& failure) const {
        const Request& r = requests_[seat];
        const int begin = seat / r.width * r.width;
        int source = seat;
        switch (r.op) {
            case Op::kBarrier:
            case Op::kWarpBarrier:
                return 0;
            case Op::kBarrierCount:
            case Op::kBarrierOr:
            case Op::kBarrierAnd: {
                uint64_t count = 0, all = 0;
                for (int s = 0; s < kSeats; ++s)
                    if (here_[s]) ++all, count += requests_[s].value != 0;
                return r.op == Op::kBarrierCount ? count : r.op == Op::kBarrierOr ? count != 0 : count == all;
            }
            case Op::kBallot: {
                uint64_t bits = 0;
                for (int s = 0; s < kSeats; ++s)
                    if (here_[s] && requests_[s].value) bits |= uint64_t(1) << s;
                return bits;
            }
            case Op::kShuffle:
                source = begin + (r.source & (r.width - 1));
                break;
            case Op::kUp:
                source = seat - r.source < begin ? seat : seat - r.source;
                break;
            case Op::kDown:
                source = seat + r.source >= begin + r.width ? seat : seat + r.source;
                break;
            case Op::kXor:
                source = (seat ^ r.source) >= begin + r.width ? seat : seat ^ r.source;
                break;
        }
        if (!here_[source])
            snprintf(failure.text, sizeof(failure.text), "%s (%s:%d): lane %d reads lane %d, which is not in the mask",
                     op_name(r.op), r.file, r.line, seat, source);
        return requests_[source].value;
    }

    Request first_ = {};
    Request requests_[kSeats] = {};
    bool here_[kSeats] = {};
    uint64_t results_[kSeats] = {};
    int arrived_ = 0;
};

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
};

struct Thread {
    Dim3 index;        // threadIdx
    int number, lane;  // in the block, in the warp
};

// State of the block that runs now: blocks run one after the other.
struct Block {
    Dim3 grid, dim, index;
    int threads = 0;
    int arrived_late = 0;
    Failure failure;
    Meeting<kMaxThreads> all;
    // Disjoint groups of a warp's lanes can meet at the same time; at most one group per lane.
    Meeting<kWarp> groups[kMaxThreads / kWarp][kWarp];

    // Finds the group of the warp with this mask, or a free one.
    Meeting<kWarp>& group(int warp, uint32_t mask) {
        Meeting<kWarp>* free = nullptr;
        for (Meeting<kWarp>& g : groups[warp]) {
            if (g.open() && g.mask() == mask) return g;
            if (!g.open() && !free) free = &g;
        }
        return *free;
    }

    // Returns "" or what is wrong with a request of this lane for an operation of its warp.
    void check_warp_request(const Thread& t, const Request& r) {
        if (!(r.mask >> t.lane & 1))
            snprintf(failure.text, sizeof(failure.text), "%s (%s:%d): lane %d is not in its own mask 0x%08x",
                     op_name(r.op), r.file, r.line, t.lane, r.mask);
        else if (r.width < 1 || r.width > kWarp || (r.width & (r.width - 1)))
            snprintf(failure.text, sizeof(failure.text), "%s (%s:%d): width %d is not a power of two up to 32",
                     op_name(r.op), r.file, r.line, r.width);
    }
};

}  // namespace emulation
