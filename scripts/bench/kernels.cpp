// Times binning and blending without Python, for profilers and for comparing two versions of the kernels.
// Built and run by compare_kernels.py: kernels SCENE REPEATS, with SCENE as that script writes it.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <algorithm>
#include <vector>

#include "cpu/binning.h"
#include "cpu/dispatch.h"

namespace {

double cpu_seconds() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

template <typename T>
std::vector<T> read(FILE* file, size_t count) {
    std::vector<T> values(count);
    if (fread(values.data(), sizeof(T), count, file) != count) {
        fprintf(stderr, "the scene is cut short\n");
        exit(2);
    }
    return values;
}

// Versions before the touched blocks were kept have no such array.
template <typename Args>
auto keep_blocks(Args& a, std::vector<uint64_t>& blocks, int) -> decltype(a.blocks, void()) {
    a.blocks = blocks.data();
}
template <typename Args>
void keep_blocks(Args&, std::vector<uint64_t>&, long) {}

}  // namespace

int main(int argc, char** argv) {
    using namespace gd;
    FILE* file = argc == 3 ? fopen(argv[1], "rb") : nullptr;
    if (!file) {
        fprintf(stderr, "usage: kernels SCENE REPEATS\n");
        return 2;
    }
    const std::vector<int> head = read<int>(file, 3);
    const int n = head[0], width = head[1], height = head[2];
    const size_t pixels = size_t(width) * height;
    auto means2d = read<float>(file, 2 * n), conics = read<float>(file, 3 * n), opacities = read<float>(file, n);
    auto depths = read<float>(file, n), colors = read<float>(file, 3 * n), v_renders = read<float>(file, 3 * pixels);
    auto radii = read<int>(file, 2 * n);
    std::vector<int> image_ids(n, 0);
    std::vector<float> renders(3 * pixels), alphas(pixels);
    std::vector<float> v_means2d(2 * n), v_conics(3 * n), v_colors(3 * n), v_opacities(n);
    std::vector<double> bin, forward, backward;
    int64_t pairs = 0;
    for (int repeat = 0; repeat < atoi(argv[2]); ++repeat) {
        BinningInput in = {};
        in.rows = n, in.n_images = 1, in.width = width, in.height = height, in.channels = 3, in.color_stride = 3;
        in.means2d = means2d.data(), in.conics = conics.data(), in.opacities = opacities.data();
        in.depths = depths.data(), in.radii = radii.data(), in.image_ids = image_ids.data(), in.colors = colors.data();
        double begin = cpu_seconds();
        const Bins bins = bin_gaussians(in, 1);
        bin.push_back(cpu_seconds() - begin);

        const size_t tiles = size_t(bins.tiles_x) * bins.tiles_y;
        std::vector<float> final_T(tiles * kTilePixels), v_instances(bins.n_instances * 9);
        std::vector<int> stop(tiles * kTilePixels), tile_end(tiles);
        std::vector<int64_t> tile_pairs(tiles);
        std::vector<uint64_t> blocks(bins.n_instances);
        BlendArgs a = {};
        a.n_images = 1, a.width = width, a.height = height, a.channels = 3;
        a.tiles_x = bins.tiles_x, a.tiles_y = bins.tiles_y;
        a.records = bins.records.data(), a.record_stride = bins.record_stride, a.n_records = bins.n_records;
        a.instances = bins.instances.data(), a.tile_offsets = bins.tile_offsets.data();
        a.record_offsets = bins.record_offsets.data(), a.positions = bins.positions.data();
        a.renders = renders.data(), a.alphas = alphas.data();
        a.final_T = final_T.data(), a.stop = stop.data(), a.tile_end = tile_end.data();
        keep_blocks(a, blocks, 0);
        if (repeat == 0) {
            a.tile_pairs = tile_pairs.data();
            kernels().blend_forward(a, 1);
            for (int64_t count : tile_pairs) pairs += count;
            a.tile_pairs = nullptr;
        }
        begin = cpu_seconds();
        kernels().blend_forward(a, 1);
        forward.push_back(cpu_seconds() - begin);

        a.v_renders = v_renders.data(), a.v_instances = v_instances.data(), a.grad_stride = 9;
        std::fill(v_means2d.begin(), v_means2d.end(), 0.0f), std::fill(v_conics.begin(), v_conics.end(), 0.0f);
        std::fill(v_colors.begin(), v_colors.end(), 0.0f), std::fill(v_opacities.begin(), v_opacities.end(), 0.0f);
        a.v_means2d = v_means2d.data(), a.v_conics = v_conics.data();
        a.v_colors = v_colors.data(), a.v_opacities = v_opacities.data();
        begin = cpu_seconds();
        kernels().blend_backward(a, 1);
        backward.push_back(cpu_seconds() - begin);
    }
    double render_sum = 0.0, gradient = 0.0;
    for (float x : renders) render_sum += x;
    for (float x : v_means2d) gradient += double(x) * x;
    auto least = [](const std::vector<double>& x) { return *std::min_element(x.begin(), x.end()); };
    printf("{\"instruction_set\": \"%s\", \"pairs\": %lld, \"bin\": %.6g, \"forward\": %.6g, \"backward\": %.6g, ",
           kernels().name, (long long)pairs, least(bin), least(forward), least(backward));
    printf("\"render_sum\": %.9g, \"gradient_norm\": %.9g}\n", render_sum, sqrt(gradient));
    return 0;
}
