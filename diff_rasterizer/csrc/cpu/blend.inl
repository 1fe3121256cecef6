// Front-to-back blending of the Gaussians of each tile, and its gradient. Included once per instruction set.
//
// A thread takes a tile; its pixels live in blocks of Pack::kLanes, 4 pixels wide. The Gaussian is the outer loop, the
// blocks its footprint touches, one bit each, are the inner one: pixel state stays in the first-level cache, and in the
// backward pass a Gaussian's gradient is summed in registers over all blocks and reduced across lanes once.

namespace gd {
namespace {

constexpr int kBlockWidth = 4;
constexpr int kBlockHeight = Pack::kLanes / kBlockWidth;
constexpr int kBlockRows = kTile / kBlockHeight;
constexpr int kBlocks = kTilePixels / Pack::kLanes;

// Where pixel p of the block layout stands in its tile.
inline int pixel_x(int p) { return p / Pack::kLanes / kBlockRows * kBlockWidth + p % Pack::kLanes % kBlockWidth; }
inline int pixel_y(int p) { return p / Pack::kLanes % kBlockRows * kBlockHeight + p % Pack::kLanes / kBlockWidth; }

// Coordinates of pixel centres in a tile, made once per call.
struct TileGrid {
    // Packs that hold the spans of all rows of blocks, and packs that hold all blocks.
    static constexpr int kRowPacks = kBlockRows > Pack::kLanes ? kBlockRows / Pack::kLanes : 1;
    static constexpr int kBlockPacks = kBlocks / Pack::kLanes;
    alignas(64) float x[kTilePixels], y[kTilePixels];
    alignas(64) float first_y[kRowPacks * Pack::kLanes];  // of the rows of blocks, repeated where lanes are left over
    alignas(64) float first_x[kBlocks];                   // of the blocks

