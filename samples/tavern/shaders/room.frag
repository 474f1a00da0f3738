// Everything behind the guests: planks, beams, shelves with bottles, the window, the lantern and the fireplace.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "scene.glsl"

layout(location = 0) in vec2 position;
layout(location = 0) out vec4 color;

vec3 planks(vec2 p) {
  float across = p.x / 0.21;
  float plank = floor(across), within = fract(across);
  vec3 wood = mix(vec3(0.36, 0.22, 0.13), vec3(0.46, 0.30, 0.18), hash(vec2(plank, 3)));
  wood *= 0.86 + 0.26 * layered_noise(vec2(p.x * 26.0 + plank * 9.0, p.y * 1.7 + plank));
  return wood * smoothstep(0.0, 0.05, within) * smoothstep(1.0, 0.965, within) * 0.9;
}

vec3 floor_boards(vec2 p) {
  float depth = (-0.80 - p.y);
  float row = floor(depth / 0.075);
  vec3 wood = mix(vec3(0.24, 0.15, 0.09), vec3(0.31, 0.20, 0.12), hash(vec2(row, floor(p.x * 1.3 + row * 0.37))));
  return wood * (0.85 + 0.3 * noise(vec2(p.x * 5.0, p.y * 50.0))) * smoothstep(0.0, 0.08, fract(depth / 0.075));
}

// Two shelves of bottles: one in each cell, of its own shape, colour and fill.
void shelves(inout vec3 room, vec2 p) {
  for (int row = 0; row < 2; ++row) {
    vec2 q = p - vec2(0.06, row == 0 ? 0.02 : 0.44);
    if (abs(q.x) < 0.63) {
      float cell = floor(q.x / 0.115);
      vec2 b = vec2((fract(q.x / 0.115) - 0.5) * 0.115, q.y - 0.02);
      float id = hash(vec2(cell, 11.0 + float(row) * 5.0));
      float tall = 0.10 + 0.07 * id;
      float bottle = box(b - vec2(0, tall), vec2(0.030 + 0.012 * fract(id * 7.0), tall), 0.018);
      bottle = blend_union(bottle, box(b - vec2(0, 2.0 * tall + 0.03), vec2(0.011, 0.05), 0.004), 0.03);
      vec3 glass = mix(vec3(0.10, 0.30, 0.14), vec3(0.48, 0.20, 0.06), fract(id * 3.7));
      glass = mix(glass, vec3(0.12, 0.22, 0.40), step(0.75, fract(id * 5.3)));
      glass *= b.y < 2.0 * tall * (0.35 + 0.6 * fract(id * 13.0)) ? 1.25 : 0.6;
      glass += 0.45 * vec3(1.0, 0.8, 0.5) * smoothstep(0.006, 0.0, abs(b.x + 0.019)) * step(bottle, -0.004);
      if (fract(id * 17.0) > 0.12) {
        paint(room, bottle, glass);
        paint(room, box(b - vec2(0, tall), vec2(0.026, 0.030), 0.003), vec3(0.62, 0.54, 0.38) * step(0.5, fract(id * 23.0)) +
                                                                        glass * step(fract(id * 23.0), 0.5));
        paint(room, box(b - vec2(0, 2.0 * tall + 0.085), vec2(0.013, 0.014), 0.004), vec3(0.40, 0.28, 0.16));
      }
    }
    float board = box(q, vec2(0.68, 0.020), 0.006);
    room *= 1.0 - 0.5 * smoothstep(0.06, 0.0, q.y < 0.0 ? board : 1.0);
    paint(room, board, vec3(0.33, 0.20, 0.11) * (0.9 + 0.3 * noise(vec2(p.x * 8.0, p.y * 70.0))));
  }
}

// Night, a moon, hills, and snow that falls in three layers.
vec3 outside(vec2 p) {
  vec3 night = mix(vec3(0.10, 0.15, 0.30), vec3(0.02, 0.04, 0.12), clamp(p.y * 1.5 + 0.4, 0.0, 1.0));
  float moon = circle(p - vec2(0.10, 0.19), 0.052);
  night += vec3(0.30, 0.34, 0.40) * exp(-9.0 * max(moon, 0.0)) * 0.5;
  paint(night, moon, vec3(0.95, 0.95, 0.86) * (0.86 + 0.2 * noise(p * 40.0)));
  paint(night, p.y + 0.17 + 0.04 * sin(p.x * 9.0 + 1.0), vec3(0.22, 0.27, 0.40));
  for (int i = 0; i < 3; ++i) {
    float size = 16.0 + 9.0 * float(i);
    vec2 q = p * size + vec2(sin(draw.seconds * 0.5 + float(i)) * 0.8, draw.seconds * (2.4 - 0.5 * float(i)));
    vec2 flake = fract(q) - 0.5 - 0.5 * (vec2(hash(floor(q)), hash(floor(q) + 5.0)) - 0.5);
    night += 0.55 * smoothstep(0.11, 0.04, length(flake)) * step(0.45, hash(floor(q) + 9.0));
  }
  return night;
}

void window_pane(inout vec3 lit, vec2 p, vec3 light_here) {
  vec2 q = p - vec2(1.36, 0.17);
  vec2 reach = vec2(0.25, 0.34);
  float frame = box(q, reach + 0.045, 0.015);
  lit *= 1.0 - 0.4 * smoothstep(0.07, 0.0, frame);
  paint(lit, frame, vec3(0.30, 0.18, 0.10) * light_here * 1.2);
  float pane = box(q, reach, 0.004);
  pane = max(pane, 0.012 - abs(q.x));
  pane = max(pane, 0.012 - abs(q.y - 0.02));
  paint(lit, pane, outside(q) * 0.85 + 0.03 * light_here);
  paint(lit, box(q - vec2(0, -0.40), vec2(0.33, 0.022), 0.008), vec3(0.36, 0.23, 0.13) * light_here);
}

