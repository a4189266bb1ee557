#!/usr/bin/env python3
"""Compares our tokenizer with Hugging Face's `tokenizers` on random strings. Not part of the test suite: it needs the
network once, for a virtual environment of its own.

    tests/oracle/tokenizer_oracle.py MODEL_DIRECTORY build/release/tests/text_tests [--count N] [--seed S] [--all]

It writes N strings with the oracle's ids to a file and lets the test TokenizerOracle.AgreesOnEveryCase read it.
Without --all, strings hold only characters of Unicode 14, which is what PCRE2 10.42 knows; the oracle knows more.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata
import venv

PACKAGE = "tokenizers==0.23.3"


def enter_environment():
    """Runs this script again with the Python of a virtual environment that has the oracle."""
    directory = pathlib.Path(tempfile.gettempdir()) / f"sluice-oracle-{os.getuid()}"
    python = directory / "bin" / "python"
    if pathlib.Path(sys.prefix) == directory:
        return
    if not (directory / "complete").exists():
        venv.create(directory, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True)
        (directory / "complete").touch()
    os.execv(python, [str(python), *sys.argv])


def code_points(every):
    """Characters by kind; surrogates are no text."""
    ranges = {
        "ascii": [(0x20, 0x7F)],
        "digits": [(0x30, 0x3A), (0x660, 0x66A), (0x966, 0x970), (0xFF10, 0xFF1A), (0x2160, 0x2189), (0x1D7CE, 0x1D800)],
        "latin": [(0xA0, 0x250), (0x1E00, 0x1F00)],
        "scripts": [(0x370, 0x1100), (0x1200, 0x1800), (0x10000, 0x10400), (0x1F00, 0x2000)],
        "marks": [(0x300, 0x370), (0x591, 0x5C8), (0x20D0, 0x20F1), (0xFE00, 0xFE10), (0x1AB0, 0x1AC1)],
        "symbols": [(0x2010, 0x2070), (0x20A0, 0x20C1), (0x2100, 0x2C00), (0x3000, 0x3040)],
        "han_kana": [(0x3030, 0x3110), (0x4DF0, 0x4E20), (0x9F90, 0xA000), (0x5000, 0x5100), (0x20000, 0x20040)],
        "hangul": [(0xAC00, 0xAC80), (0x1100, 0x1200)],
        "emoji": [(0x1F300, 0x1F650), (0x1F900, 0x1FA00), (0x1F1E6, 0x1F200), (0x200D, 0x200E), (0xFE0F, 0xFE10)],
        "control": [(0x0, 0x20), (0x7F, 0xA0), (0x180B, 0x180F), (0x200B, 0x2010), (0xFEFF, 0xFF00), (0xE000, 0xE004)],
        "space": [(0x9, 0xE), (0x20, 0x21), (0x85, 0x86), (0xA0, 0xA1), (0x1680, 0x1681), (0x180E, 0x180F),
                  (0x2000, 0x200B), (0x2028, 0x202A), (0x202F, 0x2030), (0x205F, 0x2060), (0x3000, 0x3001)],
        "anything": [(0x0, 0xD800), (0xE000, 0x110000)],
    }
    kinds = {}
    for name, parts in ranges.items():
        points = [p for low, high in parts for p in range(low, high)]
        if not every:
            points = [p for p in points if unicodedata.category(chr(p)) != "Cn"]
        kinds[name] = points
    return kinds


def random_text(rng, kinds, special):
    names = list(kinds)
    text = []
    few = rng.sample(names, rng.randint(1, 4)) + ["ascii", "space"]
    for _ in range(rng.randint(0, 12)):
        roll = rng.random()
        if roll < 0.03:
            text.append(rng.choice(special))
        elif roll < 0.25:
            text.append(rng.choice([" ", "  ", "\n", "\r\n", " \n", "\n ", "\t", "\u180e", "\u180e ", " \u180e"]))
        elif roll < 0.30:
            text.append(chr(rng.choice(kinds[rng.choice(few)])) * rng.randint(1, 20))
        else:
            points = kinds[rng.choice(few)]
            text.append("".join(chr(rng.choice(points)) for _ in range(rng.randint(1, 6))))
    return "".join(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("tests", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=50000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    enter_environment()

    import tokenizers

    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, {arguments.count} strings, tokenizers {tokenizers.__version__}, "
          f"Unicode {'any' if arguments.all else unicodedata.unidata_version}")
    if not arguments.all and unicodedata.unidata_version > "14.0.0":
        print("note: this Python knows more characters than PCRE2 10.42; mismatches on the newest are expected")
    oracle = tokenizers.Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    special = [token.content for token in oracle.get_added_tokens_decoder().values()]
    rng = random.Random(seed)
    kinds = code_points(arguments.all)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "cases.json"
        cases = []
        for _ in range(arguments.count):
            text = random_text(rng, kinds, special)
            ids = oracle.encode(text, add_special_tokens=False).ids
            # Words show a wrong split even where a small vocabulary has no merge across the border.
            words = [word for word, _ in oracle.pre_tokenizer.pre_tokenize_str(text)]
            cases.append({"text": text, "ids": ids, "words": words,
                          "decode": oracle.decode(ids, skip_special_tokens=False)})
        path.write_text(json.dumps({"cases": cases}))
        environment = dict(os.environ, SLUICE_TOKENIZER_ORACLE=str(path),
                           SLUICE_TOKENIZER_MODEL=str(arguments.model.resolve()))
        command = [str(arguments.tests), "--gtest_filter=TokenizerOracle.*"]
        sys.exit(subprocess.run(command, env=environment).returncode)


if __name__ == "__main__":
    main()
