#!/usr/bin/env python3
"""Turns unpacked Debian packages into the corpus of the default model: train.jsonl and valid.jsonl.

    make_corpus.py PACKAGES OUTPUT      PACKAGES has one folder for each package, as dpkg -x lays it
    make_corpus.py --list               the packages, one a line

A document is a line, {"text": ..., "source": package}. Long texts are cut between paragraphs; every fiftieth document
of a package is held out. A long paragraph that was there already is left out: nothing held out is trained on.
"""

import argparse
import json
import sys
from pathlib import Path

import readers

DOCUMENT_CHARACTERS = 16000
HELD_OUT_EVERY = 50
REPEATED_CHARACTERS = 80  # from this length on, a paragraph that occurs again is left out
GO = "usr/share/gocode/src/github.com"
SWORD = "usr/share/sword/modules"

# Package, and how its text is read below the folder it was unpacked in. Public domain first.
SOURCES = [
    ("r-cran-janeaustenr", lambda root: readers.r_strings(
        root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")),
    ("r-cran-tokenizers", lambda root: readers.r_strings(  # Melville, Moby-Dick
        root / "usr/lib/R/site-library/tokenizers/data/Rdata.rdb", "CHAPTER 1. Loomings.", "End of")),
    ("golang-github-jdkato-prose-dev", lambda root: readers.plain(  # Doyle, The Adventures of Sherlock Holmes
        root / GO / "jdkato/prose/testdata/sherlock.txt", "ADVENTURE I. A SCANDAL IN BOHEMIA", "*** END OF")),
    ("golang-github-klauspost-compress-dev", lambda root: readers.plain(  # Twain, The Adventures of Tom Sawyer
        root / GO / "klauspost/compress/testdata/Mark.Twain-Tom.Sawyer.txt", "P R E F A C E", "End of the Project")),
    ("golang-1.19-src", lambda root: readers.plain(  # Newton, Opticks
        root / "usr/share/go-1.19/src/compress/bzip2/testdata/Isaac.Newton-Opticks.txt.bz2", "Advertisement I")),
    ("miscfiles", lambda root: (text for name in ("constitution", "declaration") for text in readers.plain(
        root / f"usr/share/state/us-{name}.gz"))),
    ("dict-devil", lambda root: readers.plain(root / "usr/share/dictd/devil.dict.dz")),
    ("dict-jargon", lambda root: readers.dictionary(root / "usr/share/dictd/jargon.dict.dz")),
    ("sword-text-kjv", lambda root: readers.sword(root / SWORD / "texts/ztext/engKJV2006eb")),
    ("sword-text-web", lambda root: readers.sword(root / SWORD / "texts/ztext/engWEB2015eb")),
    ("sword-comm-mhcc", lambda root: readers.sword(root / SWORD / "comments/zcom/mhcc", prose_only=True)),
    ("sword-comm-tdavid", lambda root: readers.sword(root / SWORD / "comments/zcom/tdavid", prose_only=True)),
    ("sqlite3-doc", lambda root: readers.pages(root / "usr/share/doc/sqlite3", "releaselog|syntax/|c3ref/")),
    ("wordnet-base", lambda root: (text for kind in ("noun", "verb", "adj", "adv") for text in readers.wordnet(
        root / f"usr/share/wordnet/data.{kind}"))),
    ("rust-doc", lambda root: readers.pages(
        root / "usr/share/doc/rust-doc/html",
        r"^(core|std|alloc|proc_macro|test|src|implementors|embedded-book)/|/print\.html|error-index")),
    ("python3.11-doc", lambda root: readers.pages(
        root / "usr/share/doc/python3.11/html", r"genindex|py-modindex|whatsnew/changelog|^search|^_")),
    ("python-django-doc", lambda root: readers.pages(
        root / "usr/share/doc/python-django-doc/html", r"genindex|py-modindex|^search|^_|releases/security")),
    ("postgresql-doc-15", lambda root: readers.pages(
        root / "usr/share/doc/postgresql-doc-15/html", r"release-|bookindex|errcodes|features-sql")),
    ("apache2-doc", lambda root: readers.pages(root / "usr/share/doc/apache2-doc/manual/en")),
]

# One way to write what typography writes in several, and no characters that only layout needs.
SAME = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--",
                      "\u2026": "...", "\u00a0": " ", "\u00b6": "", "\u00ad": "", "\ufeff": ""})


def clean(paragraph):
    return " ".join(paragraph.translate(SAME).split())


def documents(paragraphs):
    """Cuts a text into documents of DOCUMENT_CHARACTERS or a little more."""
    document, size = [], 0
    for paragraph in paragraphs:
        document.append(paragraph)
        size += len(paragraph) + 2
        if size >= DOCUMENT_CHARACTERS:
            yield "\n\n".join(document)
            document, size = [], 0
    if size >= 200:
        yield "\n\n".join(document)


def main():
    parser = argparse.ArgumentParser(description="Makes the corpus of the default model out of Debian packages.")
    parser.add_argument("packages", nargs="?", type=Path, help="folder with one folder for each unpacked package")
    parser.add_argument("output", nargs="?", type=Path, help="folder for train.jsonl and valid.jsonl")
    parser.add_argument("--list", action="store_true", help="print the names of the packages")
    options = parser.parse_args()
    if options.list:
        print("\n".join(name for name, _ in SOURCES))
        return 0
    if not options.output:
        parser.error("PACKAGES and OUTPUT are needed")
    options.output.mkdir(parents=True, exist_ok=True)
    seen = set()
    with open(options.output / "train.jsonl", "w", encoding="utf-8") as train, \
            open(options.output / "valid.jsonl", "w", encoding="utf-8") as valid:
        for name, texts_of in SOURCES:
            count = size = 0
            for text in texts_of(options.packages / name):
                kept = []
                for paragraph in map(clean, text):
                    foreign = len(paragraph) - len(paragraph.encode("latin-1", "ignore"))  # Greek and Hebrew
                    if foreign > 0.02 * len(paragraph) or paragraph in seen:
                        continue
                    if len(paragraph) >= REPEATED_CHARACTERS:
                        seen.add(paragraph)
                    kept.append(paragraph)
                for document in documents(kept):
                    held_out = count % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
                    count += 1
                    size += len(document)
                    json.dump({"text": document, "source": name}, valid if held_out else train, ensure_ascii=False)
                    (valid if held_out else train).write("\n")
            if count == 0:
                print(f"make_corpus.py: {options.packages / name}: no text was found there", file=sys.stderr)
                return 1
            print(f"{name:40}{count:7} documents{size:12,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
