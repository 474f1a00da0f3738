// Sparks that rise from the fire: each instance is one, which is born, drifts, fades, and begins again.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "scene.glsl"

layout(location = 0) out vec2 corner;  // -1 to 1
layout(location = 1) out float brightness;

void main() {
  float id = float(gl_InstanceIndex);
  float life = 2.2 + 2.0 * hash(vec2(id, 1));
  float time = draw.seconds / life + hash(vec2(id, 2));
  float age = fract(time), born = floor(time);
  vec2 start = fire_place + vec2((hash(vec2(id, born)) - 0.5) * 0.42, -0.22);
  vec2 at = start + vec2(0.10 * sin(age * 9.0 + id) * age, age * (0.45 + 0.5 * hash(vec2(born, id))));
  brightness = smoothstep(0.0, 0.1, age) * pow(1.0 - age, 1.5);
  corner = vec2[](vec2(-1, -1), vec2(1, -1), vec2(-1, 1), vec2(-1, 1), vec2(1, -1), vec2(1, 1))[gl_VertexIndex];
  at += corner * (0.010 + 0.008 * hash(vec2(id, 3)));
  gl_Position = vec4(at.x / draw.reach.x, -at.y / draw.reach.y, 0, 1);
}
