// Makes gpt2_cases.json: strings, and the ids that OpenAI's own encoder (tiktoken, compiled to WebAssembly) gives them.
// Not run by the tests. In an empty folder:
//   npm install tiktoken@1.0.22 js-tiktoken gpt-tokenizer gpt-3-encoder && node .../make_cases.mjs > gpt2_cases.json
// It stops when the other three tokenizers disagree, except where JavaScript's \s is not Unicode's White_Space (U+0085, U+FEFF).
import {createRequire} from 'node:module';
const require = createRequire(process.cwd() + '/');
const tiktoken = require('tiktoken').get_encoding('gpt2');
const {getEncoding} = require('js-tiktoken');
const jsTiktoken = getEncoding('gpt2');
const gpt3Encoder = require('gpt-3-encoder');
const gptTokenizer = require('gpt-tokenizer/cjs/encoding/r50k_base');

// A small generator with a fixed seed, so that the file can be made again.
let state = 20240611n;
function random(limit) {
  state = (state * 6364136223846793005n + 1442695040888963407n) & ((1n << 64n) - 1n);
  return Number((state >> 33n) % BigInt(limit));
}
const pick = (list) => list[random(list.length)];

const texts = [];
const add = (...strings) => texts.push(...strings);

// Nothing, single characters, every ASCII character by itself and between letters.
add('', ' ', '\n', '\t', 'a', ' a', '  a', 'a ', 'a  ', ' a ', '\u0000', '\u0000\u0000', '\u007f');
for (let code = 0; code < 128; code += 1) add(`x${String.fromCharCode(code)}y`);

// Contractions, right and wrong ones.
add("I'm you're he's we've they'll I'd can't", "I'M YOU'RE HE'S WE'VE THEY'LL I'D CAN'T", "'s't're've'm'll'd", "rock'n'roll",
    "the dogs' tails", "''s ''", "'sandwich", " 's", "it’s not it's", "'lll", "'vve 've'", "y'all'd've", "O'Reilly's", "x'S", "'t", "can''t");
// Numbers.
add('0', '1234567890', '3.14159265358979', '1,000,000.00', '-273.15', '1e-10', '0x1F', '12:34:56', '2024-06-11', '½ ¼ ¾', '² ³ ¹', 'Ⅷ Ⅻ',
    '٣٤٥', '१२३', '一二三', '①②③', '1st 2nd 3rd', 'a1b2c3', '1a2b3c', 'v1.2.3-rc.4', '$19.99', '100%', '#42', '+1 (555) 010-9999', '𝟘𝟙𝟚', '5️⃣');
// White space of every kind and length.
for (const count of [2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 257]) {
  add(' '.repeat(count), ' '.repeat(count) + 'x', '\n'.repeat(count), '\t'.repeat(count) + 'y', 'a' + ' '.repeat(count) + 'b');
}
add(' \n', '\n ', ' \n ', '\r\n', '\r\n\r\n', 'a\r\nb', 'a\n\nb', 'a\n\n\nb', 'a \n b', 'a\t\tb', ' \t \t ', '\n\n  indented', 'trailing  \n', '\v\f\v',
    'a\u00a0b', '\u00a0\u00a0x', 'a\u2003b', '\u2003\u2003\u2003x', 'a\u3000b', '\u3000\u3000', 'a\u2028b\u2029c', 'a\u1680b', 'a\u202fb\u205fc',
    'a\u0085b', '\u0085\u0085', ' \u0085 x', 'a\ufeffb', '\ufeffstart', ' \ufeff', 'a\u180eb', ' \u180e ', 'a\u200bb', '\u200b \u200b', 'a\u001cb\u001dc\u001ed\u001fe',
    ' \u001c ', 'a\u2060b');
