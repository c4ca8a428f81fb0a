"""Objectives against hand-computed cases and against the naive oracle; the teacher stays frozen."""

import math
from collections import Counter
from copy import deepcopy

import pytest
import torch
from naive_pwl import distance, naive_terms
from networks_for_tests import tiny_data, tiny_net, tiny_pair
from torch.nn.functional import one_hot

import pwl_lite as pwl
from pwl_lite.errors import NetworkError
from pwl_lite.objectives import (
    SAMPLERS,
    even_composition,
    feature_distance,
    kd_divergence,
    prefix_composition,
    random_composition,
)
from pwl_lite.objectives.progressive import first_switch

MIXED = [c for c in pwl.all_compositions(4) if len(set(c)) == 2]


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(8, 3, 32, 32), one_hot(torch.randint(0, 3, (8,)), 3).float()


def test_kd_divergence_of_two_classes_by_hand():
    # softened by T = 2: teacher (0.8, 0.2), student (0.5, 0.5)
    teacher = torch.tensor([[2 * math.log(4.0), 0.0]])
    student = torch.tensor([[0.0, 0.0]])
    by_hand = 4 * (0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5))
    assert float(kd_divergence(student, teacher, 2.0)) == pytest.approx(by_hand, rel=1e-6)
    assert float(kd_divergence(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)


def test_kd_weighs_labels_and_teacher(batch):
    images, targets = batch
    teacher, student = tiny_pair()
    terms = pwl.KD(teacher, student, alpha=0.25, temperature=3.0).terms(images, targets)
    logits, teacher_logits = student(images), teacher(images)
    ce = -(targets * logits.log_softmax(1)).sum(1).mean()
    assert terms["ce"].item() == pytest.approx(0.75 * ce.item(), rel=1e-5)
    assert terms["kd"].item() == pytest.approx(0.25 * kd_divergence(logits, teacher_logits, 3.0).item(), rel=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_feature_distance_and_its_gradients_are_those_of_the_formula(memory_format):
    torch.manual_seed(0)
    a = torch.randn(5, 6, 4, 4).contiguous(memory_format=memory_format).requires_grad_()
    b = (a.detach() + 0.3 * torch.randn(5, 6, 4, 4)).requires_grad_()
    ours, plain = feature_distance(a, b), distance(a, b)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    for ga, gb in zip(torch.autograd.grad(3 * ours, (a, b)), torch.autograd.grad(3 * plain, (a, b)), strict=True):
        assert torch.allclose(ga, gb, atol=1e-7, rtol=1e-4)


def authors(net: pwl.SwapNet, composition: str, **settings) -> pwl.ProgressiveDistillation:
    """The objective with the authors' settings, always drawing one composition."""
    return pwl.ProgressiveDistillation(net, **{**pwl.AUTHORS, "sample": lambda n: composition, **settings})


@pytest.mark.parametrize("composition", MIXED)
@pytest.mark.parametrize("training", [True, False])
def test_losses_and_gradients_equal_the_naive_oracle(batch, composition, training):
    ours, naive = tiny_net(), tiny_net()
    ours.train(training)
    naive.train(training)
    terms = authors(ours, composition).terms(*batch)
    expected = naive_terms(naive, *batch, composition)
    assert terms.keys() == expected.keys()
    for name in expected:
        assert terms[name].item() == pytest.approx(expected[name].item(), abs=1e-5, rel=1e-5), name
    sum(terms.values()).backward()
    sum(expected.values()).backward()
    checked = 0
    for (name, p), q in zip(ours.named_parameters(), naive.parameters(), strict=True):
        if q.grad is not None:
            checked += 1
            assert torch.allclose(p.grad, q.grad, atol=1e-5, rtol=1e-5), (name, (p.grad - q.grad).abs().max())
    assert checked > 20
    assert all(p.grad is None for p in ours.teacher.parameters())


def test_every_weight_scales_its_own_term(batch):
    net = tiny_net().train()
    plain = authors(net, "TTSS").terms(*batch)
    weights = {"sync": 3.0, "reconstruction": 5.0, "cross": 7.0}
    scaled = authors(net, "TTSS", **weights).terms(*batch)
    for name in plain:
        factor = weights.get(name, 1.0) / pwl.AUTHORS.get(name, 1.0)
        assert scaled[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-4), name


def test_synchronisation_falls_by_the_same_factor_in_equal_times(batch):
    net = tiny_net().train()
    plain = authors(net, "TTSS").terms(*batch)["sync"].item()
    falling = authors(net, "TTSS", sync=(8.0, 0.5))
    for progress, weight in ((0.0, 8.0), (0.25, 4.0), (0.5, 2.0), (1.0, 0.5)):
        falling.start_step(progress)
        assert falling.terms(*batch)["sync"].item() == pytest.approx(weight * plain, rel=1e-4)
    assert falling.settings()["sync"] == [8.0, 0.5]  # as it comes back from a record
    for wrong in ((1.0,), (1.0, 0.0), (1.0, 2.0, 3.0)):
        with pytest.raises(pwl.PWLError, match="expected one weight, or two above 0, for start and end"):
            authors(net, "TTSS", sync=wrong)


def test_the_cross_pass_runs_no_block_that_has_run_already(batch):
    net = tiny_net().train()
    runs = Counter()
    for name, network in (("S", net.student), ("T", net.teacher)):
        for i, block in enumerate(network.blocks):
            block.register_forward_hook(lambda *_, key=f"{name}{i + 1}": runs.update([key]))
    authors(net, "TTTS").terms(*batch)
    assert runs == Counter(S1=1, S2=1, S3=1, S4=2, T1=1, T2=1, T3=1, T4=1)


def test_random_compositions_are_mixed_and_half_of_them_single_cuts():
    torch.manual_seed(0)
    draws = Counter(random_composition(4) for _ in range(8000))
    assert set(draws) == set(MIXED)
    single_cut = sum(n for c, n in draws.items() if c.count("TS") + c.count("ST") == 1)
    # half of the draws by design, and 6 of the 14 mixed compositions of the fair coins
    assert single_cut / 8000 == pytest.approx(0.5 + 0.5 * 6 / 14, abs=0.02)


def test_even_and_prefix_draws():
    torch.manual_seed(0)
    even = Counter(even_composition(4) for _ in range(7000))
    assert set(even) == set(MIXED) and all(abs(n - 500) < 110 for n in even.values())  # 5 standard deviations of 22
    prefix = Counter(prefix_composition(4) for _ in range(3000))
    assert set(prefix) == {"TSSS", "TTSS", "TTTS"} and all(abs(n - 1000) < 130 for n in prefix.values())


def test_a_sandwich_is_the_worst_the_best_and_a_random_one():
    sampler = SAMPLERS["sandwich"]()
    for loss, composition in enumerate(MIXED):  # at first each is seen once
        assert sampler(4) == composition
        sampler.observe(composition, torch.tensor(float(loss)))
    drawn = [sampler(4) for _ in range(30)]  # 14 turns are over, the 15th is a random one
    assert set(drawn[1::3]) == {MIXED[-1]} and set(drawn[2::3]) == {MIXED[0]} and len(set(drawn[0::3])) > 3
    for _ in range(60):
        sampler.observe(MIXED[-1], torch.tensor(-1.0))  # it becomes the best
    sampler.turn = 0
    assert [sampler(4), sampler(4)] == [MIXED[-2], MIXED[-1]]
    sampler.forget()
    assert sampler(4) == MIXED[0]


def test_a_sandwich_listens_to_the_losses_of_the_cross_pass(batch):
    objective = pwl.ProgressiveDistillation(tiny_net().train(), draws=4, sample="sandwich")
    objective.terms(*batch)
    assert list(objective.sample.losses) == MIXED[:4] and all(loss > 0 for loss in objective.sample.losses.values())
    objective.start_epoch(0.5)
    assert objective.sample.losses == {}


def test_a_drifting_teacher_is_another_one_afterwards(batch):
    for drifting in (False, True):
        net = tiny_net().train()
        before = pwl.state_hash(net.teacher)
        objective = pwl.ProgressiveDistillation(net, drifting_teacher=drifting)
        objective.terms(*batch)
        assert (pwl.state_hash(net.teacher) != before) == drifting
        assert objective.settings()["drifting_teacher"] == drifting


def test_without_converters_reconstruction_is_zero(batch):
    teacher, other = tiny_pair(0)[0], tiny_pair(1)[0]
    net = pwl.SwapNet(teacher, other, identity=True).train()
    terms = pwl.ProgressiveDistillation(net).terms(*batch)
    assert terms["reconstruction"].item() == 0 and terms["sync"].item() > 0.01
    with_ones = pwl.SwapNet(teacher, other, identity=False).train()  # converters that change nothing, as modules
    for converter in with_ones.converters:
        for half in (converter.encoder, converter.decoder):
            torch.nn.init.dirac_(half.weight)
            torch.nn.init.zeros_(half.bias)
    expected = pwl.ProgressiveDistillation(with_ones).terms(*batch)
    assert torch.allclose(terms["sync"], expected["sync"]) and expected["reconstruction"].item() < 1e-6
    assert pwl.SwapNet(teacher, other).identity and not pwl.SwapNet(*tiny_pair()).identity
    with pytest.raises(NetworkError, match="after block 1 the student has 4 channels, the teacher 8: expected as many"):
        pwl.SwapNet(*tiny_pair(), identity=True)


def test_first_switch():
    assert [first_switch(c) for c in ("TSSS", "SSST", "STST", "TTSS")] == [1, 3, 1, 2]


def test_each_part_of_the_batch_runs_through_its_own_composition(batch):
    net = tiny_net().eval()
    images, targets = batch
    drawn = iter(["TSSS", "STTS", "SSST"])
    settings = {**pwl.AUTHORS, "draws": 3, "sample": lambda n: next(drawn)}
    terms = pwl.ProgressiveDistillation(net, **settings).terms(images, targets)
    parts = [("TSSS", slice(0, 3)), ("STTS", slice(3, 6)), ("SSST", slice(6, 8))]
    expected = sum(naive_terms(net, images[p], targets[p], c)["cross"].item() * len(images[p]) / 8 for c, p in parts)
    assert terms["cross"].item() == pytest.approx(expected, rel=1e-5)


def test_no_draws_are_refused():
    with pytest.raises(pwl.PWLError, match="draws = 0: expected at least 1"):
        pwl.ProgressiveDistillation(tiny_net(), draws=0)


@pytest.mark.parametrize("running", [False, True])
def test_running_norm_leaves_the_students_statistics_to_the_student(batch, running):
    net = tiny_net().train()
    alone = deepcopy(net.student)
    alone(batch[0])
    objective = authors(net, "TSSS", running_norm_from=0.5)
    objective.progress = 0.5 if running else 0.49
    objective.terms(*batch)
    same = all(torch.equal(a, b) for a, b in zip(net.student.buffers(), alone.buffers(), strict=True))
    assert same == running
    assert net.student.training and all(m.training for m in net.student.modules())


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_an_impossible_share_of_running_norm_is_refused(share):
    with pytest.raises(pwl.PWLError, match=f"running_norm_from = {share}: expected a share"):
        pwl.ProgressiveDistillation(tiny_net(), running_norm_from=share)


@pytest.mark.parametrize("objective", ["kd", "progressive"])
def test_the_teacher_is_the_same_to_the_last_bit_after_distillation(objective):
    teacher, student = tiny_pair()
    before = pwl.state_hash(teacher)
    student_before = pwl.state_hash(student)
    made = pwl.KD(teacher, student) if objective == "kd" else pwl.ProgressiveDistillation(pwl.SwapNet(teacher, student))
    pwl.train(made, tiny_data(), pwl.Recipe(epochs=2, batch_size=16), progress=False)
    assert pwl.state_hash(teacher) == before
    assert pwl.state_hash(student) != student_before


def test_the_hash_sees_a_teacher_left_in_training_mode():
    teacher, student = tiny_pair()
    before = pwl.state_hash(teacher)
    kd = pwl.KD(teacher, student)
    teacher.train()  # what the authors' code does by accident
    kd.terms(*next(tiny_data().train.batches(16))[:1], one_hot(torch.zeros(16, dtype=torch.long), 3).float())
    assert pwl.state_hash(teacher) != before