vec3 flames(vec2 p) {  // p.x in about -1 to 1, p.y from 0 at the logs to 1 at the highest tip
  float sway = (noise(vec2(p.y * 2.0 - draw.seconds * 1.7, 4.0)) - 0.5) * 0.5 * p.y;
  vec2 q = vec2(p.x + sway, p.y);
  float rising = layered_noise(vec2(q.x * 3.2, q.y * 2.2 - draw.seconds * 2.3));
  float heat = 1.08 - 1.05 * q.x * q.x - 0.88 * q.y / (0.55 + 0.62 * rising) - 0.25 * abs(q.x);
  heat = clamp(heat * 1.5, 0.0, 1.3) * smoothstep(-0.05, 0.06, p.y);
  return vec3(2.3, 0.95, 0.22) * smoothstep(0.05, 0.75, heat) * heat + vec3(0.5, 0.75, 0.45) * pow(heat, 5.0);
}

// Stone blocks in rows, an arch, logs and the fire; what it adds to the picture glows by itself.
void fireplace(inout vec3 lit, inout vec3 glow, vec2 p, vec3 light_here) {
  vec2 q = p - vec2(fire_place.x, 0);
  float body = box(q - vec2(0, -0.34), vec2(0.44, 0.62), 0.02);
  body = min(body, box(q - vec2(0, 0.62), vec2(0.31, 0.5), 0.01));  // the chimney
  vec2 block = vec2(q.x / 0.19, q.y / 0.105);
  block.x += 0.5 * mod(floor(block.y), 2.0);
  vec2 within = fract(block);
  float joint = min(min(within.x, 1.0 - within.x) * 1.8, min(within.y, 1.0 - within.y));
  vec3 stone = vec3(0.42, 0.38, 0.36) * (0.72 + 0.4 * hash(floor(block))) * (0.85 + 0.3 * layered_noise(q * 18.0));
  stone *= 0.45 + 0.55 * smoothstep(0.02, 0.12, joint);
  paint(lit, body, stone * light_here);
  paint(lit, box(q - vec2(0, 0.23), vec2(0.50, 0.035), 0.012), vec3(0.36, 0.22, 0.12) * light_here * 1.1);

  float opening = max(box(q - vec2(0, -0.50), vec2(0.30, 0.42), 0.0), circle(q - vec2(0, -0.42), 0.44));
  float soot = smoothstep(0.10, 0.0, opening);
  lit *= 1.0 - 0.55 * soot;
  vec3 hearth = vec3(0.16, 0.07, 0.04) * draw.fire * (0.5 + 0.9 * smoothstep(0.1, -0.6, q.y));
  paint(lit, opening, hearth);
  float inside = cover(opening);
  float logs = min(stroke(q, vec2(-0.20, -0.80), vec2(0.17, -0.74), 0.045),
                   stroke(q, vec2(0.21, -0.80), vec2(-0.10, -0.72), 0.042));
  paint(lit, logs, vec3(0.30, 0.13, 0.05) * (0.6 + 0.9 * noise(q * vec2(14.0, 30.0))) * draw.fire);
  glow += inside * flames((q - vec2(0, -0.79)) / vec2(0.27, 0.56));
  glow += vec3(0.5, 0.18, 0.04) * draw.fire * exp(-7.0 * max(opening, 0.0)) * 0.35;
}

void hanging_lantern(inout vec3 lit, inout vec3 glow, vec2 p) {
  float swing = 0.05 * sin(draw.seconds * 1.1);
  vec2 q = p - vec2(lantern.x + swing * (1.1 - p.y), lantern.y);
  paint(lit, stroke(q, vec2(0, 0.08), vec2(0, 0.5), 0.006), vec3(0.05, 0.04, 0.04));
  float glass = box(q, vec2(0.050, 0.062), 0.014);
  paint(lit, box(q - vec2(0, 0.075), vec2(0.058, 0.014), 0.006), vec3(0.13, 0.10, 0.08));
  paint(lit, box(q + vec2(0, 0.075), vec2(0.058, 0.014), 0.006), vec3(0.13, 0.10, 0.08));
  float flicker = 0.92 + 0.08 * noise(vec2(draw.seconds * 6.0, 1.0));
  glow += flicker * vec3(1.5, 1.0, 0.5) * cover(glass) * (0.55 + 0.6 * exp(-40.0 * dot(q, q) * 8.0));
  glow += flicker * vec3(0.42, 0.27, 0.12) * exp(-5.5 * length(q));
}

void main() {
  vec2 p = position;
  vec3 light_here = light(p);
  vec3 room = p.y > -0.80 ? planks(p) : floor_boards(p);
  shelves(room, p);
  paint(room, box(p - vec2(0, 0.985), vec2(4.0, 0.075), 0.01), vec3(0.20, 0.12, 0.07) * (0.8 + 0.4 * noise(p * vec2(6, 60))));
  paint(room, box(p - vec2(-0.80, 0.2), vec2(0.055, 1.4), 0.01), vec3(0.24, 0.15, 0.09) * (0.8 + 0.4 * noise(p * vec2(60, 5))));
  paint(room, box(p - vec2(0.93, 0.2), vec2(0.055, 1.4), 0.01), vec3(0.24, 0.15, 0.09) * (0.8 + 0.4 * noise(p * vec2(60, 5))));
  vec3 lit = room * light_here;
  vec3 glow = vec3(0);
  window_pane(lit, p, light_here);
  fireplace(lit, glow, p, light_here);
  hanging_lantern(lit, glow, p);
  color = vec4(exposed(lit + glow, p), 1);
}
