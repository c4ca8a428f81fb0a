"""Curricula against their definitions, on cases computed by hand; stages change at the right step."""

import json
import math

import pytest
import torch
from networks_for_tests import tiny_data, tiny_pair
from torch.nn.functional import cosine_similarity, mse_loss, one_hot

import pwl_lite as pwl
from pwl_lite.errors import NetworkError, TrainingError, UnknownNameError
from pwl_lite.objectives import PROJECTIONS, CurriculumExtraction, PCACurriculum, ProgressiveCheckpoints, build_objective
from pwl_lite.objectives.curriculum import Stages, features_after, has_settled, stage_at
from pwl_lite.objectives.projections import ROW_LOSSES, Hint, projection_matrix, rows_of, standardised
from pwl_lite.parity import SparseParity, parity_mlp
from pwl_lite.training import Recipe

RANDOM = ("gaussian", "sign", "orthogonal")


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(8, 3, 32, 32), one_hot(torch.arange(8) % 3, 3).float()


def vit_pair():
    torch.manual_seed(2)
    sizes = {"family": "vit", "patch": 8, "heads": 2, "num_classes": 3, "depths": [1, 1, 1]}
    return [pwl.build_network({**sizes, "width": width}) for width in (16, 8)]


# ---------------------------------------------------------------- projections


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("dim", [5, 30])
def test_random_projections_keep_squared_lengths_in_expectation(kind, dim):
    x = torch.randn(30, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    ratios = (
        torch.stack([(x @ projection_matrix(kind, 30, dim, generator)).square().sum() for _ in range(2000)]) / x.square().sum()
    )
    assert ratios.mean().item() == pytest.approx(1, abs=5 * float(ratios.std()) / math.sqrt(2000) + 1e-5)


def test_what_each_kind_is():
    generator = torch.Generator().manual_seed(1)
    orthogonal = projection_matrix("orthogonal", 12, 5, generator)
    assert torch.allclose(orthogonal.T @ orthogonal, 12 / 5 * torch.eye(5), atol=1e-5)
    sign = projection_matrix("sign", 12, 5, generator)
    assert torch.allclose(sign.abs(), torch.full((12, 5), 5**-0.5)) and 10 < (sign > 0).sum() < 50
    gaussian = projection_matrix("gaussian", 300, 100, generator)
    assert gaussian.std().item() == pytest.approx(0.1, rel=0.03) and abs(gaussian.mean()) < 0.002
    assert torch.equal(projection_matrix("none", 4, 4), torch.eye(4))


def test_pca_is_that_of_the_singular_values():
    torch.manual_seed(0)
    rows = torch.randn(200, 6) @ torch.diag(torch.tensor([5.0, 4, 3, 2, 1, 0.5])) @ torch.linalg.qr(torch.randn(6, 6)).Q + 10
    matrix = projection_matrix("pca", 6, 4, rows=rows)
    _, singular, directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert torch.allclose((matrix.T @ directions.T[:, :4]).abs(), torch.eye(4), atol=1e-4)
    assert torch.allclose((rows @ matrix).var(0), singular[:4].square() / 199, rtol=1e-3)


@pytest.mark.parametrize(
    "kind, dim, rows, message",
    [
        ("orthogonal", 7, None, "orthogonal projection of 6 channels to dim = 7: expected at most 6; lower dim"),
        ("pca", 7, torch.zeros(9, 6), "pca projection of 6 channels to dim = 7"),
        ("pca", 4, torch.zeros(4, 6), "from 4 rows of features: expected at least 5; give more images"),
        ("pca", 4, None, "from no rows"),
        ("none", 4, None, "no projection of 6 channels, but dim = 4: leave dim out"),
        ("gaussian", 0, None, "dim = 0: expected at least 1"),
    ],
)
def test_an_impossible_projection_is_named(kind, dim, rows, message):
    with pytest.raises(TrainingError, match=message):
        projection_matrix(kind, 6, dim, rows=rows)


def test_an_unknown_projection_is_named():
    with pytest.raises(UnknownNameError, match="projection 'fourier': expected one of gaussian, sign, orthogonal, pca, none"):
        projection_matrix("fourier", 6, 2)


def test_rows_of_maps_tokens_and_vectors():
    maps = torch.arange(12.0).view(1, 3, 2, 2)  # channel c holds 4c .. 4c + 3
    assert rows_of(maps).tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert rows_of(torch.arange(6.0).view(1, 2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert rows_of(torch.ones(4, 5)).shape == (4, 5)


def test_standardised_by_hand():
    rows = torch.tensor([[1.0, 10.0], [3.0, 16.0]])  # means 2 and 13, variances 1 and 9: 5 on average
    shift, factor = standardised(rows)
    assert shift.tolist() == [[2, 13]] and factor.item() == pytest.approx(1 / math.sqrt(5))
    assert ((rows - shift) * factor).square().mean().item() == pytest.approx(1)
    assert standardised(rows, centre=False)[0].tolist() == [[0, 0]]


def test_row_losses_are_torchs_for_each_of_a_stack():
    torch.manual_seed(0)
    a, b = torch.randn(3, 7, 4), torch.randn(3, 7, 4)
    for i in range(3):
        assert ROW_LOSSES["mse"](a, b)[i].item() == pytest.approx(mse_loss(a[i], b[i]).item(), rel=1e-5)
        expected = 1 - cosine_similarity(a[i], b[i], dim=1).mean()
        assert ROW_LOSSES["cosine"](a, b)[i].item() == pytest.approx(expected.item(), rel=1e-5)


# ---------------------------------------------------------------- stages


def test_a_loss_has_settled_by_hand():
    assert not has_settled([], 2) and not has_settled([1.0, 1.0], 2)
    assert has_settled([1.0, 1.0, 1.0], 2)
    assert not has_settled([1.0, 1.0, 0.9], 2)  # fell by more than a hundredth
    assert has_settled([0.5, 1.0, 0.499], 2)  # hardly below the lowest before
    assert not has_settled([0.5, 1.0, 0.499], 2, fall=0.001)


def test_stages_end_when_their_loss_has_settled_by_hand():
    """Windows of two steps, a patience of two; 20 steps. Stage 0 settles after three windows, stage 1 uses up its share."""
    stages = Stages([0.5, 0.25], patience=2, window=2)
    seen = []
    for step in range(20):
        seen.append(stages.advance(step / 20))
        if seen[-1] < 2:
            stages.note(torch.tensor(1.0 if seen[-1] == 0 else 0.9**step))
        if step in (3, 8):  # as if the training were resumed: in the midst of a window, and after the first stage
            state = stages.state_dict()
            stages = Stages([0.5, 0.25], patience=2, window=2)
            stages.load_state_dict(state)
    assert seen == [0] * 6 + [1] * 5 + [2] * 9  # means 1, 1, 1: over at 6 steps; then a quarter of 20
    assert stages.advance(0.0) == 0  # a second training begins anew
    assert [Stages([0.5, 0.25]).advance(p) for p in (0, 0.49, 0.5, 0.74, 0.75)] == [0, 0, 1, 1, 2]  # no patience: shares alone


def test_stages_by_hand():
    shares = [0.1, 0.2, 0.3]
    assert [stage_at(p, shares) for p in (0, 0.099, 0.1, 0.1 + 0.2, 0.59, 0.6, 0.99)] == [0, 0, 1, 2, 2, 3, 3]


def test_train_tells_objectives_the_progress_of_each_step():
    teacher, student = tiny_pair()
    objective = CurriculumExtraction(teacher, student, blocks=[1, 2], shares=[0.25, 0.25])  # 3, 3 and 6 of 12 steps
    seen, terms = [], objective.terms

    def watched(images, targets):
        found = terms(images, targets)
        seen.append(next(name for name, value in found.items() if value.item() > 0))
        return found

    objective.terms = watched
    history = pwl.train(objective, tiny_data(), Recipe(epochs=2, batch_size=16), progress=False)
    assert seen == ["block 1"] * 3 + ["block 2"] * 3 + ["ce"] * 6
    assert history[0]["loss"].keys() == history[1]["loss"].keys() == {"block 1", "block 2", "ce", "kd"}
    assert history[1]["loss"]["block 1"] == 0 and history[1]["loss"]["kd"] > 0


# ---------------------------------------------------------------- progressive checkpoints


def test_checkpoints_teach_in_turn(batch):
    early, late = tiny_pair(3)[0], tiny_pair(4)[0]
    student = tiny_pair()[1]
    objective = ProgressiveCheckpoints([early, late], student, shares=[0.3, 0.7], alpha=1.0, temperature=3.0)
    for progress, teacher in ((0.0, early), (0.29, early), (0.3, late), (0.99, late)):
        objective.start_step(progress)
        student.eval()
        expected = pwl.KD(teacher, student, 1.0, 3.0).terms(*batch)
        found = objective.terms(*batch)
        assert found["kd"].item() == pytest.approx(expected["kd"].item(), rel=1e-6) and found["ce"] == 0
    assert objective.settings()["checkpoints"] == [pwl.state_hash(early), pwl.state_hash(late)]


def test_a_single_checkpoint_is_kd():
    teacher, student = tiny_pair()
    other = tiny_pair()[1]
    recipe = Recipe(epochs=2, batch_size=16, precision="fp32")
    one = pwl.train(ProgressiveCheckpoints([teacher], student), tiny_data(), recipe, progress=False)
    kd = pwl.train(pwl.KD(teacher, other), tiny_data(), recipe, progress=False)
    assert pwl.state_hash(student) == pwl.state_hash(other)
    assert [epoch["loss"] for epoch in one] == [epoch["loss"] for epoch in kd]


def test_checkpoints_stay_as_they_are():
    checkpoints = [tiny_pair(seed)[0] for seed in (3, 4)]
    before = [pwl.state_hash(net) for net in checkpoints]
    objective = ProgressiveCheckpoints(checkpoints, tiny_pair()[1])
    pwl.train(objective, tiny_data(), Recipe(epochs=2, batch_size=16), progress=False)
    assert [pwl.state_hash(net) for net in checkpoints] == before


@pytest.mark.parametrize(
    "shares, message",
    [
        ([1.0], r"shares = \[1.0\]: expected 2 numbers, one for each checkpoint"),
        ([0.2, 0.7], r"shares = \[0.2, 0.7\]: expected 1 in all, not 0.9"),
        ([1.2, -0.2], "expected positive numbers, together at most 1"),
    ],
)
def test_shares_that_do_not_fit_are_named(shares, message):
    teacher, student = tiny_pair()
    with pytest.raises(TrainingError, match=message):
        ProgressiveCheckpoints([teacher, teacher], student, shares)


def test_no_checkpoints_are_refused():
    with pytest.raises(TrainingError, match="no checkpoints: expected at least one, the trained teacher"):
        ProgressiveCheckpoints([], tiny_pair()[1])


# ---------------------------------------------------------------- curriculum extraction


def test_extraction_by_hand():
    """Two hidden units of the student, three of the teacher; everything small enough to compute."""
    student, teacher = parity_mlp(2, 2, seed=0), parity_mlp(2, 3, seed=1)
    objective = CurriculumExtraction(teacher, student, blocks=[1], dim=2, seed=5)
    inputs = SparseParity(2, 2).all_inputs()  # four rows
    hint = objective.model["hints"][0]
    with torch.no_grad():
        hint.readout.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        hint.readout.bias.copy_(torch.tensor([0.5, 0.0]))
        target = teacher.blocks[0](inputs) @ projection_matrix("gaussian", 3, 2, torch.Generator().manual_seed(5))
        target = (target - target.mean(0)) / target.var(0, correction=0).mean().sqrt()
        h = student.blocks[0](inputs)
        rows = torch.stack([h[:, 0] + 2 * h[:, 1] + 0.5, -h[:, 1]], dim=1)
    terms = objective.terms(inputs, one_hot(torch.tensor([1, 0, 0, 1]), 2).float())
    assert terms["block 1"].item() == pytest.approx((rows - target).square().mean().item(), rel=1e-5)
    assert terms["ce"] == terms["kd"] == 0


def test_each_stage_may_have_a_loss_of_its_own(batch):
    objectives = [
        CurriculumExtraction(*tiny_pair(), blocks=[1, 2], shares=[0.3, 0.3], loss=loss, readout=True, seed=3)
        for loss in (["mse", "cosine"], "mse", "cosine")
    ]
    hints = objectives[0].model["hints"].state_dict()
    found = {}
    for progress, block in ((0.0, "block 1"), (0.4, "block 2")):
        for objective in objectives:
            objective.model["hints"].load_state_dict(hints)
            objective.start_step(progress)
        found[block] = [objective.terms(*batch)[block].item() for objective in objectives]
    mixed, mse, cosine = found["block 1"]
    assert mixed == mse != cosine
    mixed, mse, cosine = found["block 2"]
    assert mixed == cosine != mse
    assert [objective.settings()["loss"] for objective in objectives] == [["mse", "cosine"], "mse", "cosine"]


def test_without_a_readout_features_are_compared_in_the_teachers_own_scale():
    """The error is 0 for the teacher's features themselves, and 1 (all of their variance) for their mean."""
    torch.manual_seed(0)
    features = 7 * torch.randn(64, 4) + 3
    hint = Hint(4, 4, "none", readout=False)
    same = ROW_LOSSES["mse"](*hint(features, features))
    mean = ROW_LOSSES["mse"](*hint(features.mean(0).expand(64, 4), features))
    twice = ROW_LOSSES["mse"](*hint(2 * features, features))
    assert same == 0 and mean == pytest.approx(1, abs=1e-5)
    assert twice == pytest.approx((features.square().mean() / (features - features.mean(0)).square().mean()).item(), rel=1e-4)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("make", [tiny_pair, vit_pair])
def test_extraction_of_maps_and_tokens_learns(batch, projection, make):
    teacher, student = make()
    before = pwl.state_hash(teacher)
    torch.manual_seed(0)
    objective = CurriculumExtraction(teacher, student, blocks=[2], projection=projection)
    optimizer = torch.optim.Adam(objective.param_groups()[0]["params"], lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.stack(list(objective.terms(*batch).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert pwl.state_hash(teacher) == before
    matrix = objective.model["hints"][0].matrix  # it is the projection that was asked for
    assert torch.allclose(matrix.abs(), matrix.abs().max().expand_as(matrix)) == (projection == "sign")
    gram, length = matrix.T @ matrix, {"orthogonal": matrix.shape[0] / matrix.shape[1], "pca": 1.0, "none": 1.0}.get(projection)
    assert torch.allclose(gram, gram[0, 0] * torch.eye(len(gram)), atol=1e-4) == (length is not None)
    assert length is None or gram[0, 0].item() == pytest.approx(length, rel=1e-4)


def test_only_what_leads_to_the_block_is_run_and_changed(batch):
    teacher, student = tiny_pair()
    objective = CurriculumExtraction(teacher, student, blocks=[2])
    student.blocks[2].register_forward_hook(lambda *_: pytest.fail("block 3 has run"))
    objective.terms(*batch)["block 2"].backward()
    moved = {name.split(".")[0] + name.split(".")[1] for name, p in student.named_parameters() if p.grad is not None}
    assert {name for name in moved if name.startswith("blocks")} == {"blocks0", "blocks1"}
    assert torch.equal(features_after(teacher, 3, batch[0]), teacher.features(batch[0])[2])


def test_the_last_stage_is_kd(batch):
    teacher, student = tiny_pair()
    student.eval()
    objective = CurriculumExtraction(teacher, student, shares=[0.2, 0.2, 0.2], alpha=0.3, temperature=3.0)
    objective.start_step(0.6)
    terms = objective.terms(*batch)
    for name, value in pwl.KD(teacher, student, 0.3, 3.0).terms(*batch).items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-6)


def test_the_seed_decides_the_projection():
    def matrix(seed):
        return CurriculumExtraction(*tiny_pair(), blocks=[1], seed=seed).model["hints"][0].matrix

    assert torch.equal(matrix(3), matrix(3)) and not torch.equal(matrix(3), matrix(4))


PATIENT = {"blocks": [1, 2], "shares": [0.4, 0.4], "dim": [3, 5], "patience": 1, "window": 5}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("extraction", {"projection": "pca", "shares": [0.2, 0.2, 0.2]}), ("extraction", PATIENT), ("pca", {})],
)
def test_a_resumed_curriculum_ends_where_an_uninterrupted_one_does(name, settings, tmp_path):
    recipe = Recipe(epochs=4, batch_size=16, lr=0.02, precision="fp32")

    def built():
        torch.manual_seed(9)
        return build_objective(name, *tiny_pair(), **settings)

    whole = built()
    pwl.train(whole, tiny_data(), recipe, progress=False)
    with pytest.raises(pwl.errors.TrainingPaused):
        pwl.train(built(), tiny_data(), recipe, checkpoint=tmp_path / "half.pt", max_minutes=0.0, progress=False)
    resumed = built()
    pwl.train(resumed, tiny_data(), recipe, checkpoint=tmp_path / "half.pt", resume=True, progress=False)
    assert pwl.state_hash(resumed.model) == pwl.state_hash(whole.model)


def test_a_stage_of_extraction_ends_when_its_loss_has_settled(batch):
    """On one batch at a rate of 0 the loss stays as it is: after two windows of three steps the next block's turn has come."""
    objective = CurriculumExtraction(*tiny_pair(), blocks=[1, 2], shares=[0.5, 0.5], dim=[3, 5], patience=1, window=3)
    assert [hint.matrix.shape[1] for hint in objective.model["hints"]] == [3, 5]
    matched = []
    for step in range(20):
        objective.start_step(step / 20)
        terms = objective.terms(*batch)
        matched.append(next((block for block in (1, 2) if terms[f"block {block}"] > 0), "outputs"))
    assert matched == [1] * 6 + [2] * 6 + ["outputs"] * 8
    settings = json.loads(json.dumps(objective.settings()))
    assert (settings["dim"], settings["patience"], settings["window"]) == ([3, 5], 1, 3)


def test_settings_build_the_same_again():
    teacher, student = tiny_pair()
    objective = CurriculumExtraction(teacher, student, [1, 3], [0.1, 0.2], "sign", 5, "cosine", True, 0.5, 3.0, 7)
    settings = json.loads(json.dumps(objective.settings()))
    assert settings.pop("teacher") == pwl.state_hash(teacher)
    assert build_objective(**settings, **{"teacher": teacher, "student": student}).settings() == objective.settings()


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"blocks": [5]}, NetworkError, "block 5: expected a number from 1 to 4"),
        (
            {"blocks": [1, 2], "shares": [0.5]},
            TrainingError,
            r"shares = \[0.5\]: expected 2 numbers, one for each block of \[1, 2\]",
        ),
        ({"blocks": [1, 2], "shares": [0.6, 0.6]}, TrainingError, "together at most 1"),
        ({"blocks": [1], "dim": 5, "readout": False}, TrainingError, "dim = 5 without a readout: expected 4"),
        ({"blocks": [1], "projection": "none", "readout": False}, TrainingError, "dim = 8 without a readout: expected 4"),
        ({"loss": "l1"}, UnknownNameError, "loss 'l1': expected one of mse, cosine"),
        ({"blocks": [1, 2], "loss": ["mse", "l1"]}, UnknownNameError, "loss 'l1': expected one of mse, cosine"),
        ({"blocks": [1, 2], "loss": ["mse"]}, TrainingError, r"loss = \['mse'\]: expected 2 names, one for each block"),
        ({"blocks": [1, 2], "dim": [3]}, TrainingError, r"dim = \[3\]: expected 2 numbers, one for each block of \[1, 2\]"),
        ({"patience": -1}, TrainingError, "patience = -1, window = 50: expected at least 0, and at least 1"),
        ({"patience": 2, "window": 0}, TrainingError, "patience = 2, window = 0"),
        ({"blocks": []}, TrainingError, r"blocks = \[\]: expected at least one"),
    ],
)
def test_an_impossible_extraction_is_named(settings, error, message):
    with pytest.raises(error, match=message):
        CurriculumExtraction(*tiny_pair(), **settings)


