"""The grammar: its probabilities against enumeration, its posteriors against Bayes' rule by counting."""

import itertools
import math

import pytest
import torch

from pwl_lite.errors import DataError
from pwl_lite.grammar import Grammar, starts


def derivations(grammar: Grammar) -> list[tuple[float, list[tuple[int, ...]]]]:
    """Every tree and its probability, level by level, by plain recursion: nothing of the package's algorithms."""
    found = [(grammar.start[s].item(), [(s,)]) for s in range(grammar.symbols[0])]
    for rule, below in zip(grammar.rules, grammar.symbols[1:]):
        longer = []
        for probability, levels in found:
            choices = []
            for symbol in levels[-1]:
                pairs = itertools.product(range(below), repeat=2)
                choices.append([(rule[symbol, a, b].item(), (a, b)) for a, b in pairs if rule[symbol, a, b] > 0])
            for pick in itertools.product(*choices):
                p = probability * math.prod(q for q, _ in pick)
                longer.append((p, [*levels, tuple(token for _, pair in pick for token in pair)]))
        found = longer
    return found


def ambiguous() -> Grammar:
    """Two levels of rules, three symbols of each, in which any pair can be made by any symbol."""
    generator = torch.Generator().manual_seed(4)
    rules = [torch.rand(3, 9, generator=generator, dtype=torch.float64) for _ in range(2)]
    rules = [(table / table.sum(1, keepdim=True)).view(3, 3, 3) for table in rules]
    return Grammar(rules, torch.tensor([0.5, 0.3, 0.2]))


@pytest.fixture(params=["drawn", "ambiguous"])
def grammar(request):
    return Grammar.random(2, 3, (0.7, 0.3), seed=1) if request.param == "drawn" else ambiguous()


def by_hand() -> Grammar:
    """S -> AB (0.75) | BA (0.25);  A -> aa | ab,  B -> ba | bb, each with 1/2."""
    root = torch.tensor([[[0, 0.75], [0.25, 0]]])
    pairs = torch.tensor([[[0.5, 0.5], [0, 0]], [[0, 0], [0.5, 0.5]]])
    return Grammar([root, pairs])


def test_a_grammar_by_hand():
    grammar = by_hand()
    assert (grammar.levels, grammar.length, grammar.vocabulary) == (2, 4, 2)
    assert grammar.describe(0, "S", "AB") == "S -> AB 0.75 | BA 0.25"
    assert grammar.describe(1, "AB", "ab") == "A -> ab 0.5 | aa 0.5\nB -> bb 0.5 | ba 0.5"
    sentences = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
    assert grammar.probability(sentences).tolist() == [0.75 / 4, 0.25 / 4, 0.0]
    exact = grammar.next_token(sentences[:1])[0]  # a a b b: only the first token of each half is in doubt, and not the third
    expected = [[0.75, 0.25], [0.5, 0.5], [0, 1], [0.5, 0.5]]
    assert torch.allclose(exact, torch.tensor(expected, dtype=torch.float64))
    without = grammar.next_token(sentences[:1], height=1)[0, 2]  # who knows nothing of the first half is in doubt
    assert torch.allclose(without, torch.tensor([0.25, 0.75], dtype=torch.float64))


def test_the_inside_algorithm_is_enumeration(grammar):
    sums: dict[tuple[int, ...], float] = {}
    for probability, levels in derivations(grammar):
        sums[levels[-1]] = sums.get(levels[-1], 0) + probability
    everything = grammar.all_sentences()
    assert len(everything) == 81 and len({tuple(row) for row in everything.tolist()}) == 81
    expected = torch.tensor([sums.get(tuple(row), 0.0) for row in everything.tolist()], dtype=torch.float64)
    found = grammar.probability(everything)
    assert torch.allclose(found, expected, atol=1e-12) and found.sum().item() == pytest.approx(1)


def test_the_probability_of_seen_tokens_sums_over_the_others(grammar):
    everything = grammar.all_sentences()
    seen = torch.tensor([True, False, True, False])
    for row in everything[[5, 40, 77]]:
        same = (everything[:, seen] == row[seen]).all(1)
        expected = grammar.probability(everything[same]).sum()
        assert grammar.probability(row[None], seen).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("seen", [(1, 1, 0, 0), (0, 1, 0, 1), (0, 0, 0, 0), (1, 1, 1, 1)])
def test_posteriors_are_those_of_all_trees(grammar, seen):
    seen = torch.tensor(seen).bool()
    trees = derivations(grammar)
    tokens = grammar.sample(3, torch.Generator().manual_seed(0)).tokens
    found = grammar.posteriors(tokens, seen)
    assert [tuple(p.shape) for p in found] == [(3, 1, 3), (3, 2, 3), (3, 4, 3)]
    for i, row in enumerate(tokens):
        fits = [(p, t) for p, t in trees if all(t[-1][j] == row[j] for j in range(4) if seen[j])]
        total = sum(p for p, _ in fits)
        for level, symbols in enumerate(found):
            for node, symbol in itertools.product(range(2**level), range(3)):
                share = sum(p for p, t in fits if t[level][node] == symbol) / total
                assert symbols[i, node, symbol].item() == pytest.approx(share, abs=1e-9)


