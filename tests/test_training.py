"""The training loop: recipes, resuming exactly, errors that name the way out."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from networks_for_tests import tiny_data, tiny_pair

import pwl_lite as pwl
from pwl_lite import training
from pwl_lite.errors import SaveError, TrainingError, TrainingPaused
from pwl_lite.hardware import speed_features
from pwl_lite.training import Recipe

RECIPE = Recipe(epochs=4, batch_size=16, lr=0.05, label_smoothing=0.1, cutout=4)


def pwl_run(tmp_path, name, epochs_then_stop=None, recipe=RECIPE, resume=False):
    """One PWL training; `epochs_then_stop` interrupts it as Ctrl-C would, during the epoch after."""
    torch.manual_seed(3)
    objective = pwl.ProgressiveDistillation(pwl.SwapNet(*tiny_pair()), running_norm_from=0.7)
    if epochs_then_stop is not None:
        plain_terms, calls = objective.terms, []

        def terms(images, targets):
            calls.append(1)
            if len(calls) > epochs_then_stop * (96 // recipe.batch_size) + 2:
                raise KeyboardInterrupt
            return plain_terms(images, targets)

        objective.terms = terms
    checkpoint = tmp_path / f"{name}.pt"
    try:
        pwl.train(objective, tiny_data(), recipe, checkpoint=checkpoint, resume=resume, progress=False)
    except KeyboardInterrupt:
        assert epochs_then_stop is not None
    return objective, checkpoint


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_a_resumed_run_ends_with_the_same_weights_as_an_uninterrupted_one(tmp_path, optimizer, schedule):
    recipe = replace(RECIPE, optimizer=optimizer, schedule=schedule, lr=0.01)
    whole, _ = pwl_run(tmp_path, "whole", recipe=recipe)
    pwl_run(tmp_path, "cut", epochs_then_stop=2, recipe=recipe)
    torch.rand(17)  # what else draws random numbers in between must not matter
    resumed, _ = pwl_run(tmp_path, "cut", resume=True, recipe=recipe)
    assert pwl.state_hash(resumed.model) == pwl.state_hash(whole.model)


def test_alternating_flips_show_both_views_of_every_image_in_two_epochs():
    data = tiny_data()
    recipe = replace(RECIPE, flip="alternate", crop=0, cutout=0, seed=3)
    plain = data.train.normalise(data.train.images)
    seen = []
    for epoch in (1, 2, 3):
        torch.manual_seed(epoch)
        order = torch.randperm(len(data.train))
        torch.manual_seed(epoch)
        views = torch.cat([images for images, _ in training._batches(data.train, recipe, torch.contiguous_format, epoch)])
        mirrored = (views == plain[order].flip(3)).all(3).all(2).all(1)
        assert ((views == plain[order]).all(3).all(2).all(1) ^ mirrored).all()
        seen.append(mirrored[order.argsort()])
    assert torch.equal(seen[0], ~seen[1]) and torch.equal(seen[0], seen[2])
    assert 0.3 < seen[0].float().mean() < 0.7


def test_the_seed_decides_and_the_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    teacher, _ = tiny_pair()
    pwl.train(pwl.Supervised(teacher), tiny_data(), replace(RECIPE, epochs=1), progress=False)
    assert torch.equal(torch.rand(3), expected)

    hashes = set()
    for seed in (0, 0, 1):
        teacher, _ = tiny_pair()
        pwl.train(pwl.Supervised(teacher), tiny_data(), replace(RECIPE, epochs=1, seed=seed), progress=False)
        hashes.add(pwl.state_hash(teacher))
    assert len(hashes) == 2


def test_training_learns_and_reports_each_epoch():
    teacher, _ = tiny_pair()
    data = tiny_data(train=240)
    history = pwl.train(pwl.Supervised(teacher), data, replace(RECIPE, epochs=5, flip=False, cutout=0), progress=False)
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5]
    assert history[-1]["loss"]["ce"] < 0.7 * history[0]["loss"]["ce"]
    assert pwl.accuracy(teacher, data.test) > 80
    assert not teacher.training


def test_an_objective_is_told_how_much_of_the_training_is_done():
    objective = pwl.Supervised(tiny_pair()[1])
    plain_terms, seen = objective.terms, []
    objective.terms = lambda *batch: seen.append(objective.progress) or plain_terms(*batch)
    pwl.train(objective, tiny_data(), RECIPE, progress=False)
    assert sorted(set(seen)) == [0, 0.25, 0.5, 0.75] and seen == sorted(seen)


def test_learning_rates_of_converters_biases_and_schedule():
    net = pwl.SwapNet(*tiny_pair())
    objective = pwl.ProgressiveDistillation(net, converter_lr=0.2)
    recipe = Recipe(epochs=2, batch_size=16, lr=0.1, bias_lr=4.0, weight_decay=1e-3, warmup=0.25)
    optimizer = training._optimizer(objective, recipe)
    scheduler = training._scheduler(optimizer, recipe, steps=8)
    groups = {(round(g["max_lr"], 6), g["weight_decay"]) for g in optimizer.param_groups}
    assert groups == {(0.1, 1e-3), (0.4, 0.0), (0.02, 1e-3), (0.08, 0.0)}
    rates = []
    for _ in range(16):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.1, rel=0.1) and rates[0] == pytest.approx(0.02)
    peak = rates.index(max(rates))
    assert peak in (3, 4) and rates[-1] < 0.02
    trained = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert trained == {id(p) for m in (net.student, net.converters) for p in m.parameters()}


def test_a_run_in_slices_ends_with_the_same_weights_as_a_whole_one(tmp_path):
    whole, _ = pwl_run(tmp_path, "whole")
    checkpoint = tmp_path / "slices.pt"
    paused = 0
    for _ in range(4):
        torch.manual_seed(3)
        objective = pwl.ProgressiveDistillation(pwl.SwapNet(*tiny_pair()), running_norm_from=0.7)
        settings = {"checkpoint": checkpoint, "resume": True, "max_minutes": 0, "progress": False}
        try:
            history = pwl.train(objective, tiny_data(), RECIPE, **settings)
        except TrainingPaused as pause:
            paused += 1
            assert f"paused after epoch {paused} of 4" in str(pause) and "slices.pt" in str(pause)
    assert paused == 3 and len(history) == 4
    assert pwl.state_hash(objective.model) == pwl.state_hash(whole.model)


def test_enough_time_does_not_pause(tmp_path):
    objective = pwl.Supervised(tiny_pair()[1])
    settings = {"checkpoint": tmp_path / "c.pt", "max_minutes": 5, "progress": False}
    assert len(pwl.train(objective, tiny_data(), RECIPE, **settings)) == 4


def test_gradients_are_clipped_to_the_length_given():
    """With plain SGD and a tiny limit each step moves the weights by exactly lr times the limit."""
    data, net = tiny_data(train=16), tiny_pair()[1]
    recipe = Recipe(1, 16, lr=1.0, momentum=0.0, weight_decay=0.0, schedule="cosine", clip=1e-3, precision="fp32")
    before = [p.detach().clone() for p in net.parameters()]
    pwl.train(pwl.Supervised(net), data, recipe, progress=False)
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(net.parameters(), before, strict=True)]).norm()
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)


def test_a_limit_without_a_checkpoint_is_refused():
    with pytest.raises(TrainingError, match="max_minutes = 5: expected a checkpoint"):
        pwl.train(pwl.Supervised(tiny_pair()[1]), tiny_data(), RECIPE, max_minutes=5)


def test_a_loss_that_is_not_a_number_stops_the_run_and_leaves_the_last_checkpoint(tmp_path):
    _, checkpoint = pwl_run(tmp_path, "good", recipe=replace(RECIPE, epochs=1))
    good = checkpoint.read_bytes()
    teacher, _ = tiny_pair()
    with pytest.raises(TrainingError, match=r"loss term 'ce' is .* in epoch 1.*lr = 1e\+18"):
        pwl.train(
            pwl.Supervised(teacher), tiny_data(), replace(RECIPE, lr=1e18), checkpoint=checkpoint, progress=False
        )
    assert checkpoint.read_bytes() == good


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    pwl_run(tmp_path, "a", recipe=replace(RECIPE, epochs=1))
    with pytest.raises(TrainingError, match=r"is of another run \(recipe.lr: 0.05 there, 0.01 here\)"):
        pwl_run(tmp_path, "a", recipe=replace(RECIPE, epochs=1, lr=0.01), resume=True)


def test_other_images_under_the_same_recipe_are_another_run(tmp_path):
    checkpoint, recipe = tmp_path / "a.pt", replace(RECIPE, epochs=1)
    pwl.train(pwl.Supervised(tiny_pair()[1]), tiny_data(), recipe, checkpoint=checkpoint, progress=False)
    changed = tiny_data()
    changed.train.images[0, 0, 0, 0] += 1
    with pytest.raises(TrainingError, match=r"is of another run \(data.sha256: "):
        pwl.train(pwl.Supervised(tiny_pair()[1]), changed, recipe, checkpoint=checkpoint, resume=True, progress=False)



@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    _, checkpoint = pwl_run(tmp_path, "a", recipe=replace(RECIPE, epochs=1))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(TrainingError, match=r"a\.pt: cannot be read.*delete it to start anew$"):
        pwl_run(tmp_path, "a", recipe=replace(RECIPE, epochs=1), resume=True)


def test_a_full_disk_while_saving_keeps_the_old_checkpoint(tmp_path):
    """A real write error: the process may not make files larger than 20 kB, as on a disk with that much space left."""
    script = f"""
