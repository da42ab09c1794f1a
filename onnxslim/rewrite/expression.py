"""Writes algebra out as ONNX text: what a rule may say in one line, and ONNX in five.

    y = x * (Erf (x / 1.4142135) + 1.0) * 0.5

Inputs may be calls, numbers (``3``, ``0.5``, ``true``), lists (``[0,-1]``), and attributes of the rule (``@perm``; as a
vector, be it one integer or several: ``[@axis]``). Infix stands for ops, the strongest first:

    a[0,2]  a[i]        Gather (a, ...)
    -a  !a              Neg, Not
    a ** b              Pow
    a * b  a / b  a % b  Mul, Div, Mod
    a + b  a - b        Add, Sub
    a == b  a != b  a < b  a > b  a <= b  a >= b
    a & b               And
    a | b               Or

Names of ops begin with a capital, names of values do not: this tells ``Op <attribute = 1> (x)`` from ``a < b``. What is
written twice in a body is computed once.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from onnxslim.errors import RuleError
from onnxslim.ops.notation import LEVELS

TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*(?:\.\w+)*)"
    r"|(?P<operator>\*\*|==|!=|<=|>=|[-+*/%<>&|!()\[\],=@{}])"
)
STRENGTH = {sign: level for level, signs in enumerate(LEVELS) for sign in signs}


class _Token(NamedTuple):
    kind: str
    text: str
    begin: int


@functools.lru_cache(maxsize=1024)  # the prefilter needs a match, and the reader again
def write_out(body: str, where: str) -> str:
    """Return the body of a rule, braces included, as ONNX text with as many lines.

    Raises:
        RuleError: It does not read; the error names `where`.
    """
    return _Writer(body, where).written()


class _Writer:
    def __init__(self, body: str, where: str) -> None:
        self.body, self.where = body, where
        self.place = body.index("{") + 1
        self.end = body.rindex("}")
        self.tokens = self._read()
        self.next = 0
        self.lines: list[str] = []
        self.made: dict[str, str] = {}
        self.count = 0

    def written(self) -> str:
        lines = [""] * (self.body.count("\n") + 1)
        while (token := self._peek()) is not None:
            self._statement()
            lines[self.body.count("\n", 0, token.begin)] += "  ".join(self.lines) + "  "
            self.lines.clear()
        return "{" + "\n".join(lines) + "}"

    # Tokens -------------------------------------------------------------------------------------------------------

    def _read(self) -> list[_Token]:
        """Cut the body into tokens; the attributes of a call, which are ONNX's own text, are one."""
        tokens: list[_Token] = []
        place = self.place
        while place < self.end:
            match = TOKEN.match(self.body, place, self.end)
            if match is None:
                raise self._error(f"there is no {self.body[place]!r} in rules", place)
            kind, text = match.lastgroup or "", match[0]
            if text == "<" and tokens and _names_an_op(tokens[-1]):
                close = self.body.find(">", place, self.end)
                if close < 0:
                    raise self._error("attributes are never closed", place)
                kind, text = "attributes", self.body[place : close + 1]
            if kind != "space":
                tokens.append(_Token(kind, text, place))
            place += len(text)
        return tokens

    def _peek(self) -> _Token | None:
        return self.tokens[self.next] if self.next < len(self.tokens) else None

    def _next(self, wanted: str | None = None) -> _Token:
        token = self._peek()
        if token is None or (wanted is not None and token.text != wanted):
            found = "the end of the body" if token is None else repr(token.text)
            raise self._error(
                f"{found} stands where {wanted or 'a value'} should be", self.end if token is None else token.begin
            )
        self.next += 1
        return token

    def _at(self, text: str) -> bool:
        return self.next < len(self.tokens) and self.tokens[self.next].text == text

    def _error(self, what: str, place: int) -> RuleError:
        file, _, line = self.where.rpartition(":")
        number = int(line) + self.body.count("\n", 0, place) if line.isdigit() else line
        return RuleError(
            f"this does not read: {what}",
            where=f"{file}:{number}",
            hint="see onnxslim.rewrite.expression for what can be written",
        )

    # Grammar ------------------------------------------------------------------------------------------------------

    def _statement(self) -> None:
        results = [""]
        while not self._at("="):
            token = self._next()
            if token.text == ",":
                results.append("")
            elif token.kind == "name" and not results[-1]:
                results[-1] = token.text
            else:
                raise self._error(f"{token.text!r} is no result", token.begin)
        self._next("=")
        text = self._expression(0)
        if not text.endswith(")"):
            text = f"Identity ({text})"
        self.lines.append(f"{', '.join(results)} = {text}")
        if results[0]:
            self.made.setdefault(text, results[0])

    def _expression(self, weakest: int) -> str:
        """Return the text of a call, or a name. Operators weaker than level `weakest` are left for the caller."""
        left = self._unary()
        while (token := self._peek()) is not None and STRENGTH.get(token.text, -1) >= weakest:
            level = STRENGTH[self._next().text]
            infix = LEVELS[level][token.text]
            left = f"{infix.op_type} ({self._named(left)}, {self._named(self._expression(level + 1))})"
            if infix.negated:
                left = f"Not ({self._named(left)})"
        return left

    def _unary(self) -> str:
        if self._at("-"):
            self._next()
            token = self._peek()
            if token is not None and token.kind == "number":
                return self._number(f"-{self._next().text}")
            return f"Neg ({self._named(self._unary())})"
        if self._at("!"):
            self._next()
            return f"Not ({self._named(self._unary())})"
        value = self._atom()
        while self._at("["):
            self._next()
            token = self._peek()
            listed = token is not None and (token.kind == "number" or token.text == "-")
            index = self._list() if listed else self._expression(0)
            if not listed:
                self._next("]")
            value = f"Gather ({self._named(value)}, {self._named(index)})"
        return value

    def _atom(self) -> str:
        token = self._next()
        if token.kind == "number":
            return self._number(token.text)
        if token.text in ("true", "false"):
            return f"Constant <value = bool {{{int(token.text == 'true')}}}> ()"
        if token.text == "@":
            return f"Constant <value = @{self._next().text}> ()"
        if token.text == "[":
            return self._list()
        if token.text == "(":
            value = self._expression(0)
            self._next(")")
            return value
        if token.kind != "name":
            raise self._error(f"{token.text!r} stands where a value should be", token.begin)
        if _names_an_op(token):
            return self._call(token.text)
        return token.text

    def _call(self, op: str) -> str:
        token = self._peek()
        attributes = ""
        if token is not None and token.kind == "attributes":
            attributes = f" {self._next().text}"
        self._next("(")
        arguments: list[str] = []
        while not self._at(")"):
            if self._at(","):
                arguments.append("")  # an optional input that is left out
            else:
                arguments.append(self._named(self._expression(0)))
            if not self._at(")"):
                self._next(",")
        self._next(")")
        return f"{op}{' '.join(attributes.splitlines())} ({', '.join(arguments)})"

    def _list(self) -> str:
        if self._at("@"):
            self._next()
            name = self._next().text
            self._next("]")
            return f"Constant <value_ints = @{name}> ()"
        numbers: list[str] = []
        while not self._at("]"):
            sign = self._next().text if self._at("-") else ""
            numbers.append(sign + self._next().text)
            if not self._at("]"):
                self._next(",")
        self._next("]")
        word = "value_floats" if any("." in number or "e" in number for number in numbers) else "value_ints"
        return f"Constant <{word} = [{', '.join(numbers)}]> ()"

    def _number(self, text: str) -> str:
        word = "value_float" if any(sign in text for sign in ".eE") else "value_int"
        return f"Constant <{word} = {text}> ()"

    def _named(self, text: str) -> str:
        """Return a name for the value of an expression; a new one, if it has none."""
        if not text.endswith(")"):
            return text
        if text not in self.made:
            self.count += 1
            name = f"_{self.count}"
            self.lines.append(f"{name} = {text}")
            self.made[text] = name
        return self.made[text]


def _names_an_op(token: _Token) -> bool:
    return token.kind == "name" and token.text.rpartition(".")[2][0].isupper()
