"""The PWL objective in its plainest form: the oracle that the library's is compared with.

Nothing is shared and nothing is fused: the student, the teacher and the composition are three separate passes from the
image on, in fp32 and channels-first, and every formula is written with torch's own functions.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, log_softmax, mse_loss, softmax

import pwl_lite as pwl


def distance(a: Tensor, b: Tensor) -> Tensor:
    return mse_loss(a, b) + (1 - cosine_similarity(a.flatten(1), b.flatten(1))).mean()


def kl(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    p, q = log_softmax(logits / temperature, 1), softmax(teacher_logits / temperature, 1)
    return temperature**2 * kl_div(p, q, reduction="batchmean")


def one_pass(net: pwl.SwapNet, images: Tensor, composition: str) -> Tensor:
    owner = {"S": net.student, "T": net.teacher}
    x = owner[composition[0]].embed(images)
    for i, letter in enumerate(composition):
        if i > 0 and composition[i - 1] + letter == "TS":
            x = net.converters[i - 1].encoder(x)
        if i > 0 and composition[i - 1] + letter == "ST":
            x = net.converters[i - 1].decoder(x)
        x = owner[letter].blocks[i](x)
    return owner[composition[-1]].head(x)


def naive_terms(
    net: pwl.SwapNet,
    images: Tensor,
    targets: Tensor,
    composition: str,
    alpha: float = 0.6,
    temperature: float = 2.0,
    sync: float = 1.0,
    reconstruction: float = 1.0,
    cross: float = 2.0,
) -> dict[str, Tensor]:
    n = net.num_blocks
    logits = one_pass(net, images, "S" * n)
    with torch.no_grad():
        teacher_logits = one_pass(net, images, "T" * n)
        teacher_features = net.teacher.features(images)
    student_features = net.student.features(images)
    sync_terms, reconstruction_terms = [], []
    for i in range(n - 1):
        s, t = student_features[i], teacher_features[i]
        encode, decode = net.converters[i].encoder, net.converters[i].decoder
        sync_terms.append(distance(s, encode(t)) + distance(decode(s), t))
        reconstruction_terms.append(distance(decode(encode(t)), t) + distance(encode(decode(s)), s))
    return {
        "ce": (1 - alpha) * cross_entropy(logits, targets),
        "kd": alpha * kl(logits, teacher_logits, temperature),
        "sync": sync * sum(sync_terms) / (n - 1),
        "reconstruction": reconstruction * sum(reconstruction_terms) / (n - 1),
        "cross": cross * kl(one_pass(net, images, composition), teacher_logits, temperature),
    }