// Languages and scripts.
add('The quick brown fox jumps over the lazy dog.', 'Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.',
    'Voix ambiguë d’un cœur qui, au zéphyr, préfère les jattes de kiwis.', 'El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío; ¿añoraba?',
    'À noite, vovô Kowalsky vê o ímã cair no pé do pinguim.', 'Pchnąć w tę łódź jeża lub ośm skrzyń fig.', 'Příliš žluťoučký kůň úpěl ďábelské ódy.',
    'Árvíztűrő tükörfúrógép', 'Pijamalı hasta yağız şoföre çabucak güvendi.', 'Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.', 'Съешь же ещё этих мягких французских булок, да выпей чаю.',
    'Чуєш їх, доцю, га? Кумедна ж ти, прощайся без ґольфів!', 'Ֆիլմ, որը կոչվում է', 'ქართული ენა', 'いろはにほへと ちりぬるを', 'カタカナ、ひらがな、漢字が混ざった文。', '吾輩は猫である。名前はまだ無い。',
    '天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。', '我能吞下玻璃而不伤身体。', '「你好」，他說。', '다람쥐 헌 쳇바퀴에 타고파', '모든 사람은 태어날 때부터 자유롭다.', '각 낱말', 'เป็นมนุษย์สุดประเสริฐเลิศคุณค่า', 'ພາສາລາວ', 'မြန်မာဘာသာ',
    'ភាសាខ្មែរ', 'हिन्दी में कुछ शब्द लिखे हैं।', 'ক্ষুধার্ত মানুষ', 'தமிழ் மொழி அழகானது', 'తెలుగు లిపి', 'ಕನ್ನಡ', 'മലയാളം', 'සිංහල', 'བོད་ཡིག', 'አማርኛ ቋንቋ', 'ᏣᎳᎩ', 'ᚠᛇᚻ᛫ᛒᛦᚦ', 'Tiếng Việt có dấu: ượng, ễ, ậ', 'ʻŌlelo Hawaiʻi',
    'Türkiye’de İstanbul ılık', 'ﬁ ﬂ ﬀ ligatures', 'Ⓐ ⓑ', '𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝓈𝒸𝓇𝒾𝓅𝓉', '𐍈 𐌰𐌱', '𠜎𠜱𠝹𠱓', 'Ꙁ ꙁ', 'Ω Å K');
