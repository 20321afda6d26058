#!/usr/bin/env python3
"""What llama.cpp makes of the model of scripts/fetch-model.sh: token ids of texts, greedy tokens, logits.

    python3 -m venv venv && venv/bin/pip install llama-cpp-python==0.3.36   # compiles llama.cpp
    venv/bin/python scripts/model-facts.py models/gemma-3-270m-q4_k_m.gguf tests/data

Writes gemma3-tokens.json and gemma3-logits.json: what tests of this repository are compared with.
llama.cpp quantises activations to 8 bits before it multiplies: its logits differ from exact ones by
up to 1.5 in these texts, and its greedy tokens where two logits are that near.
"""

import json
import sys
from pathlib import Path

import llama_cpp
import numpy

TEXTS = [
    "",
    " ",
    "  ",
    "a",
    "Hello world",
    " Hello world",
    "  two  spaces",
    "a   b    c     d      e                                  f",
    "tabs\tand\t\tmore\t\t\t\t",
    "line\nline\n\nline\n\n\n\n\nline\r\n",
    "12345 3.14159 1,000,000 0x7fff",
    "don't stop, we'll see; it's Anna's",
    "The capital of France is",
    "fn main() {\n    println!(\"{}\", 1 + 2);\n}\n",
    "for (int i = 0; i < n; ++i) { x[i] += y[i] * z; }",
    "<html><body class=\"a\">text</body></html>",
    "https://example.org/path?query=1&other=%20#part",
    "Größe, Übermut, straße, ÄÖÜ",
    "crème brûlée, façade, naïve, cafe\u0301",
    "Привет, как дела?",
    "日本語の文章、漢字とカタカナ。",
    "中文句子，没有空格。",
    "한국어 문장",
    "العربية من اليمين",
    "हिन्दी में एक वाक्य",
    "🦀 crab, 👩‍👩‍👧 family, 🏳️‍🌈, 🇫🇷",
    "\u2581 the symbol for spaces \u2581\u2581",
    "nothing has these: \U000e0041\U00010a50\ue000\uf8ff\U00012345",
    "zero\u200bwidth\u200djoiner\ufeff and \u00a0 no-break",
    "control \x01\x02\x7f characters",
    "<start_of_turn>user\nWhat is 2 + 2?<end_of_turn>\n<start_of_turn>model\n",
    "<bos>twice<bos><eos><pad>",
    "almost <start_of_turn but not",
    "<unused7> and <0x41>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "The quick brown fox jumps over the lazy dog. " * 3,
]
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
]
GREEDY = 64
TOP = 8


def tokens(model):
    """With the model's special tokens in the text taken as such, and not."""
    rows = []
    for text in TEXTS:
        of = lambda special: model.tokenize(text.encode(), add_bos=False, special=special)
        row = {"text": text, "ids": of(True), "plain": of(False)}
        row["bytes"] = list(model.detokenize(row["ids"], special=True))
        rows.append(row)
    return rows


def logits(model):
    """Of each position of a prompt and its greedy continuation: the largest logits and the sum of exponentials."""
    rows = []
    for prompt in PROMPTS:
        model.reset()
        ids = model.tokenize(prompt.encode(), add_bos=True)
        first, steps = len(ids), []
        model.eval(ids)
        while True:
            scores = numpy.array(model.scores[: model.n_tokens], dtype=numpy.float64)
            last = scores[-1]
            if len(ids) == first + GREEDY:
                break
            ids.append(int(last.argmax()))
            model.eval(ids[-1:])
        for row in scores:
            top = numpy.argsort(-row, kind="stable")[:TOP]
            most = row.max()
            steps.append({
                "top": [[int(i), round(float(row[i]), 5)] for i in top],
                "log_sum_exp": round(float(most + numpy.log(numpy.exp(row - most).sum())), 5),
            })
        rows.append({"prompt": prompt, "prompt_tokens": first, "ids": ids, "positions": steps})
    return rows


def write(path, rows):
    lines = ",\n".join(json.dumps(row, ensure_ascii=True) for row in rows)
    path.write_text(f"[\n{lines}\n]\n")
    print(path)


def main():
    file, folder = sys.argv[1], Path(sys.argv[2])
    model = llama_cpp.Llama(file, n_ctx=256, n_batch=256, logits_all=True, verbose=False)
    write(folder / "gemma3-tokens.json", tokens(model))
    write(folder / "gemma3-logits.json", logits(model))


if __name__ == "__main__":
    main()
