"""Small transformers as networks of blocks, what they know of a language, and training them on streams by any objective."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import pwl_lite as pwl
from pwl_lite.errors import DataError, NetworkError, TrainingError, UnknownNameError
from pwl_lite.grammar import Grammar
from pwl_lite.language import TransformerConfig, after_start, divergence, linear_probe, transformer
from pwl_lite.language_training import SequenceLog, SequenceSettings, language_stream, parity_stream, train_sequences
from pwl_lite.objectives import KD, CurriculumExtraction, FitNet, PCACurriculum, ProgressiveCheckpoints, Supervised
from pwl_lite.parity import SparseParity

GRAMMAR = Grammar.random(2, 3, (0.7, 0.3), seed=1)
SPEAKER = TransformerConfig(4, 4, width=16, heads=2, num_classes=3, answers="all")
PARITY = TransformerConfig(2, 6, width=8, heads=2, joint=True)


# ---------------------------------------------------------------- the networks


def test_a_transformer_is_a_network_of_blocks():
    net = transformer(SPEAKER, seed=0)
    tokens = torch.randint(0, 4, (5, 4))
    assert net(tokens).shape == (20, 3) and net.num_blocks == 2
    assert [tuple(f.shape) for f in net.features(tokens)] == [(5, 4, 16), (5, 4, 16)]
    assert transformer(PARITY)(torch.randint(0, 2, (5, 6))).shape == (5, 2)
    assert pwl.block_macs(net)[0] > 4 * 16 * 16 * 12  # each token goes through maps of 12 width^2 weights, and attention
    assert pwl.state_hash(net) == pwl.state_hash(transformer(SPEAKER, seed=0)) != pwl.state_hash(transformer(SPEAKER, seed=1))


def test_it_is_torchs_own_layers_put_together():
    net = transformer(SPEAKER, seed=3).eval()
    layers = []
    for block in net.blocks:
        layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        layer.load_state_dict(block.state_dict())
        layers.append(layer.eval())
    tokens = torch.randint(0, 4, (5, 4))
    x = net.embed.tokens.weight[tokens] + net.embed.positions
    for layer in layers:
        x = layer(x, src_mask=torch.full((4, 4), -math.inf).triu(1))
    expected = (net.head.norm(x) @ net.head.classifier.weight.T + net.head.classifier.bias).flatten(0, 1)
    assert torch.allclose(net(tokens), expected, atol=1e-5)


def test_a_causal_network_does_not_see_what_comes():
    tokens = torch.randint(0, 4, (5, 4))
    other = tokens.clone()
    other[:, 2] = (other[:, 2] + 1) % 4
    for causal in (True, False):
        net = transformer(TransformerConfig(4, 4, 16, heads=2, num_classes=3, answers="all", causal=causal), seed=0).eval()
        changed = (net(tokens) - net(other)).view(5, 4, 3).abs().amax(-1) > 1e-4
        assert changed[:, 2:].all() and changed[:, :2].all() == (not causal) == changed[:, :2].any()


def test_a_joint_table_has_a_vector_for_each_token_at_each_place():
    embed = transformer(PARITY, seed=0).embed
    assert embed.tokens.weight.shape == (12, 8)
    tokens = torch.tensor([[0, 1, 1, 0, 1, 0]])
    assert torch.equal(embed(tokens)[0], embed.tokens.weight[[0, 3, 5, 6, 9, 10]])


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: TransformerConfig(4, 4, width=10, heads=4), NetworkError, "width 10 with 4 heads: expected heads that divide"),
        (lambda: TransformerConfig(0, 4), NetworkError, "vocabulary = 0: expected at least 1"),
        (lambda: TransformerConfig(4, 4, answers="first"), UnknownNameError, "answers 'first': expected one of last, all"),
        (lambda: transformer(TransformerConfig(4, 4, layers=1)), NetworkError, "1 blocks: expected at least 2"),
    ],
)
def test_an_impossible_transformer_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------- what they know


def test_what_is_read_to_predict():
    assert after_start(torch.tensor([[2, 0, 1]]), 3).tolist() == [[3, 2, 0]]


def test_divergence_by_hand():
    exact = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]], dtype=torch.float64)
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    expected = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(2)]
    assert divergence(exact, logits)[0].tolist() == pytest.approx(expected, abs=1e-6)
    tokens = GRAMMAR.sample(6, torch.Generator().manual_seed(0)).tokens
    known = GRAMMAR.next_token(tokens)
    assert divergence(known, known.clamp_min(1e-300).log().flatten(0, 1)).abs().max() < 1e-9


def test_a_linear_probe_finds_what_is_linear_and_nothing_else():
    torch.manual_seed(0)
    features = torch.randn(4000, 2, 5)
    symbols = torch.stack([(features[:, 0, 2] > 0).long(), (features[:, 1, 0] * features[:, 1, 1] > 0).long()], 1)
    found = linear_probe(features, symbols, 3)
    assert found[0] > 0.97 and found[1] < 0.6
    assert linear_probe(features, symbols[:, :1].expand(-1, 2), 2)[1] < 0.6  # the other place does not know it
    with pytest.raises(DataError, match=r"features \(4000, 2, 5\), symbols \(4000, 1\): expected the same rows"):
        linear_probe(features, symbols[:, :1], 2)


# ---------------------------------------------------------------- training


def test_streams_give_what_objectives_expect():
    task = SparseParity(6, 2, support=(0, 3))
    inputs, targets = parity_stream(task)(50, torch.Generator().manual_seed(1))
    assert set(inputs.unique().tolist()) == {0, 1}
    assert torch.equal(targets.argmax(1), (inputs[:, 0] == inputs[:, 3]).long()) and (targets.sum(1) == 1).all()
    inputs, targets = language_stream(GRAMMAR)(50, torch.Generator().manual_seed(1))
    tokens = GRAMMAR.sample(50, torch.Generator().manual_seed(1)).tokens
    assert torch.equal(inputs, after_start(tokens, 3)) and torch.equal(targets.argmax(1), tokens.flatten())


def test_training_is_adam_on_the_stream():
    settings = SequenceSettings(320, lr=0.01, batch_size=32, log_every=96, keep=True)
    net, plain = transformer(PARITY, seed=1), transformer(PARITY, seed=1)
    task = SparseParity(6, 2, support=(0, 3))
    log = train_sequences(Supervised(net), net, parity_stream(task), settings, lambda _: {"one": 1.0}, seed=5)
    optimizer, generator = torch.optim.Adam(plain.parameters(), lr=0.01), torch.Generator().manual_seed(5)
    losses = []
    for _ in range(10):
        inputs, labels = task.sample(32, generator)
        loss = cross_entropy(plain((inputs > 0).long()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    inputs = (task.sample(100)[0] > 0).long()  # not the weights: some get no gradient but rounding, which Adam makes steps of
    assert torch.allclose(net(inputs), plain(inputs), atol=1e-3)
    assert log.samples == [0, 96, 192, 288, 320] and log.values == {"one": [1.0] * 5}
    assert log.loss[1:] == pytest.approx([sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)] + losses[9:], abs=1e-3)
    assert pwl.state_hash(log.checkpoints[0]) == pwl.state_hash(transformer(PARITY, seed=1))
    assert pwl.state_hash(log.checkpoints[-1]) == pwl.state_hash(net)


def objectives(teacher, early, student):
    return {
        "kd": KD(teacher, student, 1.0, 1.0),
        "checkpoints": ProgressiveCheckpoints([early, teacher], student, alpha=1.0, temperature=1.0),
        "extraction": CurriculumExtraction(teacher, student, alpha=1.0, temperature=1.0),
        "pca": PCACurriculum(teacher, student, steps=2),
        "fitnet": FitNet(teacher, student),
    }


@pytest.mark.parametrize("name", ["kd", "checkpoints", "extraction", "pca", "fitnet"])
def test_every_objective_runs_on_transformers_and_its_loss_falls(name):
    """Also the first stage's of a curriculum, and the teacher stays as it is."""
    teacher = transformer(TransformerConfig(4, 4, 32, num_classes=3, answers="all"), seed=8)
    early = transformer(SPEAKER, seed=9)
    before = pwl.state_hash(teacher)
    student = transformer(SPEAKER, seed=2)
    torch.manual_seed(0)
    settings = SequenceSettings(2560, lr=3e-3, log_every=256)
    log = train_sequences(
        objectives(teacher, early, student)[name], student, language_stream(GRAMMAR), settings, lambda _: {}, seed=4
    )
    half = 5  # entries of the first stage
    assert log.loss[half] < 0.8 * log.loss[1] and log.loss[-1] < log.loss[half + 1]
    assert pwl.state_hash(teacher) == before


