// Spectra: rows[r, f] *= filters[filter(r), f] * scale, complex; `scale` is 1 / N, which the inverse transform leaves
// out. The row r belongs to filter (r mod group_rows) / rows_per_filter.
#version 450

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) buffer Rows { vec2 rows[]; };                // (rows, frequencies)
layout(std430, set = 0, binding = 1) readonly buffer Filters { vec2 filters[]; }; // (filters, frequencies)

layout(push_constant) uniform Push {
  uint frequencies;  // N / 2 + 1, also the row stride
  uint row_count;
  uint group_rows;
  uint rows_per_filter;
  float scale;
};

void main() {
  for (uint row = gl_WorkGroupID.y; row < row_count; row += gl_NumWorkGroups.y) {
    uint filter_row = (row % group_rows) / rows_per_filter;
    for (uint f = gl_GlobalInvocationID.x; f < frequencies; f += gl_NumWorkGroups.x * 64u) {
      vec2 x = rows[row * frequencies + f];
      vec2 k = filters[filter_row * frequencies + f] * scale;
      rows[row * frequencies + f] = vec2(x.x * k.x - x.y * k.y, x.x * k.y + x.y * k.x);
    }
  }
}
