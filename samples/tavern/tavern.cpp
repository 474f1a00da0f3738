#include "tavern.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "saved_game.h"

namespace tavern {
namespace {

riverhorse_batch_options batch_of_all() {
  riverhorse_batch_options options = riverhorse_api::batch_options();
  options.max_together = static_cast<std::int32_t>(characters().size());
  return options;
}

// Mouths open for vowels, close for b, m and p, and are in between for the rest.
double openness(char letter) {
  if (std::strchr("aAoO", letter) != nullptr && letter != '\0') return 1.0;
  if (std::strchr("eEiIuUyY", letter) != nullptr && letter != '\0') return 0.65;
  if (std::strchr("bBmMpP .,;:!?-", letter) != nullptr) return 0.0;
  return 0.3;
}

// Not a part of a character: UTF-8's continuation bytes belong to what is before them.
std::size_t whole_characters(const std::string& text, std::size_t bytes) {
  bytes = std::min(bytes, text.size());
  while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) ++bytes;
  return bytes;
}

double approach(double from, double to, double seconds, double per_second) {
  return to + (from - to) * std::exp(-seconds * per_second);
}

}  // namespace

Tavern::Tavern(const riverhorse_api::model& model, const Settings& settings)
    : settings_(settings), batch_(model, batch_of_all()) {
  for (const Character& each : characters()) {
    conversations_.emplace_back(model, each, settings.seed + 1000 * conversations_.size(), batch_);
  }
  faces_.resize(conversations_.size());
  for (std::size_t i = 0; i < faces_.size(); ++i) faces_[i].phase = 2.1 * static_cast<double>(i);
}

