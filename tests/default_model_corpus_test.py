"""samples/train_default_model, the argument: each reader on a small file of its format, and the corpus as a whole."""

import contextlib
import gzip
import io
import json
import struct
import sys
import tempfile
import unittest
import zlib
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv.pop())
import make_corpus  # noqa: E402
import readers  # noqa: E402

SENTENCE = "This is a whole sentence, long enough to be taken for prose by the reader of pages."


def r_character_vector(strings):
    header = b"X\n" + struct.pack(">iiii", 3, 0, 0, 5) + b"UTF-8" + struct.pack(">ii", 16, len(strings))
    return header + b"".join(struct.pack(">ii", 0x40009, len(string)) + string.encode() for string in strings)


class Readers(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name, data):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def test_book_without_what_stands_around_it(self):
        path = self.write("book.txt", "\ufeffProject\n\nCHAPTER I\n\nCHAPTER I\r\n\r\nOne _day_\nit rained.\n\n"
                                      "[Illustration]\n\nThe end.\n\nEnd of the book\n\nLicense\n")
        self.assertEqual(list(readers.plain(path, "CHAPTER I", "End of")), [["One day it rained.", "The end."]])

    def test_strings_of_r(self):
        vectors = [r_character_vector(["EMMA", "", "Emma was", "handsome."]), r_character_vector(["PERSUASION"])]
        path = self.write("Rdata.rdb", b"".join(struct.pack(">i", len(v)) + zlib.compress(v) for v in vectors))
        self.assertEqual(list(readers.r_strings(path)), [["EMMA", "Emma was handsome."], ["PERSUASION"]])
        number = b"X\n" + struct.pack(">iiiiii", 3, 0, 0, 0, 14, 1)
        with self.assertRaisesRegex(ValueError, "type 14"):
            readers.r_vector(number)

    def test_dictionary(self):
        text = b"00-database-short\n   x\n\nbit\n n.\n\n    A {unit}.\n\n        code()\n"
        path = self.write("d.dict.dz", gzip.compress(text))
        self.assertEqual(list(readers.dictionary(path)), [["bit n.", "A unit."]])

    def test_wordnet(self):
        path = self.write(
            "data.noun", "  1 licence | of this file\n"
            "00001740 03 n 02 dog 0 domestic_dog 0 001 @ 00001740 n 0000 | a pet; \"my dog\" \n"
            "00001741 03 n 01 Canis 0 000 | a genus\n"
            "00001742 05 a 01 awash(p) 0 000 | flooded\n")
        self.assertEqual(list(readers.wordnet(path)), [["dog, domestic dog: a pet; \"my dog\""], ["awash: flooded"]])

    def test_sword(self):
        markup = ('<chapter osisID="Gen.1" sID="Gen.1"/><div sID="g1" type="x-p"/>In the <w lemma="H1">beginning</w>'
                  '<note>Or, <w>when</w></note> was &amp; is.<div sID="g2" type="x-p"/>Then.'
                  '<chapter osisID="Gen.2" sID="Gen.2"/>Thus.').encode()
        blocks = [zlib.compress(markup[:50]), zlib.compress(markup[50:])]
        index = struct.pack("<IIIIII", 0, len(blocks[0]), 50, len(blocks[0]), len(blocks[1]), len(markup) - 50)
        self.write("ot.bzs", index)
        self.write("ot.bzz", b"".join(blocks))
        self.assertEqual([text for text in readers.sword(self.folder) if text],
                         [["In the beginning was & is.", "Then."], ["Thus."]])

    def test_pages(self):
        other = SENTENCE.replace("This", "It")
        self.write("a.html", f"<html><head><title>T</title></head><body><div class='navbar'><p>{SENTENCE}</div>"
                             f"<h1>Title¶</h1><p>{SENTENCE}<p>1, 2, 3<h2>No prose</h2><pre>{SENTENCE}</pre>"
                             f"<table><tr><td>{SENTENCE}</table><ul><li>{other}</ul></body></html>")
        self.write("left/out.html", f"<p>{SENTENCE}</p>")
        self.assertEqual(list(readers.pages(self.folder, "^left/")),
                         [["Title", SENTENCE, "No prose", other]])

    def test_corpus(self):
        texts = [[f"\u201cText {i}\u201d\u2014 " + "word " * 50, SENTENCE + " It comes again."] for i in range(100)]
        arguments = ["make_corpus.py", str(self.folder), str(self.folder / "corpus")]
        said = io.StringIO()
        with mock.patch.object(make_corpus, "SOURCES", [("package", lambda root: texts)]), \
                mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(said):
            self.assertEqual(make_corpus.main(), 0)
        self.assertIn("100 documents", said.getvalue())
        train, valid = (
            [json.loads(line) for line in (self.folder / "corpus" / name).read_text(encoding="utf-8").splitlines()]
            for name in ("train.jsonl", "valid.jsonl"))
        self.assertEqual((len(train), len(valid)), (98, 2))
        self.assertEqual([document["text"][:9] for document in valid], ['"Text 25"', '"Text 75"'])
        self.assertEqual(sum("It comes again." in document["text"] for document in train + valid), 1)

    def test_long_texts_are_cut_between_paragraphs(self):
        paragraphs = ["x" * 1000] * 40
        cut = list(make_corpus.documents(paragraphs))
        self.assertEqual(len(cut), 3)
        self.assertEqual("\n\n".join(cut).split("\n\n"), paragraphs)

    def test_a_package_without_text_is_an_error(self):
        errors = io.StringIO()
        arguments = ["make_corpus.py", str(self.folder), str(self.folder / "corpus")]
        with mock.patch.object(make_corpus, "SOURCES", [("empty", lambda root: [])]), \
                mock.patch.object(sys, "argv", arguments), contextlib.redirect_stderr(errors):
            self.assertEqual(make_corpus.main(), 1)
        self.assertIn("empty: no text", errors.getvalue())


if __name__ == "__main__":
    unittest.main()
