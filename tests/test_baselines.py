"""DKD, FitNet, attention transfer, relational KD and CRD against their definitions, on cases computed by hand."""

import json
import math
from dataclasses import replace

import pytest
import torch
from networks_for_tests import tiny_data, tiny_pair
from torch.nn.functional import one_hot, softmax

import pwl_lite as pwl
from pwl_lite.errors import NetworkError, TrainingError
from pwl_lite.objectives import kd_divergence
from pwl_lite.objectives.contrastive import contrast
from pwl_lite.objectives.dkd import decoupled_divergence
from pwl_lite.objectives.features import angles, attention_map, embedding, relative_distances
from pwl_lite.training import Recipe

BASELINES = {
    "dkd": pwl.DKD,
    "fitnet": pwl.FitNet,
    "attention": pwl.AttentionTransfer,
    "relational": pwl.RelationalKD,
    "crd": lambda teacher, student: pwl.CRD(teacher, student, dim=8, negatives=40),
}
RECIPE = Recipe(epochs=4, batch_size=16, lr=0.02, seed=1)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(8, 3, 32, 32), one_hot(torch.arange(8) % 3, 3).float()


def baseline(name):
    torch.manual_seed(4)
    return BASELINES[name](*tiny_pair())


def test_wrong_weights_and_networks_are_refused():
    teacher, student = tiny_pair()
    for make in (pwl.KD, pwl.DKD, pwl.AttentionTransfer):
        with pytest.raises(TrainingError, match=r"temperature = 0: expected more than 0"):
            make(teacher, student, temperature=0)
    with pytest.raises(TrainingError, match=r"alpha = 1\.5: expected 0 \(labels only\) to 1"):
        pwl.KD(teacher, student, alpha=1.5)
    coarse = pwl.build_network({"family": "vgg", "layers": ["4 M", "4 M", "4 M", "4"], "num_classes": 3})
    fine = pwl.build_network({"family": "vgg", "layers": ["4", "4 M", "4 M", "4"], "num_classes": 3})
    for make in (pwl.AttentionTransfer, pwl.FitNet, pwl.PCACurriculum, pwl.CurriculumExtraction):
        with pytest.raises(NetworkError, match=r"after block \d the student's features have the places .*: choose a block"):
            make(coarse, fine)


# ---------------------------------------------------------------- DKD


def test_dkd_of_outputs_that_are_certain():
    """Where a probability is 0 in 32 bits its logarithm still is a number, and so is the gradient."""
    logits = torch.tensor([[300.0, 0.0, -10.0], [-300.0, 1.0, 2.0]], requires_grad=True)
    teacher, labels = torch.tensor([[150.0, 1.0, 0.0], [200.0, 1.0, 2.0]]), torch.tensor([0, 0])
    found = decoupled_divergence(logits, teacher, labels, 1.0)
    z, v = logits.detach().double(), teacher.double()
    log_p, log_q = z.log_softmax(1), v.log_softmax(1)
    two = [torch.stack([x[:, 0], x[:, 1:].logsumexp(1)], 1) for x in (log_p, log_q)]
    expected = (two[1].exp() * (two[1] - two[0])).sum(1).mean()
    assert found[0].item() == pytest.approx(expected.item(), rel=1e-5) and expected > 100
    assert torch.autograd.grad(sum(found), logits)[0].isfinite().all()


def test_decoupled_divergence_by_hand():
    # softened by T = 2: teacher (0.5, 0.3, 0.2), student (0.6, 0.1, 0.3); the right class is the first
    teacher, student = (2 * torch.tensor([p]).log() for p in ((0.5, 0.3, 0.2), (0.6, 0.1, 0.3)))
    target, other = decoupled_divergence(student, teacher, torch.tensor([0]), 2.0)
    assert target.item() == pytest.approx(4 * (0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)), rel=1e-5)
    assert other.item() == pytest.approx(4 * (0.6 * math.log(0.6 / 0.25) + 0.4 * math.log(0.4 / 0.75)), rel=1e-5)


def test_hintons_divergence_is_the_target_part_plus_the_weighted_rest():
    torch.manual_seed(0)
    for label in range(5):
        student, teacher = torch.randn(1, 5), torch.randn(1, 5)
        target, other = decoupled_divergence(student, teacher, torch.tensor([label]), 3.0)
        rest = 1 - softmax(teacher / 3.0, 1)[0, label]
        assert (target + rest * other).item() == pytest.approx(kd_divergence(student, teacher, 3.0).item(), rel=1e-4)


def test_dkd_warms_up_and_then_stays(batch):
    objective = baseline("dkd")
    sizes = []
    for objective.progress in (0.0, 1 / 24, 1 / 12, 0.9):
        terms = objective.terms(*batch)
        sizes.append(terms["non-target"].item())
    assert sizes[0] == 0 and sizes[1] == pytest.approx(sizes[3] / 2, rel=1e-4) and sizes[2] == sizes[3] > 0
    plain = torch.nn.functional.cross_entropy(objective.model(batch[0]), batch[1])
    assert terms["ce"].item() == pytest.approx(plain.item(), rel=1e-5)


