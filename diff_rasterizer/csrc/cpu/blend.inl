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
constexpr int kAhead = 32;       // instances between asking for something and using it
constexpr int kReduceAhead = 8;  // the same, records of the reduction

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

inline const Record& record_of(const BlendArgs& a, uint32_t rank) {
    return *reinterpret_cast<const Record*>(a.records + int64_t(rank) * a.record_stride);
}
inline const float* channels_of(const Record& r) { return reinterpret_cast<const float*>(&r) + kRecordHead; }

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

    // Of each block: transmittance, then the channels. Transmittance is negative where the pixel takes no more
    // Gaussians: no other flag is needed in the loop.
    alignas(64) float state[kTilePixels * (1 + kStore)];
    const int block_floats = Pack::kLanes * (1 + channels);
    int* stop = a.stop + tile_id * kTilePixels;
    const int64_t begin = a.tile_offsets[tile_id];
    const int count_in_tile = int(a.tile_offsets[tile_id + 1] - begin);
    uint64_t alive = 0;
    for (int p = 0; p < kTilePixels * (1 + channels); ++p) state[p] = 0.0f;
    for (int p = 0; p < kTilePixels; ++p) {
        const bool inside = left + pixel_x(p) < a.width && top + pixel_y(p) < a.height;
        state[p / Pack::kLanes * block_floats + p % Pack::kLanes] = inside ? 1.0f : -1.0f;
        stop[p] = inside ? count_in_tile : 0;
        alive |= uint64_t(inside) << p / Pack::kLanes;
    }

    const Pack min_T = broadcast<Pack>(kMinTransmittance), zero = broadcast<Pack>(0.0f);
    const uint32_t* instances = a.instances + begin;
    uint64_t* blocks = a.blocks + begin;
    int end = 0, k = 0;
    int64_t pairs = 0;
    for (; k < count_in_tile && alive; ++k) {
        // Ahead of their use: where a loop over blocks ends is then known before its arithmetic is done.
        if (k % kAhead == 0) {
            const int ahead = gd_min(k + kAhead, count_in_tile);
            for (int i = k; i < ahead; ++i) {
                if (i + kAhead < count_in_tile) __builtin_prefetch(&record_of(a, instances[i + kAhead]));
                const Record& r = record_of(a, instances[i]);
                blocks[i] = touched_blocks(r, r.x - float(left), r.y - float(top), grid);
            }
        }
        const Record& r = record_of(a, instances[k]);
        const float* value = channels_of(r);
        const Splat g(r, r.x - float(left), r.y - float(top));
        uint64_t todo = blocks[k] & alive;
        blocks[k] = todo;
        if (todo) end = k + 1;
        for (; todo; todo &= todo - 1) {
            const int b = __builtin_ctzll(todo);
            const Hit h = hit(g, grid, b);
            const Pack alpha = exp2_bounded(gd_min(h.exponent, g.cap));
            float* block = state + b * block_floats;
            const Pack T_old = load(block), drop = alpha * T_old;
            const Mask goes_on = h.near & (T_old - drop > min_T);
            const Pack weight = keep(goes_on, drop);
            store(block, T_old - weight);
            for (int d = 0; d < channels; ++d) {
                float* c = block + (1 + d) * Pack::kLanes;
                store(c, gd_fma(weight, broadcast<Pack>(value[d]), load(c)));
            }
            if (kCount) pairs += count(goes_on);
            const Mask halted = and_not(h.near, goes_on);
            if (__builtin_expect(any(halted), 0)) {
                const Mask stops = halted & (T_old > zero);
                const Pack T_now = select(stops, zero - T_old, load(block));
                store(block, T_now);
                store_where(stops, stop + b * Pack::kLanes, k);
                if (!any(T_now > zero)) alive &= ~(uint64_t(1) << b);
            }
        }
    }
    for (; k < count_in_tile; ++k) blocks[k] = 0;
    a.tile_end[tile_id] = end;
    if (kCount) a.tile_pairs[tile_id] = pairs;

    float* final_T = a.final_T + tile_id * kTilePixels;
    const float* background = a.backgrounds ? a.backgrounds + int64_t(image) * a.channels : nullptr;
    for (int p = 0; p < kTilePixels; ++p) {
        const int x = left + pixel_x(p), y = top + pixel_y(p);
        const float* lane = state + p / Pack::kLanes * block_floats + p % Pack::kLanes;
        const float t = lane[0] < 0.0f ? -lane[0] : lane[0];
        final_T[p] = t;
        if (x >= a.width || y >= a.height) continue;
        const int64_t pixel = (int64_t(image) * a.height + y) * a.width + x;
        a.alphas[pixel] = 1.0f - t;
        float* out = a.renders + pixel * a.channels;
        for (int d = 0; d < channels; ++d)
            out[d] = lane[(1 + d) * Pack::kLanes] + (background ? t * background[d] : 0.0f);
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

    // Of each block: T, G, then the gradient of the channels.
    alignas(64) float state[kTilePixels * (2 + kStore)];
    const int block_floats = Pack::kLanes * (2 + channels);
    const int* stop = a.stop + tile_id * kTilePixels;
    const float* final_T = a.final_T + tile_id * kTilePixels;
    const float* background = a.backgrounds ? a.backgrounds + int64_t(image) * a.channels : nullptr;
    for (int p = 0; p < kTilePixels; ++p) {
        const int x = left + pixel_x(p), y = top + pixel_y(p);
        const bool inside = x < a.width && y < a.height;
        float* lane = state + p / Pack::kLanes * block_floats + p % Pack::kLanes;
        const int64_t pixel = (int64_t(image) * a.height + y) * a.width + x;
        float through = inside && a.v_alphas ? -a.v_alphas[pixel] : 0.0f;
        for (int d = 0; d < channels; ++d) {
            const float v = inside ? a.v_renders[pixel * a.channels + d] : 0.0f;
            lane[(2 + d) * Pack::kLanes] = v;
            if (background) through += background[d] * v;
        }
        lane[0] = final_T[p];
        lane[Pack::kLanes] = final_T[p] * through;
    }

    const Pack zero = broadcast<Pack>(0.0f), one = broadcast<Pack>(1.0f);
    const Pack clamp_from = broadcast<Pack>(kLog2MaxAlpha);
    const uint32_t* instances = a.instances + begin;
    const uint64_t* blocks = a.blocks + begin;
    for (int k = end - 1; k >= 0; --k) {
        if (k >= kAhead) __builtin_prefetch(&record_of(a, instances[k - kAhead]));
        const Record& r = record_of(a, instances[k]);
        const float* value = channels_of(r);
        const Splat g(r, r.x - float(left), r.y - float(top));
        const bool clamps = r.top > kLog2MaxAlpha;
        Pack s_x = zero, s_y = zero, s_xx = zero, s_xy = zero, s_yy = zero, s_1 = zero, abs_x = zero, abs_y = zero;
        Pack v_value[kStore];
        for (int d = 0; d < channels; ++d) v_value[d] = zero;
        for (uint64_t todo = blocks[k]; todo; todo &= todo - 1) {
            const int b = __builtin_ctzll(todo);
            const Hit h = hit(g, grid, b);
            const Pack alpha = exp2_bounded(gd_min(h.exponent, g.cap));
            const Mask valid = h.near & greater(stop + b * Pack::kLanes, k);
            float* block = state + b * block_floats;
            // T before = T after / (1 - alpha) = T after + weight.
            const Pack odds = keep(valid, quotient(alpha, one - alpha));
            const Pack T_after = load(block), G_old = load(block + Pack::kLanes), weight = odds * T_after;
            Pack dot = zero;
            for (int d = 0; d < channels; ++d) {
                const Pack v_d = load(block + (2 + d) * Pack::kLanes);
                dot = gd_fma(broadcast<Pack>(value[d]), v_d, dot);
                v_value[d] = gd_fma(weight, v_d, v_value[d]);
            }
            store(block, T_after + weight);
            store(block + Pack::kLanes, gd_fma(weight, dot, G_old));
            // alpha dL/dalpha.
            Pack s = odds * gd_fma(T_after, dot, zero - G_old);
            // A clamped alpha does not move with opacity or sigma.
            if (__builtin_expect(clamps, 0)) s = keep(h.exponent <= clamp_from, s);
            const Pack sx = s * h.dx, sy = s * h.dy;
            s_1 = s_1 + s;
            s_x = s_x + sx;
            s_y = s_y + sy;
            s_xx = gd_fma(sx, h.dx, s_xx);
            s_xy = gd_fma(sx, h.dy, s_xy);
            s_yy = gd_fma(sy, h.dy, s_yy);
            if (kAbs) {
                abs_x = abs_x + abs(gd_fma(g.xx + g.xx, sx, g.xy * sy));
                abs_y = abs_y + abs(gd_fma(g.xy, sx, (g.yy + g.yy) * sy));
            }
        }
        float* row = rows + int64_t(k) * a.grad_stride;
        Pack sums[8 + kStore] = {s_x, s_y, s_xx, s_xy, s_yy, s_1};
        int n = 6;
        if (kAbs) sums[n++] = abs_x, sums[n++] = abs_y;
        for (int d = 0; d < channels; ++d) sums[n + d] = v_value[d];
        n += channels;
        int i = 0;
        for (; i + 4 <= n; i += 4) sum4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3], row + i);
        for (; i < n; ++i) row[i] = sum(sums[i]);
    }
}

