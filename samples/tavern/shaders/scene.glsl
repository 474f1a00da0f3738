// What all parts of the scene share: units, shapes as signed distances (negative inside), paint, noise and light.
//
// Scene units: y up, from -1 to 1 in a wide picture, x from -aspect to aspect; (0, 0) is the middle.

layout(push_constant) uniform Draw {
  vec4 rect;      // left, bottom, right, top of what is drawn, in scene units
  vec2 reach;     // of the picture: x from -reach.x to reach.x, y likewise
  float seconds;
  float fire;     // brightness of the fire, about 1
  float pixel;    // size of a pixel, in the units of the shape functions' argument
  float mouth;    // 0: shut, 1: wide open
  float blink;    // 0: eyes open, 1: shut
  float gaze;     // -1: to the left, 1: to the right
  float nod;      // -1 to 1
  uint skin, hair, coat, accent;  // colours: red, green, blue in the low three bytes
  uint figure;    // see person.frag
  vec2 middle;    // of a person
  float size;     // half their height
}
draw;

const vec2 fire_place = vec2(-1.36, -0.46);
const vec2 lantern = vec2(0.52, 0.80);
const float counter_top = -0.40;
const float counter_left = -0.96;

float hash(vec2 p) {
  vec3 q = fract(vec3(p.xyx) * 0.1031);
  q += dot(q, q.yzx + 33.33);
  return fract((q.x + q.y) * q.z);
}

float noise(vec2 p) {
  vec2 cell = floor(p), f = fract(p);
  f = f * f * (3.0 - 2.0 * f);
  return mix(mix(hash(cell), hash(cell + vec2(1, 0)), f.x), mix(hash(cell + vec2(0, 1)), hash(cell + vec2(1, 1)), f.x),
             f.y);
}

float layered_noise(vec2 p) { return 0.55 * noise(p) + 0.3 * noise(2.03 * p + 7.1) + 0.15 * noise(4.1 * p + 3.7); }

float circle(vec2 p, float radius) { return length(p) - radius; }
float ellipse(vec2 p, vec2 radii) {  // near its edge
  float k = length(p / radii);
  return k * (k - 1.0) / max(length(p / (radii * radii)), 1e-4);
}
float box(vec2 p, vec2 reach, float rounding) {
  vec2 q = abs(p) - reach + rounding;
  return length(max(q, 0.0)) + min(max(q.x, q.y), 0.0) - rounding;
}
float stroke(vec2 p, vec2 from, vec2 to, float radius) {
  vec2 a = p - from, b = to - from;
  return length(a - b * clamp(dot(a, b) / dot(b, b), 0.0, 1.0)) - radius;
}
float blend_union(float a, float b, float width) {
  float h = max(width - abs(a - b), 0.0) / width;
  return min(a, b) - 0.25 * h * h * width;
}

// How much of a pixel a shape covers.
float cover(float d) { return clamp(0.5 - d / draw.pixel, 0.0, 1.0); }
void paint(inout vec3 picture, float d, vec3 color) { picture = mix(picture, color, cover(d)); }

// From the fire, warm and unsteady; from the lantern; and a little from everywhere.
vec3 fire_light(vec2 p) {
  vec2 d = p - fire_place;
  return draw.fire * vec3(1.25, 0.56, 0.20) * (1.5 / (1.0 + 2.1 * dot(d, d)));
}
vec3 lantern_light(vec2 p) {
  vec2 d = p - lantern;
  return vec3(1.0, 0.74, 0.44) * (0.62 / (1.0 + 2.6 * dot(d, d)));
}
const vec3 dusk = vec3(0.15, 0.13, 0.20);
vec3 light(vec2 p) { return dusk + fire_light(p) + lantern_light(p); }

// Soft shoulders for what is brighter than the picture can show, and darker corners.
vec3 exposed(vec3 color, vec2 p) {
  vec2 corner = p / draw.reach;
  color *= 1.0 - 0.35 * dot(corner, corner) * 0.5;
  color = 1.0 - exp(-1.55 * color);
  return pow(color, vec3(0.88));
}