def conditional(grammar: Grammar, row: torch.Tensor, place: int, known: list[int]) -> list[float]:
    """P(token at `place` | tokens at `known`) from the probabilities of all sentences."""
    everything = grammar.all_sentences()
    weights = grammar.probability(everything)
    fits = (everything[:, known] == row[known]).all(1) if known else torch.ones(len(everything), dtype=torch.bool)
    return [(weights[fits & (everything[:, place] == t)].sum() / weights[fits].sum()).item() for t in range(3)]


@pytest.mark.parametrize(
    "options, known",
    [
        ({}, [[], [0], [0, 1], [0, 1, 2]]),
        ({"window": 0}, [[], [], [], []]),
        ({"window": 1}, [[], [0], [1], [2]]),
        ({"window": 2}, [[], [0], [0, 1], [1, 2]]),
        ({"height": 0}, [[], [], [], []]),
        ({"height": 1}, [[], [0], [], [2]]),
        ({"height": 2}, [[], [0], [0, 1], [0, 1, 2]]),
    ],
)
def test_the_next_token_given_a_part_of_the_past(grammar, options, known):
    tokens = grammar.sample(4, torch.Generator().manual_seed(2)).tokens
    found = grammar.next_token(tokens, **options)
    for i, place in itertools.product(range(4), range(4)):
        assert found[i, place].tolist() == pytest.approx(conditional(grammar, tokens[i], place, known[place]), abs=1e-9)


def test_the_next_tokens_make_the_probability_of_the_sentence():
    grammar = Grammar.random(3, 4, seed=2)
    tokens = grammar.sample(20, torch.Generator().manual_seed(0)).tokens
    steps = grammar.next_token(tokens).gather(2, tokens[..., None])[..., 0]
    assert torch.allclose(steps.prod(1), grammar.probability(tokens))


def test_samples_follow_the_probabilities():
    grammar = ambiguous()
    sentences = grammar.sample(40_000, torch.Generator().manual_seed(0))
    again = grammar.sample(40_000, torch.Generator().manual_seed(0))
    assert torch.equal(sentences.tokens, again.tokens)
    codes = sentences.tokens @ torch.tensor([27, 9, 3, 1])
    observed = torch.bincount(codes, minlength=81) / 40_000
    expected = grammar.probability(grammar.all_sentences())
    z = (observed - expected) / (expected * (1 - expected) / 40_000).sqrt()
    assert z.abs().max() < 4.5 and 0.5 < z.square().mean() < 1.6


def test_a_sampled_tree_obeys_the_rules():
    grammar = Grammar.random(3, 4, (0.5, 0.3, 0.2), seed=3)
    sentences = grammar.sample(50, torch.Generator().manual_seed(1))
    assert [tuple(t.shape) for t in sentences.tree] == [(50, 1), (50, 2), (50, 4), (50, 8)]
    for rule, above, below in zip(grammar.rules, sentences.tree, sentences.tree[1:]):
        assert (rule[above, below[:, 0::2], below[:, 1::2]] > 0).all()
    assert sentences.ancestors(1).tolist()[7] == [s for s in sentences.tree[1][7].tolist() for _ in range(4)]
    assert torch.equal(sentences.ancestors(3), sentences.tokens)


def test_a_drawn_grammar_has_one_tree_for_a_sentence():
    grammar = Grammar.random(3, 5, (0.6, 0.4), seed=7)
    for rule in grammar.rules:
        assert ((rule > 0).sum(0) <= 1).all() and ((rule > 0).sum((1, 2)) == 2).all()
    tokens = grammar.sample(30, torch.Generator().manual_seed(0))
    for symbols, truth in zip(grammar.posteriors(tokens.tokens), tokens.tree):
        assert torch.equal(symbols.argmax(-1), truth) and symbols.max(-1).values.min() > 1 - 1e-9


def test_where_subtrees_start():
    assert starts(8) == [3, 0, 1, 0, 2, 0, 1, 0]
    assert starts(2) == [1, 0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Grammar([]), "without rules: expected at least one level"),
        (lambda: Grammar([torch.full((1, 2, 3), 1 / 6)]), r"level 0 of shape \(1, 2, 3\): expected \(1, 3, 3\)"),
        (lambda: Grammar([torch.full((2, 2, 2), 0.2)]), "level 0: expected probabilities that sum to 1, not to"),
        (lambda: Grammar([torch.full((2, 2, 2), 0.25)], torch.tensor([0.5, 0.6])), "start: expected probabilities"),
        (lambda: Grammar.random(3, 2, (0.5, 0.3, 0.2)), "at most 2 rules, as there are 4 pairs"),
        (lambda: Grammar.random(0, 2), "expected at least one level"),
        (lambda: Grammar.random(4, 4).all_sentences(), r"all 4\^16 sequences: expected at most 1,048,576; use sample"),
        (lambda: by_hand().probability(torch.zeros(2, 3, dtype=torch.long)), r"shape \(2, 3\): expected \(batch, 4\)"),
        (lambda: by_hand().probability(torch.full((2, 4), 2)), "tokens from 2 to 2: expected 0 to 1"),
        (lambda: by_hand().next_token(torch.zeros(1, 4, dtype=torch.long), window=5), "window = 5: expected 0 to 4"),
        (lambda: by_hand().next_token(torch.zeros(1, 4, dtype=torch.long), height=3), "height = 3: expected 0 to 2"),
        (
            lambda: by_hand().posteriors(torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])),
            r"sentence 1, \[0, 0, 0, 0\]: expected one that the grammar can make",
        ),
    ],
)
def test_an_impossible_grammar_or_question_is_named(make, message):
    with pytest.raises(DataError, match=message):
        make()