def test_a_stage_of_extraction_reaches_only_what_it_should():
    teacher, student = transformer(TransformerConfig(2, 6, 16, joint=True), seed=8), transformer(PARITY, seed=2)
    objective = CurriculumExtraction(teacher, student, shares=[0.5], alpha=1.0, temperature=1.0)
    settings = SequenceSettings(640, log_every=320, keep=True)
    stream = parity_stream(SparseParity(6, 2, seed=0))
    start, middle, end = train_sequences(objective, student, stream, settings, lambda _: {}, seed=1).checkpoints
    parts = [[pwl.state_hash(net.part(i)) for net in (start, middle, end)] for i in range(2)]
    assert parts[0][0] != parts[0][1] != parts[0][2]
    assert parts[1][0] == parts[1][1] != parts[1][2]  # the second block rests while the first is matched


def test_a_transformer_learns_the_language():
    sentences = GRAMMAR.sample(200, torch.Generator().manual_seed(9)).tokens
    exact, inputs = GRAMMAR.next_token(sentences), after_start(sentences, 3)
    net = transformer(SPEAKER, seed=0)
    log = train_sequences(
        Supervised(net),
        net,
        language_stream(GRAMMAR),
        SequenceSettings(12_800, lr=1e-2),
        lambda net: {"excess": divergence(exact, net(inputs)).mean()},
        seed=1,
        until=lambda values: values["excess"] < 0.02,
    )
    assert log.values["excess"][0] > 0.2 and log.values["excess"][-1] < 0.05
    # cross entropy is what the language itself leaves open, and the excess
    entropy = -torch.special.xlogy(exact, exact).sum(-1).mean()
    with torch.no_grad():
        measured = cross_entropy(net(inputs), one_hot(sentences.flatten(), 3).float())
    assert measured.item() == pytest.approx(entropy.item() + log.values["excess"][-1], abs=0.1)


