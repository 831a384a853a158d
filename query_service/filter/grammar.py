"""The grammar of AIP-160 and the parser made from it. Never looks at what a name means.

OR binds tighter than AND, as https://google.aip.dev/160 has it. Timestamps need no quotes, as its examples have none.
Functions, and values in parentheses, are left out: no field takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from query_service.filter.syntax import Bare, Conjunction, Disjunction, Negation, Restriction, Tree, Word, refused
from shared.errors import InvalidRequest

# A filter that names 128 values of 50 characters fits.
LONGEST_FILTER = 8192

GRAMMAR = r"""
?start: expression
expression: sequence (_AND sequence)*
sequence: factor+
factor: term (_OR term)*
?term: (_NOT | _MINUS) simple -> negation
    | simple
?simple: restriction
    | "(" expression ")"
?restriction: NAME COMPARATOR value -> restriction
    | (NAME | STRING) -> bare
?value: VALUE | TIMESTAMP | STRING

_AND: "AND"
_OR: "OR"
_NOT: "NOT"
_MINUS: "-"
COMPARATOR: /<=|>=|!=|[<>=:]/
STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
NAME: /(?!-)(?!(AND|OR|NOT)(?![^\s()<>=!:"',]))[^\s()<>=!:"',]+/
VALUE: /(?!(AND|OR|NOT)(?![^\s()<>=!:"',]))[^\s()<>=!:"',]+/
TIMESTAMP.2: /[0-9]{4}-[0-9-]{5}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})/
%ignore /\s+/
"""

_EXPECTED: Mapping[str, str] = {
    "NAME": "a field",
    "STRING": "a string",
    "VALUE": "a value",
    "TIMESTAMP": "",
    "COMPARATOR": "one of = != < <= > >= :",
    "LPAR": "'('",
    "RPAR": "')'",
    "_AND": "AND",
    "_OR": "OR",
    "_NOT": "NOT",
    "_MINUS": "",
    "$END": "the end",
}


def parse(text: str) -> Tree:
    """The syntax tree of a filter that is not blank; raises InvalidRequest (FILTER_SYNTAX, FILTER_TOO_COMPLEX)."""
    if len(text) > LONGEST_FILTER:
        raise refused("FILTER_TOO_COMPLEX", f"has {len(text)} characters; at most {LONGEST_FILTER} are accepted")
    try:
        return _parser().parse(text)  # type: ignore[return-value]  # the transformer makes the tree
    except UnexpectedInput as exc:
        raise _syntax_error(text, exc) from None  # lark's own text names terminals


@lru_cache(maxsize=1)
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", lexer="contextual", transformer=_Build(), maybe_placeholders=False)


def _syntax_error(text: str, error: UnexpectedInput) -> InvalidRequest:
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        return refused("FILTER_SYNTAX", _expected(error.expected), Word(text="its end", place=len(text) + 1))
    place = error.pos_in_stream or 0
    word = Word(text=text[place:].split(maxsplit=1)[0], place=place + 1)
    if word.quoted and word.text[0] not in text[place + 1 :]:
        return refused("FILTER_SYNTAX", "the string is not closed", word)
    allowed = error.allowed if isinstance(error, UnexpectedCharacters) else getattr(error, "expected", ())
    return refused("FILTER_SYNTAX", _expected(allowed or ()), word)


def _expected(names: Iterable[str]) -> str:
    return f"expected {', '.join(dict.fromkeys(filter(None, (_EXPECTED[name] for name in sorted(names)))))}"


def _word(token: Token) -> Word:
    return Word(text=str(token), place=(token.start_pos or 0) + 1)


@v_args(inline=True)
class _Build(Transformer[Token, Tree]):
    """Makes the tree while the parser reads, so that no depth of parentheses recurses."""

    def restriction(self, name: Token, comparator: Token, value: Token) -> Tree:
        return Restriction(name=_word(name), comparator=_word(comparator), value=_word(value))

    def bare(self, value: Token) -> Tree:
        return Bare(value=_word(value))

    def negation(self, part: Tree) -> Tree:
        return Negation(part=part)

    def expression(self, *parts: Tree) -> Tree:
        return parts[0] if len(parts) == 1 else Conjunction(parts=parts)

    def sequence(self, *parts: Tree) -> Tree:
        return parts[0] if len(parts) == 1 else Conjunction(parts=parts)

    def factor(self, *parts: Tree) -> Tree:
        return parts[0] if len(parts) == 1 else Disjunction(parts=parts)
