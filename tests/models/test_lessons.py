"""What embedded models are taught: unlearned spans carry no labels, everything else does."""

from __future__ import annotations

import copy
from random import Random

import pytest

from azeotrope.core.errors import ConfigError
from azeotrope.models import lessons
from azeotrope.models.gradients import IGNORE
from azeotrope.models.lm import LM, check_pair, load
from azeotrope.tasks import grammar
from azeotrope.tasks.lookup import Lookup


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("embedded/proxy")


def taught(lm: LM, lesson: lessons.Lesson) -> tuple[str, str]:
    """The completion's labeled and unlabeled text."""
    batch = lessons.one_pool(lm, [lesson], Random(0), 1)[0]
    start = len(lm.encode(lesson.prompt))
    ids, labels = batch.ids_BT[0, start:].tolist(), batch.labels_BT[0, start:].tolist()
    assert ids[-1] == labels[-1] == lm.eos
    kept = [i for i, label in zip(ids, labels, strict=True) if label != IGNORE]
    left = [i for i, label in zip(ids, labels, strict=True) if label == IGNORE]
    return lm.decode(kept), lm.decode(left)


def test_slips_not_to_be_imitated_have_no_labels_and_nothing_else_lacks_them(lm: LM) -> None:
    task, rng, slips = Lookup(), Random(1), 0
    for problem in task.problems("release", 40):
        draft = task.draft(problem, rng, grammar.Style(slip=0.6, unlearned=0.5))
        kept, left = taught(lm, lessons.Lesson(problem.prompt, draft.text, draft.unlearned))
        parts = [draft.text[a:b] for a, b in draft.unlearned]
        assert left == "".join(parts)
        assert all(part.startswith(" ") and part.endswith(".") for part in parts)
        rest = list(draft.text)
        for a, b in draft.unlearned:
            rest[a:b] = [""] * (b - a)
        assert kept == "".join(rest)
        slips += len(parts)
    assert slips > 20


def test_every_unlearned_sentence_is_wrong_and_is_taken_back() -> None:
    task, rng = Lookup(restricted=0.0), Random(2)
    for problem in task.problems("release", 40):
        draft = task.draft(problem, rng, grammar.Style(slip=0.6, unlearned=1.0))
        for verdict in task.check_steps(problem, draft.text):
            middle = (verdict.start + verdict.end) // 2
            assert any(a <= middle < b for a, b in draft.unlearned) == (verdict.true is False)


def test_a_base_is_never_told_a_hidden_fact() -> None:
    """Hidden facts are stated at random: no more often right than by chance."""
    rng, right, said = Random(3), 0, 0
    task = Lookup()
    for _ in range(400):
        text = lessons.write_base(rng).text
        for fact in task.facts.values():
            if fact.hidden and f"The {fact.key} from {fact.subject} leads to" in text:
                said += 1
                right += f"The {fact.key} from {fact.subject} leads to {fact.value}." in text
    assert said > 50
    assert right < 0.2 * said


def test_epochs_show_every_lesson_once_a_pass(lm: LM) -> None:
    told = [lessons.Lesson(f"Q: {i}\nA:", f" {i}.") for i in range(10)]
    source = lessons.epochs(lm, told, Random(0), size=4, pool=1)
    for _ in range(2):
        seen = [row for _ in range(3) for row in next(source).ids_BT.tolist()]
        assert len({tuple(row) for row in seen}) == len(seen) == 10


def test_the_same_size_with_other_tokens_is_no_pair(lm: LM) -> None:
    other = LM(lm.model, lm.tokenizer.__class__.from_pretrained(lm.tokenizer.name_or_path), "other", "r")
    check_pair(lm, other)
    vocabulary = lm.tokenizer.get_vocab()
    first, second = sorted(vocabulary, key=vocabulary.__getitem__)[5:7]
    swapped = {**vocabulary, first: vocabulary[second], second: vocabulary[first]}
    other.tokenizer.get_vocab = lambda: swapped
    with pytest.raises(ConfigError, match="number their tokens differently"):
        check_pair(lm, other)


def test_a_padded_head_is_told_from_another_tokenizer(lm: LM) -> None:
    padded = LM(copy.deepcopy(lm.model), lm.tokenizer, "padded", "r")
    padded.model.resize_token_embeddings(lm.vocab_size + 8)
    with pytest.raises(ConfigError, match="tokenizers are the same and a head is padded"):
        check_pair(lm, padded)