def test_samples_to_by_hand():
    log = SequenceLog([0, 100, 200], {"accuracy": [0.5, 0.9, 0.99], "excess": [1.0, 0.4, 0.1]})
    assert log.samples_to("accuracy", 0.9) == 100 and log.samples_to("accuracy", 1.0) == math.inf
    assert log.samples_to("excess", 0.4, falling=True) == 100 and log.samples_to("excess", 0.05, falling=True) == math.inf


def test_a_training_ends_when_it_is_told_to_and_says_when_it_fails():
    net = transformer(PARITY, seed=1)
    stream = parity_stream(SparseParity(6, 2, seed=0))
    settings = SequenceSettings(320, log_every=32)
    log = train_sequences(Supervised(net), net, stream, settings, lambda _: {"x": 0.0}, seed=5, until=lambda v: v["x"] == 0)
    assert log.samples == [0, 32]
    net.head.classifier.weight.data.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"the loss is nan by step 1: expected a number; lower lr = 0.003"):
        train_sequences(Supervised(net), net, stream, settings, lambda _: {}, seed=5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"samples": 16}, "16 samples in batches of 32"),
        ({"samples": 320, "lr": 0}, "lr = 0: expected more than 0"),
        ({"samples": 320, "log_every": 100}, "log_every = 100: expected a multiple of the batch of 32"),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(TrainingError, match=message):
        SequenceSettings(**options)
