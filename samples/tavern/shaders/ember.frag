#version 450
layout(location = 0) in vec2 corner;
layout(location = 1) in float brightness;
layout(location = 0) out vec4 color;  // premultiplied; an alpha of 0 adds light

void main() {
  float spot = exp(-5.0 * dot(corner, corner)) - 0.0067;
  color = vec4(vec3(1.0, 0.55, 0.18) * max(spot, 0.0) * brightness, 0);
}
