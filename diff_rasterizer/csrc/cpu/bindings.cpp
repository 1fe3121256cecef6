// The extension module diff_rasterizer._cpu: arrays in, kernels run without the GIL, arrays filled in place.
// Shapes are checked here, because a wrong one would read out of bounds; meaning is checked in Python.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "../maths/config.h"
#include "../maths/covariance.h"
#include "../maths/projection.h"
#include "../maths/spherical_harmonics.h"
#include "binning.h"
#include "dispatch.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace nb = nanobind;

namespace gd {
namespace {

using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<int32_t, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<double, nb::c_contig, nb::device::cpu>;
template <typename A>
using Maybe = std::optional<A>;

template <typename A>
auto* checked(const A& array, int64_t size, const char* name) {
    if (static_cast<int64_t>(array.size()) != size)
        throw std::invalid_argument(std::string(name) + " must have " + std::to_string(size) + " elements, got " +
                                    std::to_string(array.size()));
    return array.data();
}
template <typename A>
auto* checked(const Maybe<A>& array, int64_t size, const char* name) {
    return array ? checked(*array, size, name) : nullptr;
}

int checked_range(int value, int least, int most, const char* name) {
    if (value < least || value > most)
        throw std::invalid_argument(std::string(name) + " must be " + std::to_string(least) + " to " +
                                    std::to_string(most) + ", got " + std::to_string(value));
    return value;
}
int checked_threads(int threads) { return checked_range(threads, 1, 1024, "threads"); }
constexpr int kMaxSide = 1 << 26;  // pixels; far from where a side times a few bytes leaves 32 bits

// Rows and tiles are counted in 32 bits; with this, pixels fit into 64.
void check_counts(int64_t rows, int n_images, int width, int height) {
    checked_range(width, 1, kMaxSide, "width"), checked_range(height, 1, kMaxSide, "height");
    checked_range(n_images, 0, std::numeric_limits<int>::max(), "n_images");
    constexpr int64_t kMost = int64_t(1) << 31;
    const int64_t tiles = int64_t((width + kTile - 1) / kTile) * ((height + kTile - 1) / kTile);
    if (rows >= kMost)
        throw std::length_error("rows must be fewer than 2^31, got " + std::to_string(rows) + "; use fewer Gaussians");
    if (tiles >= kMost || tiles * n_images >= kMost)
        throw std::length_error("width, height and n_images must give fewer than 2^31 tiles of 16 pixels; use less");
}

ProjectArgs project_args(const Floats& means, const Maybe<Floats>& quats, const Maybe<Floats>& scales,
                         const Maybe<Floats>& covars, const Maybe<Floats>& opacities, const Floats& viewmats,
                         const Floats& Ks, int width, int height, int camera_model, float eps2d, float near_plane,
                         float far_plane, float radius_clip, const Ints& radii, const Floats& means2d,
                         const Floats& depths, const Floats& conics, const Maybe<Floats>& compensations) {
    if (means.ndim() != 3 || viewmats.ndim() != 4)
        throw std::invalid_argument("means must be [B, N, 3], viewmats [B, C, 4, 4]");
    if (!covars && (!quats || !scales)) throw std::invalid_argument("either covars or quats and scales");
    ProjectArgs a = {};
    a.B = means.shape(0), a.N = means.shape(1), a.C = viewmats.shape(1);
    const int64_t rows = a.B * a.N, out = a.B * a.C * a.N;
    a.means = checked(means, 3 * rows, "means");
    a.quats = checked(quats, 4 * rows, "quats");
    a.scales = checked(scales, 3 * rows, "scales");
    a.covars = checked(covars, 6 * rows, "covars");
    a.opacities = checked(opacities, rows, "opacities");
    a.viewmats = checked(viewmats, 16 * a.B * a.C, "viewmats");
    a.Ks = checked(Ks, 9 * a.B * a.C, "Ks");
    a.width = checked_range(width, 1, kMaxSide, "width"), a.height = checked_range(height, 1, kMaxSide, "height");
    a.camera_model = checked_range(camera_model, 0, 2, "camera_model");
    a.eps2d = eps2d, a.near_plane = near_plane, a.far_plane = far_plane, a.radius_clip = radius_clip;
    a.compensate = compensations.has_value();
    a.radii = checked(radii, 2 * out, "radii");
    a.means2d = checked(means2d, 2 * out, "means2d");
    a.depths = checked(depths, out, "depths");
    a.conics = checked(conics, 3 * out, "conics");
    a.compensations = checked(compensations, out, "compensations");
    return a;
}

ColorArgs color_args(int degree, const Floats& means, const Floats& campos, const Floats& coeffs,
                     const Maybe<Ints>& radii, const Floats& colors) {
    if (means.ndim() != 3 || campos.ndim() != 3 || (coeffs.ndim() != 4 && coeffs.ndim() != 5))
        throw std::invalid_argument("means must be [B, N, 3], campos [B, C, 3], coeffs [B, (C,) N, K, 3]");
    ColorArgs a = {};
    a.B = means.shape(0), a.N = means.shape(1), a.C = campos.shape(1);
    a.per_camera = coeffs.ndim() == 5;
    a.K = static_cast<int>(coeffs.shape(coeffs.ndim() - 2)), a.degree = degree;
    if (degree < 0 || degree > 4 || (degree + 1) * (degree + 1) > a.K)
        throw std::invalid_argument("sh degree must be 0..4 and fit the coefficients");
    a.means = checked(means, 3 * a.B * a.N, "means");
    a.campos = checked(campos, 3 * a.B * a.C, "campos");
    a.coeffs = checked(coeffs, 3 * a.K * a.B * a.N * (a.per_camera ? a.C : 1), "coeffs");
    a.radii = checked(radii, 2 * a.B * a.C * a.N, "radii");
    a.colors = checked(colors, 3 * a.B * a.C * a.N, "colors");
    return a;
}

// What the backward pass of one blending needs: sizes, and arrays that `args` points to. They are this state's own, or
// lie in the caller's bytes.
struct BlendState {
    BlendArgs args = {};
    int64_t rows = 0, n_instances = 0;
    Bins bins;
    Buffer<float> final_T;
    Buffer<int> stop, tile_end;
    Buffer<uint64_t> blocks;
};

// The state as bytes, so that it can be a tensor between two operators: the sizes, then each array at a multiple of 64.
struct BlendSizes {
    int64_t rows, n_images, width, height, channels, record_stride, n_records, n_instances;
};
constexpr int64_t kSection = 64;
static_assert(sizeof(BlendSizes) == kSection);

// Calls f(pointer, count) for every array of a state, in the order of the bytes.
template <typename F>
void for_each_array(BlendArgs& a, const BlendSizes& s, F f) {
    const int64_t tiles = int64_t(a.n_images) * a.tiles_x * a.tiles_y;
    f(a.records, s.n_records * s.record_stride);
    f(a.instances, s.n_instances);
    f(a.tile_offsets, tiles + 1);
    f(a.record_offsets, s.n_records + 1);
    f(a.positions, s.n_instances);
    f(a.blocks, s.n_instances);
    f(a.final_T, tiles * kTilePixels);
    f(a.stop, tiles * kTilePixels);
    f(a.tile_end, tiles);
}

BlendSizes sizes_of(const BlendState& state) {
    const BlendArgs& a = state.args;
    return {state.rows, a.n_images, a.width, a.height, a.channels, a.record_stride, a.n_records, state.n_instances};
}

int64_t section_bytes(int64_t count, size_t element) {
    return (count * int64_t(element) + kSection - 1) / kSection * kSection;
}

int64_t state_bytes(const BlendState& state) {
    int64_t total = kSection;
    BlendArgs a = state.args;
    for_each_array(a, sizes_of(state), [&](auto* array, int64_t n) { total += section_bytes(n, sizeof(*array)); });
    return total;
}

void write_state(const BlendState& state, const Bytes& bytes) {
    uint8_t* out = checked(bytes, state_bytes(state), "bytes");
    const BlendSizes sizes = sizes_of(state);
    BlendArgs a = state.args;
    nb::gil_scoped_release release;
    memcpy(out, &sizes, sizeof(sizes));
    out += kSection;
    float* const records = reinterpret_cast<float*>(out);
    for_each_array(a, sizes, [&](auto* array, int64_t n) {
        const int64_t used = n * int64_t(sizeof(*array)), whole = section_bytes(n, sizeof(*array));
        memcpy(out, array, used);
        memset(out + used, 0, whole - used);
        out += whole;
    });
    // The padding of a record was never written: equal inputs must give equal bytes.
    const int head = kRecordHead + a.channels;
    for (int64_t rank = 0; rank < a.n_records; ++rank)
        memset(records + rank * a.record_stride + head, 0, sizeof(float) * (a.record_stride - head));
}

template <typename T>
bool increases_to(const T* offsets, int64_t count, int64_t total) {
    bool good = offsets[0] == 0 && int64_t(offsets[count]) == total;
    for (int64_t i = 0; i < count; ++i) good &= offsets[i] <= offsets[i + 1];
    return good;
}
template <typename T>
bool all_below(const T* values, int64_t count, uint64_t limit) {
    bool good = true;
    for (int64_t i = 0; i < count; ++i) good &= values[i] < limit;
    return good;
}

// Whether every index the backward pass follows stays inside its array.
bool consistent(const BlendState& state) {
    const BlendArgs& a = state.args;
    const int64_t tiles = int64_t(a.n_images) * a.tiles_x * a.tiles_y;
    if (!increases_to(a.tile_offsets, tiles, state.n_instances)) return false;
    if (!increases_to(a.record_offsets, a.n_records, state.n_instances)) return false;
    const int blocks = kTilePixels / kernels().lanes;
    if (blocks < 64 && !all_below(a.blocks, state.n_instances, uint64_t(1) << blocks)) return false;
    bool good = all_below(a.instances, state.n_instances, a.n_records) &&
                all_below(a.positions, state.n_instances, state.n_instances);
    for (int64_t tile = 0; tile < tiles; ++tile)
        good &= a.tile_end[tile] >= 0 && a.tile_end[tile] <= a.tile_offsets[tile + 1] - a.tile_offsets[tile];
    for (int64_t rank = 0; rank < a.n_records; ++rank) {
        const int64_t row = reinterpret_cast<const Record*>(a.records + rank * a.record_stride)->row;
        good &= row >= 0 && row < state.rows;
    }
    return good;
}

// Checked to the last index: the bytes may come from anybody.
BlendState* read_state(const Bytes& bytes, int64_t rows, int n_images, int width, int height, int channels) {
    const auto refuse = [](const char* why) {
        throw std::invalid_argument(std::string("these bytes are not the state of this blending: ") + why);
    };
    uint8_t* in = bytes.data();
    const int64_t available = static_cast<int64_t>(bytes.size());
    if (available < kSection) refuse("too few");
    if (reinterpret_cast<uintptr_t>(in) % kSection) refuse("not aligned to 64 bytes");
    BlendSizes s;
    memcpy(&s, in, sizeof(s));
    if (s.rows != rows || s.n_images != n_images || s.width != width || s.height != height || s.channels != channels)
        refuse("another size");
    constexpr int64_t kMost = int64_t(1) << 32;
    if (s.n_records < 0 || s.n_records > rows || s.n_instances < 0 || s.n_instances >= kMost ||
        s.record_stride < kRecordHead + channels || s.record_stride > kRecordHead + 2 * kMaxChannels)
        refuse("impossible counts");
    check_counts(rows, n_images, width, height);
    auto state = std::make_unique<BlendState>();
    state->rows = rows, state->n_instances = s.n_instances;
    BlendArgs& a = state->args;
    a.n_images = n_images, a.width = width, a.height = height, a.channels = channels;
    a.tiles_x = (width + kTile - 1) / kTile, a.tiles_y = (height + kTile - 1) / kTile;
    a.record_stride = int(s.record_stride), a.n_records = s.n_records;
    if (state_bytes(*state) != available) refuse("another length");
    in += kSection;
    for_each_array(a, s, [&](auto*& array, int64_t n) {
        array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(in);
        in += section_bytes(n, sizeof(*array));
    });
    if (!consistent(*state)) refuse("an index out of range");
    return state.release();
}

BlendState* blend_forward_py(const Floats& means2d, const Floats& conics, const Floats& colors, const Floats& opacities,
                             const Floats& depths, const Ints& radii, const Ints& image_ids, int n_images, int width,
                             int height, const Maybe<Floats>& backgrounds, const Floats& renders, const Floats& alphas,
                             const Maybe<nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>>& pairs, int threads) {
    if (colors.ndim() != 2) throw std::invalid_argument("colors must be [E, channels]");
    const int64_t rows = colors.shape(0), channels = colors.shape(1);
    if (channels < 1 || channels > kMaxChannels) throw std::invalid_argument("1 to 32 channels at a time");
    checked_threads(threads);
    check_counts(rows, n_images, width, height);
    BinningInput in = {};
    in.rows = rows, in.n_images = n_images, in.width = width, in.height = height,
    in.channels = static_cast<int>(channels);
    in.means2d = checked(means2d, 2 * rows, "means2d");
    in.conics = checked(conics, 3 * rows, "conics");
    in.opacities = checked(opacities, rows, "opacities");
    in.depths = checked(depths, rows, "depths");
    in.radii = checked(radii, 2 * rows, "radii");
    in.image_ids = checked(image_ids, rows, "image_ids");
    in.colors = colors.data(), in.color_stride = channels;
    const int64_t pixels = int64_t(width) * height * n_images;
    float* out_renders = checked(renders, pixels * channels, "renders");
    float* out_alphas = checked(alphas, pixels, "alphas");
    const float* in_backgrounds = checked(backgrounds, int64_t(n_images) * channels, "backgrounds");
    int64_t* out_pairs = checked(pairs, 1, "pairs");
    auto state = std::make_unique<BlendState>();
    {
        nb::gil_scoped_release release;
        state->rows = rows;
        state->bins = bin_gaussians(in, threads);
        state->n_instances = state->bins.n_instances;
        const int64_t tiles = int64_t(n_images) * state->bins.tiles_x * state->bins.tiles_y;
        state->final_T = Buffer<float>(tiles * kTilePixels);
        state->stop = Buffer<int>(tiles * kTilePixels);
        state->tile_end = Buffer<int>(tiles);
        state->blocks = Buffer<uint64_t>(state->n_instances);
        Buffer<int64_t> tile_pairs;
        BlendArgs& a = state->args;
        a.n_images = n_images, a.width = width, a.height = height, a.channels = in.channels;
        a.tiles_x = state->bins.tiles_x, a.tiles_y = state->bins.tiles_y;
        a.records = state->bins.records.data(), a.record_stride = state->bins.record_stride;
        a.instances = state->bins.instances.data(), a.tile_offsets = state->bins.tile_offsets.data();
        a.backgrounds = in_backgrounds, a.renders = out_renders, a.alphas = out_alphas;
        a.final_T = state->final_T.data(), a.stop = state->stop.data(), a.tile_end = state->tile_end.data();
        a.blocks = state->blocks.data();
        a.n_records = state->bins.n_records;
        a.record_offsets = state->bins.record_offsets.data(), a.positions = state->bins.positions.data();
        if (out_pairs) {
            tile_pairs = Buffer<int64_t>(tiles);
            a.tile_pairs = tile_pairs.data();
        }
        kernels().blend_forward(a, threads);
        if (out_pairs) {
            int64_t total = 0;
            for (int64_t t = 0; t < tiles; ++t) total += tile_pairs[t];
            *out_pairs = total;
        }
        // The caller's arrays may be gone by the time of the backward pass.
        a.backgrounds = nullptr, a.renders = nullptr, a.alphas = nullptr, a.tile_pairs = nullptr;
    }
    return state.release();
}

void blend_backward_py(const BlendState& state, const Maybe<Floats>& backgrounds, const Floats& v_renders,
                       const Maybe<Floats>& v_alphas, const Floats& v_means2d, const Maybe<Floats>& v_means2d_abs,
                       const Floats& v_conics, const Floats& v_colors, const Floats& v_opacities, int threads) {
    BlendArgs a = state.args;
    checked_threads(threads);
    const int64_t pixels = int64_t(a.n_images) * a.width * a.height;
    a.backgrounds = checked(backgrounds, int64_t(a.n_images) * a.channels, "backgrounds");
    a.v_renders = checked(v_renders, pixels * a.channels, "v_renders");
    a.v_alphas = checked(v_alphas, pixels, "v_alphas");
    a.v_means2d = checked(v_means2d, 2 * state.rows, "v_means2d");
    a.v_means2d_abs = checked(v_means2d_abs, 2 * state.rows, "v_means2d_abs");
    a.v_conics = checked(v_conics, 3 * state.rows, "v_conics");
    a.v_colors = checked(v_colors, a.channels * state.rows, "v_colors");
    a.v_opacities = checked(v_opacities, state.rows, "v_opacities");
    a.absgrad = a.v_means2d_abs != nullptr;
    a.grad_stride = 6 + (a.absgrad ? 2 : 0) + a.channels;
    nb::gil_scoped_release release;
    const Buffer<float> v_instances(state.n_instances * a.grad_stride);
    a.v_instances = v_instances.data();
    kernels().blend_backward(a, threads);
}

// The maths headers in double precision, one Gaussian at a time: tests compare them with finite differences.
using DoubleIn = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;

void project_one_double(const DoubleIn& mean, const DoubleIn& quat, const DoubleIn& scale, const DoubleIn& viewmat,
                        const DoubleIn& K, int width, int height, int camera_model, double eps2d, const Doubles& out,
                        const Maybe<DoubleIn>& v_out, const Maybe<Doubles>& v_in) {
    checked_range(width, 1, kMaxSide, "width"), checked_range(height, 1, kMaxSide, "height");
    checked_range(camera_model, 0, 2, "camera_model");
    ProjectionCamera<double> camera;
    make_projection_camera(checked(viewmat, 16, "viewmat"), checked(K, 9, "K"), double(width), double(height),
                           camera_model, &camera);
    double cov[6];
    Projected<double> p;
    const ProjectionLimits<double> limits = {eps2d, 0.01, 1e10, 0.0};
    if (!covariance(checked(quat, 4, "quat"), checked(scale, 3, "scale"), cov) ||
        !project(camera, limits, checked(mean, 3, "mean"), cov, -1.0, true, &p))
        throw std::invalid_argument("the Gaussian is culled");
    double* o = checked(out, 7, "out");
    o[0] = p.mean[0], o[1] = p.mean[1], o[2] = p.depth, o[6] = p.compensation;
    for (int k = 0; k < 3; ++k) o[3 + k] = p.conic[k];
    if (!v_out || !v_in) return;
    const double* v = checked(*v_out, 7, "v_out");
    double* g = checked(*v_in, 22, "v_in");  // mean 3, quat 4, scale 3, rotation 9, translation 3
    for (int k = 0; k < 22; ++k) g[k] = 0.0;
    double v_cov[6] = {0};
    project_backward(camera, eps2d, mean.data(), cov, p.conic, p.compensation, v, v[2], v + 3, v[6], g, v_cov, g + 10,
                     g + 19);
    covariance_backward(quat.data(), scale.data(), v_cov, g + 3, g + 7);
}

void sh_bases_double(int degree, const DoubleIn& direction, const Doubles& bases, const DoubleIn& weights,
                     const Doubles& v_direction) {
    checked_range(degree, 0, 4, "degree");
    const double* u = checked(direction, 3, "direction");
    const int64_t count = int64_t(degree + 1) * (degree + 1);
    sh_bases(degree, u[0], u[1], u[2], checked(bases, count, "bases"));
    double* v = checked(v_direction, 3, "v_direction");
    v[0] = v[1] = v[2] = 0.0;
    sh_bases_backward(degree, u[0], u[1], u[2], checked(weights, count, "weights"), v);
}

SsimArgs ssim_args(const Floats& image, const Maybe<Floats>& target, const Maybe<Bytes>& target_u8, bool valid) {
    if (image.ndim() != 4) throw std::invalid_argument("images must be [I, H, W, C]");
    SsimArgs a = {};
    a.images = image.shape(0), a.height = static_cast<int>(image.shape(1));
    a.width = static_cast<int>(image.shape(2)), a.channels = static_cast<int>(image.shape(3));
    const int64_t size = static_cast<int64_t>(image.size());
    if (size == 0) throw std::invalid_argument("images must have pixels");
    if (valid && (a.height < 11 || a.width < 11)) throw std::invalid_argument("valid needs 11x11 pixels");
    a.image = image.data();
    a.target = checked(target, size, "target");
    a.target_u8 = checked(target_u8, size, "target");
    if (!a.target == !a.target_u8) throw std::invalid_argument("one target, float32 or uint8");
    a.valid = valid;
    return a;
}

int64_t partials_size(const SsimArgs& a) { return a.images * 3 * a.height * ssim_padded_row(a.width, a.channels); }

}  // namespace
}  // namespace gd