def test_features_of_different_size_are_refused():
    teacher = tiny_pair()[0]
    student = pwl.build_network({"family": "vgg", "layers": ["4", "6s M", "8s M", "8s M"], "num_classes": 3})
    with pytest.raises(NetworkError, match=r"after block 1 .*\(32, 32\).*\(16, 16\)"):
        CurriculumExtraction(teacher, student)


# ---------------------------------------------------------------- PCA curriculum


def test_components_are_released_in_equal_steps():
    objective = PCACurriculum(*tiny_pair(), dim=8, steps=4, until=0.6)
    progress = (0.0, 0.19, 0.2, 0.39, 0.4, 0.59, 0.6, 0.9)
    released = []
    for value in progress:
        objective.start_step(value)
        released.append(objective.released)
    assert released == [2, 2, 4, 4, 6, 6, 8, 8]
    assert PCACurriculum(*tiny_pair(), dim=8, steps=1).released == 8
    assert PCACurriculum(*tiny_pair(), dim=8, until=0.0).released == 8
    uneven = PCACurriculum(*tiny_pair(), dim=5, steps=2)
    assert uneven.released == 3


def test_pca_term_by_hand():
    objective = PCACurriculum(*tiny_pair(), block=3, dim=2, steps=2)
    teacher = torch.zeros(4, 16)  # four images, no places: variances 4 and 1 along the first two channels
    teacher[:, 0] = torch.tensor([2.0, 2.0, -2.0, -2.0])
    teacher[:, 1] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    student = torch.zeros(4, 8)
    hint = objective.model["hint"]
    torch.nn.init.zeros_(hint.readout.weight)
    torch.nn.init.zeros_(hint.readout.bias)
    features = [None, None, student, None], [None, None, teacher, None]
    # zeros leave all variance unexplained: 4 / 5 of it in the first component
    assert objective.feature_term(*features, None).item() == pytest.approx(0.8)
    objective.start_step(0.5)
    assert objective.feature_term(*features, None).item() == pytest.approx(1.0)


