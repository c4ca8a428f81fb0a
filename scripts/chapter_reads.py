"""Which records and measurements a chapter reads, found in its code without running it.

A small part of Python is worked out: literals, loops and comprehensions over them, f-strings, files of the book's data
folder, and functions of the notebook with what they are called with. All else is unknown. Where the name of a record
depends on something unknown this is an error: a guess would claim too much or too little.
"""

import ast
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

Names = dict[str, Any]
Read = tuple[str, dict[str, Any]]

# What `ledger()` of the package reads for a chapter.
LEDGER_RECORDS: list[Read] = [("pwl", {"dataset": "cifar10"}), ("pwl", {"dataset": "cifar100"})]
LEDGER_MEASUREMENTS = ["parity", "transformers"]

FUNCTIONS = {f.__name__: f for f in (dict, enumerate, len, list, set, sorted, tuple, zip, Path)}
METHODS = {
    str: ("endswith", "format", "join", "removeprefix", "removesuffix", "split", "startswith"),
    dict: ("get", "items", "keys", "values"),
    Path: ("read_text",),
}
CHANGING = ("add", "append", "clear", "extend", "insert", "pop", "remove", "reverse", "setdefault", "sort", "update")
UNKNOWN = object()


class Unknown(Exception):
    """An expression cannot be worked out."""


