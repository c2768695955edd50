"""Which sentences are refused for their script."""

from __future__ import annotations

import json
import unicodedata

import pytest

from service.application import PROBE_TEXT
from service.contract.errors import InputError, InvalidTexts
from service.hub.resolve import DEMO_FOLDER
from service.intake.language import scripts
from service.intake.text import prepare, prepare_all

ENGLISH = [
    PROBE_TEXT,
    "there is a red circle",
    "A MAN RIDES A HORSE.",
    "Ａ ｒｅｄ ｃｉｒｃｌｅ",  # full width
    "𝐀 𝐫𝐞𝐝 𝐜𝐢𝐫𝐜𝐥𝐞",  # mathematical bold
    "ⓐ ⓡⓔⓓ circle",
    "Zoë and Jürgen sip a café au lait in Győr, near Ångström's Škoda",
    "Ōtsuka Łukasz met Đorđe, Ngũgĩ, Nguyễn Văn Thành and Hawaiʻi's Kaʻahumanu",
    "The Müllers drink crème brûlée, jalapeños and piñatas",
    "Dvor\u030ca\u0301k plays",  # combining marks
    "the ﬁsh swims ªº",
    "a gap of 5 µm",
    "a resistor of 10 kΩ and one of 47 Ω",
    "Ω",
    "25 °C, 3 Å, 100 ℃, 2 ℓ, 300 K",
    "E = mc² and Δx · Δp ≥ ħ/2",
    "π ≈ 3.14159",
    "α + β = γ",
    "∑ aᵢxᵢ ≤ ∫ f(x) dx ∀ x ∈ ℝ",
    "the angle α is 30° and λ = 500 nm",
    "sin²θ + cos²θ = 1",
    "a sign with the word 出口 is on the wall",
    "two men with a Пепси bottle",
    "the shop 東京 is open",
    "the kanji 山 means mountain",
    "123 456",
    "🔴 🟦",
    "👩‍👩‍👧‍👦!!! ❤️ 🇨🇳",
    "…?!",
    "3 > 2",
    # Mostly quoted.
    'the sign says "请勿吸烟，违者罚款五百元"',
    "the sign says “请勿吸烟，违者罚款五百元”",
    "ein „Запрещено курить в этом помещении“ sign",
    "a «Вход только по пропускам» plate",
    "a »Вход только по пропускам« plate",
    "a ‹Вход только по пропускам› plate",
    "a poster with 「東京オリンピック二千二十年」",
    "a poster with 『東京オリンピック二千二十年』",
    "a cover of 《三国演义与水浒传》 here",
    "a wall with 'يمنع الدخول لغير العاملين' in red",
    "a wall with ‘يمنع الدخول لغير العاملين’ in red",
    "a label with `привет, дорогой мир`",
    "it reads ＂立入禁止＂ here",
    "the dog's sign 'осторожно, злая собака' is the cats' joke",
    "John's shirt reads 'сегодня, как и всегда, л’eau'",
    '"一只狗在草地上奔跑"',
    "“一只狗”",
    '5" and 6" pipes',
]
FOREIGN = [
    "图中有一个红色的圆。",
    "一个男人在公园里骑马",
    "照片里有三个人",
    "圖中有一個紅色的圓",
    "赤い円があります",
    "アカイマル",
    "ﾚｯﾄﾞ",  # half-width katakana
    "빨간 원이 있습니다",
    "На картинке красный круг",
    "На картине изображён «red circle» и собака",
    "Υπάρχει ένας κόκκινος κύκλος",
    "η εικόνα δείχνει σκύλο",
    "هناك دائرة حمراء",
    "یک دایره قرمز وجود دارد",
    "יש עיגול אדום",
    "יֵשׁ עִגּוּל אָדֹם",
    "यहाँ एक लाल वृत्त है",
    "একটি লাল বৃত্ত আছে",
    "ஒரு சிவப்பு வட்டம் உள்ளது",
    "มีวงกลมสีแดง",
    "կա կարմիր շրջան",
    "აქ არის წითელი წრე",
    "ቀይ ክብ አለ",
    "មានរង្វង់ពណ៌ក្រហម",
    "དམར་པོ་ཞིག་འདུག",
    "有 1 只 dog 在草地上",
    "Привет Alice",
    "a红色的圆",
    "图中有a cat和一只狗在草地上玩耍",
    "红色 100 %",
    "🔴 圆",
    "它写着“STOP”和“GO”",
    "它写着'STOP AND GO SLOWLY'的牌子",
    "собака 'dog' лежит",
    "“unclosed 一只狗在草地上奔跑得很快",
    "dogs' 一只狗在草地上奔跑得很快 cats",
]
#: For a model of Chinese.
CHINESE = [
    "图中有一个红色的圆。",
    "照片里有 3 只 cat",
    "它写着“no smoking, no dogs, no bikes”",
    "ㄅㄆㄇ",
    "42",
    "人々",
]
NOT_CHINESE = ["there is a red circle", "これはいぬです", "красный круг", "a 红 circle", "'红色的圆' is red"]


