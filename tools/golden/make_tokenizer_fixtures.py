"""Writes the ids that transformers gives 200 varied strings, with tokenizers built from GGUF metadata.

    python make_tokenizer_fixtures.py SmolLM2-135M-Instruct.Q4_1.gguf OUT.json

transformers does not know the pre-tokenizer name "smollm" and falls back on GPT-2's split. The published tokenizer cuts
single digits off first, so that is put in front here; the strings where the two differ are counted at the end (blanks or
line ends before a digit). The other splits (llama-bpe, qwen2, tekken) are transformers' own, over the same vocabulary.

The SentencePiece part needs no file: a small vocabulary is trained here and written into the fixture as GGUF metadata.
"""

import json
import random
import sys
from pathlib import Path

from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, sentencepiece_tokenizer

WRITTEN = [
    "", " ", "  ", "\n", "\n\n", "\t", "\r\n", " \n ", "a", " a", "a ", "  a  b   c    d", "Hello, world!", "hello world",
    "HELLO WORLD", "Hello World's best; isn't it? They'll've been I'm you'd we're.", "It’s “quoted” — with dashes–and… dots",
    "1", "12", "123", "1234567890", " 1", "  12", "a1b2c3", "3.14159", "1,000,000.00", "2026-11-24T09:30:00Z", "v1.2.3-rc4",
    "0x1F 0b101 1e-9", "№5 ½ ¾ ² ³ Ⅷ ٣ ४ ５", "Here are three:\n\n1. one\n2. two\n\n10. ten", "x =  42\ty = 7", "\n1\n\n2\n\n\n3",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|><|im_end|>", "a<|endoftext|>b", "<|im_start|> spaced <|im_end|>",
    "<|im_start", "im_end|>", "<repo_name>x<file_sep>y", "<reponame><filename><gh_stars>", "<jupyter_start><jupyter_text><empty_output>",
    "<|IM_START|>", "< |im_start|>", "<s></s><unk><pad>", "[CLS] [SEP] [MASK]",
    "def f(x):\n    if x > 0:\n        return x**2  # square\n    return None\n", "for (int i = 0; i < 10; ++i) {\n\ta[i] += b[i];\n}",
    "SELECT name, COUNT(*) FROM t WHERE id >= 10 GROUP BY name;", "<div class=\"a b\"><p>Hi &amp; bye</p></div>", "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"\\n\"}}",
    "public static void main(String[] args) { System.out.println(\"hi\"); }", "#include <stdio.h>\r\nint main(){return 0;}\r\n", "lambda x: x[::-1]", "a->b::c<d>&&e||f!=g",
    "https://example.org/a/b?c=d&e=%20f#g", "user.name+tag@example.co.uk", "C:\\Users\\me\\file.txt", "/usr/local/bin", "$HOME ${x} `cmd` $(y)", "--flag=value -x", "```python\nprint(1)\n```",
    "# Title\n\n- item\n- *bold* **strong**\n\n> quote\n\n| a | b |\n|---|---|\n", "E = mc²; ∑ᵢ xᵢ ≤ ∞; α≠β; √2 ≈ 1.414; ∀x∃y", "→ ← ↑ ↓ ⇒ ✓ ✗ ★ ☂ ♥",
    "😀", "😀😃😄", "👍🏽", "👨‍👩‍👧‍👦", "🇨🇭🇩🇪", "a😀b", " 😀 ", "❤️", "emoji at end 🎉", "🏳️‍🌈 flag",
    "漢字", "你好,世界!", "我是一个学生。", "日本語のテキストです。", "カタカナ ひらがな", "한국어 문장입니다.", "ภาษาไทย", "हिन्दी में पाठ", "தமிழ்", "العربية نص", "עברית טקסט", "Русский текст", "Ελληνικά κείμενο", "Українська мова", "ქართული", "Հայերեն", "Tiếng Việt có dấu",
    "Grüezi, schöne Straße in Zürich", "Où est l'élève? Ça va.", "El niño comió piñata ¿verdad? ¡Sí!", "Čeština žluťoučký kůň", "İstanbul ığüşöç", "æøå ÆØÅ", "ﬁ ligature ﬀ", "é vs é", "Å vs Å", "ñ", "ＦＵＬＬ ｗｉｄｔｈ",
    "a\u00a0b", "a\u200bb", "a\u2028b\u2029c", "\ufeffbom", "soft\u00adhyphen", "tab\tand\x0bvertical\x0cform", "nul\x00byte", "\x01\x02\x1f\x7f", "\ufffd", "\U0010ffff", "a\u0301\u0302\u0303b", "Z̸a̶l̷g̵o̴",
    "                ", "\t\t\t", "\n\n\n\n", " \t \n \t ", "a\n b\n  c\n   d\n", "trailing   ", "   leading", "a  b", "a   b", "end\n", "\nstart",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababab", "supercalifragilisticexpialidocious", "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis", "camelCaseIdentifier snake_case_identifier SCREAMING_CASE kebab-case", "iPhone's eBay'S I'LL he'd",
    "''''", "\"\"\"\"", "....", "!!!???", "-----", "=====", "_____", "*****", "(((())))", "[]{}<>", "\\\\\\", "@@@###$$$%%%", "~`|^&", "a.b,c;d:e!f?g", "...and", "word...word", " .", " ,", " 's", " 'S", "don't", "DON'T", "dOn'T", "'tis", "rock'n'roll",
    "What is the capital of France?", "The capital of France is Paris.", "You are a helpful AI assistant named SmolLM, trained by Hugging Face", "In 1969, Apollo 11 landed; 3 men, 1 moon.", "Call +41 44 123 45 67 at 9:30 am", "50% off! €19.99 £5 ¥100 ₹20 ₿1", "20°C / 68°F, 5′10″", "H₂O CO₂ x⁴", "1st 2nd 3rd 4th", "IV. XII. MMXXVI",
]


