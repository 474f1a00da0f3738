"""Readers of the formats in which packages hold text. Each gives texts, a text being a list of paragraphs."""

import bz2
import gzip
import re
import struct
import zlib
from html.parser import HTMLParser


def paragraphs_of(text):
    """The paragraphs of plain text with blank lines between them, each as one line."""
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text.replace("\r", "")) if block.strip()]


def read_bytes(path):
    opener = {".bz2": bz2.open, ".gz": gzip.open, ".dz": gzip.open}.get(path.suffix, open)
    with opener(path, "rb") as file:
        return file.read()


def plain(path, begin=None, end=None):
    """A book: the paragraphs after the last that is `begin`, up to the first after it that starts with `end`."""
    yield book_of(read_bytes(path).decode("utf-8-sig"), begin, end)


def book_of(text, begin, end):
    paragraphs = paragraphs_of(text)
    if begin:
        paragraphs = paragraphs[len(paragraphs) - paragraphs[::-1].index(begin):]
    if end:
        paragraphs = paragraphs[:next(i for i, paragraph in enumerate(paragraphs) if paragraph.startswith(end))]
    return [paragraph.replace("_", "") for paragraph in paragraphs if not paragraph.startswith("[Illustration")]


def r_strings(path, begin=None, end=None):
    """The books in an R package's data/Rdata.rdb: one vector of lines (or one string) each, compressed with zlib."""
    data = path.read_bytes()
    position = 0
    while position < len(data):
        unpacker = zlib.decompressobj()
        text = book_of("\n".join(r_vector(unpacker.decompress(data[position + 4:]))), begin, end)  # 4: its size
        position = len(data) - len(unpacker.unused_data)
        yield text


def r_vector(data):
    """The strings of a serialised character vector: R's binary format 3, big endian."""
    position = 14  # "X\n", three versions
    position += 4 + struct.unpack_from(">i", data, position)[0]  # the name of the encoding
    kind, count = struct.unpack_from(">ii", data, position)
    if kind & 255 != 16:
        raise ValueError(f"R's type {kind & 255} is here, expected a character vector (16)")
    position += 8
    strings = []
    for _ in range(count):
        _, size = struct.unpack_from(">ii", data, position)
        strings.append(data[position + 8:position + 8 + max(size, 0)].decode("utf-8", "replace").lstrip("\ufeff"))
        position += 8 + max(size, 0)
    return strings


def dictionary(path):
    """A dictd dictionary as one text, without what is indented deeper than entries: verses, listings, tables."""
    lines = [line for line in read_bytes(path).decode("utf-8").split("\n") if not re.match(r"\s{5,}", line)]
    yield [paragraph for paragraph in paragraphs_of(re.sub(r"[{}]", "", "\n".join(lines)))
           if not paragraph.startswith("00-database")]


def wordnet(path):
    """One paragraph a synset, "word, word: gloss", in texts of one lexicographer's file each; no names and taxa."""
    texts = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if "|" not in line or line.startswith(" "):
            continue
        fields, gloss = line.split(" | ", 1)
        fields = fields.split()
        words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4:4 + 2 * int(fields[3], 16):2]]
        if not words[0][0].isupper():
            texts.setdefault(fields[1], []).append(", ".join(words) + ": " + gloss.strip())
    yield from texts.values()


def sword(folder, prose_only=False):
    """A module of the SWORD project in OSIS markup: blocks that zlib compressed, verse behind verse."""
    for index in sorted(folder.glob("*t.?zs"), reverse=True):  # ot before nt
        blocks = index.with_name(index.name[:-1] + "z").read_bytes()
        markup = "".join(zlib.decompress(blocks[offset:offset + size]).decode("utf-8", "replace")
                         for offset, size, _ in struct.iter_unpack("<III", index.read_bytes()) if size)
        markup = re.sub(r"<note\b.*?</note>", "", markup, flags=re.S)
        markup = re.sub(r"<chapter [^>]*sID[^>]*>", "\n\n\f", markup)
        markup = re.sub(r"<div [^>]*type=\"(x-p|introduction|book)\"[^>]*>|</?(title|l|lg|list|item|lb)\b[^>]*>",
                        "\n\n", markup)
        text = re.sub(r"<[^>]*>", "", markup).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
        for chapter in text.split("\f"):
            paragraphs = paragraphs_of(chapter)
            yield [paragraph for paragraph in paragraphs if not prose_only or is_prose(paragraph)]


def is_prose(paragraph):
    """Whether a paragraph is made of whole sentences, as tables, lists of names and titles are not."""
    begins = paragraph[0].isupper() or paragraph[0] in "\"'"
    others = re.sub(r"[^\W\d_]|[ ,.']", "", paragraph)
    return begins and paragraph[-1] in ".!?\"')" and len(paragraph) >= 60 and len(others) <= 0.1 * len(paragraph)


class PageReader(HTMLParser):
    """Collects the paragraphs of a page, without its navigation, tables and listings."""
    BLOCKS = {"p", "div", "li", "dd", "dt", "blockquote", "section", "article", "br", "ul", "ol", "dl", "td", "body",
              "h1", "h2", "h3", "h4", "h5", "h6", "main"}
    SKIPPED = {"script", "style", "pre", "table", "nav", "header", "footer", "form", "head", "svg", "aside", "button",
               "sup"}
    SKIPPED_CLASS = re.compile(r"sidebar|related|nav|toc|footer|header|menu|contents|quickview|langs|nosearch|"
                               r"programlisting|synopsis|indextable|searchbox")
    EMPTY = {"br", "img", "hr", "meta", "link", "input", "col", "wbr", "area", "base", "source"}

    def __init__(self):
        super().__init__()
        self.paragraphs = []  # (is a heading, text)
        self.text = []
        self.open = []  # tag and whether its content is skipped
        self.heading = False

    def end_paragraph(self):
        text = " ".join("".join(self.text).split()).replace(" ,", ",").replace(" .", ".")
        if text:
            self.paragraphs.append((self.heading, text))
        self.text = []

    def handle_starttag(self, tag, attributes):
        if tag in self.BLOCKS:
            self.end_paragraph()
            self.heading = tag in ("h1", "h2", "h3", "h4")
        if tag not in self.EMPTY:
            attributes = dict(attributes)
            names = (attributes.get("class") or "") + " " + (attributes.get("id") or "")
            skipped = bool(self.open and self.open[-1][1]) or tag in self.SKIPPED or \
                bool(tag not in ("body", "html", "main") and self.SKIPPED_CLASS.search(names))
            self.open.append((tag, skipped))

    def handle_endtag(self, tag):
        if tag in self.BLOCKS:
            self.end_paragraph()
            self.heading = False
        if any(tag == name for name, _ in self.open):
            while self.open.pop()[0] != tag:  # what was left open inside, such as <p> and <li>
                pass

    def handle_data(self, data):
        if not (self.open and self.open[-1][1]):
            self.text.append(data)


def pages(folder, left_out=None):
    """The HTML pages below a folder: headings and prose, a text each."""
    for path in sorted(folder.rglob("*.html*")):
        if path.suffix not in (".html", ".en") or left_out and re.search(left_out, str(path.relative_to(folder))):
            continue
        reader = PageReader()
        reader.feed(read_bytes(path).decode("utf-8", "replace"))
        reader.close()
        reader.end_paragraph()
        kept, heading = [], None
        for is_heading, text in reader.paragraphs:
            if is_heading:
                heading = text.rstrip("¶# ")
            elif is_prose(text):
                kept += ([heading] if heading else []) + [text]
                heading = None
        yield kept
