from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.apps.translation.data import NUMBERS, Corpus, Pairs, load_pairs
from limbeck.errors import DataError

FILES = {
    "train.en": "a still\na worm\n",
    "train.de": "eine Blase\nein Kühler\n",
    "val.en": "a flask\n",
    "val.de": "ein Kolben\n",
    "test_2016.en": "steam\n",
    "test_2016.de": "Dampf\n",
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a folder of the files above, some of them replaced, added, or left out (None)."""

    def written(**changes: str | bytes | None) -> Path:
        for name, text in {**FILES, **{key.replace("__", "."): text for key, text in changes.items()}}.items():
            if text is not None:
                (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return tmp_path

    return written


def test_a_folder_of_two_languages(write: Write) -> None:
    corpus = load_pairs(write())
    assert (corpus.source, corpus.target, corpus.notes) == ("en", "de", ())
    assert corpus.train == Pairs(("a still", "a worm"), ("eine Blase", "ein Kühler"))
    assert corpus.valid == Pairs(("a flask",), ("ein Kolben",))
    assert corpus.tests == {"test_2016": Pairs(("steam",), ("Dampf",))}


@pytest.mark.parametrize(
    ("asked", "found"),
    [((None, None), ("en", "de")), (("de", None), ("de", "en")), ((None, "en"), ("de", "en")), (("de", "en"), ("de", "en"))],
)
def test_the_direction(write: Write, asked: tuple[str | None, str | None], found: tuple[str, str]) -> None:
    corpus = load_pairs(write(), *asked)
    assert (corpus.source, corpus.target) == found
    assert corpus.train.source[0] == ("a still" if found[0] == "en" else "eine Blase")


def test_without_english_the_alphabet_decides(write: Write) -> None:
    folder = write(train__en=None, val__en=None, test_2016__en=None, train__cs="a\nb", val__cs="c", test_2016__cs="d")
    assert (load_pairs(folder).source, load_pairs(folder).target) == ("cs", "de")


def test_a_third_language_has_to_be_chosen(write: Write) -> None:
    folder = write(train__fr="un\ndeux", val__fr="trois")
    with pytest.raises(DataError, match="training files in de, en, fr; choose two of them with --source and --target"):
        load_pairs(folder)
    with pytest.raises(DataError, match="choose two of them"):
        load_pairs(folder, source="de")
    corpus = load_pairs(folder, target="fr")  # from English, where it is there
    assert (corpus.source, corpus.target, corpus.train.target) == ("en", "fr", ("un", "deux"))
    assert corpus.notes == ("test_2016 is left out: test_2016.fr is missing",)
    assert corpus.tests == {}


@pytest.mark.parametrize("name", ["val", "valid", "dev"])
def test_the_names_of_validation(write: Write, name: str) -> None:
    corpus = load_pairs(write(**{"val__en": None, "val__de": None, f"{name}__en": "x", f"{name}__de": "y"}))
    assert corpus.valid == Pairs(("x",), ("y",))


def test_packed_files_are_read_where_there_is_no_plain_one(write: Write) -> None:
    folder = write(train__de=None, train__de__gz=gzip.compress(FILES["train.de"].encode()), val__en__gz=gzip.compress(b"stale\n"))
    corpus = load_pairs(folder)
    assert corpus.train.target == ("eine Blase", "ein Kühler")
    assert corpus.valid.source == ("a flask",)


def test_only_line_feeds_end_a_line(write: Write) -> None:
    """Unicode knows more ends of a line; a translation with one of them must not shift all that follow."""
    corpus = load_pairs(write(train__en="\ufeffone\u2028two \r\nthree\x85four", train__de="eins\vzwei\ndrei\x1cvier"))
    assert corpus.train == Pairs(("one\u2028two", "three\x85four"), ("eins\vzwei", "drei\x1cvier"))


def test_an_empty_split_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"val\.en and .*val\.de are empty; fill them or take them away"):
        load_pairs(write(val__en="", val__de=""))


def test_empty_sides_leave_the_training_alone(write: Write) -> None:
    corpus = load_pairs(write(train__en="a\n\nc\n \n", train__de="x\ny\n\n\n", val__en="a\n\n", val__de="x\ny\n"))
    assert corpus.train == Pairs(("a",), ("x",))
    assert corpus.notes == ("3 training pairs with an empty side are left out",)
    assert corpus.valid == Pairs(("a", ""), ("x", "y"))


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "b c"]), st.sampled_from(["", "ä", "ß x"])), min_size=1, max_size=6))
def test_lines_come_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    for place, language in enumerate(("en", "de")):
        (folder / f"test.{language}").write_text("".join(f"{row[place]}\n" for row in rows), encoding="utf-8")
    assert load_pairs(folder).tests["test"] == Pairs(tuple(row[0] for row in rows), tuple(row[1] for row in rows))


FAULTS = {
    "no training": ({"train__en": None, "train__de": None}, r"has no train\.\* files; --data takes a folder with train\.en"),
    "one language": ({"train__de": None}, "training files in en alone; a translation needs two languages"),
    "no validation": ({"val__de": None}, r"has no val\.en and val\.de; add them"),
    "unequal": ({"train__en": "a\nb\nc\n"}, r"train\.en has 3 lines and .*train\.de has 2; line by line"),
    "unequal test": ({"test_2016__en": ""}, r"test_2016\.en has 0 lines and .*test_2016\.de has 1"),
    "nothing": ({"train__en": "", "train__de": ""}, r"train\.en and .*train\.de hold no pair of sentences to train on"),
    "blanks alone": ({"train__en": "\na\n", "train__de": "x\n\n"}, "hold no pair of sentences"),
    "latin 1": ({"train__de": "eine Blase\nein Kühler".encode("latin-1")}, r"train\.de is not UTF-8 text \(line 2, byte 16\); convert it"),
    "not packed": ({"val__en": None, "val__en__gz": b"a flask\n"}, r"val\.en\.gz is damaged or not packed by gzip; copy it again"),
    "cut off": ({"val__en": None, "val__en__gz": gzip.compress(b"a flask\n")[:-9]}, r"val\.en\.gz is damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_with_its_remedy(write: Write, fault: str) -> None:
    changes, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        load_pairs(write(**changes))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"source": "fr"}, "--source fr: .* training files in de, en$"),
        ({"target": "dee"}, "--target dee: .* training files in de, en; did you mean 'de'\\?"),
        ({"source": "de", "target": "de"}, "--source and --target are both de; name two languages of de, en"),
    ],
)
def test_languages_that_are_not_there(write: Write, asked: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_pairs(write(), **asked)


def test_a_name_that_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pairs at 'number': it is neither a folder nor 'numbers'; did you mean 'numbers'\?"):
        load_pairs("number")
    with pytest.raises(DataError, match=r"neither a folder nor 'numbers'; --data takes a folder with train\.en"):
        load_pairs(tmp_path / "nowhere")


def test_the_checksum_tells_corpora_apart(write: Write) -> None:
    corpus = load_pairs(write())
    moved = Corpus("en", "de", corpus.train, corpus.valid, {"test": corpus.tests["test_2016"]})
    sums = [corpus.checksum, moved.checksum, load_pairs(write(), "de").checksum, load_pairs(write(val__en="a  flask")).checksum]
    assert len(set(sums)) == 4
    assert load_pairs(write()).checksum == corpus.checksum


def test_numbers_need_no_files() -> None:
    corpus, back = load_pairs(NUMBERS), load_pairs(NUMBERS, source="de")
    assert corpus.train == Pairs(back.train.target, back.train.source)
    with pytest.raises(DataError, match="--source fr: 'numbers' is there in de, en"):
        load_pairs(source="fr")


def test_multi30k(multi30k: Path) -> None:
    """Elliott et al. 2016, arXiv 1605.00459, table 1: 29,000 pairs to train on, 1,014 to choose by; 1,000 in each test."""
    corpus = load_pairs(multi30k)
    assert (len(corpus.train), len(corpus.valid)) == (29_000, 1014)
    assert {name: len(pairs) for name, pairs in corpus.tests.items()} == {"test_2016_flickr": 1000, "test_2017_flickr": 1000}
    assert corpus.train.source[0] == "Two young, White males are outside near many bushes."
    assert corpus.notes == ()
