"""`traces` → `attack` → `evaluate` on a random model of a few thousand weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_drive import Invoke, one_sentence

from azeotrope.cli import tracefile

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    alphabet = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>")
    config = GPT2Config(vocab_size=len(alphabet), n_embd=16, n_layer=1, n_head=2, n_positions=640,
                        bos_token_id=0, eos_token_id=0)  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_three_stages(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    release, student = tmp_path / "r.parquet", tmp_path / "student"
    found = invoke(
        "traces",
        "--teacher",
        model,
        "--task",
        "lookup",
        "--n",
        6,
        "--out",
        release,
        "--json",
        "--defense",
        "temperature:heat=0.5",
        "--defense",
        '{"kind": "traceguard", "budget": 0.2}',
    )
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert (told["traces"], told["accuracy"]["n"]) == (6, 6)
    first = [trace.text for trace in tracefile.read(release)]
    again = tmp_path / "again.jsonl"
    assert (
        invoke(
            "traces",
            "--teacher",
            model,
            "--task",
            "lookup",
            "--n",
            6,
            "--out",
            again,
            "--defense",
            "temperature:heat=0.5",
            "--defense",
            "traceguard:budget=0.2",
        ).code
        == 0
    )
    assert [trace.text for trace in tracefile.read(again)] == first

    found = invoke(
        "attack",
        "--release",
        release,
        "--student",
        model,
        "--out",
        student,
        "--json",
        "--attack",
        "sft:epochs=1,max_length=64,curve_points=0",
    )
    assert found.code == 0, found.err
    assert json.loads(found.out)["traces"] == 6
    assert {"config.json", "model.safetensors", "attack.json"} <= {path.name for path in student.iterdir()}
    assert invoke("attack", "--release", release, "--student", model, "--out", student).code == 2

    found = invoke("evaluate", "--model", student, "--task", "lookup", "--n", 5, "--json")
    assert found.code == 0, found.err
    scores = json.loads(found.out)
    assert scores["accuracy"]["n"] == 5
    assert scores["accuracy"]["low"] <= scores["accuracy"]["value"] <= scores["accuracy"]["high"]
    assert scores["recall_of_hidden_content"]["n"] > 0
    assert "accuracy" in invoke("evaluate", "--model", student, "--task", "lookup", "--n", 2).out


@pytest.mark.slow
def test_a_defense_is_folded_into_a_model_that_any_engine_serves(
    invoke: Invoke, model: Path, tmp_path: Path
) -> None:
    from azeotrope.cli import methods
    from azeotrope.core.sampling import Sampling
    from azeotrope.core.seeds import derive
    from azeotrope.defenses.base import Bench
    from azeotrope.defenses.cmi import CMI
    from azeotrope.models.lm import load
    from azeotrope.models.teacher import open_teacher

    out = tmp_path / "merged"
    quick = f"cmi:proxy={model},holdout=8,epochs=1,problems=2,checks=1,scale=0.5"
    given = ("--teacher", model, "--task", "lookup", "--seed", 3, "--out", out)
    found = invoke("merge", quick, *given, "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert told["notes"]["cmi"]["cosine_first"] == pytest.approx(1, abs=1e-4)
    assert json.loads((out / "defense.json").read_text())["settings"]["scale"] == 0.5
    method = methods.parse("defenses", quick)
    assert isinstance(method, CMI)
    bench = Bench(open_teacher(str(model)), methods.parse("tasks", "lookup"), Sampling(temperature=0.6),
                  derive(3, "bench", 0))  # fmt: skip
    served, plain, merged = method.bind(bench).edited_head(bench.teacher, 0.6), bench.teacher, load(str(out))
    assert served is not None
    assert merged.head.weight.allclose(served, atol=1e-6)
    assert not merged.head.weight.allclose(plain.head.weight, atol=1e-5)
    before, after = plain.model.get_input_embeddings(), merged.model.get_input_embeddings()
    assert after.weight.equal(before.weight), "a tied embedding stays as it was"
    found = invoke("evaluate", "--model", out, "--task", "lookup", "--n", 2)
    assert found.code == 0, found.err
    found = invoke("merge", quick, *given)
    assert found.code == 2
    assert "not an empty folder" in found.err
    assert one_sentence(found.err)


@pytest.mark.parametrize(
    ("defense", "told"),
    [
        ("traceguard:budget=0.2", "use `azeotrope defend`"),
        ("cmi:scale=0", "strength 0"),
        ("temperature:heat=0.5", "no form in its weights"),
        ("cmi:serve=unmerged", "serve=merged"),
        ("cmi:serve=unmerged,maps=3", "one head holds one map"),
        ("topk_logprobs:k=5", "not the model."),
    ],
)
def test_what_no_weights_can_stand_for(
    invoke: Invoke, model: Path, tmp_path: Path, defense: str, told: str
) -> None:
    found = invoke("merge", defense, "--teacher", model, "--task", "lookup", "--out", tmp_path / "out")
    assert found.code == 2
    assert told in found.err
    assert not (tmp_path / "out").exists()


def test_missing_models(invoke: Invoke, tmp_path: Path) -> None:
    found = invoke("evaluate", "--model", "embedded/no-such-model", "--task", "lookup")
    assert found.code == 2
    assert one_sentence(found.err)
    found = invoke("evaluate", "--model", tmp_path, "--task", "lookup")
    assert found.code == 3
    assert one_sentence(found.err)


@pytest.mark.slow
def test_epsilon_finds_the_bottom_of_its_curve(invoke: Invoke, model: Path) -> None:
    words = ("epsilon", "--teacher", model, "--proxy", model, "--task", "lookup", "--n", 4)
    found = json.loads(invoke(*words, "--json").out)
    errors = [point["error"] for point in found["curve"]]
    assert found["error_at_best"] == min(errors)
    assert errors[0] > 10 * min(errors) < errors[-1]
    assert "best epsilon" in invoke(*words).out
