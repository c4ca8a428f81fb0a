"""Sparse parity: the task, what networks know of it, and training on streams, against cases computed by hand."""

import math
from itertools import pairwise

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import cross_entropy

import pwl_lite as pwl
from pwl_lite.errors import DataError, TrainingError, UnknownNameError
from pwl_lite.objectives import CurriculumExtraction, ProgressiveCheckpoints
from pwl_lite.objectives.projections import projection_matrix
from pwl_lite.parity import SparseParity, Stack, correlations, parity_mlp, phase_transition, vote
from pwl_lite.parity_training import Hidden, Labels, Outputs, StreamLog, StreamSettings, train_stream

TASK = SparseParity(8, 3, support=(1, 4, 6))
QUICK = StreamSettings(lr=0.1, batch_size=16, width=12, log_every=160, test_samples=200)


def networks(count: int, width: int = 12, hidden_layers: int = 1, first: int = 0) -> Stack:
    return Stack.of([parity_mlp(TASK.n, width, hidden_layers, seed=first + i) for i in range(count)])


# ---------------------------------------------------------------- the task


def test_labels_by_hand():
    task = SparseParity(4, 2, support=(0, 2))
    inputs = torch.tensor([[1, 1, 1, 1], [-1, 1, 1, 1], [-1, -1, -1, 1], [1, -1, -1, -1]])
    assert task.labels(inputs).tolist() == [1, 0, 1, 0]


def test_samples_are_fair_and_follow_from_the_generator():
    inputs, labels = TASK.sample(20_000, torch.Generator().manual_seed(3))
    assert set(inputs.unique().tolist()) == {-1.0, 1.0} and inputs.shape == (20_000, 8)
    assert inputs.mean(0).abs().max() < 5 / math.sqrt(20_000)
    assert abs(labels.float().mean() - 0.5) < 2.5 / math.sqrt(20_000)
    assert torch.equal(labels, TASK.labels(inputs))
    assert torch.equal(inputs, TASK.sample(20_000, torch.Generator().manual_seed(3))[0])


def test_the_support_is_drawn_by_the_seed():
    drawn = {SparseParity(30, 4, seed=seed).support for seed in range(8)}
    assert len(drawn) == 8 and all(len(set(s)) == 4 and tuple(sorted(s)) == s for s in drawn)
    assert SparseParity(30, 4, seed=5) == SparseParity(30, 4, seed=5)


def test_all_inputs_are_all_of_them():
    inputs = SparseParity(5, 2).all_inputs()
    assert inputs.shape == (32, 5) and len({tuple(row) for row in inputs.tolist()}) == 32


def test_monomials_of_the_support():
    assert TASK.monomials(1) == [(1,), (4,), (6,)]
    assert TASK.monomials() == [(1,), (4,), (6,), (1, 4), (1, 6), (4, 6), (1, 4, 6)]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SparseParity(4, 5), "k = 5 of n = 4 bits: expected 1 <= k <= n"),
        (lambda: SparseParity(4, 2, support=(1, 1)), r"support \(1, 1\): expected 2 different numbers from 0 to 3"),
        (lambda: SparseParity(4, 2, support=(1, 4)), r"support \(1, 4\): expected 2 different"),
        (lambda: SparseParity(30, 2).all_inputs(), r"all 2\^30 inputs: expected at most 20 bits; use sample"),
    ],
)
def test_an_impossible_task_is_named(make, message):
    with pytest.raises(DataError, match=message):
        make()


# ---------------------------------------------------------------- correlations


def test_correlations_by_hand():
    # f = 2 x0 - 3 x1 x2 + 0.5, whose coefficients are these numbers and no others
    inputs = SparseParity(4, 1).all_inputs()
    f = 2 * inputs[:, 0] - 3 * inputs[:, 1] * inputs[:, 2] + 0.5
    subsets = [(0,), (1,), (1, 2), (0, 1, 2), (3,), ()]
    found = correlations(f, inputs, subsets, exact=True)
    assert torch.allclose(found.values, torch.tensor([2, 0, -3, 0, 0, 0.5]), atol=1e-6)
    assert found.errors.abs().max() == 0
    pearson = correlations(f, inputs, subsets[:3], normalise=True, exact=True).values
    assert torch.allclose(pearson, torch.tensor([2, 0, -3]) / math.sqrt(13), atol=1e-6)


def test_the_majority_of_three_is_half_of_each_bit():
    # known: maj(a, b, c) = (a + b + c - abc) / 2
    inputs = SparseParity(3, 3).all_inputs()
    found = correlations(inputs.sum(1).sign(), inputs, [(0,), (1,), (2,), (0, 1), (0, 1, 2)], exact=True)
    assert torch.allclose(found.values, torch.tensor([0.5, 0.5, 0.5, 0, -0.5]))


