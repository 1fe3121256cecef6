// The shaders. The maths is diff_rasterizer's: csrc/maths/{covariance,projection,alpha,view_color}.h.

export const SPLAT_VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;

uniform usampler2D rows;      // four texels a row
uniform int row_shift;        // log2 of the rows in a line of the texture
uniform mat3 rotation;        // world to camera, OpenCV axes
uniform vec3 translation;     // for positions relative to the origin of the scene
uniform vec3 eye;             // camera centre relative to the origin
uniform vec4 lens;            // fx, fy, cx, cy in pixels
uniform vec4 tangents;        // x_min, x_max, y_min, y_max: where the Jacobian is frozen
uniform vec2 size;            // pixels
uniform float near;
uniform float time;
uniform float motion_unit;
uniform vec2 scale_range;
uniform vec2 color_range;
uniform vec2 center_range;
uniform float sh1_unit;

uniform usampler2D order;     // rows from back to front, a block of quads per line
uniform int count;
uniform int first_block;      // a picture may be drawn in slices

flat out vec2 middle;         // pixels, y down
flat out vec4 shape;          // conic a, b, c; opacity
flat out vec3 color;

const float EPS_2D = 0.3;
const float MIN_ALPHA = 1.0 / 255.0;

vec3 eleven_ten(uint word, vec2 span) {
  vec3 level = vec3(word & 2047u, (word >> 11) & 2047u, word >> 22) / vec3(2047.0, 2047.0, 1023.0);
  return span.x + level * (span.y - span.x);
}

vec4 unit_quaternion(uint word) {
  uint left_out = word & 3u;
  vec3 three = (vec3((word >> 2) & 1023u, (word >> 12) & 1023u, word >> 22) - 512.0) / 511.0 * 0.7071067811865476;
  float rest = sqrt(max(1.0 - dot(three, three), 0.0));
  if (left_out == 0u) return vec4(rest, three);
  if (left_out == 1u) return vec4(three.x, rest, three.yz);
  if (left_out == 2u) return vec4(three.xy, rest, three.z);
  return vec4(three, rest);
}