def test_labels_and_outputs_are_learnt_too(batch):
    teacher, student = tiny_pair()
    objective = PCACurriculum(teacher, student, weight=3.0, alpha=0.5, temperature=2.0)
    terms = objective.terms(*batch)
    assert terms.keys() == {"ce", "kd", "pca"} and all(value.item() > 0 for value in terms.values())
    single = PCACurriculum(teacher, student, weight=1.0)
    single.model = objective.model
    assert terms["pca"].item() == pytest.approx(3 * single.terms(*batch)["pca"].item(), rel=1e-3)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dim": 17}, "pca projection of 16 channels to dim = 17"),
        ({"dim": 3, "steps": 4}, "steps = 4: expected 1 to 3, the number of components"),
        ({"until": 1.5}, "until = 1.5: expected a share of the training"),
    ],
)
def test_an_impossible_release_is_named(settings, message):
    with pytest.raises(TrainingError, match=message):
        PCACurriculum(*tiny_pair(), **settings)


def test_a_hint_keeps_the_scale_of_its_first_batch():
    hint = Hint(4, 6, "gaussian", 3)
    torch.manual_seed(0)
    first, second = torch.randn(20, 6), 5 * torch.randn(20, 6)
    target = hint(torch.zeros(20, 4), first)[1]
    assert target.var(0, correction=0).mean().item() == pytest.approx(1, rel=1e-5) and target.mean(0).abs().max() < 1e-6
    assert hint(torch.zeros(20, 4), second)[1].var(0).mean() > 9
    again = Hint(4, 6, "gaussian", 3)
    again.load_state_dict(hint.state_dict())
    assert torch.equal(again(torch.zeros(20, 4), second)[1], hint(torch.zeros(20, 4), second)[1])


