// A guest from the waist up: clothes, a head that nods, eyes that look around and blink, a mouth that speaks. `figure`
// says what they wear. One unit is draw.size; the picture has premultiplied alpha.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "scene.glsl"

layout(location = 0) in vec2 position;
layout(location = 0) out vec4 color;

// The bits of `figure`, as in scene.h.
const uint cap = 1, hood = 2, long_hair = 4, full_beard = 8, long_beard = 16, pipe = 32, necklace = 64, buttons = 128;
bool wears(uint what) { return (draw.figure & what) != 0; }

vec3 rgb(uint packed_color) {
  vec3 srgb = unpackUnorm4x8(packed_color).rgb;
  return srgb * srgb;  // near enough to linear
}

vec3 lit = vec3(0);
float alpha = 0.0;

// Paints a shape as if it bulged towards us: its edge turns away over `depth`, and the fire is at the left.
void put(float d, vec3 base, float depth) {
  vec2 slope = vec2(dFdx(d), -dFdy(d)) / draw.pixel;
  slope /= max(length(slope), 1.0);
  float edge = clamp(1.0 + d / depth, 0.0, 1.0);
  vec3 normal = vec3(slope * edge, sqrt(max(1.0 - edge * edge * dot(slope, slope), 0.04)));
  vec3 to_fire = normalize(vec3(fire_place + vec2(0, 0.35) - position, 0.75));
  vec3 to_lantern = normalize(vec3(lantern - position, 0.45));
  vec3 received = dusk * (0.75 + 0.35 * normal.y) + 1.25 * fire_light(position) * max(dot(normal, to_fire), 0.0) +
                  1.2 * lantern_light(position) * max(dot(normal, to_lantern), 0.0) + 0.22 * light(position);
  float a = cover(d);
  lit = mix(lit, base * received * 1.7, a);
  alpha = max(alpha, a);
}
void mark(float d, vec3 base, float strength) {  // on what is there, flat
  lit = mix(lit, base * light(position) * 1.5, cover(d) * strength);
}

float strands(vec2 p, float fineness) { return 0.72 + 0.5 * layered_noise(vec2(p.x * fineness, p.y * 3.0)); }

void clothes(vec2 p, float breath) {
  vec3 coat = rgb(draw.coat), accent = rgb(draw.accent);
  float body = ellipse(p - vec2(0, -0.90), vec2(0.70 + 0.01 * breath, 0.70 + 0.015 * breath));
  float cloth = 0.88 + 0.2 * layered_noise(p * vec2(9.0, 5.0));
  put(body, coat * cloth, 0.30);
  for (float side = -1.0; side < 2.0; side += 2.0) {  // arms, seen against the body
    float arm = stroke(p, vec2(0.52 * side, -0.56), vec2(0.66 * side, -1.2), 0.15);
    lit *= 1.0 - 0.35 * smoothstep(0.05, 0.0, arm) * step(0.0, arm);
    put(arm, coat * cloth * 1.05, 0.15);
  }
  float collar = max(abs(p.x) - 0.30 - 0.30 * (p.y + 0.3), circle(p - vec2(0, -0.10), 0.30));
  put(max(collar, body), accent * 0.9, 0.12);
  if (wears(buttons)) {
    mark(abs(p.x) - 0.006 + max(0.0, p.y + 0.42), coat * 0.35, 1.0);
    for (float y = -0.40; y > -0.8; y -= 0.15) put(circle(p - vec2(0.055, y), 0.024), vec3(0.75, 0.55, 0.20), 0.024);
  }
}

