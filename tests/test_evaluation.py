"""The lattice against sixteen separate evaluations, its costs, and the whole main job in small."""

import shutil
import time
from dataclasses import replace

import pytest
import torch
from networks_for_tests import STUDENT, TEACHER, tiny_data, tiny_net

import pwl_lite as pwl
from pwl_lite.evaluation import composition_costs, lattice_logits, recalibrated
from pwl_lite.precision import round_weights
from pwl_lite.profiles import Profile
from pwl_lite.reproduce import Runner, reproduce
from pwl_lite.speed import reproduce_speed


def test_the_lattice_is_what_sixteen_separate_evaluations_give():
    net, data = tiny_net(), tiny_data()
    table = pwl.evaluate_lattice(net, data.test).set_index("composition")
    assert list(table.index) == pwl.all_compositions(4)
    teacher = pwl.predict(net.teacher, data.test).argmax(1)
    for composition in table.index:
        answers = pwl.predict(net, data.test, composition).argmax(1)
        assert table.accuracy[composition] == pytest.approx(pwl.accuracy(net, data.test, composition))
        assert table.agreement[composition] == pytest.approx(100 * (answers == teacher).float().mean().item())
    assert table.agreement["TTTT"] == 100


def test_with_flips_an_image_and_its_mirror_image_are_answered_alike():
    net, data = tiny_net(), tiny_data()
    mirrored = replace(data.test, images=data.test.images.flip(3))
    logits = pwl.predict(net.teacher, data.test, flips=True)
    assert torch.allclose(logits, pwl.predict(net.teacher, mirrored, flips=True), atol=1e-6)
    apart = pwl.predict(net.teacher, data.test), pwl.predict(net.teacher, mirrored)
    assert torch.allclose(logits, (apart[0] + apart[1]) / 2, atol=1e-6) and not torch.allclose(*apart, atol=1e-3)


def test_logits_of_the_lattice_equal_those_of_the_compositions():
    net = tiny_net().eval()
    images = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        for composition, logits in lattice_logits(net, images).items():
            assert torch.equal(logits, net(images, composition)), composition


def test_bytes_and_macs_of_a_composition_by_hand():
    net = tiny_net()
    costs = composition_costs(net)
    assert costs["TTTT"] == (pwl.num_bytes(net.teacher), sum(pwl.block_macs(net.teacher)))
    assert costs["SSSS"] == (pwl.num_bytes(net.student), sum(pwl.block_macs(net.student)))
    decoder = (4 * 8 + 8) * 4, 4 * 8 * 16 * 16  # 1x1 convolution from 4 to 8 channels on 16 x 16
    blocks = [net.student.part(0), *(net.teacher.part(i) for i in (1, 2, 3))]
    assert costs["STTT"][0] == sum(pwl.num_bytes(b) for b in blocks) + decoder[0]
    assert costs["STTT"][1] == pwl.block_macs(net.student)[0] + sum(pwl.block_macs(net.teacher)[1:]) + decoder[1]


def test_sixteen_compositions_cost_at_most_six_plain_evaluations():
    """Measured on the pair of the `cifar` profile; a plain evaluation is one pass of the teacher over the same images."""
    net = pwl.SwapNet(*pwl.build_pair("vgg", "cifar")).eval()
    data = tiny_data(test=250).test

    def seconds(f):
        times = []
        for _ in range(4):
            started = time.perf_counter()
            f()
            times.append(time.perf_counter() - started)
        return min(times[1:])  # the first run warms up; the fastest is least disturbed by others

    ratio = seconds(lambda: pwl.evaluate_lattice(net, data)) / seconds(lambda: pwl.accuracy(net.teacher, data))
    print(f"the lattice costs {ratio:.1f} plain evaluations")
    assert ratio <= 6


PROFILE = Profile(
    name="tiny",
    dataset="tiny",
    pair=(TEACHER, STUDENT),
    teacher=pwl.Recipe(epochs=2, batch_size=16),
    student=pwl.Recipe(epochs=1, batch_size=16),
)


def test_reproduce_leaves_records_and_weights_that_agree(tmp_path):
    data = tiny_data()
    records = reproduce(PROFILE, data, root=tmp_path, progress=False)
    assert set(records) == {"teacher", "kd", "pwl"}
    for experiment in records:
        stored = pwl.load_record(experiment, "tiny-vgg-tiny-seed0", folder=tmp_path / "results")
        assert stored == records[experiment]
        assert stored.environment["data_sha256"] == data.sha256
    assert records["kd"].recipe == records["pwl"].recipe  # the same steps for both students
    assert records["pwl"].objective["teacher"] == records["kd"].objective["teacher"]
    net = pwl.load_blocks(tmp_path / "weights" / "tiny-vgg-tiny-seed0")
    table = pwl.evaluate_lattice(net, data.test)
    assert dict(zip(table.composition, table.accuracy.round(2), strict=True)) == records["pwl"].lattice