class Reads:
    """Reads of the cells that are given to `run`, one after the other, and then to `finish`.

    Attributes:
        records: (experiment, fields that the records have); the experiment `*` stands for all.
        measurements: names of files of `data/benchmarks`.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.records: list[Read] = []
        self.measurements: list[str] = []
        self._names: Names = {}
        self._functions: dict[str, ast.FunctionDef] = {}
        self._running: list[str] = []
        self._called: set[str] = set()

    def run(self, cell: ast.Module) -> None:
        """Go through one cell. Raises ValueError where it cannot be told what is read."""
        before = len(self.measurements)
        self._block(cell.body, self._names)
        folder = [n for n in ast.walk(cell) if isinstance(n, ast.Constant) and n.value == "benchmarks"]
        if folder and len(self.measurements) == before:
            raise ValueError(f"it cannot be told which file of benchmarks is read in: {ast.unparse(cell)[:200]}")

    def finish(self) -> None:
        """Go through the functions that were not called by their name: others may call them, with anything."""
        for name, function in list(self._functions.items()):
            if name not in self._called:
                self._body(function, dict.fromkeys(_parameters(function), UNKNOWN))

    # --- statements: what is read, and what names stand for

    def _block(self, statements: list[ast.stmt], names: Names) -> bool:
        """Whether the block is left before its end (`continue`, `return`), as far as that is known."""
        return any(self._visit(statement, names) for statement in statements)

    def _visit(self, node: ast.AST, names: Names) -> bool:
        match node:
            case ast.FunctionDef():
                self._functions[node.name] = node
            case ast.Lambda():
                self._visit(node.body, names | dict.fromkeys(_parameters(node), UNKNOWN))
            case ast.Assign():
                self._visit(node.value, names)
                for target in node.targets:
                    self._bind(target, self._value_or_unknown(node.value, names), names)
            case ast.For():
                self._visit(node.iter, names)
                for value in self._elements(node.iter, names):
                    self._bind(node.target, value, names)
                    self._block(node.body, names)
                self._block(node.orelse, names)
            case ast.If():
                self._visit(node.test, names)
                test = self._value_or_unknown(node.test, names)
                if test is not UNKNOWN:
                    return self._block(node.body if test else node.orelse, names)
                self._block(node.body, names)
                self._block(node.orelse, names)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for generator in node.generators:
                    self._visit(generator.iter, names)
                for inner in self._loops(node.generators, names):
                    for part in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
                        self._visit(part, inner)
            case ast.Call():
                for child in ast.iter_child_nodes(node):
                    self._visit(child, names)
                self._call(node, names)
            case ast.Continue():
                return True
            case ast.Return():
                if node.value:
                    self._visit(node.value, names)
                return True
            case ast.Name(ctx=ast.Store() | ast.Del()):  # in a statement that is none of the above
                names[node.id] = UNKNOWN
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                names[name] = UNKNOWN
            case _:
                for child in ast.iter_child_nodes(node):
                    self._visit(child, names)
        return False

    def _bind(self, target: ast.AST, value: Any, names: Names) -> None:
        match target:
            case ast.Name():
                names[target.id] = value
            case ast.Tuple() | ast.List():
                parts = list(value) if isinstance(value, list | tuple) else []
                fits = len(parts) == len(target.elts) and not any(isinstance(e, ast.Starred) for e in target.elts)
                for element, part in zip_longest(target.elts, parts if fits else [], fillvalue=UNKNOWN):
                    self._bind(element, part, names)
            case _:
                self._visit(target, names)

    def _call(self, call: ast.Call, names: Names) -> None:
        """Note what a call reads, or go through the notebook's function."""
        match call.func:
            case ast.Attribute(value=ast.Name(id=changed), attr=name) if name in CHANGING:
                names[changed] = UNKNOWN
                if changed in self._names:  # of a function these are a copy
                    self._names[changed] = UNKNOWN
            case ast.Attribute(attr=name):
                pass
            case ast.Name(id=name):
                if name in self._functions and name not in self._running:
                    self._called.add(name)
                    self._body(self._functions[name], self._arguments(self._functions[name], call, names))
                    return
            case _:
                return
        if name in ("load_record", "load_records"):
            self._load(name, call, names)
        elif name == "find_weights":
            weights = self._value_or_unknown(call.args[0], names) if call.args else UNKNOWN
            if weights is not UNKNOWN:  # else it is that of a record which has been read before
                self._note("*", {"weights": weights})
        elif name == "ledger":
            for experiment, fields in LEDGER_RECORDS:
                self._note(experiment, fields)
            self.measurements += LEDGER_MEASUREMENTS
        elif name == "read_text":
            path = self._value_or_unknown(call.func.value, names)
            if isinstance(path, Path) and path.parent == self.data / "benchmarks":
                self.measurements.append(path.stem)

    def _load(self, name: str, call: ast.Call, names: Names) -> None:
        parameters = ("experiment", "run", "folder") if name == "load_record" else ("experiment", "folder")
        arguments = dict(zip(parameters, call.args)) | {keyword.arg: keyword.value for keyword in call.keywords}
        if "folder" in arguments:  # records of the reader's own
            return
        try:
            wanted = {parameter: self._value(node, names) for parameter, node in arguments.items()}
            experiment = wanted.pop("experiment")
            if None in wanted:
                raise Unknown("**")
        except (Unknown, KeyError) as error:
            raise ValueError(f"it cannot be told what {ast.unparse(call)} reads: {error}") from None
        self._note(experiment, wanted)

    def _note(self, experiment: str, fields: dict[str, Any]) -> None:
        if (experiment, fields) not in self.records:
            self.records.append((experiment, fields))

    def _body(self, function: ast.FunctionDef, arguments: Names) -> None:
        self._running.append(function.name)
        self._block(function.body, self._names | arguments)
        self._running.pop()

    def _arguments(self, function: ast.FunctionDef, call: ast.Call, names: Names) -> Names:
        parameters = _parameters(function)
        found = dict.fromkeys(parameters, UNKNOWN)
        for parameter, default in zip(reversed([a.arg for a in function.args.args]), reversed(function.args.defaults)):
            found[parameter] = self._value_or_unknown(default, self._names)
        given = [(p, a) for p, a in zip(parameters, call.args)] + [(k.arg, k.value) for k in call.keywords]
        if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
            return dict.fromkeys(parameters, UNKNOWN)
        return found | {parameter: self._value_or_unknown(argument, names) for parameter, argument in given}

    # --- expressions

    def _elements(self, node: ast.AST, names: Names) -> list[Any]:
        """What a loop runs over; one unknown value if that is not known."""
        value = self._value_or_unknown(node, names)
        return list(value) if isinstance(value, list | tuple | dict | set) else [UNKNOWN]

    def _loops(self, generators: list[ast.comprehension], names: Names) -> Iterator[Names]:
        """The names inside a comprehension, once for each of its rounds; a condition that is not known may hold."""
        if not generators:
            yield names
            return
        first, *rest = generators
        for value in self._elements(first.iter, names):
            inner = dict(names)
            self._bind(first.target, value, inner)
            if all(self._value_or_unknown(condition, inner) for condition in first.ifs):
                yield from self._loops(rest, inner)

    def _value_or_unknown(self, node: ast.AST, names: Names) -> Any:
        try:
            return self._value(node, names)
        except Unknown:
            return UNKNOWN

    def _value(self, node: ast.AST, names: Names) -> Any:
        """Raises Unknown."""
        try:
            value = self._worked_out(node, names)
        except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            raise Unknown(f"{ast.unparse(node)}: {error}") from None
        if value is UNKNOWN:
            raise Unknown(f"{ast.unparse(node)} is not known")
        return value

    def _worked_out(self, node: ast.AST, names: Names) -> Any:
        def of(part: ast.AST) -> Any:
            return self._value(part, names)

        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return names.get(name, UNKNOWN)
            case ast.List(elts=parts):
                return [of(part) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple(of(part) for part in parts)
            case ast.Set(elts=parts):
                return {of(part) for part in parts}
            case ast.Dict():
                return {of(key): of(value) for key, value in zip(node.keys, node.values) if key} if all(node.keys) else UNKNOWN
            case ast.JoinedStr(values=parts):
                return "".join(str(of(part)) for part in parts)
            case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
                return of(value)
            case ast.Slice():
                return slice(*(part and of(part) for part in (node.lower, node.upper, node.step)))
            case ast.Subscript():
                return of(node.value)[of(node.slice)]
            case ast.BinOp(op=ast.Div()) if isinstance(folder := of(node.left), Path):
                return folder / of(node.right)
            case ast.BinOp(op=ast.Add()):
                return of(node.left) + of(node.right)
            case ast.Compare(ops=[ast.Eq()], comparators=[other]):
                return of(node.left) == of(other)
            case ast.Compare(ops=[ast.NotEq()], comparators=[other]):
                return of(node.left) != of(other)
            case ast.Compare(ops=[ast.In()], comparators=[other]):
                return of(node.left) in of(other)
            case ast.Compare(ops=[ast.NotIn()], comparators=[other]):
                return of(node.left) not in of(other)
            case ast.UnaryOp(op=ast.Not()):
                return not of(node.operand)
            case ast.Attribute(attr="name" | "stem") if isinstance(path := of(node.value), Path):
                return getattr(path, node.attr)
            case ast.DictComp():
                return {self._value(node.key, n): self._value(node.value, n) for n in self._sure_loops(node, names)}
            case ast.SetComp():
                return {self._value(node.elt, n) for n in self._sure_loops(node, names)}
            case ast.ListComp() | ast.GeneratorExp():
                return [self._value(node.elt, n) for n in self._sure_loops(node, names)]
            case ast.Call(keywords=[]):
                return self._called_value(node, [of(argument) for argument in node.args], names)
        return UNKNOWN

    def _sure_loops(self, node: ast.AST, names: Names) -> Iterator[Names]:
        """`_loops` for a value: each condition has to be known."""
        for inner in self._loops(node.generators, names):
            for generator in node.generators:
                for condition in generator.ifs:
                    self._value(condition, inner)
            yield inner

    def _called_value(self, call: ast.Call, arguments: list[Any], names: Names) -> Any:
        match call.func:
            case ast.Name(id="data_folder") | ast.Attribute(attr="data_folder"):
                return self.data
            case ast.Name(id="find_results") | ast.Attribute(attr="find_results"):
                return self.data / "results"
            case ast.Attribute(value=ast.Name(id="json"), attr="loads"):
                return json.loads(*arguments)
            case ast.Name(id=name) if name in FUNCTIONS and name not in self._functions and name not in names:
                found = FUNCTIONS[name](*arguments)
                return list(found) if name in ("enumerate", "zip") else found
            case ast.Attribute(value=owner, attr=name):
                value = self._value(owner, names)
                if isinstance(value, Path) and name == "glob":
                    return sorted(value.glob(*arguments))
                if any(isinstance(value, kind) and name in methods for kind, methods in METHODS.items()):
                    found = getattr(value, name)(*arguments)
                    return list(found) if name in ("items", "keys", "values") else found
        return UNKNOWN


def _parameters(function: ast.FunctionDef | ast.Lambda) -> list[str]:
    """The names of all its parameters, those by position first."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [a.arg for a in [*plain, *filter(None, (arguments.vararg, arguments.kwarg))]]
