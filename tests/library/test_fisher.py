"""Fisher information by hand, against plain loops, and what it must leave as it was."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax

from sideagents import SideAgentsError
from sideagents.lifelong.fisher import fisher_information, squared_gradients

KINDS = ("exact", "empirical", "batched")


def logistic():
    """Give two classes, logits (w x, 0) with w = log 3: p(first | x = 1) = 3/4, p(first | x = -2) = 1/10."""
    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data = torch.tensor([[math.log(3.0)], [0.0]], dtype=torch.float64)
    return model, torch.tensor([[1.0], [-2.0]], dtype=torch.float64), torch.tensor([0, 1])


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 4, 3, 2)
        )
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, images):
        return self.head(self.body(images).mean(dim=(2, 3)))


class Branching(ConvNet):
    """Cannot be traced by vmap: what it does depends on the image's numbers."""

    def forward(self, images):
        return super().forward(images if float(images.sum()) > 0 else -images)


def conv_case(make=ConvNet, count=7):
    torch.manual_seed(0)
    model = make()
    model.body[1].running_mean.normal_()
    images = torch.randn(count, 3, 9, 9)
    return model, dict(model.named_parameters()), images, torch.arange(count) % 3


@pytest.mark.parametrize(
    ("kind", "batch_size", "expected"),
    [
        # d log p(first) / dw = (1 - p) x, d log p(second) / dw = -p x, so exact = p (1 - p) x^2
        ("exact", 128, (3 / 16 * 1 + 9 / 100 * 4) / 2),
        ("empirical", 128, ((1 / 4) ** 2 + (1 / 10 * 2) ** 2) / 2),
        ("batched", 128, ((1 / 4 + 1 / 10 * 2) / 2) ** 2),
        ("batched", 1, ((1 / 4) ** 2 + (1 / 10 * 2) ** 2) / 2),
    ],
)
def test_logistic_regression_by_hand(kind, batch_size, expected):
    model, images, labels = logistic()
    fisher = fisher_information(model, {"w": model.weight}, model, images, labels, kind, batch_size=batch_size)
    # by symmetry the second class' weight has the same information as the first's
    torch.testing.assert_close(fisher["w"], torch.full((2, 1), expected, dtype=torch.float64))
    assert not fisher["w"].requires_grad


def test_exact_is_the_expectation_over_all_labels():
    model, parameters, images, _ = conv_case()
    expected = torch.zeros_like(model.head.weight)
    model.eval()
    for image in images:
        for label in range(3):
            logits = model(image[None])
            gradient = torch.autograd.grad(cross_entropy(logits, torch.tensor([label])), model.head.weight)[0]
            expected += softmax(logits, dim=1)[0, label].detach() * gradient.square() / len(images)
    found = fisher_information(model, parameters, model, images)
    torch.testing.assert_close(found["head.weight"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_changed(kind):
    model, parameters, images, labels = conv_case()
    model.train()
    model.body[3].eval()
    modes = [part.training for part in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():  # the caller's setting
        fisher_information(model, parameters, model, images, labels, kind)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in parameters.items())


def test_modes_come_back_after_an_error_too():
    model, parameters, images, _ = conv_case()

    def broken(images):
        raise RuntimeError("no such head")

    with pytest.raises(RuntimeError, match="no such head"):
        fisher_information(model.train(), parameters, broken, images)
    assert model.training


@pytest.mark.parametrize("kind", KINDS)
def test_no_graph_is_kept_for_parameters_that_were_not_asked_for(kind):
    model, _, images, labels = conv_case()
    parameters = dict(model.body.named_parameters())
    fisher = fisher_information(model, parameters, model, images, labels, kind)
    assert not any(tensor.requires_grad for tensor in fisher.values())


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_and_unreached_parameters_get_zeros(kind):
    model, parameters, images, labels = conv_case()
    model.head.requires_grad_(False)
    fisher = fisher_information(model, parameters, model, images, labels, kind)
    assert [name for name, tensor in fisher.items() if not tensor.any()] == [
        "head.weight",
        "head.bias",
        "unused.weight",
        "unused.bias",
    ]
    constant = fisher_information(model, parameters, lambda x: torch.zeros(len(x), 3), images, labels, kind)
    assert not any(tensor.any() for tensor in constant.values())


def test_names_are_the_callers_and_logits_may_be_any_function_of_the_module():
    model, _, images, _ = conv_case()
    own = fisher_information(model, {"x": model.head.bias}, lambda x: 2 * model(x)[:, :2], images)
    assert list(own) == ["x"]
    assert own["x"][2] == 0


def test_samples_are_drawn_by_the_generator():
    model, parameters, images, labels = conv_case()

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return fisher_information(model, parameters, model, images, labels, "empirical", 2, generator)["head.bias"]

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    everything = fisher_information(model, parameters, model, images, labels, samples=100)
    torch.testing.assert_close(everything, fisher_information(model, parameters, model, images))


def test_half_precision_is_added_up_in_float32():
    model, images, labels = logistic()
    model, images = model.bfloat16(), images.bfloat16()
    fisher = fisher_information(model, {"w": model.weight}, model, images, labels)
    assert fisher["w"].dtype == torch.float32
    torch.testing.assert_close(fisher["w"], torch.full((2, 1), 0.27375), rtol=0.03, atol=0)


def test_wrong_calls_are_one_clear_line():
    model, parameters, images, labels = conv_case()
    with pytest.raises(SideAgentsError, match="unknown Fisher 'exakt', did you mean 'exact'"):
        fisher_information(model, parameters, model, images, labels, "exakt")
    with pytest.raises(SideAgentsError, match="'empirical' needs the true labels"):
        fisher_information(model, parameters, model, images, kind="empirical")
    with pytest.raises(SideAgentsError, match=r"7 images need labels of shape \(7,\), got \(3,\)"):
        fisher_information(model, parameters, model, images, labels[:3])
    with pytest.raises(SideAgentsError, match="Fisher: labels are from 0 to "):
        fisher_information(model, parameters, model, images, labels + 12, "empirical")
    with pytest.raises(SideAgentsError, match="at least 1, got 0 images"):
        fisher_information(model, parameters, model, images[:0])
    with pytest.raises(SideAgentsError, match="samples=0"):
        fisher_information(model, parameters, model, images, samples=0)
    with pytest.raises(SideAgentsError, match="'other' is no parameter of the module"):
        fisher_information(model, {"other": nn.Parameter(torch.zeros(1))}, model, images)
    with pytest.raises(SideAgentsError, match=r"shape \(1, classes\), got \(1, 4, 3, 3\)"):
        fisher_information(model, parameters, lambda x: model.body(x), images)


def test_squared_gradients_of_any_loss_by_hand():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1.0)
    inputs, wanted = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.0]])

    def loss(index):
        return nn.functional.mse_loss(net(inputs[index]), wanted[index])

    # d (w x)^2 / dw = 2 x^2: 2 and 8
    assert squared_gradients(net, {"w": net.weight}, loss, 2)["w"].item() == (4 + 64) / 2
    assert squared_gradients(net, {"w": net.weight}, loss, 2, batch_size=2)["w"].item() == 25.0
    net.weight.requires_grad = False
    assert squared_gradients(net, {"w": net.weight}, loss, 2)["w"].item() == 0.0