CURRICULA = {"checkpoints": {}, "extraction": {"blocks": [2], "shares": [0.5]}, "pca": {"weight": 0.3}}


@pytest.mark.parametrize("name", CURRICULA)
def test_a_curriculum_learns_and_leaves_the_teacher_alone(name):
    teacher, student = tiny_pair()
    before = pwl.state_hash(teacher)
    torch.manual_seed(0)
    objective = build_objective(name, teacher, student, **CURRICULA[name])
    history = pwl.train(objective, tiny_data(), Recipe(epochs=8, batch_size=16, lr=0.02, seed=1), progress=False)
    losses = [epoch["loss"] for epoch in history]
    if name == "extraction":
        assert losses[3]["block 2"] < 0.8 * losses[0]["block 2"] and losses[7]["ce"] < 0.8 * losses[4]["ce"]
    else:
        assert losses[7]["ce"] < 0.8 * losses[0]["ce"]
    assert name != "pca" or losses[7]["pca"] < losses[4]["pca"]  # from here on all components are released
    assert pwl.state_hash(teacher) == before


@pytest.mark.parametrize("name", CURRICULA)
def test_a_curriculum_trains_in_bf16(name):
    objective = build_objective(name, *tiny_pair(), **CURRICULA[name])
    history = pwl.train(objective, tiny_data(), Recipe(epochs=2, batch_size=16, lr=0.02, precision="bf16"), progress=False)
    assert all(math.isfinite(value) for epoch in history for value in epoch["loss"].values())
