// A rectangle of the scene, as two triangles.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "scene.glsl"

layout(location = 0) out vec2 position;  // scene units

void main() {
  vec2 corner = vec2[](vec2(0, 0), vec2(1, 0), vec2(0, 1), vec2(0, 1), vec2(1, 0), vec2(1, 1))[gl_VertexIndex];
  position = mix(draw.rect.xy, draw.rect.zw, corner);
  gl_Position = vec4(position.x / draw.reach.x, -position.y / draw.reach.y, 0, 1);
}