mat3 rotation_of(vec4 q) {    // wxyz; columns are the local axes
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
              2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
              2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

vec4 signed_bytes(uint word) {
  return vec4(word & 255u, (word >> 8) & 255u, (word >> 16) & 255u, word >> 24) - 128.0;
}

void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);   // outside: a row that is not drawn
  int quad = gl_VertexID >> 2, block = textureSize(order, 0).x;
  int line = first_block + gl_InstanceID;
  if (line * block + quad >= count) return;
  uint row = texelFetch(order, ivec2(quad, line), 0).x;
  ivec2 place = ivec2(int(row & ((1u << row_shift) - 1u)) * 4, int(row >> row_shift));
  uvec4 w0 = texelFetch(rows, place, 0);
  uvec4 w1 = texelFetch(rows, place + ivec2(1, 0), 0);
  uvec4 w2 = texelFetch(rows, place + ivec2(2, 0), 0);
  uvec4 w3 = texelFetch(rows, place + ivec2(3, 0), 0);

  vec2 m01 = unpackHalf2x16(w0.w), m23 = unpackHalf2x16(w1.x), m45 = unpackHalf2x16(w1.y);
  vec2 m67 = unpackHalf2x16(w1.z), m8 = unpackHalf2x16(w1.w);
  float center = center_range.x + float(w3.y & 0x3fffu) / 16383.0 * (center_range.y - center_range.x);
  float since = time - center;
  float faded = m8.y * since;
  float opacity = float((w3.y >> 14) & 1023u) / 1023.0 * exp(-faded * faded);
  if (opacity < MIN_ALPHA) return;

  vec3 c1 = vec3(m01, m23.x), c2 = vec3(m23.y, m45), c3 = vec3(m67, m8.x);
  vec3 mean = uintBitsToFloat(w0.xyz) + motion_unit * since * (c1 + since * (c2 + since * c3));
  vec3 p = rotation * mean + translation;
  if (p.z < near) return;

  vec4 q = unit_quaternion(w2.x) + since * vec4(unpackHalf2x16(w2.y), unpackHalf2x16(w2.z));
  float length2 = dot(q, q);
  if (!(length2 > 0.0)) return;
  vec3 scales = exp(eleven_ten(w2.w, scale_range));
  mat3 axes = rotation * rotation_of(q * inversesqrt(length2));

  // Rows of J R M: how the three axes of the Gaussian appear in the picture.
  float u = clamp(p.x / p.z, tangents.x, tangents.y), v = clamp(p.y / p.z, tangents.z, tangents.w);
  vec3 across = scales * (lens.x / p.z) * vec3(axes[0].x - u * axes[0].z, axes[1].x - u * axes[1].z, axes[2].x - u * axes[2].z);
  vec3 down = scales * (lens.y / p.z) * vec3(axes[0].y - v * axes[0].z, axes[1].y - v * axes[1].z, axes[2].y - v * axes[2].z);
  float xx = dot(across, across) + EPS_2D, xy = dot(across, down), yy = dot(down, down) + EPS_2D;
  float det = xx * yy - xy * xy;
  if (!(det > 0.0)) return;
  middle = lens.xy * p.xy / p.z + lens.zw;
  shape = vec4(yy / det, -xy / det, xx / det, opacity);

  // The quad stands along the axes of the ellipse alpha >= 1/255, a little larger for the rounding.
  float reach = sqrt(2.0 * log(255.0 * opacity)) * 1.001 + 0.001;
  float mean_var = 0.5 * (xx + yy);
  float spread = length(vec2(0.5 * (xx - yy), xy));
  float angle = spread > 0.0 ? 0.5 * atan(xy, 0.5 * (xx - yy)) : 0.0;
  vec2 long_axis = reach * sqrt(mean_var + spread) * vec2(cos(angle), sin(angle));
  vec2 short_axis = reach * sqrt(max(det / (mean_var + spread), 0.0)) * vec2(-sin(angle), cos(angle));
  vec2 box = abs(long_axis) + abs(short_axis);
  if (any(lessThan(middle + box, vec2(0.0))) || any(greaterThan(middle - box, size))) return;

  vec3 toward = mean - eye;
  float far2 = dot(toward, toward);
  toward = far2 > 0.0 ? toward * inversesqrt(far2) : vec3(0.0);
  vec4 s0 = signed_bytes(w3.z), s1 = signed_bytes(w3.w);
  vec3 sh1_y = s0.xyz, sh1_z = vec3(s0.w, s1.xy), sh1_x = vec3(s1.zw, float(w3.y >> 24) - 128.0);
  vec3 around = sh1_unit * (toward.z * sh1_z - toward.y * sh1_y - toward.x * sh1_x);
  color = max(0.28209479177387814 * eleven_ten(w3.x, color_range) + 0.4886025119029199 * around + 0.5, 0.0);

  vec2 corner = vec2(gl_VertexID & 1, (gl_VertexID >> 1) & 1) * 2.0 - 1.0;
  vec2 pixel = middle + corner.x * long_axis + corner.y * short_axis;
  gl_Position = vec4(2.0 * pixel.x / size.x - 1.0, 1.0 - 2.0 * pixel.y / size.y, 0.0, 1.0);
}
`;

export const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
uniform vec2 size;
flat in vec2 middle;
flat in vec4 shape;
flat in vec3 color;
out vec4 drawn;

void main() {
  vec2 d = middle - vec2(gl_FragCoord.x, size.y - gl_FragCoord.y);
  float sigma = 0.5 * (shape.x * d.x * d.x + shape.z * d.y * d.y) + shape.y * d.x * d.y;
  if (sigma < 0.0) discard;
  float alpha = min(0.999, shape.w * exp(-sigma));
  if (alpha < 1.0 / 255.0) discard;
  drawn = vec4(color * alpha, alpha);
}
`;

// One triangle over the whole picture.
export const RESOLVE_VERTEX = `#version 300 es
void main() {
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}
`;

// `scale` below 1 where the picture is drawn with fewer pixels while it moves.
export const RESOLVE_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D blended;
uniform vec3 background;
uniform vec2 scale;
out vec4 shown;

void main() {
  vec4 premultiplied = texelFetch(blended, ivec2(gl_FragCoord.xy * scale), 0);
  shown = vec4(premultiplied.rgb + (1.0 - premultiplied.a) * background, 1.0);
}
`;