void face(vec2 p) {
  vec3 skin = rgb(draw.skin), hair = rgb(draw.hair);
  for (float side = -1.0; side < 2.0; side += 2.0) put(ellipse(p - vec2(0.268 * side, 0.20), vec2(0.042, 0.068)), skin * 0.9, 0.05);
  float head = ellipse(p - vec2(0, 0.25), vec2(0.268, 0.290));
  head = blend_union(head, ellipse(p - vec2(0, 0.10), vec2(0.205, 0.225)), 0.12);
  put(head, skin, 0.24);
  float cheek = min(circle(p - vec2(-0.15, 0.125), 0.0), circle(p - vec2(0.15, 0.125), 0.0));
  lit = mix(lit, lit * vec3(1.12, 0.78, 0.70), smoothstep(0.085, 0.0, cheek) * 0.75);

  for (float side = -1.0; side < 2.0; side += 2.0) {
    vec2 e = p - vec2(0.108 * side, 0.245);
    float open = 1.0 - draw.blink;
    mark(ellipse(e, vec2(0.066, 0.052)), skin * 0.55, 0.45);  // the socket
    if (open > 0.12) {
      float white = ellipse(e, vec2(0.056, 0.043 * open));
      mark(white, vec3(0.95, 0.92, 0.86), 1.0);
      vec2 iris = e - vec2(0.022 * draw.gaze, -0.002);
      mark(max(circle(iris, 0.029), white), vec3(0.16, 0.26, 0.30), 1.0);
      mark(max(circle(iris, 0.015), white), vec3(0.01), 1.0);
      lit += 0.8 * cover(max(circle(iris - vec2(-0.010, 0.011), 0.008), white));
    }
    float lid = abs(ellipse(e + vec2(0, 0.001), vec2(0.058, max(0.045 * open, 0.006)))) - 0.006;
    mark(max(lid, -e.y - 0.004 * step(open, 0.3)), skin * 0.22, 0.9);
    vec2 brow = e - vec2(0, 0.083 + 0.012 * draw.mouth);
    mark(stroke(brow, vec2(-0.055, 0.002 + 0.007 * side), vec2(0.055, 0.002 - 0.007 * side), 0.013), hair * 0.7, 1.0);
  }

  float nose = blend_union(circle(p - vec2(0, 0.150), 0.040), stroke(p, vec2(0, 0.26), vec2(0, 0.16), 0.018), 0.05);
  mark(circle(p - vec2(0.020, 0.135), 0.045), skin * 0.55, 0.45);
  put(nose, skin * 1.04, 0.05);
}

void beard(vec2 p) {
  if (!wears(full_beard)) return;
  vec3 hair = rgb(draw.hair);
  float reach = wears(long_beard) ? 0.36 : 0.13;
  float around = ellipse(p - vec2(0, 0.02 - 0.5 * reach), vec2(0.252, 0.215 + 0.55 * reach));
  around = max(around, -ellipse(p - vec2(0, 0.25), vec2(0.215, 0.205)));
  around += 0.012 * (layered_noise(vec2(p.x * 22.0, p.y * 5.0)) - 0.5) * smoothstep(0.2, -0.1, p.y);
  put(around, hair * strands(p, 34.0), 0.14);
}

void mouth(vec2 p) {
  vec3 skin = rgb(draw.skin), hair = rgb(draw.hair);
  vec2 m = p - vec2(0, 0.022 - 0.012 * draw.mouth);
  float wide = 0.082 - 0.022 * draw.mouth, tall = 0.008 + 0.054 * draw.mouth;
  float lips = ellipse(m - vec2(0, 0.10 * m.x * m.x * 14.0 * (1.0 - draw.mouth)), vec2(wide + 0.012, tall + 0.013));
  float hole = ellipse(m - vec2(0, 0.10 * m.x * m.x * 14.0 * (1.0 - draw.mouth)), vec2(wide, tall));
  mark(lips, skin * vec3(0.72, 0.40, 0.36), 1.0);
  mark(hole, vec3(0.10, 0.02, 0.02), 1.0);
  mark(max(hole, 0.55 * tall - m.y), vec3(0.90, 0.86, 0.76), smoothstep(0.2, 0.4, draw.mouth));
  mark(max(hole, circle(m + vec2(0, tall * 1.1), 0.045)), vec3(0.60, 0.20, 0.18), smoothstep(0.2, 0.5, draw.mouth));
  if (wears(full_beard)) {
    vec2 q = vec2(abs(p.x), p.y - 0.02 * draw.mouth);
    float moustache = stroke(q, vec2(0.018, 0.082), vec2(0.128, 0.040), 0.027 - 0.08 * max(q.x - 0.06, 0.0));
    put(moustache, hair * strands(p.yx, 30.0) * 1.08, 0.03);
  }
}

void hair_behind(vec2 p) {
  vec3 hair = rgb(draw.hair);
  if (wears(long_hair)) {
    float fall = ellipse(p - vec2(0, 0.06), vec2(0.385, 0.50));
    fall = blend_union(fall, box(p - vec2(0, -0.28), vec2(0.36 + 0.02 * sin(p.y * 20.0), 0.30), 0.15), 0.12);
    put(fall, hair * 0.8 * strands(p, 26.0), 0.2);
  }
  if (wears(hood)) put(ellipse(p - vec2(0, 0.16), vec2(0.43, 0.56)), rgb(draw.coat) * 0.35, 0.2);
}