def code(text: str, language: str | None, premise: str | None = None) -> str | None:
    try:
        prepare(text, premise, 100_000, language)
    except InputError as error:
        return error.code
    return None


@pytest.mark.parametrize("text", ENGLISH)
def test_a_sentence_in_latin_script_passes(text: str) -> None:
    assert code(text, "en") is None


def test_the_sentences_of_the_demo_model_pass() -> None:
    examples = json.loads((DEMO_FOLDER / "card.json").read_text(encoding="utf-8"))["examples"]
    assert examples
    assert {code(one["hypothesis"], "en") for one in examples} == {None}


@pytest.mark.parametrize("text", FOREIGN)
def test_a_sentence_mostly_in_another_script_is_refused(text: str) -> None:
    assert code(text, "en") == "language"
    assert code(unicodedata.normalize("NFD", text), "en") == "language"


@pytest.mark.parametrize("text", CHINESE)
def test_a_chinese_model_takes_chinese(text: str) -> None:
    assert code(text, "zh") is None


@pytest.mark.parametrize("text", NOT_CHINESE)
def test_a_chinese_model_takes_nothing_else(text: str) -> None:
    assert code(text, "zh") == "language"


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize("language", [None, "xx", ""])
def test_without_a_known_language_there_is_no_rule(text: str, language: str | None) -> None:
    assert code(text, language) is None


def test_exactly_half_passes_and_one_letter_more_does_not() -> None:
    assert code("ab 红色", "en") is None
    assert code("ab 红色的", "en") == "language"


def test_a_premise_is_held_to_the_same_rule() -> None:
    assert code("a circle", "en", "图中有一个红色的圆。") == "language"
    assert code("a circle", "en", 'the caption "图中有一个红色的圆。"') is None


def test_every_foreign_text_of_a_call_is_named() -> None:
    with pytest.raises(InvalidTexts) as caught:
        prepare_all(["a dog", "一只狗", "", "собака"], None, 100, "en")
    assert caught.value.errors == [(1, "language"), (2, "no_text"), (3, "language")]


def test_an_error_quotes_no_text() -> None:
    with pytest.raises(InputError) as caught:
        prepare("собака", None, 100, "en")
    assert "собака" not in str(caught.value) + caught.value.remedy


def test_letters_are_counted_by_script() -> None:
    counted = scripts("a é ｂ 红 か カ ｶ ー 한 ж ω ωω ά ʻ 々 3 ٣ x́ 🙂 ª ℵ")
    assert counted == {
        "LATIN": 5, "CJK": 1, "HIRAGANA": 1, "KATAKANA": 3, "HANGUL": 1, "CYRILLIC": 1, "GREEK": 2,
        "IDEOGRAPHIC": 1, "HEBREW": 1,
    }  # fmt: skip


@pytest.mark.parametrize("opening", ["'", "“", "«", '"', "「", "`", "'a ", "«»", "'a'b"])
def test_the_longest_text_of_quotes_is_checked_in_linear_steps(opening: str) -> None:
    """It would take minutes if each quote were searched to the end of the text."""
    assert code(("а" + opening * 30_000)[:100_000], "en") in (None, "language")