def test_reproduce_shares_a_teacher_between_seeds_and_resumes(tmp_path):
    data = tiny_data()
    first = reproduce(PROFILE, data, root=tmp_path, progress=False)
    again = reproduce(PROFILE, data, root=tmp_path, progress=False, resume=True)
    shutil.rmtree(tmp_path / "cache")  # the teacher is also in the weights
    other = reproduce(PROFILE, data, root=tmp_path, progress=False, seed=1, teacher_seed=0)
    for experiment in first:
        assert first[experiment].lattice == again[experiment].lattice
        assert first[experiment].history == again[experiment].history  # nothing was trained twice
    assert other["teacher"] == first["teacher"] == again["teacher"]  # when and where it was trained stays as it was
    assert other["pwl"].objective["teacher"] == first["pwl"].objective["teacher"]
    assert other["pwl"].lattice["TTTT"] == first["pwl"].lattice["TTTT"]
    assert other["pwl"].seed == 1 and other["pwl"].history != first["pwl"].history


def test_a_teacher_of_other_data_network_or_recipe_is_not_taken(tmp_path):
    data = tiny_data()
    reproduce(PROFILE, data, root=tmp_path, progress=False)
    assert Runner(PROFILE, data, tmp_path).stored_teacher(0) is not None
    assert Runner(PROFILE, data, tmp_path).stored_teacher(1) is None
    assert Runner(PROFILE, tiny_data(seed=1), tmp_path).stored_teacher(0) is None
    wider = replace(PROFILE, pair=({**TEACHER, "layers": ["8 M", "12 M 12", "16 M", "16 24"]}, STUDENT))
    assert Runner(wider, data, tmp_path).stored_teacher(0) is None
    longer = replace(PROFILE, teacher=replace(PROFILE.teacher, epochs=3))
    assert Runner(longer, data, tmp_path).stored_teacher(0) is None


def test_the_seed_decides_everything(tmp_path):
    for root in ("one", "two"):
        torch.rand(3)  # what was drawn before must not matter
        reproduce(PROFILE, tiny_data(), root=tmp_path / root, progress=False)
    one, two = (pwl.load_blocks(tmp_path / root / "weights" / "tiny-vgg-tiny-seed0") for root in ("one", "two"))
    assert pwl.state_hash(one) == pwl.state_hash(two)


def test_the_speed_runs_leave_accuracy_and_time_with_and_without_flips(tmp_path):
    records = reproduce_speed(tiny_data(), seeds=(0, 1), root=tmp_path, progress=False, profile=PROFILE)
    assert [plain.seed for plain, _ in records] == [0, 1]
    for plain, flips in records:
        assert (plain.experiment, flips.experiment) == ("speed", "speed-flips")
        assert plain.seconds == flips.seconds == pytest.approx(sum(e["seconds"] for e in plain.history), abs=0.06)
        assert plain.history == flips.history and len(plain.history) == PROFILE.teacher.epochs
        assert flips.objective["flips"] and "flips" not in plain.objective
        assert set(plain.lattice) == {"TTTT"} and plain == pwl.load_record("speed", plain.run, tmp_path / "results")


def test_reproduce_names_what_it_does_not_know(tmp_path):
    with pytest.raises(pwl.PWLError, match="profile 'big'"):
        reproduce("big", root=tmp_path)
    with pytest.raises(pwl.PWLError, match="family 'resnet'"):
        reproduce(PROFILE, tiny_data(), family="resnet", root=tmp_path)


def test_rounding_is_what_half_precision_shards_hold(tmp_path):
    net, data = tiny_net(), tiny_data()
    round_weights(net, torch.float16)
    pwl.save_blocks(
        net, tmp_path, classes=data.classes, mean=data.mean, std=data.std, dtype=torch.float16
    )
    assert pwl.state_hash(pwl.load_blocks(tmp_path)) == pwl.state_hash(net)


def test_profiles_set_their_seed():
    profile = pwl.get_profile("quick").with_seed(7)
    assert profile.teacher.seed == profile.student.seed == 7
    assert replace(profile.teacher, seed=0) == pwl.get_profile("quick").teacher


def test_images_go_to_the_device_of_the_network():
    """To a device that has no memory, the only other one everywhere; what comes back is compared where the labels are."""

    class Elsewhere(torch.nn.Linear):
        def forward(self, images):
            seen.append(images.device.type)
            return torch.zeros(len(images), 3)

    seen: list[str] = []
    split = tiny_data().test
    net = Elsewhere(1, 1, device="meta")
    assert pwl.accuracy(net, split) == 100 * float((split.labels == 0).float().mean())
    pwl.accuracy(lambda images: torch.zeros(len(images), 3) if not seen.append(images.device.type) else None, split)
    assert seen == ["meta", "cpu"]


def test_a_recalibrated_norm_holds_the_statistics_of_what_it_sees_in_that_composition():
    net, split = tiny_net(), tiny_data().test
    fitted = recalibrated(net, "TSTT", split)
    assert pwl.state_hash(fitted.teacher) == pwl.state_hash(net.teacher)
    norms = [[m for m in part.student.blocks.modules() if isinstance(m, torch.nn.BatchNorm2d)] for part in (net, fitted)]
    in_second = [m for m in fitted.student.blocks[1].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for old, new in zip(*norms, strict=True):
        assert torch.equal(old.running_mean, new.running_mean) == (new not in in_second)
    inputs = []
    hook = in_second[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    images = split.normalise(split.images)
    with torch.no_grad():
        fitted(images, "TSTT")
    hook.remove()
    torch.testing.assert_close(in_second[0].running_mean, inputs[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(in_second[0].running_var, inputs[0].var((0, 2, 3)), rtol=1e-3, atol=1e-5)
