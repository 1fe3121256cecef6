// Front-to-back blending of the Gaussians of each tile, and its gradient. Included once per instruction set.
//
// A thread takes a tile; its pixels live in blocks of Pack::kLanes, 4 pixels wide. The Gaussian is the outer loop, the
// blocks its box touches the inner one: pixel state stays in the first-level cache, and in the backward pass a
// Gaussian's gradient is summed in registers over all blocks and reduced across lanes once.

namespace gd {
namespace {

constexpr int kBlockWidth = 4;
constexpr int kBlockHeight = Pack::kLanes / kBlockWidth;
constexpr int kBlockRows = kTile / kBlockHeight;
constexpr int kBlocksAcross = kTile / kBlockWidth;
constexpr int kBlocks = kBlockRows * kBlocksAcross;

struct LaneOffsets {
    Pack x, y;
};

// Centres of a block's pixels relative to the block's corner.
inline LaneOffsets lane_offsets() {
    float x[Pack::kLanes], y[Pack::kLanes];
    for (int lane = 0; lane < Pack::kLanes; ++lane) {
        x[lane] = float(lane % kBlockWidth) + 0.5f;
        y[lane] = float(lane / kBlockWidth) + 0.5f;
    }
    return {load(x), load(y)};
}

struct BlockRange {
    int x0, x1, y0, y1;  // inclusive
};

// Blocks of the tile at (left, top) that the Gaussian's box touches.
inline BlockRange block_range(const Record& r, float left, float top) {
    BlockRange range;
    // Clamped before the conversion: a float beyond int is undefined behaviour.
    const float x0 = gd_max(0.0f, r.x - r.extent_x - 0.5f - left), x1 = gd_min(15.0f, r.x + r.extent_x - 0.5f - left);
    const float y0 = gd_max(0.0f, r.y - r.extent_y - 0.5f - top), y1 = gd_min(15.0f, r.y + r.extent_y - 0.5f - top);
    range.x0 = int(gd_min(x0, 15.0f)) / kBlockWidth;
    range.y0 = int(gd_min(y0, 15.0f)) / kBlockHeight;
    range.x1 = x1 < 0.0f ? -1 : int(x1) / kBlockWidth;
    range.y1 = y1 < 0.0f ? -1 : int(y1) / kBlockHeight;
    return range;
}

// What both passes compute first for a block: offsets from the mean, sigma, and which lanes are near enough.
struct Hit {
    Pack dx, dy, sigma;
    Mask near;
};

struct Splat {
    Pack half_a, b, half_c, opacity, limit;
    explicit Splat(const Record& r)
        : half_a(broadcast<Pack>(r.half_a)),
          b(broadcast<Pack>(r.b)),
          half_c(broadcast<Pack>(r.half_c)),
          opacity(broadcast<Pack>(r.opacity)),
          // A margin for rounding: the threshold itself is tested on alpha.
          limit(broadcast<Pack>(r.limit + 1e-3f)) {}
};

inline Hit hit(const Splat& g, Pack dx, Pack dy) {
    Hit h = {dx, dy, gaussian_exponent(g.half_a, g.b, g.half_c, dx, dy), {}};
    h.near = (h.sigma <= g.limit) & (h.sigma >= broadcast<Pack>(0.0f));
    return h;
}

template <int kChannels, bool kCount>
void forward_tile(const BlendArgs& a, int64_t tile_id, const LaneOffsets& lanes) {
    const int channels = kChannels ? kChannels : a.channels;
    constexpr int kStore = kChannels ? kChannels : kMaxChannels;
    const int tiles = a.tiles_x * a.tiles_y;
    const int image = int(tile_id / tiles), tile = int(tile_id % tiles);
    const int left = tile % a.tiles_x * kTile, top = tile / a.tiles_x * kTile;

    // Transmittance is negative where the pixel takes no more Gaussians: no other flag is needed in the loop.
    alignas(64) float T[kTilePixels];
    alignas(64) float color[kStore][kTilePixels];
    int* stop = a.stop + tile_id * kTilePixels;
    const int64_t begin = a.tile_offsets[tile_id];
    const int count_in_tile = int(a.tile_offsets[tile_id + 1] - begin);
    uint64_t alive = 0;
    for (int b = 0; b < kBlocks; ++b) {
        for (int lane = 0; lane < Pack::kLanes; ++lane) {
            const int x = left + b % kBlocksAcross * kBlockWidth + lane % kBlockWidth;
            const int y = top + b / kBlocksAcross * kBlockHeight + lane / kBlockWidth;
            const bool inside = x < a.width && y < a.height;
            T[b * Pack::kLanes + lane] = inside ? 1.0f : -1.0f;
            stop[b * Pack::kLanes + lane] = inside ? count_in_tile : 0;
            if (inside) alive |= uint64_t(1) << b;
        }
    }
    for (int d = 0; d < channels; ++d)
        for (int p = 0; p < kTilePixels; ++p) color[d][p] = 0.0f;

    const Pack threshold = broadcast<Pack>(kAlphaThreshold), max_alpha = broadcast<Pack>(kMaxAlpha);
    const Pack min_T = broadcast<Pack>(kMinTransmittance), zero = broadcast<Pack>(0.0f);
    const uint32_t* instances = a.instances + begin;
    int end = 0;
    int64_t pairs = 0;
    for (int k = 0; k < count_in_tile && alive; ++k) {
        if (k + 4 < count_in_tile) __builtin_prefetch(a.records + int64_t(instances[k + 4]) * a.record_stride);
        const float* record = a.records + int64_t(instances[k]) * a.record_stride;
        const Record& r = *reinterpret_cast<const Record*>(record);
        const float* value = record + kRecordHead;
        const BlockRange range = block_range(r, float(left), float(top));
        const Splat g(r);
        const Pack dx0 = broadcast<Pack>(r.x - float(left)) - lanes.x;
        const Pack dy0 = broadcast<Pack>(r.y - float(top)) - lanes.y;
        for (int by = range.y0; by <= range.y1; ++by) {
            const Pack dy = dy0 - broadcast<Pack>(float(by * kBlockHeight));
            for (int bx = range.x0; bx <= range.x1; ++bx) {
                const int b = by * kBlocksAcross + bx;
                if (!(alive >> b & 1)) continue;
                const Hit h = hit(g, dx0 - broadcast<Pack>(float(bx * kBlockWidth)), dy);
                if (!any(h.near)) continue;
                const Pack alpha = min(max_alpha, g.opacity * exp_negative(h.sigma));
                const Mask valid = h.near & (alpha >= threshold);
                float* T_block = T + b * Pack::kLanes;
                const Pack T_old = load(T_block);
                const Pack T_new = T_old - T_old * alpha;
                const Mask goes_on = valid & (T_new > min_T);
                const Mask stops = and_not(valid, goes_on) & (T_old > zero);
                if (any(goes_on)) {
                    const Pack weight = keep(goes_on, alpha * T_old);
                    for (int d = 0; d < channels; ++d) {
                        float* c = &color[d][b * Pack::kLanes];
                        store(c, fma(weight, broadcast<Pack>(value[d]), load(c)));
                    }
                    store(T_block, select(goes_on, T_new, T_old));
                    end = k + 1;
                    if (kCount) pairs += count(goes_on);
                }
                if (any(stops)) {
                    const Pack T_now = select(stops, zero - T_old, load(T_block));
                    store(T_block, T_now);
                    store_where(stops, stop + b * Pack::kLanes, k);
                    if (!any(T_now > zero)) alive &= ~(uint64_t(1) << b);
                }
            }
        }
    }
    a.tile_end[tile_id] = end;
    if (kCount) a.tile_pairs[tile_id] = pairs;

    float* final_T = a.final_T + tile_id * kTilePixels;
    const float* background = a.backgrounds ? a.backgrounds + int64_t(image) * a.channels : nullptr;
    for (int p = 0; p < kTilePixels; ++p) {
        const int b = p / Pack::kLanes, lane = p % Pack::kLanes;
        const int x = left + b % kBlocksAcross * kBlockWidth + lane % kBlockWidth;
        const int y = top + b / kBlocksAcross * kBlockHeight + lane / kBlockWidth;
        const float t = T[p] < 0.0f ? -T[p] : T[p];
        final_T[p] = t;
        if (x >= a.width || y >= a.height) continue;
        const int64_t pixel = (int64_t(image) * a.height + y) * a.width + x;
        a.alphas[pixel] = 1.0f - t;
        float* out = a.renders + pixel * a.channels;
        for (int d = 0; d < channels; ++d) out[d] = color[d][p] + (background ? t * background[d] : 0.0f);
    }
}

// Gradients of one tile's instances. With G = sum over later Gaussians of their weight times (colour . v) plus what
// the background and the alpha output receive through the transmittance,
//   dL/dalpha = T (colour . v) - G / (1 - alpha),  T and G rebuilt back to front.
// Per instance: sums over pixels of s dx, s dy, s dx^2, s dx dy, s dy^2, s (s = dL/dsigma), then the channels.
template <int kChannels, bool kAbs>
void backward_tile(const BlendArgs& a, int64_t tile_id, const LaneOffsets& lanes) {
    const int channels = kChannels ? kChannels : a.channels;
    constexpr int kStore = kChannels ? kChannels : kMaxChannels;
    const int tiles = a.tiles_x * a.tiles_y;
    const int image = int(tile_id / tiles), tile = int(tile_id % tiles);
    const int left = tile % a.tiles_x * kTile, top = tile / a.tiles_x * kTile;
    const int64_t begin = a.tile_offsets[tile_id];
    const int count_in_tile = int(a.tile_offsets[tile_id + 1] - begin);
    if (count_in_tile == 0) return;
    const int end = a.tile_end[tile_id];
    float* rows = a.v_instances + begin * a.grad_stride;
    for (int64_t i = int64_t(end) * a.grad_stride; i < int64_t(count_in_tile) * a.grad_stride; ++i) rows[i] = 0.0f;
    if (end == 0) return;

    alignas(64) float T[kTilePixels];
    alignas(64) float G[kTilePixels];
    alignas(64) float v[kStore][kTilePixels];
    int block_stop[kBlocks];
    const int* stop = a.stop + tile_id * kTilePixels;
    const float* final_T = a.final_T + tile_id * kTilePixels;
    const float* background = a.backgrounds ? a.backgrounds + int64_t(image) * a.channels : nullptr;
    for (int b = 0; b < kBlocks; ++b) {
        block_stop[b] = 0;
        for (int lane = 0; lane < Pack::kLanes; ++lane) {
            const int p = b * Pack::kLanes + lane;
            const int x = left + b % kBlocksAcross * kBlockWidth + lane % kBlockWidth;
            const int y = top + b / kBlocksAcross * kBlockHeight + lane / kBlockWidth;
            const bool inside = x < a.width && y < a.height;
            block_stop[b] = gd_max(block_stop[b], gd_min(stop[p], end));
            T[p] = final_T[p];
            const int64_t pixel = (int64_t(image) * a.height + y) * a.width + x;
            float through = inside && a.v_alphas ? -a.v_alphas[pixel] : 0.0f;
            for (int d = 0; d < channels; ++d) {
                v[d][p] = inside ? a.v_renders[pixel * a.channels + d] : 0.0f;
                if (background) through += background[d] * v[d][p];
            }
            G[p] = final_T[p] * through;
        }
    }

    const Pack threshold = broadcast<Pack>(kAlphaThreshold), max_alpha = broadcast<Pack>(kMaxAlpha);
    const Pack zero = broadcast<Pack>(0.0f), one = broadcast<Pack>(1.0f);
    const uint32_t* instances = a.instances + begin;
    for (int k = end - 1; k >= 0; --k) {
        if (k >= 4) __builtin_prefetch(a.records + int64_t(instances[k - 4]) * a.record_stride);
        const float* record = a.records + int64_t(instances[k]) * a.record_stride;
        const Record& r = *reinterpret_cast<const Record*>(record);
        const float* value = record + kRecordHead;
        const BlockRange range = block_range(r, float(left), float(top));
        const Splat g(r);
        const Pack dx0 = broadcast<Pack>(r.x - float(left)) - lanes.x;
        const Pack dy0 = broadcast<Pack>(r.y - float(top)) - lanes.y;
        Pack s_x = zero, s_y = zero, s_xx = zero, s_xy = zero, s_yy = zero, s_1 = zero, abs_x = zero, abs_y = zero;
        Pack v_value[kStore];
        for (int d = 0; d < channels; ++d) v_value[d] = zero;
        bool touched = false;
        for (int by = range.y0; by <= range.y1; ++by) {
            const Pack dy = dy0 - broadcast<Pack>(float(by * kBlockHeight));
            for (int bx = range.x0; bx <= range.x1; ++bx) {
                const int b = by * kBlocksAcross + bx;
                if (k >= block_stop[b]) continue;
                const Hit h = hit(g, dx0 - broadcast<Pack>(float(bx * kBlockWidth)), dy);
                if (!any(h.near)) continue;
                const Pack raw = g.opacity * exp_negative(h.sigma);
                const Pack alpha = min(max_alpha, raw);
                const Mask valid = h.near & (alpha >= threshold) & greater(stop + b * Pack::kLanes, k);
                if (!any(valid)) continue;
                touched = true;
                float* T_block = T + b * Pack::kLanes;
                float* G_block = G + b * Pack::kLanes;
                const Pack T_after = load(T_block), G_old = load(G_block);
                const Pack inv = reciprocal(one - alpha);
                const Pack T_before = T_after * inv;
                const Pack weight = keep(valid, alpha * T_before);
                Pack dot = zero;
                for (int d = 0; d < channels; ++d) {
                    const Pack v_d = load(&v[d][b * Pack::kLanes]);
                    dot = fma(broadcast<Pack>(value[d]), v_d, dot);
                    v_value[d] = fma(weight, v_d, v_value[d]);
                }
                const Pack v_alpha = T_before * dot - G_old * inv;
                store(T_block, select(valid, T_before, T_after));
                store(G_block, fma(weight, dot, G_old));
                // A clamped alpha does not move with opacity or sigma.
                const Pack s = keep(valid & (raw <= max_alpha), zero - alpha * v_alpha);
                const Pack sx = s * h.dx, sy = s * h.dy;
                s_1 = s_1 + s;
                s_x = s_x + sx;
                s_y = s_y + sy;
                s_xx = fma(sx, h.dx, s_xx);
                s_xy = fma(sx, h.dy, s_xy);
                s_yy = fma(sy, h.dy, s_yy);
                if (kAbs) {
                    abs_x = abs_x + abs(fma(g.half_a + g.half_a, sx, g.b * sy));
                    abs_y = abs_y + abs(fma(g.b, sx, (g.half_c + g.half_c) * sy));
                }
            }
        }
        float* row = rows + int64_t(k) * a.grad_stride;
        if (!touched) {
            for (int i = 0; i < a.grad_stride; ++i) row[i] = 0.0f;
            continue;
        }
        row[0] = sum(s_x), row[1] = sum(s_y), row[2] = sum(s_xx), row[3] = sum(s_xy), row[4] = sum(s_yy);
        row[5] = sum(s_1);
        float* rest = row + 6;
        if (kAbs) rest[0] = sum(abs_x), rest[1] = sum(abs_y), rest += 2;
        for (int d = 0; d < channels; ++d) rest[d] = sum(v_value[d]);
    }
}

template <int kChannels>
void forward_all(const BlendArgs& a, int threads) {
    const int64_t tiles = int64_t(a.n_images) * a.tiles_x * a.tiles_y;
    const LaneOffsets lanes = lane_offsets();
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (int64_t t = 0; t < tiles; ++t) {
        if (a.tile_pairs)
            forward_tile<kChannels, true>(a, t, lanes);
        else
            forward_tile<kChannels, false>(a, t, lanes);
    }
}

template <int kChannels>
void backward_all(const BlendArgs& a, int threads) {
    const int64_t tiles = int64_t(a.n_images) * a.tiles_x * a.tiles_y;
    const LaneOffsets lanes = lane_offsets();
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (int64_t t = 0; t < tiles; ++t) {
        if (a.absgrad)
            backward_tile<kChannels, true>(a, t, lanes);
        else
            backward_tile<kChannels, false>(a, t, lanes);
    }
}

void blend_forward(const BlendArgs& a, int threads) {
    switch (a.channels) {
        case 1:
            return forward_all<1>(a, threads);
        case 3:
            return forward_all<3>(a, threads);
        case 4:
            return forward_all<4>(a, threads);
        default:
            return forward_all<0>(a, threads);
    }
}

// Sums each Gaussian's instances in the order of the tiles, so that the result does not depend on the threads.
void reduce_instances(const BlendArgs& a, int threads) {
    const int skip = a.absgrad ? 8 : 6;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t rank = 0; rank < a.n_records; ++rank) {
        const Record& r = *reinterpret_cast<const Record*>(a.records + rank * a.record_stride);
        float total[8] = {0};
        float* v_color = a.v_colors + int64_t(r.row) * a.channels;
        for (int64_t i = a.record_offsets[rank]; i < a.record_offsets[rank + 1]; ++i) {
            const float* g = a.v_instances + int64_t(a.positions[i]) * a.grad_stride;
            for (int j = 0; j < skip; ++j) total[j] += g[j];
            for (int d = 0; d < a.channels; ++d) v_color[d] += g[skip + d];
        }
        const float A = 2.0f * r.half_a, C = 2.0f * r.half_c;
        a.v_means2d[2 * r.row] += A * total[0] + r.b * total[1];
        a.v_means2d[2 * r.row + 1] += r.b * total[0] + C * total[1];
        a.v_conics[3 * r.row] += 0.5f * total[2];
        a.v_conics[3 * r.row + 1] += total[3];
        a.v_conics[3 * r.row + 2] += 0.5f * total[4];
        a.v_opacities[r.row] -= total[5] / r.opacity;
        if (a.v_means2d_abs) {
            a.v_means2d_abs[2 * r.row] += total[6];
            a.v_means2d_abs[2 * r.row + 1] += total[7];
        }
    }
}

void blend_backward(const BlendArgs& a, int threads) {
    switch (a.channels) {
        case 1:
            backward_all<1>(a, threads);
            break;
        case 3:
            backward_all<3>(a, threads);
            break;
        case 4:
            backward_all<4>(a, threads);
            break;
        default:
            backward_all<0>(a, threads);
    }
    reduce_instances(a, threads);
}

}  // namespace
}  // namespace gd
