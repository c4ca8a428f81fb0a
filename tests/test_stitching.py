"""Converters by least squares: they find the map where there is one, and make a stitch that works."""

import pytest
import torch
from networks_for_tests import tiny_data, tiny_net, tiny_pair

import pwl_lite as pwl
from pwl_lite.errors import NetworkError
from pwl_lite.stitching import _rows


def test_a_linear_relation_is_found_exactly():
    torch.manual_seed(0)
    net, images = tiny_net(), torch.randn(8, 3, 32, 32)
    truth = torch.nn.Conv2d(8, 4, kernel_size=1).double()  # the teacher's channels after block 1 to the student's
    net.teacher.features = lambda x: teacher_features
    teacher_features = [torch.randn(8, c, s, s).double() for c, s in ((8, 16), (12, 8), (16, 4), (16, 4))]
    with torch.no_grad():
        student_features = [truth(teacher_features[0]), *(torch.randn(8, c, s, s) for c, s in ((6, 8), (8, 4), (8, 4)))]
    net.student.features = lambda x: student_features
    explained = pwl.fit_converters(net, images, ridge=0.0)
    encoder = net.converters[0].encoder
    assert torch.allclose(encoder.weight, truth.weight.float(), atol=1e-5)
    assert torch.allclose(encoder.bias, truth.bias.float(), atol=1e-5)
    assert explained[0][0] == pytest.approx(1.0)
    assert 0.2 < explained[0][1] < 0.8  # four numbers cannot hold eight
    assert len(explained) == 3 and abs(explained[1][0]) < 0.2  # noise explains no noise


def test_a_stitch_without_training_beats_random_converters():
    data = tiny_data()
    torch.manual_seed(0)
    teacher, student = tiny_pair()
    recipe = pwl.Recipe(epochs=4, batch_size=16, lr=0.02)
    for network in (teacher, student):
        pwl.train(pwl.Supervised(network), data, recipe, progress=False)
    net = pwl.SwapNet(teacher, student)
    before = [pwl.state_hash(network) for network in (net.teacher, net.student)]
    random = pwl.evaluate_lattice(net, data.test).set_index("composition").accuracy
    net.train()
    explained = pwl.fit_converters(net, data.train.normalise(data.train.images))
    stitched = pwl.evaluate_lattice(net, data.test).set_index("composition").accuracy
    mixed = [c for c in pwl.all_compositions(4) if len(set(c)) == 2]
    assert stitched[mixed].mean() > random[mixed].mean() + 10
    assert all(0 < share <= 1 for pair in explained for share in pair)
    assert [pwl.state_hash(network) for network in (net.teacher, net.student)] == before


def test_too_few_images_are_refused():
    with pytest.raises(NetworkError, match=r"1 images are 16 examples after block 3, which has 16 channels"):
        pwl.fit_converters(tiny_net(), torch.randn(1, 3, 32, 32))


def test_rows_of_tokens_and_of_maps_are_the_same():
    maps = torch.randn(2, 5, 3, 4)
    assert torch.equal(_rows(maps), _rows(maps.flatten(2).transpose(1, 2)))