import resource, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from networks_for_tests import tiny_data, tiny_pair
import pwl_lite as pwl
from pwl_lite.errors import SaveError
run = lambda: pwl.train(pwl.Supervised(tiny_pair()[0]), tiny_data(), pwl.Recipe(epochs=1, batch_size=16),
                        checkpoint={str(tmp_path / "c.pt")!r}, progress=False)
run()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    run()
except SaveError as error:
    print("SaveError", error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path.parent)
    assert result.stdout.startswith("SaveError") and "c.pt: could not be written" in result.stdout, result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    assert torch.load(tmp_path / "c.pt", weights_only=True)["schema"] == 1


def test_a_checkpoint_where_a_file_stands_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="could not be written"):
        pwl.train(
            pwl.Supervised(tiny_pair()[0]), tiny_data(), Recipe(epochs=1, batch_size=16),
            checkpoint=tmp_path / "file" / "c.pt", progress=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer", "adam", "optimizer 'adam': expected one of sgd, adamw"),
        ("schedule", "step", "schedule 'step': expected one of one_cycle, cosine"),
        ("precision", "fp8", "precision 'fp8': expected one of auto, fp32, bf16"),
        ("epochs", 0, "epochs = 0: expected a number above 0"),
        ("epochs", "2", "epochs = '2': expected a number above 0"),
        ("lr", -1.0, "lr = -1.0: expected a number above 0"),
        ("lr", float("nan"), "lr = nan: expected a number above 0"),
        ("clip", -1.0, "clip = -1.0: expected a number, not below 0"),
        ("weight_decay", -1e-4, "weight_decay = -0.0001: expected a number, not below 0"),
        ("label_smoothing", 1.5, "label_smoothing = 1.5: expected a number from 0 to 1"),
        ("warmup", None, "warmup = None: expected a number from 0 to 1"),
    ],
)
def test_a_wrong_recipe_is_named(field, value, message):
    with pytest.raises(pwl.PWLError, match=message):
        Recipe(**{"epochs": 1, field: value})


