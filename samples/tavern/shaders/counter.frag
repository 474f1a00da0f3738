// The bar in front of the guests: a polished top, carved panels, mugs and a candle.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "scene.glsl"

layout(location = 0) in vec2 position;
layout(location = 0) out vec4 color;

vec3 lit;
float alpha = 0.0;
void put(float d, vec3 paint_color) {
  float a = cover(d);
  lit = mix(lit, paint_color, a);
  alpha = max(alpha, a);
}

void mug(vec2 p, vec2 at, float id) {
  vec2 q = p - at;
  vec3 here = light(p) * 1.15;
  float shade = 0.55 + 0.45 * smoothstep(0.06, -0.05, q.x);  // the fire is on the left
  put(abs(ellipse(q - vec2(0.062, 0.075), vec2(0.034, 0.042))) - 0.010, vec3(0.34, 0.30, 0.28) * here);
  float body = box(q - vec2(0, 0.075), vec2(0.058 - 0.05 * (q.y - 0.075) * 0.4, 0.075), 0.012);
  vec3 wood = vec3(0.50, 0.31, 0.16) * (0.75 + 0.35 * step(0.5, fract(q.x * 38.0 + id)));
  put(body, wood * here * shade);
  put(box(q - vec2(0, 0.035), vec2(0.060, 0.009), 0.003), vec3(0.42, 0.40, 0.40) * here * shade);
  put(box(q - vec2(0, 0.118), vec2(0.058, 0.009), 0.003), vec3(0.42, 0.40, 0.40) * here * shade);
  float foam = circle(q - vec2(-0.032, 0.152), 0.026);
  foam = blend_union(foam, circle(q - vec2(0.004, 0.160), 0.030), 0.02);
  foam = blend_union(foam, circle(q - vec2(0.036, 0.151), 0.024), 0.02);
  put(foam, vec3(0.95, 0.89, 0.76) * here * (0.7 + 0.3 * shade));
}

vec3 candle(vec2 p, vec2 at) {
  vec2 q = p - at;
  put(box(q - vec2(0, 0.008), vec2(0.055, 0.010), 0.006), vec3(0.40, 0.30, 0.16) * light(p) * 1.3);
  put(box(q - vec2(0, 0.075), vec2(0.020, 0.066), 0.006), mix(vec3(0.80, 0.66, 0.42), vec3(1.3, 0.95, 0.5), smoothstep(0.04, 0.14, q.y)));
  vec2 f = q - vec2(0.006 * sin(draw.seconds * 5.0), 0.172);
  float flame = ellipse(f, vec2(0.012 - 0.10 * max(f.y, 0.0) * 0.12, 0.032));
  float flicker = 0.9 + 0.1 * noise(vec2(draw.seconds * 9.0, 7.0));
  put(flame, vec3(2.0, 1.5, 0.7) * flicker);
  return vec3(0.62, 0.36, 0.13) * flicker * exp(-11.0 * length(f));
}

void main() {
  vec2 p = position;
  lit = vec3(0);
  vec3 here = light(p);
  float top = max(box(p - vec2(counter_left + 5.0, counter_top - 0.045), vec2(5.0, 0.045), 0.012), -10.0);
  float front = box(p - vec2(counter_left + 5.03, -1.3), vec2(4.97, 0.9), 0.01);

  vec3 wood = vec3(0.36, 0.20, 0.11) * (0.80 + 0.35 * layered_noise(vec2(p.x * 4.0, p.y * 34.0)));
  float cell = (p.x - counter_left - 0.06) / 0.46;
  vec2 panel = vec2((fract(cell) - 0.5) * 0.46, p.y + 0.76);
  float carved = box(panel, vec2(0.19, 0.20), 0.03);
  float shadow = smoothstep(counter_top - 0.22, counter_top - 0.09, p.y);  // that the top casts
  wood *= 1.0 - 0.42 * smoothstep(0.014, 0.0, abs(carved));
  wood *= carved < 0.0 ? 0.86 : 1.0;
  wood += 0.05 * smoothstep(0.010, 0.0, abs(carved + 0.018)) * vec3(1.0, 0.7, 0.4);
  put(front, wood * here * (1.0 - 0.6 * shadow));

  vec3 polished = vec3(0.50, 0.30, 0.16) * (0.85 + 0.3 * layered_noise(vec2(p.x * 3.0, p.y * 46.0)));
  float sheen = smoothstep(0.030, 0.0, abs(p.y - counter_top + 0.020));
  polished *= 1.0 + 0.8 * sheen * (0.5 + 0.5 * noise(vec2(p.x * 7.0, 1.0)));
  put(top, polished * here * (p.y < counter_top - 0.066 ? 0.55 : 1.25));

  vec3 glow = vec3(0);
  mug(p, vec2(-0.22, counter_top - 0.035), 0.1);
  mug(p, vec2(0.56, counter_top - 0.035), 0.4);
  mug(p, vec2(1.24, counter_top - 0.030), 0.7);
  glow += candle(p, vec2(-0.80, counter_top - 0.03));
  glow += candle(p, vec2(1.47, counter_top - 0.03));
  // Premultiplied: glow also brightens what lies behind.
  vec3 shown = exposed(lit + glow, p);
  vec3 glow_only = 0.8 * glow;
  color = vec4(mix(glow_only, shown, alpha), alpha);
}
