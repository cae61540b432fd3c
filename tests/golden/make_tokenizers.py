#!/usr/bin/env python3
"""Golden tokenizers: small tokenizer.json files of each family and what the `tokenizers` library
makes of hard texts. Run with PyPI's tokenizers 0.23.3:

    python tests/golden/make_tokenizers.py tests/golden/tokenizers

Names of families behind it make those alone. Writes DIR/<name>/tokenizer.json, DIR/<name>/golden.json, DIR/texts.json and DIR/characters.json.
"""

import json
import pathlib
import random
import sys
import zlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

QWEN_MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# With and without the possessive forms that some exports write.
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)

SYLLABLES = "ka re to in the an er ing on st al ou is wa mi ne é ü ñ ой ра на 的 一 中 文 あ い ال".split()


def words(rng, count):
    for _ in range(count):
        word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4)))
        yield word.capitalize() if rng.random() < 0.2 else word


def corpus(seed):
    """Lines of made-up words with punctuation, numbers, code, blanks and several scripts."""
    rng = random.Random(seed)
    lines = []
    for _ in range(1500):
        line = " ".join(words(rng, rng.randint(2, 12)))
        roll = rng.random()
        if roll < 0.1:
            line += f" {rng.randint(0, 10**rng.randint(1, 6))}."
        elif roll < 0.2:
            line = "    if (x == %d) { return y->z; }" % rng.randint(0, 99)
        elif roll < 0.3:
            line = "\t" * rng.randint(1, 3) + line + "!?" * rng.randint(1, 2)
        elif roll < 0.4:
            line = "I'm sure they'll say we've don't, she'd it's you're " + line
        lines.append(line + rng.choice(["", "\n", "\n\n", " \n"]))
    return lines


def train(tokenizer, size, seed, alphabet, special):
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(seed), trainer)
    return tokenizer