def test_an_unknown_setting_is_an_error():
    with pytest.raises(TypeError, match="learning_rate"):
        Recipe(epochs=1, learning_rate=0.1)


def test_fewer_images_than_a_batch():
    with pytest.raises(TrainingError, match="96 training images: expected at least one batch of 128"):
        pwl.train(pwl.Supervised(tiny_pair()[0]), tiny_data(), Recipe(epochs=1), progress=False)


def test_speed_features_are_detected_and_can_be_overridden():
    found = speed_features("cpu")
    resolved = training.resolve(Recipe(epochs=1), "cpu")
    assert (resolved.precision == "bf16", resolved.channels_last) == (found["bf16"], found["channels_last"])
    for precision, channels_last in (("bf16", True), ("fp32", False)):
        forced = Recipe(epochs=1, precision=precision, channels_last=channels_last)
        assert training.resolve(forced, "cpu") == forced


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_precisions_train_to_finite_losses(precision):
    _, student = tiny_pair()
    history = pwl.train(pwl.Supervised(student), tiny_data(), replace(RECIPE, precision=precision), progress=False)
    assert history[-1]["loss"]["ce"] < history[0]["loss"]["ce"]
    assert all(p.dtype == torch.float32 for p in student.parameters())


def test_the_progress_bar_shows_terms_and_time_left(capsys):
    pwl.train(pwl.Supervised(tiny_pair()[0]), tiny_data(), replace(RECIPE, epochs=1), progress=True)
    assert "ce=" in capsys.readouterr().err