def test_a_sample_finds_the_exact_correlations_within_its_errors():
    net = parity_mlp(10, 16, seed=2)
    task = SparseParity(10, 3, seed=1)
    exact_inputs = task.all_inputs()
    inputs = task.sample(20_000, torch.Generator().manual_seed(0))[0]
    subsets = task.monomials()
    with torch.no_grad():
        units = torch.cat([net.features(exact_inputs)[0].T, vote(net(exact_inputs))[None]])
        sampled = torch.cat([net.features(inputs)[0].T, vote(net(inputs))[None]])
    exact = correlations(units, exact_inputs, subsets, exact=True)
    estimate = correlations(sampled, inputs, subsets)
    assert exact.values.shape == (17, 7) and exact.values.abs().max() > 0.1
    off = ((estimate.values - exact.values) / estimate.errors).abs()
    assert off.max() < 4.5 and 0.5 < off.square().mean() < 1.6  # the errors are neither too small nor too large


def test_values_and_inputs_must_fit():
    with pytest.raises(DataError, match="values of 3 inputs, but 4 inputs"):
        correlations(torch.zeros(3), torch.ones(4, 2), [(0,)])
    with pytest.raises(DataError, match="expected bits from 0 to 1"):
        correlations(torch.zeros(4), torch.ones(4, 2), [(2,)])


def test_vote_is_the_difference_of_the_probabilities():
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(1)
    assert torch.allclose(vote(logits), p[:, 1] - p[:, 0], atol=1e-6)


# ---------------------------------------------------------------- the phase transition


def test_phase_transition_by_hand():
    accuracy = [0.50, 0.51, 0.50, 0.52, 0.54, 0.60, 0.80, 0.95, 0.995, 1.0, 1.0]
    correlation = [0.01, 0.02, 0.01, 0.01, 0.03, 0.05, 0.08, 0.06, 0.010, 0.0, 0.2]  # what comes later does not count
    found = phase_transition(accuracy, correlation)
    assert (found.before, found.inside, found.after) == (2, 6, 8)  # the plateau ends with entry 5


def test_without_a_transition_the_error_says_so():
    with pytest.raises(
        TrainingError, match=r"from 0.500 to at most 0.700: expected a rise from below 0.55 to 0.99; train longer"
    ):
        phase_transition([0.5, 0.6, 0.7], [0, 0, 0])
    with pytest.raises(TrainingError, match="expected a rise"):
        phase_transition([0.9, 1.0], [0, 0])


# ---------------------------------------------------------------- networks


def test_a_parity_network_is_a_network_of_blocks():
    net = parity_mlp(8, 12, hidden_layers=2, seed=0)
    assert pwl.num_params(net) == 8 * 12 + 12 + 12 * 12 + 12 + 12 * 2 + 2
    assert [tuple(f.shape) for f in net.features(torch.ones(5, 8))] == [(5, 12), (5, 12), (5, 2)]
    assert pwl.block_macs(net) == [8 * 12, 12 * 12, 12 * 2]
    assert pwl.state_hash(net) == pwl.state_hash(parity_mlp(8, 12, 2, seed=0)) != pwl.state_hash(parity_mlp(8, 12, 2, seed=1))
    with pytest.raises(TrainingError, match="width = 0"):
        parity_mlp(8, 0)


@pytest.mark.parametrize("hidden_layers", [1, 2])
def test_a_stack_computes_what_its_networks_do(hidden_layers):
    stack = networks(3, hidden_layers=hidden_layers)
    inputs = torch.stack([TASK.sample(7, torch.Generator().manual_seed(s))[0] for s in range(3)])
    layers = stack.layers(inputs)
    for i in range(3):
        net = parity_mlp(TASK.n, 12, hidden_layers, seed=i)
        for ours, theirs in zip(layers, net.features(inputs[i]), strict=True):
            assert torch.allclose(ours[i], theirs, atol=1e-6)
        assert pwl.state_hash(stack.network(i)) == pwl.state_hash(net)
    assert pwl.state_hash(stack.pick([2, 0, 2]).network(0)) == pwl.state_hash(stack.network(2))


# ---------------------------------------------------------------- training


