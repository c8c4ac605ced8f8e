"""What a stance does to a reply: nothing protected passes, and nothing else is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.core.methods import SurfaceDefense, TraceDefense
from azeotrope.defenses.label_only import LabelOnly
from azeotrope.defenses.random_sentences import RandomSentences
from azeotrope.defenses.round_logprobs import RoundLogprobs
from azeotrope.defenses.summary import Summary
from azeotrope.defenses.topk_logprobs import TopKLogprobs
from azeotrope.defenses.traceguard import TraceGuard
from azeotrope.gateway.shield import HIDDEN, Said, Shield, Treatment
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.reply import gather

GUARD = TraceGuard(unit="count", budget=1)


def through(events: Sequence[ev.Event], treatment: Treatment, **more: int | bool) -> list[ev.Event]:
    """A whole reply."""
    shield = Shield(treatment, b"dice", **more)  # type: ignore[arg-type]
    return shield.take(events) + shield.close()


def thoughts(text: str, *methods: TraceDefense, cut: int = 0) -> str:
    """What leaves of reasoning."""
    parts = [text[:cut], text[cut:]] if cut else [text]
    found = through([ev.Reasoning(part) for part in parts if part], Treatment(texts=methods))
    return gather(found).choices[0].reasoning if found else ""


def test_text_defenses_act_on_reasoning_and_nothing_else() -> None:
    said = "Wait, that is wrong. It is 7. "
    assert thoughts(said, GUARD) == "It is 7. "
    events = [ev.Reasoning(said), ev.Text(said), ev.Tool(0, said, "id", "f"), ev.Finish("stop")]
    reply = gather(through(events, Treatment(texts=(GUARD,))))
    assert reply.choices[0].text == said
    assert reply.choices[0].tools[0].arguments == said


def test_what_is_held_back_leaves_before_what_follows_it() -> None:
    found = through([ev.Reasoning("Wait, no. It is"), ev.Text("7"), ev.Finish("stop")], Treatment(texts=(GUARD,)))
    assert found == [ev.Reasoning("It is"), ev.Text("7"), ev.Finish("stop")]


def test_a_tag_within_reasoning_does_not_end_it() -> None:
    """Else whoever makes the model write a closing tag would see the rest undefended."""
    for tag in ("</think>", "<think>", "[/THINK]", "</thinking>"):
        assert thoughts(f"I see. {tag}Wait, that is wrong. It is 7. ", GUARD) == "I see. It is 7. "
    assert thoughts("I see. </th", GUARD) == "I see. </th"


@given(st.text(alphabet="Wait, so. <>/think\n", max_size=60), st.integers(0, 60))
@settings(max_examples=150)
def test_cuts_do_not_matter(text: str, cut: int) -> None:
    assert thoughts(text, GUARD, cut=min(cut, len(text))) == thoughts(text, GUARD)


def test_defenses_that_need_the_whole_wait_for_it() -> None:
    method = Summary(share=0.5)
    text = "It is so. We add 3 and 4. That gives 7. Good. So the answer is 7. "
    shield = Shield(Treatment(texts=(method,)), b"")
    assert shield.take([ev.Reasoning(text)]) == []
    (left,) = shield.take([ev.Text("7")])[:-1]
    assert isinstance(left, ev.Reasoning)
    assert 0 < len(left.text) < len(text)
    assert shield.change.altered
    assert shield.change.came == len(text)
    assert shield.change.left == len(left.text)


def test_nothing_of_the_reasoning_leaves_where_none_is_shown() -> None:
    events = [
        ev.Reasoning("secret"),
        ev.Reasoning("a summary", summary=True),
        ev.Sealed("signature", "secret"),
        ev.Text("7"),
        ev.Usage(3, 10, 6),
    ]
    found = through(events, Treatment(disclose="none", tell_reasoning=False, bill_reasoning=False))
    assert found == [ev.Text("7"), ev.Usage(3, 4, None)]


def test_sealed_copies_leave_only_with_what_they_seal() -> None:
    sealed = ev.Sealed("signature", "s")
    assert through([sealed], Treatment()) == [sealed]
    assert through([sealed], Treatment(texts=(GUARD,))) == []


def test_the_same_request_meets_the_same_choices() -> None:
    method = RandomSentences(budget=0.5, match="share")
    text = "".join(f"This is sentence number {n}. " for n in range(20))
    events = [ev.Reasoning(text)]
    first = [
        gather(Shield(Treatment(texts=(method,)), dice).take([*events, ev.Text("x")]))
        for dice in (b"a", b"a", b"b")
    ]
    told = [one.choices[0].reasoning for one in first]
    assert told[0] == told[1] != told[2]


def test_choices_do_not_mix() -> None:
    events = [ev.Reasoning("Wait, a. ", 0), ev.Reasoning("Wait, b. ", 1), ev.Text("A", 0), ev.Text("B", 1)]
    reply = gather(through(events, Treatment(texts=(GUARD,))))
    assert {n: c.text for n, c in reply.choices.items()} == {0: "A", 1: "B"}
    assert all(not choice.reasoning for choice in reply.choices.values())


def tokens(*pairs: tuple[str, float]) -> ev.Logprob:
    """The first pair was said; all are alternatives, likeliest first."""
    top = tuple(ev.Alternative(t, p) for t, p in sorted(pairs, key=lambda pair: -pair[1]))
    return ev.Logprob(pairs[0][0], pairs[0][1], top)


SAID = tokens(("b", -2.0), ("a", -0.5), ("c", -3.2))


@pytest.mark.parametrize(
    ("surface", "own", "top"),
    [
        (TopKLogprobs(k=1), HIDDEN, [("a", -0.5)]),
        (TopKLogprobs(k=2), -2.0, [("a", -0.5), ("b", -2.0)]),
        (RoundLogprobs(step=1.0), -2.0, [("a", 0.0), ("b", -2.0), ("c", -3.0)]),
        (LabelOnly(share=0.5), math.log(0.5 * math.exp(-2) + 0.5), [("a", -0.5 - math.log(2))]),
    ],
)
def test_surfaces(surface: SurfaceDefense, own: float, top: list[tuple[str, float]]) -> None:
    shown = surface.expose(Said((SAID,))).tokens[0]
    assert shown.logprob == pytest.approx(own)
    assert [a.token for a in shown.top[: len(top)]] == [t for t, _ in top]
    assert [a.logprob for a in shown.top[: len(top)]] == pytest.approx([p for _, p in top])


def test_no_more_alternatives_than_were_asked_for_and_none_at_full_strength() -> None:
    event = ev.Text("b", tokens=(SAID,))
    (shown,) = through([event], Treatment(), asked=1)
    assert isinstance(shown, ev.Text)
    assert [a.token for a in shown.tokens[0].top] == ["a"]
    assert through([event], Treatment(surfaces=(LabelOnly(share=1.0),)), asked=3) == [ev.Text("b")]
    assert through([event], Treatment(logprobs=False), asked=3) == [ev.Text("b")]
