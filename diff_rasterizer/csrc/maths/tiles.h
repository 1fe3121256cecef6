// Which 16x16 tiles a Gaussian touches: bounds per axis from its opacity (StopThePop, Radl et al. 2024, section B.2),
// then the exact test whether the largest alpha over the tile's pixel centres reaches 1/255. One tile at a time, so
// that the lanes of a warp can share a Gaussian's tiles; a single thread goes faster row by row, with footprint.h.
#pragma once

#include "config.h"
#include "scalar.h"

namespace gd {

constexpr int kTileSize = 16;

// Rounding of sigma is allowed for: a tile too many costs a little, a tile too few is seen. Far out on a needle sigma
// is the small difference of large terms, so a part of the margin grows with them.
constexpr float kSigmaMargin = 1e-3f;
constexpr float kSigmaRounding = 1e-6f;

struct TileSplat {
    float x, y;               // mean, pixels
    float half_a, b, half_c;  // conic, diagonal halved
    float limit;              // largest sigma that is blended, ln(255 opacity)
};

struct TileRect {
    int x0, y0, x1, y1;  // x0 <= x < x1
};

GD_FN int tile_rect_area(const TileRect& r) { return (r.x1 - r.x0) * (r.y1 - r.y0); }

GD_FN TileSplat make_tile_splat(const float mean[2], const float conic[3], float opacity) {
    return {mean[0], mean[1], 0.5f * conic[0], conic[1], 0.5f * conic[2], gd_log(opacity / kAlphaThreshold)};
}

// a b - c d, correctly rounded but for the last bit: for a needle the two products are almost equal (Kahan's algorithm,
// Jeannerod et al. 2013).
GD_FN float difference_of_products(float a, float b, float c, float d) {
    const float cd = c * d, rounding = gd_fma(-c, d, cd);
    return gd_fma(a, b, -cd) + rounding;
}

// First and last tile along one axis of pixels whose centre lies in [center - extent, center + extent]. The comparison
// happens in float: a pixel beyond int would be undefined.
GD_FN void tile_interval(float center, float extent, int tiles, int* begin, int* end) {
    const float first = gd_floor((center - extent - 0.5f) / kTileSize),
                last = gd_floor((center + extent - 0.5f) / kTileSize);
    *begin = int(gd_min(gd_max(first, 0.0f), float(tiles)));
    *end = int(gd_min(gd_max(last + 1.0f, 0.0f), float(tiles)));
    if (*end < *begin) *end = *begin;
}

GD_FN TileRect tile_rect(const TileSplat& s, int tiles_x, int tiles_y) {
    TileRect r = {0, 0, tiles_x, tiles_y};
    // det of the conic; what is not an ellipse is a candidate everywhere.
    const float det = difference_of_products(4.0f * s.half_a, s.half_c, s.b, s.b);
    if (!(det > 0.0f) || !(s.half_a > 0.0f)) return r;
    const float scale = 2.0f * (s.limit + kSigmaMargin) / det;
    tile_interval(s.x, gd_sqrt(scale * 2.0f * s.half_c) + kSigmaMargin, tiles_x, &r.x0, &r.x1);
    tile_interval(s.y, gd_sqrt(scale * 2.0f * s.half_a) + kSigmaMargin, tiles_y, &r.y0, &r.y1);
    return r;
}

GD_FN bool sigma_within_limit(const TileSplat& s, float x, float y) {
    const float squares = s.half_a * x * x + s.half_c * y * y;
    return squares + s.b * x * y <= s.limit + kSigmaMargin + kSigmaRounding * squares;
}

// A convex quadratic has its minimum over a rectangle at the centre if that is inside, else on an edge that faces it.
GD_FN bool touches_tile(const TileSplat& s, int tile_x, int tile_y) {
    const float left = float(tile_x * kTileSize), top = float(tile_y * kTileSize);
    const float x0 = left + 0.5f - s.x, x1 = left + (kTileSize - 0.5f) - s.x;
    const float y0 = top + 0.5f - s.y, y1 = top + (kTileSize - 0.5f) - s.y;
    const float near_x = gd_min(gd_max(0.0f, x0), x1), near_y = gd_min(gd_max(0.0f, y0), y1);
    if (near_x == 0.0f && near_y == 0.0f) return true;
    if (!(s.half_a > 0.0f) || !(s.half_c > 0.0f)) return true;
    bool touched = false;
    if (near_x != 0.0f) {
        const float y = gd_min(gd_max(-0.5f * s.b * near_x / s.half_c, y0), y1);
        touched = sigma_within_limit(s, near_x, y);
    }
    if (!touched && near_y != 0.0f) {
        const float x = gd_min(gd_max(-0.5f * s.b * near_y / s.half_a, x0), x1);
        touched = sigma_within_limit(s, x, near_y);
    }
    return touched;
}

}  // namespace gd