std::vector<std::size_t> Tavern::listeners() const {
  if (addressed_ != everyone) return {static_cast<std::size_t>(addressed_)};
  std::vector<std::size_t> all(size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  return all;
}

bool Tavern::can_hear() const {
  const std::vector<std::size_t> all = listeners();
  return std::none_of(all.begin(), all.end(), [&](std::size_t i) { return conversations_[i].is_replying(); });
}

void Tavern::say(const std::string& text) {
  if (!can_hear()) throw std::runtime_error("a reply is still being drawn: wait for it");
  for (const std::size_t i : listeners()) {
    conversations_[i].say(text, settings_.reply_tokens);
    faces_[i].spoken_letters = 0;
  }
}

bool Tavern::rewind() {
  if (is_busy()) throw std::runtime_error("a reply is still being drawn: wait for it");
  bool any = false;
  for (const std::size_t i : listeners()) {
    if (!conversations_[i].rewind()) continue;
    any = true;
    faces_[i].spoken_letters = HUGE_VAL;  // what was said before was spoken
  }
  return any;
}

bool Tavern::retell() {
  if (is_busy()) throw std::runtime_error("a reply is still being drawn: wait for it");
  bool any = false;
  for (const std::size_t i : listeners()) {
    if (!conversations_[i].retell(settings_.reply_tokens)) continue;
    any = true;
    faces_[i].spoken_letters = 0;
  }
  return any;
}

void Tavern::save(const std::string& path) {
  if (is_busy()) throw std::runtime_error("a reply is still being drawn: wait for it");
  save_game(path, conversations_);
}

void Tavern::load(const std::string& path) {
  if (is_busy()) throw std::runtime_error("a reply is still being drawn: wait for it");
  load_game(path, conversations_);
  for (Face& face : faces_) face.spoken_letters = HUGE_VAL;
}

void Tavern::begin_anew() {
  for (Conversation& each : conversations_) each.begin_anew();
}

bool Tavern::is_in_flight() const {
  return std::any_of(conversations_.begin(), conversations_.end(),
                     [](const Conversation& each) { return each.is_in_flight(); });
}

bool Tavern::is_busy() const {
  return std::any_of(conversations_.begin(), conversations_.end(),
                     [](const Conversation& each) { return each.is_busy(); });
}

bool Tavern::is_silent(std::size_t i) const {
  const auto& turns = conversations_[i].turns();
  return turns.empty() || faces_[i].spoken_letters >= static_cast<double>(turns.back().reply.size());
}

bool Tavern::is_speaking() const {
  if (is_busy()) return true;
  for (std::size_t i = 0; i < size(); ++i) {
    if (!is_silent(i)) return true;
  }
  return false;
}

void Tavern::record(VkCommandBuffer commands, double budget_us) {
  if (batch_.record(commands, budget_us).pieces == 0) return;
  for (Conversation& each : conversations_) each.recorded();
}

std::int64_t Tavern::poll() {
  std::int64_t tokens = 0;
  for (Conversation& each : conversations_) tokens += each.poll();
  return tokens;
}

void Tavern::advance(double seconds) {
  for (std::size_t i = 0; i < size(); ++i) move_face(i, seconds);
}

void Tavern::move_face(std::size_t i, double seconds) {
  Face& face = faces_[i];
  const auto random = [&](double from, double to) {
    return std::uniform_real_distribution<double>(from, to)(random_);
  };
  const auto& turns = conversations_[i].turns();
  double wanted_mouth = 0;
  if (!is_silent(i)) {
    const std::string& reply = turns.back().reply;
    face.spoken_letters =
        std::min(face.spoken_letters + seconds * settings_.letters_per_second, static_cast<double>(reply.size()));
    const auto letter = static_cast<std::size_t>(face.spoken_letters);
    if (letter < reply.size()) wanted_mouth = openness(reply[letter]);
  }
  face.mouth = approach(face.mouth, wanted_mouth, seconds, 22);
  face.phase += seconds * (is_silent(i) ? 0.7 : 2.6);

  face.next_blink -= seconds;
  if (face.next_blink < 0) face.next_blink = random(1.8, 5.0);
  const double since_shut = std::abs(face.next_blink - 0.08);  // the lids close and open within 0.16 s
  face.blink = since_shut < 0.08 ? 1 - since_shut / 0.08 : 0;

  face.next_gaze -= seconds;
  if (face.next_gaze < 0) {
    face.next_gaze = random(0.8, 3.0);
    face.wanted_gaze = random(-0.8, 0.8);
  }
  // While somebody else speaks, they look there.
  for (std::size_t other = 0; other < size(); ++other) {
    if (other != i && is_silent(i) && !is_silent(other)) face.wanted_gaze = other < i ? -0.9 : 0.9;
  }
  if (!is_silent(i)) face.wanted_gaze = 0;  // who speaks looks at the player
  face.gaze = approach(face.gaze, face.wanted_gaze, seconds, 12);
}

std::vector<Guest> Tavern::guests() const {
  std::vector<Guest> result;
  for (std::size_t i = 0; i < size(); ++i) {
    const Character& character = conversations_[i].character();
    const Face& face = faces_[i];
    Guest guest;
    guest.look = character.look;
    guest.x = character.x;
    guest.mouth = static_cast<float>(face.mouth);
    guest.blink = static_cast<float>(face.blink);
    guest.gaze = static_cast<float>(face.gaze);
    guest.nod = static_cast<float>(0.8 * std::sin(face.phase) * (is_silent(i) ? 0.5 : 1));
    result.push_back(guest);
  }
  return result;
}

std::string Tavern::spoken(std::size_t i) const {
  const auto& turns = conversations_[i].turns();
  if (turns.empty()) return {};
  const std::string& reply = turns.back().reply;
  const double letters = std::min(faces_[i].spoken_letters, static_cast<double>(reply.size()));
  return reply.substr(0, whole_characters(reply, static_cast<std::size_t>(letters)));
}

std::string Tavern::transcript() const {
  std::string text;
  for (const Conversation& each : conversations_) {
    text += "# " + each.character().name + ", " + std::to_string(each.position()) + " tokens\n";
    for (const Turn& turn : each.turns()) text += "> " + turn.said + "\n" + turn.reply + "\n";
  }
  return text;
}

}  // namespace tavern