NB_MODULE(_cpu, m) {
    using namespace gd;
    using namespace nb::literals;
    // Autograd graphs that live until the interpreter ends would be reported as leaks.
    nb::set_leak_warnings(false);

    m.def("instruction_sets", &usable_instruction_sets, "Instruction sets this processor can run, best first.");
    m.def("instruction_set", [] { return std::string(kernels().name); }, "The instruction set in use.");
    m.def("use_instruction_set", &use_instruction_set, "name"_a, "Switches the kernels of this process.");
    m.def("has_openmp", [] {
#if defined(_OPENMP)
        return true;
#else
        return false;
#endif
    });

    m.def(
        "project_forward",
        [](const Floats& means, const Maybe<Floats>& quats, const Maybe<Floats>& scales, const Maybe<Floats>& covars,
           const Maybe<Floats>& opacities, const Floats& viewmats, const Floats& Ks, int width, int height,
           int camera_model, float eps2d, float near_plane, float far_plane, float radius_clip, const Ints& radii,
           const Floats& means2d, const Floats& depths, const Floats& conics, const Maybe<Floats>& compensations,
           int threads) {
            const ProjectArgs a =
                project_args(means, quats, scales, covars, opacities, viewmats, Ks, width, height, camera_model, eps2d,
                             near_plane, far_plane, radius_clip, radii, means2d, depths, conics, compensations);
            checked_threads(threads);
            nb::gil_scoped_release release;
            kernels().project_forward(a, threads);
        },
        nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(),
        nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
        nb::arg(), nb::arg().none(), nb::arg());

    m.def(
        "project_backward",
        [](const Floats& means, const Maybe<Floats>& quats, const Maybe<Floats>& scales, const Maybe<Floats>& covars,
           const Floats& viewmats, const Floats& Ks, int width, int height, int camera_model, float eps2d,
           const Ints& radii, const Floats& means2d, const Floats& depths, const Floats& conics,
           const Maybe<Floats>& compensations, const Floats& v_means2d, const Floats& v_depths, const Floats& v_conics,
           const Maybe<Floats>& v_compensations, const Floats& v_means, const Maybe<Floats>& v_quats,
           const Maybe<Floats>& v_scales, const Maybe<Floats>& v_covars, const Floats& v_viewmats, int threads) {
            ProjectArgs a =
                project_args(means, quats, scales, covars, std::nullopt, viewmats, Ks, width, height, camera_model,
                             eps2d, 0.0f, 0.0f, 0.0f, radii, means2d, depths, conics, compensations);
            const int64_t rows = a.B * a.N, out = rows * a.C, chunks = (a.N + kChunk - 1) / kChunk;
            a.v_means2d = checked(v_means2d, 2 * out, "v_means2d");
            a.v_depths = checked(v_depths, out, "v_depths");
            a.v_conics = checked(v_conics, 3 * out, "v_conics");
            a.v_compensations = checked(v_compensations, out, "v_compensations");
            a.v_means = checked(v_means, 3 * rows, "v_means");
            a.v_quats = checked(v_quats, 4 * rows, "v_quats");
            a.v_scales = checked(v_scales, 3 * rows, "v_scales");
            a.v_covars = checked(v_covars, 6 * rows, "v_covars");
            a.v_viewmats = checked(v_viewmats, a.B * chunks * a.C * 12, "v_viewmats");
            if (!v_covars && (!v_quats || !v_scales)) throw std::invalid_argument("nowhere to put gradients");
            checked_threads(threads);
            nb::gil_scoped_release release;
            kernels().project_backward(a, threads);
        },
        nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
        nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg(),
        nb::arg(), nb::arg().none(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(),
        nb::arg());

    m.def(
        "colors_forward",
        [](int degree, const Floats& means, const Floats& campos, const Floats& coeffs, const Maybe<Ints>& radii,
           const Floats& colors, int threads) {
            const ColorArgs a = color_args(degree, means, campos, coeffs, radii, colors);
            checked_threads(threads);
            nb::gil_scoped_release release;
            kernels().colors_forward(a, threads);
        },
        nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg());

    m.def("colors_backward", [](int degree, const Floats& means, const Floats& campos, const Floats& coeffs,
                                const Floats& colors, const Floats& v_colors, const Floats& v_coeffs,
                                const Floats& v_means, const Floats& v_campos, int threads) {
        ColorArgs a = color_args(degree, means, campos, coeffs, std::nullopt, colors);
        const int64_t chunks = (a.N + kChunk - 1) / kChunk;
        a.v_colors = checked(v_colors, 3 * a.B * a.C * a.N, "v_colors");
        a.v_coeffs = checked(v_coeffs, static_cast<int64_t>(coeffs.size()), "v_coeffs");
        a.v_means = checked(v_means, 3 * a.B * a.N, "v_means");
        a.v_campos = checked(v_campos, 3 * a.B * chunks * a.C, "v_campos");
        checked_threads(threads);
        nb::gil_scoped_release release;
        kernels().colors_backward(a, threads);
    });
    m.attr("CHUNK") = kChunk;
    m.attr("MAX_CHANNELS") = kMaxChannels;

    nb::class_<BlendState>(m, "BlendState", "What blending keeps for its backward pass.")
        .def_prop_ro("n_visible", [](const BlendState& s) { return s.args.n_records; })
        .def_prop_ro("n_instances", [](const BlendState& s) { return s.n_instances; })
        .def_prop_ro("n_bytes", &state_bytes)
        .def("write", &write_state, "bytes"_a, "Copies the state into `n_bytes` bytes.")
        .def_static("read", &read_state, "bytes"_a, "rows"_a, "n_images"_a, "width"_a, "height"_a, "channels"_a,
                    "The state that lies in these bytes; it keeps them alive.", nb::rv_policy::take_ownership,
                    nb::keep_alive<0, 1>());
    m.def("blend_forward", &blend_forward_py, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
          nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg().none(),
          nb::arg(), nb::rv_policy::take_ownership);
    m.def("blend_backward", &blend_backward_py, nb::arg(), nb::arg().none(), nb::arg(), nb::arg().none(), nb::arg(),
          nb::arg().none(), nb::arg(), nb::arg(), nb::arg(), nb::arg());

    m.def("ssim_partials_size", [](int64_t images, int height, int width, int channels) {
        if (images < 1 || height < 1 || width < 1 || channels < 1)
            throw std::invalid_argument("sizes must be positive");
        if (double(images) * height * (double(width) + 32.0) * channels > 1e15)
            throw std::length_error("a picture too large");
        SsimArgs a = {};
        a.images = images, a.height = height, a.width = width, a.channels = channels;
        return partials_size(a);
    });
    m.def(
        "ssim_forward",
        [](const Floats& image, const Maybe<Floats>& target, const Maybe<Bytes>& target_u8, bool valid,
           const Maybe<Floats>& partials, int threads) {
            SsimArgs a = ssim_args(image, target, target_u8, valid);
            a.partials = checked(partials, partials_size(a), "partials");
            const int64_t rows = a.images * a.height;
            checked_threads(threads);
            nb::gil_scoped_release release;
            std::vector<double> ssim_rows(rows), l1_rows(rows);
            a.ssim_rows = ssim_rows.data(), a.l1_rows = l1_rows.data();
            kernels().ssim_forward(a, threads);
            double ssim = 0.0, l1 = 0.0;
            for (int64_t i = 0; i < rows; ++i) ssim += ssim_rows[i], l1 += l1_rows[i];
            return std::make_pair(ssim, l1);
        },
        nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg().none(), nb::arg());
    m.def(
        "ssim_backward",
        [](const Floats& image, const Maybe<Floats>& target, const Maybe<Bytes>& target_u8, bool valid,
           const Floats& partials, float v_ssim, float v_l1, const Floats& v_image, int threads) {
            SsimArgs a = ssim_args(image, target, target_u8, valid);
            a.partials = checked(partials, partials_size(a), "partials");
            a.v_ssim = v_ssim, a.v_l1 = v_l1;
            a.v_image = checked(v_image, static_cast<int64_t>(image.size()), "v_image");
            checked_threads(threads);
            nb::gil_scoped_release release;
            kernels().ssim_backward(a, threads);
        },
        nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
        nb::arg());

    m.def(
        "squared_error",
        [](const Floats& image, const Maybe<Floats>& target, const Maybe<Bytes>& target_u8, int threads) {
            SsimArgs a = ssim_args(image, target, target_u8, false);
            checked_threads(threads);
            std::vector<double> rows(a.images * a.height);
            nb::gil_scoped_release release;
            a.ssim_rows = rows.data();
            kernels().squared_error(a, threads);
            double total = 0.0;
            for (double row : rows) total += row;
            return total;
        },
        nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg());

    m.def("adam", [](const Floats& param, const Floats& grad, const Floats& exp_avg, const Floats& exp_avg_sq,
                     float beta1, float beta2, float step_size, float inv_sqrt_correction2, float eps, int threads) {
        AdamArgs a = {};
        a.count = static_cast<int64_t>(param.size());
        a.param = param.data();
        a.grad = checked(grad, a.count, "grad");
        a.exp_avg = checked(exp_avg, a.count, "exp_avg");
        a.exp_avg_sq = checked(exp_avg_sq, a.count, "exp_avg_sq");
        a.beta1 = beta1, a.beta2 = beta2, a.step_size = step_size;
        a.inv_sqrt_correction2 = inv_sqrt_correction2, a.eps = eps;
        checked_threads(threads);
        nb::gil_scoped_release release;
        kernels().adam(a, threads);
    });

    m.def("project_one_double", &project_one_double, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
          nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none());
    m.def("sh_bases_double", &sh_bases_double);
}