// Right to left, with marks and controls.
add('שלום עולם', 'בְּרֵאשִׁית בָּרָא אֱלֹהִים', 'السلام عليكم', 'بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ', 'فارسی: می‌خواهم', 'اردو زبان', 'ܐܠܦ ܒܝܬ', 'abc עברית def', 'عدد ١٢٣ و 456', '\u202eabc\u202c def', '\u200fאבג\u200e abc', '\u2067rtl\u2069');
// Combining marks, composed and not.
add('café', 'cafe\u0301', 'n\u0303 ñ', 'a\u0300\u0301\u0302\u0303\u0304', 'Z\u0351\u036b\u0343A\u0321\u034d\u034cL\u0339\u033cGO\u0338\u0328', '\u0301', ' \u0301', 'x \u0301y', '\u1100\u1161\u11a8', 'क\u094dष', 'i\u0307', 'q\u0323\u0307', '\u20d7v', 'a\u20dd', '\ufe0f', 'か\u3099');
// Emoji, with skin tones, variation selectors, joiners, flags, keycaps, tags.
add('😀', '😀😀😀', 'hello 😀 world', '👍🏽', '👩‍💻', '👨‍👩‍👧‍👦', '🏳️‍🌈', '🏴‍☠️', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', '🇩🇪🇫🇷🇯🇵', '❤️', '❤', '1️⃣ 2️⃣', '🤷🏿‍♀️', '🧑🏻‍🤝‍🧑🏾', '☺️☹️', '🦛 riverhorse', '🦛🌊🐎', 'a😀b😀c', ' 😀', '  😀', '😀 ', '\ud83d\ude00\u200d', '👁️‍🗨️', '⌚️⏰', '🎉🎊🎈!!!');
// Punctuation and symbols.
add('...', '…', '!!!???', '--', '—', '–', '“quoted”', '‘single’', '«guillemets»', '()[]{}<>', '@user #tag', 'a/b\\c', 'C:\\Windows\\System32', 'https://example.org/a?b=c&d=%20e#f', 'user.name+tag@example.co.uk', '→ ← ↑ ↓', '∀x∈ℝ: ⌈x⌉ = −⌊−x⌋', '∑∏∫√∞≈≠≤≥', '£€¥₹₿', '©®™', '†‡§¶', '░▒▓█', '│┤╡╢╖', '♔♕♖', '𝄞 music', '~`!@#$%^&*_+-=|;:,./', '"\'"\'"', '¿¡', '·•◦', '\u00ad', 'soft\u00adhyphen', '＃ｆｕｌｌ　ｗｉｄｔｈ１２３', '................................', '================', '________________', '****************', '-----BEGIN KEY-----');
// Code.
add('int main(int argc, char** argv) {\n  return 0;\n}\n', '#include <vector>\ntemplate <typename T>\nT max(const std::vector<T>& values);\n', 'def f(x):\n    """Doc."""\n    return [i**2 for i in range(x) if i % 2 == 0]\n', 'if __name__ == "__main__":\n\tmain()\n',
    'const f = async ({a, b}) => `${a + b}` ?? null;', 'fn main() -> Result<(), Box<dyn Error>> {\n    println!("{:?}", vec![1, 2, 3]);\n    Ok(())\n}', 'SELECT name, COUNT(*) AS n FROM users WHERE age >= 18 GROUP BY name HAVING n > 1 ORDER BY n DESC;',
    '<!DOCTYPE html>\n<html>\n  <body class="a b">&nbsp;&lt;</body>\n</html>', '{"key": [1, 2.5, -3e10, null, true], "nested": {"a": "\\u00e9"}}', '#!/bin/sh\nset -eu\nfor f in *.txt; do echo "$f" | sed -e \'s/a/b/g\'; done', 'main = do\n  line <- getLine\n  print $ map (*2) [1..10]',
    '(defun fact (n) (if (<= n 1) 1 (* n (fact (- n 1)))))', '\\begin{equation}\n  E = mc^2 \\label{eq:1}\n\\end{equation}', 'mov eax, [rbp-0x8]\nadd eax, 0x1\n', 'diff --git a/x b/x\n@@ -1,3 +1,4 @@\n-old\n+new\n', '\t\t\tif (a&&b||!c) { d<<=2; e>>>=1; }', 'x=x+1;y-=-1;z*=*p++;', '/* comment */ // another\n', '^(?:[a-z0-9]+\\.)*[a-z]{2,}$', 'layers.0.mixer.kernel.C', 'camelCaseIdentifier snake_case_identifier SCREAMING_CASE kebab-case', 'std::unordered_map<std::string, std::vector<int>>::iterator', '    \n        \n    x', 'a\n    b\n        c\n    d\n');
// Long words.
add('a'.repeat(10), 'a'.repeat(100), 'a'.repeat(1000), 'ab'.repeat(500), 'Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft', 'pneumonoultramicroscopicsilicovolcanoconiosis', 'Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch', '字'.repeat(200), 'é'.repeat(150), '😀'.repeat(80), '1'.repeat(300), '!'.repeat(300), '.'.repeat(129), '='.repeat(77), 'ACGT'.repeat(60), 'QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo='.repeat(6), 'deadbeef'.repeat(32), 'ha'.repeat(64), 'the'.repeat(50));
// Words that are single tokens, strange ones too.
add(' SolidGoldMagikarp', 'rawdownloadcloneembedreportprint', ' davidjl', 'ÃÂÃÂÃÂÃÂ', ' externalToEVA', 'Hello World', 'hello world', 'HELLO WORLD', ' antidisestablishmentarianism', 'lowercaseUPPERCASEMiXeD');
// Special tokens as plain characters (the special option is below).
add('<|endoftext|>', 'a<|endoftext|>b', '<|endoftext|><|endoftext|>', ' <|endoftext|> ', '<|endoftext|', '<|endoftex|endoftext|>', '<|im_start|>');
// Random mixes: characters from every block up to U+10FFFF (no surrogates), assigned before Unicode 12, and pieces of all the texts above.
const blocks = [[0x20, 0x7e], [0x20, 0x7e], [0x00, 0x1f], [0x80, 0xff], [0x100, 0x24f], [0x300, 0x36f], [0x391, 0x3c9], [0x410, 0x44f], [0x5d0, 0x5ea], [0x621, 0x64a], [0x904, 0x939], [0xe01, 0xe3a], [0x2000, 0x206f], [0x2190, 0x21ff], [0x2200, 0x22ff], [0x3041, 0x3096], [0x4e00, 0x9fa5], [0xac00, 0xd7a3], [0xe000, 0xe0ff], [0xfff0, 0xffff], [0x1d400, 0x1d454], [0x1f300, 0x1f5ff], [0x1f600, 0x1f64f], [0x20000, 0x2a6d6], [0xe0100, 0xe01ef], [0x10ff00, 0x10ffff]];
for (let index = 0; index < 120; index += 1) {
  let text = '';
  const length = 1 + random(60);
  for (let position = 0; position < length; position += 1) {
    const [low, high] = pick(blocks);
    const code = low + random(high - low + 1);
    if (/\p{Cn}/u.test(String.fromCodePoint(code)) && code < 0xe000) continue;
    text += random(4) === 0 ? ' '.repeat(1 + random(3)) : String.fromCodePoint(code);
  }
  add(text);
}
const base = texts.slice();
for (let index = 0; index < 100; index += 1) {
  let text = '';
  for (let part = 0; part < 4; part += 1) {
    const letters = Array.from(pick(base));
    const begin = random(letters.length + 1);
    text += letters.slice(begin, begin + random(30)).join('') + pick(['', ' ', '  ', '\n', "'s "]);
  }
  add(text);
}

const same = (a, b) => a.length === b.length && a.every((value, index) => value === b[index]);
const odd = /[\u0085\ufeff]/;
const cases = [];
let checked = 0;
for (const text of new Set(texts)) {
  const ids = Array.from(tiktoken.encode(text, [], []));
  const bytes = Buffer.from(tiktoken.decode(ids));
  if (!bytes.equals(Buffer.from(text))) throw new Error(`tiktoken does not give back ${JSON.stringify(text)}`);
  if (!odd.test(text)) {
    // gpt-3-encoder looks pieces up in an object and trips over names such as "constructor": none are used here.
    const others = {'js-tiktoken': jsTiktoken.encode(text, [], []), 'gpt-tokenizer': gptTokenizer.encode(text, {disallowedSpecial: new Set()}), 'gpt-3-encoder': gpt3Encoder.encode(text)};
    for (const [name, other] of Object.entries(others)) {
      if (!same(ids, other)) throw new Error(`${name} disagrees on ${JSON.stringify(text)}: ${ids} / ${other}`);
    }
    checked += 1;
  }
  cases.push({text, ids});
}

// With the special token on.
const special = [];
for (const text of ['<|endoftext|>', 'a<|endoftext|>b', '<|endoftext|><|endoftext|>', ' <|endoftext|> ', 'a  <|endoftext|>  b', '\n\n<|endoftext|>\n\n', '<|endoftext|', '<|endoftex|endoftext|>', "I'<|endoftext|>m", '<|endoftext|>The end.<|endoftext|>', '😀<|endoftext|>😀', '<|<|endoftext|>|>', 'no special', '']) {
  const ids = Array.from(tiktoken.encode(text, 'all', []));
  const other = jsTiktoken.encode(text, 'all', []);
  if (!same(ids, other)) throw new Error(`js-tiktoken disagrees on special ${JSON.stringify(text)}`);
  special.push({text, ids});
}

// Bytes that are not UTF-8: the parts between them by tiktoken, each bad byte by its own token.
const fatal = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true});
const decodes = (bytes) => { try { return fatal.decode(bytes); } catch { return null; } };
function encodeBytes(bytes) {
  const ids = [];
  let begin = 0;
  while (begin < bytes.length) {
    let good = 0;
    for (let end = begin + 1; end <= bytes.length; end += 1) if (decodes(bytes.subarray(begin, end)) !== null) good = end;
    if (good > begin) {
      ids.push(...tiktoken.encode(decodes(bytes.subarray(begin, good)), [], []));
      begin = good;
    } else {
      ids.push(tiktoken.encode_single_token(bytes.subarray(begin, begin + 1)));
      begin += 1;
    }
  }
  if (!Buffer.from(tiktoken.decode(Uint32Array.from(ids))).equals(Buffer.from(bytes))) throw new Error('bytes lost');
  return ids;
}
const hexes = ['80', 'ff', 'c3', 'c328', 'a0a1', 'e28228', 'e2ac', 'f0288cbc', 'f09f98', 'f09f9880', 'f09f988041', 'c080', 'c1bf', 'e08080', 'eda080', 'edbfbf', 'eda0bdedb880', 'f4908080', 'f8888080', 'fe', 'feff', 'fffe', '41c342', '2020ff2020', '0a0aff0a0a', '68656c6c6f20ff776f726c64', 'e4bda0e5a5', 'e4bda0a5bd', '20f09f', '27ff73', '27c373', 'ff27 73'.replace(' ', ''), '00ff00', 'efbfbd', 'efbf', 'cc81ff', '6162c3a9ffc3a96162', '31ff32', '21ff21', 'e1809f', '80808080', 'f4808080', 'f48fbfbf', 'f48fbfc0'];
for (let index = 0; index < 40; index += 1) {
  let hex = '';
  for (let position = 0, length = 1 + random(24); position < length; position += 1) hex += random(256).toString(16).padStart(2, '0');
  hexes.push(hex);
}
const bytes = hexes.map((hex) => ({hex, ids: encodeBytes(Uint8Array.from(Buffer.from(hex, 'hex')))}));
// ASCII only in the file: control characters and stray marks survive every editor.
const ascii = (value) => JSON.stringify(value).replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
process.stdout.write(`{"cases": [\n${cases.map(ascii).join(',\n')}\n],\n"special": [\n${special.map(ascii).join(',\n')}\n],\n"bytes": [\n${bytes.map(ascii).join(',\n')}\n]}\n`);
process.stderr.write(`${cases.length} strings (${checked} checked against three others), ${special.length} with the special token, ${bytes.length} byte strings\n`);