    TileGrid() {
        for (int p = 0; p < kTilePixels; ++p) x[p] = float(pixel_x(p)) + 0.5f, y[p] = float(pixel_y(p)) + 0.5f;
        for (int r = 0; r < kRowPacks * Pack::kLanes; ++r) first_y[r] = y[r % kBlockRows * Pack::kLanes];
        for (int b = 0; b < kBlocks; ++b) first_x[b] = x[b * Pack::kLanes];
    }
};

// Blocks of the tile that the Gaussian's footprint touches, block b as bit b; (px, py) is the mean in the tile.
inline uint64_t touched_blocks(const Record& r, float px, float py, const TileGrid& grid) {
    const Pack zero = broadcast<Pack>(0.0f), mean_x = broadcast<Pack>(px), mean_y = broadcast<Pack>(py);
    const Pack height = broadcast<Pack>(float(kBlockHeight - 1)), width = broadcast<Pack>(float(kBlockWidth - 1));
    const Pack extent_y = broadcast<Pack>(r.extent_y);
    const Footprint<Pack> f = {broadcast<Pack>(r.slope), broadcast<Pack>(r.curve), broadcast<Pack>(r.reach),
                               broadcast<Pack>(r.turn), extent_y};
    Pack lo[TileGrid::kRowPacks], hi[TileGrid::kRowPacks];
    Mask meets[TileGrid::kRowPacks];
    for (int i = 0; i < TileGrid::kRowPacks; ++i) {
        const Pack y0 = load(grid.first_y + i * Pack::kLanes) - mean_y, y1 = y0 + height;
        meets[i] = (y0 <= extent_y) & (zero - extent_y <= y1);
        footprint_span(f, y0, y1, zero, &lo[i], &hi[i]);
        // From the first to the last x that a block's own first x may have.
        lo[i] = lo[i] + mean_x - width;
        hi[i] = hi[i] + mean_x;
    }
    uint64_t blocks = 0;
    for (int i = 0; i < TileGrid::kBlockPacks; ++i) {
        const Pack x = load(grid.first_x + i * Pack::kLanes);
        const int row = i % TileGrid::kRowPacks;
        blocks |= uint64_t(bits(meets[row] & (lo[row] <= x) & (x <= hi[row]))) << (i * Pack::kLanes);
    }
    return blocks;
}

// A record spread over lanes, and what both passes compute first for a block.
struct Splat {
    Pack x, y, xx, xy, yy, top, cap;
    bool ellipse;
    Splat(const Record& r, float px, float py)
        : x(broadcast<Pack>(px)),
          y(broadcast<Pack>(py)),
          xx(broadcast<Pack>(r.xx)),
          xy(broadcast<Pack>(r.xy)),
          yy(broadcast<Pack>(r.yy)),
          top(broadcast<Pack>(r.top)),
          cap(broadcast<Pack>(gd_min(r.top, kLog2MaxAlpha))),
          ellipse(r.extent_y < kUnbounded) {}
};

struct Hit {
    Pack dx, dy, exponent;
    Mask near;  // alpha >= 1/255, and sigma >= 0
};

inline Hit hit(const Splat& g, const TileGrid& grid, int block) {
    Hit h;
    h.dx = g.x - load(grid.x + block * Pack::kLanes);
    h.dy = g.y - load(grid.y + block * Pack::kLanes);
    h.exponent = alpha_exponent(g.xx, g.xy, g.yy, g.top, h.dx, h.dy);
    h.near = h.exponent >= broadcast<Pack>(kLog2AlphaThreshold);
    // In an ellipse sigma is negative by rounding only.
    if (__builtin_expect(!g.ellipse, 0)) h.near = h.near & (h.exponent <= g.top);
    return h;
}

template <int kChannels, bool kCount>
void forward_tile(const BlendArgs& a, int64_t tile_id, const TileGrid& grid) {
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
    for (int p = 0; p < kTilePixels; ++p) {
        const bool inside = left + pixel_x(p) < a.width && top + pixel_y(p) < a.height;
        T[p] = inside ? 1.0f : -1.0f;
        stop[p] = inside ? count_in_tile : 0;
        alive |= uint64_t(inside) << p / Pack::kLanes;
    }
    for (int d = 0; d < channels; ++d)
        for (int p = 0; p < kTilePixels; ++p) color[d][p] = 0.0f;

    const Pack min_T = broadcast<Pack>(kMinTransmittance), zero = broadcast<Pack>(0.0f);
    const uint32_t* instances = a.instances + begin;
    int end = 0;
    int64_t pairs = 0;
    for (int k = 0; k < count_in_tile && alive; ++k) {
        if (k + 4 < count_in_tile) __builtin_prefetch(a.records + int64_t(instances[k + 4]) * a.record_stride);
        const float* record = a.records + int64_t(instances[k]) * a.record_stride;
        const Record& r = *reinterpret_cast<const Record*>(record);
        const float* value = record + kRecordHead;
        const float px = r.x - float(left), py = r.y - float(top);
        const Splat g(r, px, py);
        uint64_t todo = touched_blocks(r, px, py, grid) & alive;
        if (todo) end = k + 1;
        for (; todo; todo &= todo - 1) {
            const int b = __builtin_ctzll(todo);
            const Hit h = hit(g, grid, b);
            const Pack alpha = exp2_bounded(gd_min(h.exponent, g.cap));
            float* T_block = T + b * Pack::kLanes;
            const Pack T_old = load(T_block), drop = alpha * T_old;
            const Mask goes_on = h.near & (T_old - drop > min_T);
            const Pack weight = keep(goes_on, drop);
            for (int d = 0; d < channels; ++d) {
                float* c = &color[d][b * Pack::kLanes];
                store(c, fma(weight, broadcast<Pack>(value[d]), load(c)));
            }
            store(T_block, T_old - weight);
            if (kCount) pairs += count(goes_on);
            const Mask halted = and_not(h.near, goes_on);
            if (__builtin_expect(any(halted), 0)) {
                const Mask stops = halted & (T_old > zero);
                const Pack T_now = select(stops, zero - T_old, load(T_block));
                store(T_block, T_now);
                store_where(stops, stop + b * Pack::kLanes, k);
                if (!any(T_now > zero)) alive &= ~(uint64_t(1) << b);
            }
        }
    }
    a.tile_end[tile_id] = end;
    if (kCount) a.tile_pairs[tile_id] = pairs;

    float* final_T = a.final_T + tile_id * kTilePixels;
    const float* background = a.backgrounds ? a.backgrounds + int64_t(image) * a.channels : nullptr;
    for (int p = 0; p < kTilePixels; ++p) {
        const int x = left + pixel_x(p), y = top + pixel_y(p);
        const float t = T[p] < 0.0f ? -T[p] : T[p];
        final_T[p] = t;
        if (x >= a.width || y >= a.height) continue;
        const int64_t pixel = (int64_t(image) * a.height + y) * a.width + x;
        a.alphas[pixel] = 1.0f - t;
        float* out = a.renders + pixel * a.channels;
        for (int d = 0; d < channels; ++d) out[d] = color[d][p] + (background ? t * background[d] : 0.0f);
    }
}

// With v the gradient of a pixel's colour and G what everything behind a Gaussian contributes to dL/dT, including what
// the background and the alpha output receive through the transmittance,
//   dL/dalpha = T (colour . v) - G / (1 - alpha),  T and G rebuilt back to front.
// Per instance: sums over pixels of s dx, s dy, s dx^2, s dx dy, s dy^2, s (s = -dL/dsigma), then the channels.
template <int kChannels, bool kAbs>
void backward_tile(const BlendArgs& a, int64_t tile_id, const TileGrid& grid) {
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
    int block_stop[kBlocks] = {0};
    const int* stop = a.stop + tile_id * kTilePixels;
    const float* final_T = a.final_T + tile_id * kTilePixels;
    const float* background = a.backgrounds ? a.backgrounds + int64_t(image) * a.channels : nullptr;
    for (int p = 0; p < kTilePixels; ++p) {
        const int x = left + pixel_x(p), y = top + pixel_y(p), b = p / Pack::kLanes;
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

    const Pack zero = broadcast<Pack>(0.0f), one = broadcast<Pack>(1.0f);
    const Pack clamp_from = broadcast<Pack>(kLog2MaxAlpha);
    const uint32_t* instances = a.instances + begin;
    for (int k = end - 1; k >= 0; --k) {
        if (k >= 4) __builtin_prefetch(a.records + int64_t(instances[k - 4]) * a.record_stride);
        const float* record = a.records + int64_t(instances[k]) * a.record_stride;
        const Record& r = *reinterpret_cast<const Record*>(record);
        const float* value = record + kRecordHead;
        const float px = r.x - float(left), py = r.y - float(top);
        const Splat g(r, px, py);
        const bool clamps = r.top > kLog2MaxAlpha;
        Pack s_x = zero, s_y = zero, s_xx = zero, s_xy = zero, s_yy = zero, s_1 = zero, abs_x = zero, abs_y = zero;
        Pack v_value[kStore];
        for (int d = 0; d < channels; ++d) v_value[d] = zero;
        for (uint64_t todo = touched_blocks(r, px, py, grid); todo; todo &= todo - 1) {
            const int b = __builtin_ctzll(todo);
            if (k >= block_stop[b]) continue;
            const Hit h = hit(g, grid, b);
            const Pack alpha = exp2_bounded(gd_min(h.exponent, g.cap));
            const Mask valid = h.near & greater(stop + b * Pack::kLanes, k);
            float* T_block = T + b * Pack::kLanes;
            float* G_block = G + b * Pack::kLanes;
            // T before = T after / (1 - alpha) = T after + weight.
            const Pack odds = keep(valid, quotient(alpha, one - alpha));
            const Pack T_after = load(T_block), G_old = load(G_block), weight = odds * T_after;
            Pack dot = zero;
            for (int d = 0; d < channels; ++d) {
                const Pack v_d = load(&v[d][b * Pack::kLanes]);
                dot = fma(broadcast<Pack>(value[d]), v_d, dot);
                v_value[d] = fma(weight, v_d, v_value[d]);
            }
            store(T_block, T_after + weight);
            store(G_block, fma(weight, dot, G_old));
            // alpha dL/dalpha.
            Pack s = odds * fma(T_after, dot, zero - G_old);
            // A clamped alpha does not move with opacity or sigma.
            if (__builtin_expect(clamps, 0)) s = keep(h.exponent <= clamp_from, s);
            const Pack sx = s * h.dx, sy = s * h.dy;
            s_1 = s_1 + s;
            s_x = s_x + sx;
            s_y = s_y + sy;
            s_xx = fma(sx, h.dx, s_xx);
            s_xy = fma(sx, h.dy, s_xy);
            s_yy = fma(sy, h.dy, s_yy);
            if (kAbs) {
                abs_x = abs_x + abs(fma(g.xx + g.xx, sx, g.xy * sy));
                abs_y = abs_y + abs(fma(g.xy, sx, (g.yy + g.yy) * sy));
            }
        }
        float* row = rows + int64_t(k) * a.grad_stride;
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
    const TileGrid grid;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (int64_t t = 0; t < tiles; ++t) {
        if (a.tile_pairs)
            forward_tile<kChannels, true>(a, t, grid);
        else
            forward_tile<kChannels, false>(a, t, grid);
    }
}

template <int kChannels>
void backward_all(const BlendArgs& a, int threads) {
    const int64_t tiles = int64_t(a.n_images) * a.tiles_x * a.tiles_y;
    const TileGrid grid;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (int64_t t = 0; t < tiles; ++t) {
        if (a.absgrad)
            backward_tile<kChannels, true>(a, t, grid);
        else
            backward_tile<kChannels, false>(a, t, grid);
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
        // Of the exponent: d/dmean = (2 xx dx + xy dy, xy dx + 2 yy dy) ln 2.
        a.v_means2d[2 * r.row] += kLn2 * (2.0f * r.xx * total[0] + r.xy * total[1]);
        a.v_means2d[2 * r.row + 1] += kLn2 * (r.xy * total[0] + 2.0f * r.yy * total[1]);
        a.v_conics[3 * r.row] -= 0.5f * total[2];
        a.v_conics[3 * r.row + 1] -= total[3];
        a.v_conics[3 * r.row + 2] -= 0.5f * total[4];
        a.v_opacities[r.row] += total[5] / r.opacity;
        if (a.v_means2d_abs) {
            a.v_means2d_abs[2 * r.row] += kLn2 * total[6];
            a.v_means2d_abs[2 * r.row + 1] += kLn2 * total[7];
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