# ---------------------------------------------------------------- FitNet


def test_dkd_teaches_in_a_training_of_one_epoch():
    """Its warm-up is over after the first steps, not after an epoch."""
    (epoch,) = pwl.train(pwl.DKD(*tiny_pair()), tiny_data(), replace(RECIPE, epochs=1), progress=False)
    assert epoch["loss"]["non-target"] > 0


def test_fitnet_by_hand():
    objective = baseline("fitnet")  # after block 2: 6 channels of the student, 12 of the teacher
    regressor = objective.model["regressor"]
    torch.nn.init.constant_(regressor.weight, 0.5)
    torch.nn.init.constant_(regressor.bias, 1.0)
    student = [None, torch.full((2, 6, 8, 8), 2.0), None, None]
    teacher = [None, torch.full((2, 12, 8, 8), 4.0), None, None]
    # every output is 6 x 0.5 x 2 + 1 = 7, off by 3
    assert objective.feature_term(student, teacher, None).item() == pytest.approx(9.0)


def test_fitnet_refuses_a_block_that_is_not_there():
    with pytest.raises(pwl.PWLError, match="block 5: expected a number from 1 to 4"):
        pwl.FitNet(*tiny_pair(), block=5)


def test_fitnet_refuses_features_of_different_size():
    teacher = tiny_pair()[0]
    student = pwl.build_network({"family": "vgg", "layers": ["4", "6s M", "8s M", "8s M"], "num_classes": 3})
    with pytest.raises(pwl.PWLError, match=r"after block 2 .*\(16, 16\).*\(8, 8\)"):
        pwl.FitNet(teacher, student)


# ---------------------------------------------------------------- attention transfer


def test_attention_map_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[1.0, 2.0]]]])  # two channels at two places: mean squares 1 and 4
    expected = torch.tensor([[1.0, 4.0]]) / math.sqrt(17)
    assert torch.allclose(attention_map(features), expected)


def test_attention_term_by_hand():
    looks_left, looks_right = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    objective = baseline("attention")
    # maps (1, 0) and (0, 1): mean squared difference 1, once at one of two blocks
    assert objective.feature_term([looks_left] * 2, [looks_right, looks_left], None).item() == pytest.approx(1.0)


# ---------------------------------------------------------------- relational KD

TRIANGLE = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # sides 3, 4, 5: mean 4
EQUAL_SIDES = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3)]])


def test_relative_distances_by_hand():
    expected = torch.tensor([[0, 0.75, 1], [0.75, 0, 1.25], [1, 1.25, 0]])
    assert torch.allclose(relative_distances(TRIANGLE), expected)
    assert torch.allclose(relative_distances(7 * TRIANGLE + 1), expected, atol=1e-6)


def test_angles_by_hand():
    found = angles(TRIANGLE)
    assert found[0, 1, 2].item() == pytest.approx(0, abs=1e-6)  # the right angle is at the first point
    assert found[1, 0, 2].item() == pytest.approx(3 / 5)
    assert found[2, 0, 1].item() == pytest.approx(4 / 5)
    assert angles(EQUAL_SIDES)[1, 0, 2].item() == pytest.approx(1 / 2)


def test_relational_term_by_hand():
    # Huber losses of the 9 distances: 2 x (0.25^2 + 0 + 0.25^2) / 2; of the 27 angles: 2 x (0.5^2 + 0.1^2 + 0.3^2) / 2
    student, teacher = ([x[:, :, None, None]] for x in (EQUAL_SIDES, TRIANGLE))
    expected = 25 * (0.125 / 9) + 50 * (0.35 / 27)
    assert baseline("relational").feature_term(student, teacher, None).item() == pytest.approx(expected, rel=1e-4)


def test_equal_images_have_finite_gradients():
    x = torch.ones(3, 4, requires_grad=True)
    y = torch.cat([x[:2], x[2:] + 1])
    (relative_distances(y).sum() + angles(y).sum()).backward()
    assert x.grad.isfinite().all()


def test_embedding_is_the_mean_over_places():
    assert embedding([torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]])]).tolist() == [[2.0, 5.0]]


# ---------------------------------------------------------------- CRD


def test_contrast_by_hand():
    # similarities 1 to the positive, 0 and 0.5 to the negatives; the third negative is of the anchor's class, the fourth unused
    anchor, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    negatives = torch.tensor([[0.0, 1.0], [0.5, math.sqrt(0.75)], [1.0, 0.0], [1.0, 0.0]])
    labels, negative_labels = torch.tensor([7]), torch.tensor([1, 2, 7, -1])
    e = [math.exp(similarity / 0.5) for similarity in (1.0, 0.0, 0.5)]
    noise = e[1] + e[2]  # N c
    h = [x / (x + noise) for x in e]
    by_hand = -math.log(h[0]) - math.log(1 - h[1]) - math.log(1 - h[2])
    found = contrast(anchor, positive, negatives, labels, negative_labels, 0.5)
    assert found.item() == pytest.approx(by_hand, rel=1e-5)