def strings():
    """The written ones, and what remains to 200 mixed from their characters and runs by a fixed seed."""
    mixed = random.Random(3)
    runs = [w for w in WRITTEN if w] + [" ", "  ", "\n", "\t", "7", "42", "\n\n"]
    out = list(dict.fromkeys(WRITTEN))
    while len(out) < 200:
        text = "".join(mixed.choice(runs)[: mixed.randint(1, 12)] for _ in range(mixed.randint(2, 9)))
        if text not in out:
            out.append(text)
    return out


def ids(tokenizer, texts, special=False):
    return [tokenizer.encode(t, add_special_tokens=special) for t in texts]


def sentencepiece():
    """A small SentencePiece vocabulary as GGUF metadata, and what transformers makes of it."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    corpus = [w for w in WRITTEN if w.isascii()] * 3
    trained.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=420, show_progress=False))
    learned = [t for t, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
    pieces = [t for t in learned if len(t) > 1] + [t for t in learned if len(t) == 1 and not t.isspace()] + ["é", "漢"]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + pieces + ["<turn>"]
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces))] + [0.0]
    types = [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4]
    texts = [w for w in strings() if "<" not in w][:120] + ["<s>a</s> b<turn> c", "<turn>", "x <turn>  y"]
    out = {"tokens": tokens, "scores": scores, "types": types, "texts": texts}
    for prefix in (True, False):
        tokenizer = sentencepiece_tokenizer({"tokens": tokens, "scores": scores})
        tokenizer = LlamaTokenizer(vocab=tokenizer._vocab, merges=tokenizer._merges, add_prefix_space=prefix, add_bos_token=True)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<unk>"]})
        tokenizer.add_tokens(["<turn>"])
        key = "prefix" if prefix else "bare"
        out[key] = ids(tokenizer, texts, special=True)
        out[key + "_decoded"] = [tokenizer.decode(i, skip_special_tokens=True) for i in out[key]]
    return out


def main(gguf, target):
    gguf = Path(gguf)
    texts = strings()
    stock = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    smol = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    smol.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    fields = GGUFReader(gguf).fields
    read = lambda key: fields[f"tokenizer.ggml.{key}"].contents()
    splits = {}
    for pre in ("llama-bpe", "qwen2", "tekken", "gpt-2"):
        described = {"tokenizer_type": "gpt2", "pre_tokenizer_type": pre, "tokens": read("tokens"), "token_type": read("token_type")}
        backend, _ = convert_gguf_tokenizer("llama", described | {"merges": read("merges")})
        splits[pre] = [backend.encode(t, add_special_tokens=False).ids for t in texts]
    expected = ids(smol, texts)
    talk = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Japan? 1, 2"},
    ]
    chats = [
        {"messages": talk[:n], "prompt": prompt, "text": smol.apply_chat_template(talk[:n], tokenize=False, add_generation_prompt=prompt)}
        for n, prompt in ((1, True), (2, False), (3, True))
    ] + [
        {
            "messages": [{"role": "system", "content": "Be brief."}] + talk[:1],
            "prompt": True,
            "text": smol.apply_chat_template([{"role": "system", "content": "Be brief."}] + talk[:1], tokenize=False, add_generation_prompt=True),
        }
    ]
    for chat in chats:
        chat["ids"] = smol.encode(chat["text"], add_special_tokens=False)
    out = {"texts": texts, "smollm": expected, "splits": splits, "chats": chats, "sentencepiece": sentencepiece()}
    Path(target).write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")).replace('],"', '],\n"') + "\n", encoding="utf-8")
    differing = [t for t, a, b in zip(texts, expected, ids(stock, texts)) if a != b]
    print(len(texts), "strings; transformers' fallback split differs on", len(differing), differing)
    print("splits differ from smollm on", {k: sum(a != b for a, b in zip(v, expected)) for k, v in splits.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