template <int kChannels>
void forward_all(const BlendArgs& a, int threads) {
    const int64_t tiles = int64_t(a.n_images) * a.tiles_x * a.tiles_y;
    const TileGrid grid;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t t = 0; t < tiles; ++t) {
        if (a.tile_pairs)
            forward_tile<kChannels, true>(a, t, grid);
        else
            forward_tile<kChannels, false>(a, t, grid);
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
template <int kChannels, bool kAbs>
void reduce_instances(const BlendArgs& a, int threads) {
    const int channels = kChannels ? kChannels : a.channels;
    constexpr int kGeometry = kAbs ? 8 : 6;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t rank = 0; rank < a.n_records; ++rank) {
        const Record& r = *reinterpret_cast<const Record*>(a.records + rank * a.record_stride);
        if (rank + kReduceAhead < a.n_records) {
            const int64_t row =
                reinterpret_cast<const Record*>(a.records + (rank + kReduceAhead) * a.record_stride)->row;
            __builtin_prefetch(a.v_means2d + 2 * row, 1);
            __builtin_prefetch(a.v_conics + 3 * row, 1);
            __builtin_prefetch(a.v_opacities + row, 1);
            __builtin_prefetch(a.v_colors + a.channels * row, 1);
            for (int64_t i = a.record_offsets[rank + kReduceAhead]; i < a.record_offsets[rank + kReduceAhead + 1]; ++i)
                __builtin_prefetch(a.v_instances + int64_t(a.positions[i]) * a.grad_stride);
        }
        float total[kGeometry + (kChannels ? kChannels : kMaxChannels)] = {0};
        for (int64_t i = a.record_offsets[rank]; i < a.record_offsets[rank + 1]; ++i) {
            const float* g = a.v_instances + int64_t(a.positions[i]) * a.grad_stride;
            for (int j = 0; j < kGeometry + channels; ++j) total[j] += g[j];
        }
        const int64_t row = r.row;
        // Of the exponent: d/dmean = (2 xx dx + xy dy, xy dx + 2 yy dy) ln 2.
        a.v_means2d[2 * row] = kLn2 * (2.0f * r.xx * total[0] + r.xy * total[1]);
        a.v_means2d[2 * row + 1] = kLn2 * (r.xy * total[0] + 2.0f * r.yy * total[1]);
        a.v_conics[3 * row] = -0.5f * total[2];
        a.v_conics[3 * row + 1] = -total[3];
        a.v_conics[3 * row + 2] = -0.5f * total[4];
        a.v_opacities[row] = total[5] / r.opacity;
        if (kAbs) {
            a.v_means2d_abs[2 * row] = kLn2 * total[6];
            a.v_means2d_abs[2 * row + 1] = kLn2 * total[7];
        }
        for (int d = 0; d < channels; ++d) a.v_colors[row * channels + d] = total[kGeometry + d];
    }
}

template <int kChannels, bool kAbs>
void backward_all(const BlendArgs& a, int threads) {
    const int64_t tiles = int64_t(a.n_images) * a.tiles_x * a.tiles_y;
    const TileGrid grid;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t t = 0; t < tiles; ++t) backward_tile<kChannels, kAbs>(a, t, grid);
    reduce_instances<kChannels, kAbs>(a, threads);
}

template <int kChannels>
void backward_channels(const BlendArgs& a, int threads) {
    if (a.absgrad)
        backward_all<kChannels, true>(a, threads);
    else
        backward_all<kChannels, false>(a, threads);
}

void blend_backward(const BlendArgs& a, int threads) {
    switch (a.channels) {
        case 1:
            return backward_channels<1>(a, threads);
        case 3:
            return backward_channels<3>(a, threads);
        case 4:
            return backward_channels<4>(a, threads);
        default:
            return backward_channels<0>(a, threads);
    }
}

}  // namespace
}  // namespace gd