def test_crd_remembers_the_last_images_in_a_ring(batch):
    objective = pwl.CRD(*tiny_pair(), dim=4, negatives=10)
    memory = objective.model["memory"]
    assert objective.terms(*batch)["crd"].item() == 0  # nothing to compare the first batch with
    assert memory.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, -1, -1]
    assert objective.terms(*batch)["crd"].item() > 0
    assert memory.labels.tolist() == [2, 0, 1, 2, 0, 1, 0, 1, 0, 1] and int(memory.next) == 6
    assert torch.allclose(memory.student.norm(dim=1), torch.ones(10), atol=1e-5)


def test_crd_compares_each_network_with_what_is_remembered_of_the_other(batch):
    """The term by hand: anchors of the student among vectors of the teacher, and the other way round."""
    torch.manual_seed(2)
    objective = pwl.CRD(*tiny_pair(), dim=4, negatives=6, sharpness=0.5)
    memory, maps = objective.model["memory"], objective.model["maps"]
    of_student, of_teacher = (torch.nn.functional.normalize(torch.randn(6, 4)) for _ in range(2))
    memory.add(of_student, of_teacher, torch.tensor([0, 1, 2, 0, 1, 2]))
    images, targets = batch
    labels = targets.argmax(1)
    with torch.no_grad():
        features = {name: getattr(objective, name).features(images) for name in ("student", "teacher")}
        s, t = (torch.nn.functional.normalize(maps[name](embedding(features[name]))) for name in ("student", "teacher"))
        found = objective.feature_term(features["student"], features["teacher"], labels).item()
    by_hand = 0.0
    for anchors, positives, remembered in ((s, t, of_teacher), (t, s, of_student)):
        others = [[i for i in range(6) if i % 3 != label] for label in labels.tolist()]
        e = [[math.exp(float(a @ remembered[i]) / 0.5) for i in other] for a, other in zip(anchors, others)]
        noise = math.exp(sum(math.log(sum(row)) for row in e) / len(e))
        for a, b, row in zip(anchors, positives, e):
            h = [x / (x + noise) for x in (math.exp(float(a @ b) / 0.5), *row)]
            by_hand -= (math.log(h[0]) + sum(math.log(1 - x) for x in h[1:])) / len(e)
    assert found == pytest.approx(by_hand, rel=1e-4)


# ---------------------------------------------------------------- all


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_learns_and_leaves_the_teacher_alone(name):
    objective = baseline(name)
    teacher = objective.teacher
    before = pwl.state_hash(teacher)
    history = pwl.train(objective, tiny_data(), RECIPE, progress=False)
    assert history[-1]["loss"]["ce"] < 0.8 * history[0]["loss"]["ce"]
    assert pwl.state_hash(teacher) == before
    settings = json.loads(json.dumps(objective.settings()))
    assert settings["name"] == name and settings["teacher"] == before


@pytest.mark.parametrize("name", BASELINES)
def test_an_interrupted_baseline_ends_with_the_same_weights(tmp_path, name):
    whole, cut = baseline(name), baseline(name)
    pwl.train(whole, tiny_data(), RECIPE, progress=False)
    plain_terms, calls = cut.terms, []

    def terms(*batch):
        calls.append(1)
        if len(calls) > 15:  # in the third epoch of six steps
            raise KeyboardInterrupt
        return plain_terms(*batch)

    cut.terms = terms
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        pwl.train(cut, tiny_data(), RECIPE, checkpoint=checkpoint, progress=False)
    resumed = baseline(name)
    pwl.train(resumed, tiny_data(), RECIPE, checkpoint=checkpoint, resume=True, progress=False)
    assert pwl.state_hash(resumed.model) == pwl.state_hash(whole.model)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "dkd"])
def test_the_outputs_of_the_teacher_count_as_much_as_alpha_says(name, batch):
    teacher, student = tiny_pair()
    objective = type(baseline(name))(teacher, student, alpha=0.3)
    terms = objective.terms(*batch)
    assert terms["kd"].item() == pytest.approx(0.3 * kd_divergence(student(batch[0]), teacher(batch[0]), 4.0).item(), rel=1e-4)
    assert baseline(name).terms(*batch)["kd"].item() == 0


def test_the_weight_scales_the_feature_term(batch):
    teacher, student = tiny_pair()
    one, three = (pwl.AttentionTransfer(teacher, student, weight=w).terms(*batch)["attention"].item() for w in (1.0, 3.0))
    assert three == pytest.approx(3 * one) and one > 0


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_trains_in_bf16(name):
    objective = baseline(name)
    recipe = replace(RECIPE, epochs=1, precision="bf16")
    assert all(math.isfinite(v) for v in pwl.train(objective, tiny_data(), recipe, progress=False)[0]["loss"].values())
