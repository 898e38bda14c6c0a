"""Builds the demo model's tokenizer: byte-level BPE in the Qwen2 file layout, with Qwen's special tokens.

Its merges are not learnt from text. Words of questions and JSON templates get one token each, and so does every
Chinese character used; everything that is read off a picture stays about one token a character, which is what a
visual token holds. A trained BPE would cut `Fish` into `F|is|h` and make copying harder.
"""

from functools import cache
from hashlib import sha256

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from .pictures.wordings import WORDINGS
from .pictures.words import CHINESE, listed

PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = listed(
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
)
ADDED = listed(
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
)

_SPACED = listed(
    "the is of are there total date store price items were was many much kind image this what text line lines all "
    "as in its on bar point one has value values highest lowest category chart data title type color shapes shape "
    "circle square triangle star diamond red green blue yellow orange purple black pink and an top left right "
    "center middle bottom shows receipt name amount merchant payment method paid bought first second third fourth "
    "fifth sixth last does say output bbox label sentence objects it JSON picture larger more colour box cost "
    "field form about for"
)
_BARE = listed(
    "assistant user system What Which How Where Locate Extract Describe Is The Read Total Price Value Transcribe "
    "Count Detect Parse OCR Yes No total date merchant items name price type title data label bbox json bar line "
    "top middle bottom center receipt chart text shapes red green blue yellow orange purple black pink First And "
    "Compare form series points _type _axis _parse"
)
# The pre-token rule keeps punctuation apart from letters, so these chains hold no letter.
_PUNCTUATION = [
    '{"',
    '":',
    ' "',
    '",',
    ' [{"',
    '"},',
    ' {"',
    '"}]}',
    "],",
    "},",
    " [",
    '"}',
    "```",
    ".",
    ": ",
    ' "",',
    "}]}]}",
]
# Kept for a general user's wording; harmless where no question uses them.
_CHINESE_EXTRA = (
    "请问图像这那是的有没无几多少什么哪里个张照片内容描述总价格商店日期价钱颜色形状位置数量最高低文字识别你好"
    "谢谢回答可以看到上下左右中间，。！：、一二三四五六更大"
)


@cache
def _byte_letters() -> dict[int, str]:
    """The printable stand-in of every byte in a byte-level vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(rest)}


def _letters(text: str) -> str:
    return "".join(_byte_letters()[byte] for byte in text.encode())


def _chinese_characters() -> list[str]:
    asked = "".join("".join(wording.chinese) for wording in WORDINGS.values())
    return sorted({char for char in asked + "".join(CHINESE.values()) + _CHINESE_EXTRA if ord(char) > 0x2FFF})


def build() -> Tokenizer:
    vocabulary = {letter: number for number, letter in enumerate(_byte_letters()[byte] for byte in range(256))}
    merges: list[tuple[str, str]] = []
    whole = [" " + word for word in _SPACED] + _BARE + _PUNCTUATION + _chinese_characters()
    for word in whole:
        letters = _letters(word)
        head = letters[0]
        for letter in letters[1:]:
            if head + letter not in vocabulary:
                vocabulary[head + letter] = len(vocabulary)
                merges.append((head, letter))
            head += letter
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    return tokenizer


@cache
def fingerprint() -> str:
    """Changes when any token gets another number, as a wording with a new character makes many do."""
    return sha256(build().to_str().encode()).hexdigest()[:16]


def padded_size(tokenizer: Tokenizer) -> int:
    """Rows of the embedding: the vocabulary rounded up to 64."""
    return (tokenizer.get_vocab_size() + 63) // 64 * 64