def stream(seed: int, batches: int, batch_size: int, log_steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What `train_stream` draws for one seed."""
    generator, found = torch.Generator().manual_seed(seed), []
    while len(found) < batches:
        size = min(log_steps, batches - len(found))
        bits = torch.randint(0, 2, (size, batch_size, TASK.n), generator=generator, dtype=torch.int8) * 2 - 1
        found += [(x.float(), TASK.labels(x)) for x in bits]
    return found


def test_all_seeds_at_once_is_one_after_the_other():
    stages = [Labels(480), Labels(160)]
    together = train_stream(TASK, stages, QUICK, [3, 4, 5])
    assert together.samples == [0, 160, 320, 480, 640] and together.accuracy.shape == (5, 3)
    for i, seed in enumerate([3, 4, 5]):
        alone = train_stream(TASK, stages, QUICK, [seed])
        assert torch.allclose(alone.networks.weights[0][0], together.networks.weights[0][i], atol=1e-6)
        assert torch.allclose(alone.bits[:, 0], together.bits[:, i], atol=1e-5)
        net = parity_mlp(TASK.n, 12, seed=seed)  # and as torch's own SGD does it
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for inputs, labels in stream(seed, 40, 16, 10):
            optimizer.zero_grad()
            cross_entropy(net(inputs), labels).backward()
            optimizer.step()
        for p, q in zip(net.parameters(), together.networks.network(i).parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-6)


def test_the_gradients_are_those_of_torch_func():
    nets = [parity_mlp(TASK.n, 12, seed=seed) for seed in range(3)]
    inputs, labels = (torch.stack(x) for x in zip(*(stream(seed, 1, 16, 1)[0] for seed in range(3))))
    state, _ = stack_module_state(nets)
    expected = vmap(grad(lambda p, x, y: cross_entropy(functional_call(nets[0], p, (x,)), y)))(state, inputs, labels)
    log = train_stream(TASK, [Labels(16)], QUICK, range(3))
    for name, before in state.items():
        after = torch.stack([dict(log.networks.network(i).named_parameters())[name] for i in range(3)])
        assert torch.allclose((before - after) / 0.1, expected[name], atol=1e-5), name


def test_a_rate_for_each_seed_is_a_sweep():
    sweep = train_stream(TASK, [Labels(320)], StreamSettings(lr=(0.0, 0.1), batch_size=16, width=12, log_every=160), [7, 7])
    assert pwl.state_hash(sweep.networks.network(0)) == pwl.state_hash(parity_mlp(TASK.n, 12, seed=7))
    alone = train_stream(TASK, [Labels(320)], StreamSettings(lr=0.1, batch_size=16, width=12, log_every=160), [7])
    assert torch.allclose(sweep.networks.weights[0][1], alone.networks.weights[0][0], atol=1e-6)


def test_distillation_is_that_of_the_objective():
    """One step on a teacher's outputs moves a student as the objective of the package does."""
    teachers = [parity_mlp(TASK.n, 20, seed=50 + i) for i in range(2)]
    log = train_stream(TASK, [Outputs(Stack.of(teachers), 16)], QUICK, [1, 2])
    for i, seed in enumerate((1, 2)):
        student = parity_mlp(TASK.n, 12, seed=seed)
        inputs, labels = stream(seed, 1, 16, 1)[0]
        objective = ProgressiveCheckpoints([teachers[i]], student, alpha=1.0, temperature=1.0)
        terms = objective.terms(inputs, torch.nn.functional.one_hot(labels, 2).float())
        torch.stack(list(terms.values())).sum().backward()
        for p, q in zip(student.parameters(), log.networks.network(i).parameters(), strict=True):
            assert torch.allclose(p - 0.1 * p.grad, q, atol=1e-6)


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_a_hidden_stage_is_that_of_the_objective(loss):
    """One step on a hidden layer, with the same projection and readout, moves a student as the objective does."""
    teacher = parity_mlp(TASK.n, 20, seed=50)
    stage = Hidden(Stack.of([teacher]), 16, dim=5, loss=loss)
    losses, (weight, bias) = stage.begin(TASK, networks(1), [3])
    student = parity_mlp(TASK.n, 12, seed=0)
    inputs, labels = stream(3, 1, 16, 1)[0]
    objective = CurriculumExtraction(teacher, student, blocks=[1], shares=[0.5], dim=5, loss=loss)
    (hint,) = objective.model["hints"]
    generator = torch.Generator().manual_seed(1_000_003 * 3 + 1)  # that of seed 3 in layer 1
    examples, _ = TASK.sample(1000, generator)
    hint.matrix.copy_(projection_matrix("gaussian", 20, 5, generator))
    hint.fit(teacher.blocks[0](examples))
    hint.readout.weight.data, hint.readout.bias.data = weight[0].T.clone(), bias[0, 0].clone()
    objective.start_step(0.0)
    by_objective = objective.terms(inputs, torch.nn.functional.one_hot(labels, 2).float())["block 1"]
    stack = Stack.of([student])
    learnt = [p.requires_grad_() for p in (stack.weights[0], weight)]
    by_stage = losses(stack.layers(inputs[None]), inputs[None], labels[None], 0.0)[0]
    assert by_stage.item() == pytest.approx(by_objective.item(), rel=1e-5)
    first_layer, readout = torch.autograd.grad(by_stage, learnt)
    theirs = torch.autograd.grad(by_objective, [student.blocks[0][0].weight, hint.readout.weight])
    assert torch.allclose(first_layer[0], theirs[0], atol=1e-6)
    assert torch.allclose(readout[0].T, theirs[1], atol=1e-6)


def test_a_cold_and_an_impatient_teacher():
    teacher = networks(1, width=20, first=9)
    inputs, labels = TASK.sample(50)
    layers = networks(1).layers(inputs[None])
    mixed, _ = Outputs(teacher, 16, temperature=1e-4, alpha=0.25).begin(TASK, networks(1), [0])
    answers = teacher.layers(inputs[None])[-1].argmax(-1)[0]  # at temperature 0 only the teacher's answer counts
    expected = 0.25 * cross_entropy(layers[-1][0], answers) + 0.75 * cross_entropy(layers[-1][0], labels)
    assert mixed(layers, inputs[None], labels[None], 0.0).item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("projection", ["gaussian", "sign", "orthogonal", "pca", "none"])
@pytest.mark.parametrize("readout", [True, False])
def test_a_hidden_stage_matches_standardised_targets(projection, readout):
    teacher, student = networks(2, width=12, first=30), networks(2)
    stage = Hidden(teacher, 16, projection=projection, readout=readout)
    losses, extra = stage.begin(TASK, student, [0, 1])
    assert [tuple(e.shape) for e in extra] == ([(2, 12, 12), (2, 1, 12)] if readout else [])
    inputs = torch.stack([TASK.sample(4000, torch.Generator().manual_seed(s))[0] for s in (8, 9)])
    layers = [torch.zeros(2, 4000, 12), torch.zeros(2, 4000, 2)]
    for e in extra:
        e.zero_()
    loss = losses(layers, inputs, torch.zeros(2, 4000), 0.0)
    if readout:  # a constant explains nothing of targets that are centred and vary by 1
        assert torch.allclose(loss, torch.ones(2), atol=0.1)
    else:  # nor do zeros explain their mean
        assert (loss > 1).all()


def test_components_are_released_step_by_step():
    teacher, student = networks(1, width=20, first=30), networks(1)
    losses, extra = Hidden(teacher, 160, projection="pca", dim=8, steps=4).begin(TASK, student, [0])
    inputs, labels = TASK.sample(4000, torch.Generator().manual_seed(1))
    layers = student.layers(inputs[None])
    for e in extra:
        e.zero_()
    shares = [losses(layers, inputs[None], labels[None], p).item() for p in (0.0, 0.24, 0.25, 0.5, 0.75, 0.99)]
    assert shares[0] == shares[1] and all(a < b for a, b in pairwise(shares[1:5])) and shares[4] == shares[5]
    assert shares[4] == pytest.approx(1, abs=0.05)
    assert shares[0] > 2 / 8 * shares[4]  # the first two of eight components have more than two eighths of the variance
    full = Hidden(teacher, 160, projection="pca", dim=2).begin(TASK, student, [0])[0]
    assert full(layers, inputs[None], labels[None], 0.0).isfinite().all()


def test_stages_follow_each_other_at_the_right_sample():
    teacher = networks(1, width=20, first=40)
    log = train_stream(
        TASK,
        [Hidden(teacher, 240), Outputs(teacher, 240)],
        StreamSettings(lr=0.1, batch_size=16, width=12, log_every=80, keep=True),
        [6],
    )
    assert log.samples == [0, 80, 160, 240, 320, 400, 480]
    heads = [checkpoint.weights[1] for checkpoint in log.checkpoints]
    hidden = [checkpoint.weights[0] for checkpoint in log.checkpoints]
    # the output layer rests while the hidden one is matched, and not a step longer
    assert [torch.equal(a, b) for a, b in pairwise(heads)] == [True] * 3 + [False] * 3
    assert not any(torch.equal(a, b) for a, b in pairwise(hidden))


def test_samples_to_and_checkpoints_by_hand():
    log = StreamLog(TASK, (0, 1, 2), samples=[0, 100, 200, 300])
    log.accuracy = torch.tensor([[0.5, 0.5, 0.5], [0.7, 0.99, 0.5], [1.0, 0.98, 0.5], [1.0, 1.0, 0.6]])
    assert log.samples_to(0.99) == [200.0, 100.0, math.inf]
    assert log.samples_to(0.6) == [100.0, 100.0, 300.0]
    with pytest.raises(TrainingError, match=r"no checkpoints were kept: train with StreamSettings\(keep=True\)"):
        log.checkpoint([0, 0, 0])
    kept = train_stream(TASK, [Labels(320)], StreamSettings(batch_size=16, width=4, log_every=160, keep=True), [0, 1])
    picked = kept.checkpoint([2, 0])
    assert torch.equal(picked.weights[0][0], kept.networks.weights[0][0])
    assert pwl.state_hash(picked.network(1)) == pwl.state_hash(parity_mlp(TASK.n, 4, seed=1))


def test_two_layers_learn_parity_through_a_phase_transition():
    task = SparseParity(12, 4, seed=1)
    log = train_stream(task, [Labels(64_000)], StreamSettings(lr=0.2, width=64, log_every=1600), [0, 1])
    assert max(log.samples_to(0.99)) < 40_000
    support = list(task.support)
    others = [bit for bit in range(12) if bit not in support]
    for seed, found in enumerate(log.transitions()):
        assert found.before < found.inside <= found.after
        inside = log.bits[found.inside, seed].abs()
        assert inside[support].mean() > 2 * inside[others].mean()
        assert inside[support].mean() > 2 * log.bits[-1, seed, support].abs().mean()
        assert log.monomials[-1, seed, -1] > 0.9  # in the end the vote is the parity


def test_a_training_may_stop_when_all_have_learnt():
    task = SparseParity(12, 3, seed=1)
    settings = StreamSettings(lr=0.2, width=64, log_every=1600, stop_at=0.99)
    log = train_stream(task, [Labels(8000), Labels(64_000)], settings, [0, 1])
    assert log.samples[-1] == max(log.samples_to(0.99)) < 72_000
    assert (log.accuracy[-1] >= 0.99).all() and not (log.accuracy[-2] >= 0.99).all()


def test_a_stage_ends_when_its_loss_has_settled():
    """The second stage begins earlier, and what it then does is what it does after a stage that was so short from the start."""
    teacher = networks(1, width=20, first=40)
    settings = StreamSettings(lr=0.3, batch_size=16, width=12, log_every=160, stop_at=2.0)
    patient = train_stream(TASK, [Hidden(teacher, 64_000, patience=4), Outputs(teacher, 320)], settings, [6])
    used = patient.samples[-1] - 320
    assert 5 * 160 <= used < 64_000 and used % 160 == 0
    fixed = train_stream(TASK, [Hidden(teacher, used), Outputs(teacher, 320)], settings, [6])
    assert fixed.samples == patient.samples
    assert pwl.state_hash(fixed.networks.network(0)) == pwl.state_hash(patient.networks.network(0))


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    "stages, settings, message",
    [
        ([], QUICK, "at least one stage"),
        ([Labels(8)], QUICK, r"stages of \[8\] samples: expected at least one stage, of at least 16"),
        ([Labels(160)], StreamSettings(lr=(0.1,)), "expected one number, or one for each of the 2 seeds"),
        ([Outputs(networks(3), 160)], QUICK, "3 teachers for 2 students: expected one for each; see Stack.pick"),
        ([Hidden(networks(2), 160, layer=2)], QUICK, "layer = 2: expected a hidden layer, 1 to 1"),
        ([Hidden(networks(2, width=20), 160, dim=5, readout=False)], QUICK, "dim = 5 without a readout: expected 12"),
        ([Hidden(networks(2), 160, projection="pca", dim=13)], QUICK, "pca projection of 12 channels to dim = 13"),
    ],
)
def test_an_impossible_training_is_named(stages, settings, message):
    with pytest.raises(TrainingError, match=message):
        train_stream(TASK, stages, settings, [0, 1])


def test_unknown_names_and_sizes_are_named():
    with pytest.raises(UnknownNameError, match="loss 'l1': expected one of mse, cosine"):
        train_stream(TASK, [Hidden(networks(1), 160, loss="l1")], QUICK, [0])
    with pytest.raises(UnknownNameError, match="projection 'random': expected one of gaussian, sign"):
        train_stream(TASK, [Hidden(networks(1), 160, projection="random")], QUICK, [0])
    with pytest.raises(TrainingError, match="log_every = 100: expected a multiple of the batch of 32"):
        StreamSettings(log_every=100)
    with pytest.raises(TrainingError, match="batch_size = 0"):
        StreamSettings(batch_size=0)