def byte_level(size, seed, special, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return train(tokenizer, size, seed, sorted(pre_tokenizers.ByteLevel.alphabet()), special)


def split_bytes(*patterns, behavior="isolated"):
    parts = [pre_tokenizers.Split(Regex(p), behavior, invert=False) for p in patterns]
    return pre_tokenizers.Sequence(
        parts + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def bos_template(token, ids):
    return processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B:1", special_tokens=[(token, ids)]
    )


def gpt2():
    tokenizer = byte_level(600, 1, ["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens(
        [
            AddedToken("WORD", single_word=True),
            AddedToken("<left>", lstrip=True),
            AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("<both>", lstrip=True, rstrip=True),
            AddedToken("<b"),
            AddedToken("  "),
        ]
    )
    return tokenizer


def gpt2_prefix():
    tokenizer = byte_level(400, 2, ["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def llama3():
    tokenizer = byte_level(700, 3, [], ignore_merges=True)
    tokenizer.pre_tokenizer = split_bytes(LLAMA3)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"]
    tokenizer.add_special_tokens(names)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            bos_template(names[0], tokenizer.token_to_id(names[0])),
        ]
    )
    return tokenizer


def qwen2():
    tokenizer = byte_level(600, 4, [])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split_bytes(QWEN2)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("cafe\u0301")])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def starcoder():
    tokenizer = byte_level(500, 5, ["<|endoftext|>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def deepseek():
    tokenizer = byte_level(600, 6, [])
    tokenizer.pre_tokenizer = split_bytes(r"\p{N}{1,3}", r"[一-龥\u3040-ゟ゠-ヿ]+", DEEPSEEK)
    tokenizer.add_special_tokens(["<\uff5cbegin\u2581of\u2581sentence\uff5c>"])
    return tokenizer


def tekken():
    tokenizer = byte_level(600, 7, ["<unk>", "<s>", "</s>"], ignore_merges=True)
    tokenizer.pre_tokenizer = split_bytes(TEKKEN)
    return tokenizer


def behaviors():
    """Split in all its behaviours, with strings and inverted, and the classes by name."""
    tokenizer = byte_level(400, 8, [])
    split = pre_tokenizers.Split
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s{3,}"), "  ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            split("-", "merged_with_previous"),
            split(Regex(r"[\d_]"), "merged_with_next"),
            split(Regex(r"[\w\s]+"), "isolated", invert=True),
            split(Regex(r"aa|e"), "contiguous"),
            split("|", "removed"),
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def word_level():
    """Words by class, and no decoder at all."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tokenizer.normalizer = normalizers.NFD()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=False)]
    )
    return train(tokenizer, 300, 9, [], ["<unk>"])


def fallback(seed, size, **model):
    """SentencePiece-like: bytes for what is unknown, and merges over marked words."""
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, **model))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    train(tokenizer, size, seed, [], special)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    # Leave characters out, so that bytes and the unknown token have work to do.
    for char in "зöñ的ال":
        data["model"]["vocab"].pop(char, None)
    data["model"]["merges"] = [
        pair
        for pair in data["model"]["merges"]
        if all(part in data["model"]["vocab"] for part in pair)
    ]
    ids = {id: rank for rank, id in enumerate(sorted(data["model"]["vocab"].values()))}
    data["model"]["vocab"] = {t: ids[i] for t, i in data["model"]["vocab"].items()}
    return data


def llama_decoder(strip=True):
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if strip else []))


def llama2():
    data = fallback(10, 700, fuse_unk=True)
    # The older of the two ways to write merges.
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = llama_decoder()
    tokenizer.post_processor = bos_template("<s>", 1)
    text = json.loads(tokenizer.to_str())
    text["model"]["merges"] = [" ".join(pair) for pair in text["model"]["merges"]]
    return json.dumps(text, ensure_ascii=False)


def mistral():
    data = fallback(11, 650, fuse_unk=True)
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = llama_decoder()
    tokenizer.post_processor = bos_template("<s>", 1)
    tokenizer.add_special_tokens(["[INST]", "[/INST]"])
    return tokenizer


def metaspace():
    data = fallback(12, 650, fuse_unk=False)
    for byte in range(0x80, 0x100):  # bytes that have no token: the unknown token instead
        data["model"]["vocab"][f"<nobyte{byte}>"] = data["model"]["vocab"].pop(f"<0x{byte:02X}>")
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


def gemma():
    data = fallback(13, 700, fuse_unk=True)
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = llama_decoder(strip=False)
    tokenizer.post_processor = bos_template("<s>", 1)
    tokenizer.add_tokens([AddedToken("\n" * n, normalized=False) for n in (2, 3, 5)])
    return tokenizer


def o200k():
    tokenizer = byte_level(600, 14, [], ignore_merges=True)
    tokenizer.pre_tokenizer = split_bytes(O200K)
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>", "<|channel|>"])
    return tokenizer


def possessive():
    tokenizer = byte_level(600, 15, [])
    tokenizer.pre_tokenizer = split_bytes(POSSESSIVE)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def qwen_marks():
    tokenizer = byte_level(600, 16, [])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split_bytes(QWEN_MARKS)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def neox():
    tokenizer = byte_level(500, 17, ["<|endoftext|>"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (24, 4, 2)])
    return tokenizer


def falcon():
    tokenizer = byte_level(500, 18, ["<|endoftext|>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    )
    return tokenizer


def phi3():
    data = fallback(19, 650, fuse_unk=True)
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = llama_decoder()
    tokenizer.post_processor = bos_template("<s>", 1)
    tokenizer.add_special_tokens(
        [AddedToken(t, rstrip=True, normalized=False) for t in ("<|im_end|>", "<|endoftext|>")]
    )
    return tokenizer


FAMILIES = [
    gpt2, gpt2_prefix, llama3, qwen2, starcoder, deepseek, tekken, behaviors, word_level, llama2,
    mistral, metaspace, gemma, o200k, possessive, qwen_marks, neox, falcon, phi3,
]  # fmt: skip

HARD = [
    "", " ", "  ", "   a", "a ", "a  ", "\n", "\n\n\n", "\r\n \r\n", " \n \n a", "\t\t x", "\x00\x01\x7f",
    "a" * 300, " " * 300, "\n" * 40 + " " * 40 + "x", "0123456789" * 12, "1 22 333 4444 55555",
    "I'M HE'S WE'LL THEY'VE YOU'RE she'D don'T 'sup ''s", "\u2019s \u02bcs 'ſ 'S\u0307",
    "e\u0301 é e\u0301\u0323 e\u0323\u0301 \u1e69 s\u0323\u0307 s\u0307\u0323", "\u0301lone mark", "a" + "\u0301\u0323" * 20,
    "\uac00 \u1100\u1161 \u1100\u1161\u11a8 \u1112\u1161\u11ab\u1100\u1173\u11af", "\u212b \u2126 \u1e9b\u0323 ﬁ ﬀ ① ㎏",
    "中文字符，日本語ひらがなカタカナ、한국어 混ぜ mix中a文b", "مرحبا بالعالم ١٢٣ \u200fשלום\u200e", "हिन्दी में क्षत्रिय", "ไทยภาษา",
    "👩\u200d👩\u200d👧\u200d👦 👍🏽 🏳\ufe0f\u200d🌈 🇩🇪🇫🇷 ☃\ufe0f", "İstanbul ISTANBUL ıi iİ", "ß ẞ ǅ ǆ Σίσυφος ς",
    "\u180e\u200b\u2028\u2029\u0085\u00a0x\u3000y\u2000z\u205f", "\ufeffbom \ufffd \uffff \U0010ffff", "½ ² ³ Ⅷ ٣ ௧ 〇 ๓",
    "if (x == 10) {\n\treturn y->z;\n}\n", "a_b-c--d---e|f||g", "https://a.b/c?d=e&f=%20#g", "a\u2581b \u2581 \u2581\u2581c",
    "<0x41><0x0A> <unk> <s>x</s>", "<s><s> </s>", " <s> a </s> b", "<|endoftext|>", "a<|endoftext|>b <|endoftext|>",
    "<|begin_of_text|><|eot_id|>hi<|im_start|>user\nyo<|im_end|>\n", "[INST] a [/INST] b[INST]", "<think>hm</think>",
    "WORD aWORD WORDb aWORDb (WORD) WORD_ WORD\u0301 \u0301WORD", "a   <left>   b", "a  <right> \n\t b", "x   <both>   y  <left>  <right>  z",
    "<b<both><bo <left> <left>", "cafe\u0301 café cafe", "<|reserved_special_token_0|>|> <|reserved", "\n\n \n\n\n \n\n\n\n\n\n\n",
    "the the the THE The", "aa aaa aaaa eee", "зöñ的ال öööзззa", "\u00f6", "a\u00f6b", "\x80\x9f\xad\xa1",
]  # fmt: skip


def random_char(rng):
    roll = rng.random()
    if roll < 0.35:
        return chr(rng.randint(0x20, 0x7E))
    if roll < 0.55:
        return rng.choice(" \n\t\r  'sStTdD019_-.,<>|")
    if roll < 0.65:
        return rng.choice(SYLLABLES)
    if roll < 0.72:
        return chr(rng.randint(0x300, 0x345))
    if roll < 0.80:
        return chr(rng.randint(0xA0, 0x24F))
    if roll < 0.90:
        return chr(rng.randint(0x250, 0x33FF))
    if roll < 0.95:
        return rng.choice("\u200d\u200c\ufe0f👩👧🏽🇩\u3000\u00a0\u0085\u2028中文字한국")
    while True:
        code = rng.randint(0, 0x10FFFF)
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def random_text(rng, special):
    text = "".join(random_char(rng) for _ in range(rng.randint(1, 24)))
    while special and rng.random() < 0.2:
        at = rng.randint(0, len(text))
        text = text[:at] + rng.choice(special) + text[at:]
    return text


SPECIAL = [
    "<|endoftext|>", "<s>", "</s>", "<|eot_id|>", "<|im_end|>", " <left>", "<right> ", " <both> ", "WORD", "[INST]",
    "<think>", "\n\n", "cafe\u0301",
]  # fmt: skip


def texts():
    rng = random.Random(20240601)
    return HARD + [random_text(rng, SPECIAL) for _ in range(460)]


def golden(tokenizer, inputs):
    """What the library makes of the inputs; texts that are decoded as CRC-32 of their UTF-8."""
    crc = lambda text: zlib.crc32(text.encode())
    ids = [tokenizer.encode(text).ids for text in inputs]
    rng = random.Random(7)
    size = max(tokenizer.get_vocab().values()) + 1
    loose = []  # ids in an order that no text has
    for _ in range(60):
        some = [rng.randrange(size) for _ in range(rng.randint(1, 10))]
        loose.append([some, tokenizer.decode(some, False), tokenizer.decode(some, True)])
    return {
        "ids": ids,
        "decoded": [crc(tokenizer.decode(i, skip_special_tokens=False)) for i in ids],
        "hidden": [crc(tokenizer.decode(i, skip_special_tokens=True)) for i in ids],
        "loose": loose,
        "tokens": [crc(tokenizer.id_to_token(i) or "") for i in range(size)],
    }


CLASSES = [r"\s", r"\S", r"\w", r"\W", r"\d", r"\D", r"[^\S\n]"] + [
    r"\p{%s}" % name
    for name in "L N M P S Z C Lu Ll Lt Lm Lo Mn Nd Nl No Pc Pd Sm So Han Hiragana Katakana "
    "Hangul Thai Latin Greek Hebrew".split()
]
BLOCK = 0x1000


def blocks():
    """All planes in use, in blocks of BLOCK characters, as a list of strings."""
    for first in [*range(0, 0x32000, BLOCK), 0xE0000]:
        codes = range(max(first, 1), first + BLOCK)
        yield "".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000)


def characters():
    """Per class and block the CRC-32 of the characters in it, as the library sees them; per normal
    form that of each character among marks that it can reorder and compose with."""
    crc = lambda text: zlib.crc32(text.encode())
    result = {}
    for name in CLASSES:
        split = pre_tokenizers.Split(Regex(name), "removed", invert=True)
        result[name] = [crc("".join(t for t, _ in split.pre_tokenize_str(b))) for b in blocks()]
    cuts = {"punctuation": pre_tokenizers.Punctuation(), "numeric": pre_tokenizers.Digits(True)}
    for name, cut in cuts.items():
        isolated = lambda c: len(cut.pre_tokenize_str("z" + c)) == 2
        result[name] = [crc("".join(filter(isolated, b))) for b in blocks()]
    words = Tokenizer(models.BPE())
    words.add_tokens([AddedToken("z", single_word=True)])
    touches = lambda c: not words.encode(c + "z").ids
    result["word"] = [crc("".join(filter(touches, b))) for b in blocks()]
    for form in (normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD):
        around = ["".join(f"a\u0345{c}\u0334\u0301 " for c in b) for b in blocks()]
        result[form.__name__] = [crc(form().normalize_str(text)) for text in around]
    result["Lowercase"] = [crc(normalizers.Lowercase().normalize_str(b)) for b in blocks()]
    return result


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    folder = pathlib.Path(sys.argv[1])
    inputs = texts()
    chosen = sys.argv[2:]
    if not chosen:
        dump(folder / "texts.json", inputs)
        dump(folder / "characters.json", characters())
    for family in FAMILIES:
        if chosen and family.__name__ not in chosen:
            continue
        made = family()
        text = made if isinstance(made, str) else made.to_str()
        where = folder / family.__name__
        where.mkdir(parents=True, exist_ok=True)
        (where / "tokenizer.json").write_text(text + "\n")
        dump(where / "golden.json", golden(Tokenizer.from_str(text), inputs))


if __name__ == "__main__":
    main()