void hair_before(vec2 p) {
  vec3 hair = rgb(draw.hair), accent = rgb(draw.accent), coat = rgb(draw.coat);
  if (wears(long_hair)) {
    vec2 q = vec2(abs(p.x), p.y);
    float crown = max(ellipse(p - vec2(0, 0.27), vec2(0.315, 0.335)), -ellipse(vec2(q.x - 0.095, p.y - 0.15), vec2(0.165, 0.270)));
    crown = max(crown, -ellipse(p - vec2(0, 0.08), vec2(0.245, 0.28)));
    put(crown, hair * strands(vec2(p.x + 0.4 * p.y * sign(p.x), p.y), 24.0), 0.10);
    put(blend_union(circle(p - vec2(0, 0.62), 0.115), circle(p - vec2(0.02, 0.60), 0.10), 0.05), hair * strands(p.yx, 20.0), 0.10);
    put(box(p - vec2(0, 0.535), vec2(0.100, 0.020), 0.015), accent, 0.02);
  }
  if (wears(cap)) {
    vec3 cloth = coat * (0.8 + 0.3 * layered_noise(p * 20.0));
    float crown = ellipse(p - vec2(0.01, 0.49), vec2(0.335, 0.155));
    put(crown, cloth * 1.15, 0.14);
    float band = max(ellipse(p - vec2(0, 0.36), vec2(0.292, 0.20)), 0.365 - p.y - 0.35 * p.x * p.x);
    band = max(band, p.y - 0.465);
    put(band, accent * 0.75, 0.10);
    float peak = max(ellipse(p - vec2(0, 0.385), vec2(0.275, 0.070)), p.y - 0.395 + 0.5 * p.x * p.x);
    put(peak, vec3(0.05, 0.05, 0.06), 0.05);
    vec2 badge = p - vec2(0, 0.425);
    put(min(stroke(badge, vec2(0, 0.03), vec2(0, -0.03), 0.008), abs(circle(badge + vec2(0, 0.004), 0.024)) - 0.006),
        vec3(0.85, 0.62, 0.20), 0.02);
  }
  if (wears(hood)) {
    float rim = max(ellipse(p - vec2(0, 0.17), vec2(0.44, 0.575)), -ellipse(p - vec2(0, 0.13), vec2(0.285, 0.385)));
    rim = max(rim, -box(p - vec2(0, -0.5), vec2(0.26, 0.45), 0.1));
    put(rim, coat * (0.85 + 0.25 * layered_noise(p * vec2(10.0, 6.0))), 0.10);
  }
}

void pipe_and_smoke(vec2 p) {
  float stem = stroke(p, vec2(0.065, 0.012), vec2(0.205, -0.075), 0.011);
  put(stem, vec3(0.10, 0.06, 0.04), 0.02);
  float bowl = box(p - vec2(0.225, -0.045), vec2(0.036, 0.052), 0.016);
  put(bowl, vec3(0.28, 0.13, 0.06), 0.04);
  mark(box(p - vec2(0.225, 0.004), vec2(0.026, 0.008), 0.004), vec3(1.6, 0.5, 0.1) * (0.6 + 0.4 * draw.fire), 1.0);
}

void main() {
  vec2 p = (position - draw.middle) / draw.size;
  float breath = sin(draw.seconds * 1.6 + draw.middle.x * 5.0);
  // The head turns about the neck.
  float angle = 0.075 * draw.nod;
  vec2 neck = vec2(0, -0.22);
  vec2 h = mat2(cos(angle), -sin(angle), sin(angle), cos(angle)) * (p - neck) + neck;
  h.y -= 0.008 * breath + 0.010 * draw.mouth;

  hair_behind(h);
  put(box(p - vec2(0, -0.20), vec2(0.115, 0.20), 0.05), rgb(draw.skin) * 0.62, 0.12);
  clothes(p, breath);
  if (wears(necklace)) {
    put(abs(ellipse(p - vec2(0, -0.22), vec2(0.165, 0.165))) - 0.010 + max(0.0, 4.0 * (p.y + 0.22)), vec3(0.80, 0.62, 0.25), 0.02);
    put(circle(p - vec2(0, -0.395), 0.032), vec3(0.15, 0.55, 0.40), 0.04);
  }
  face(h);
  beard(h);
  mouth(h);
  hair_before(h);
  if (wears(pipe)) pipe_and_smoke(h);
  color = vec4(exposed(lit, position) * alpha, alpha);
}
