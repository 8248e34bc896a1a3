"""Decoders of settings: each one reads a plain value into the struct's value.

msgspec stops at the first error and suggests no nearest key, so the document is walked here. `read` reports all errors
below a value and goes on; a value that cannot be decoded is `BROKEN`, which never leaves this package: a configuration
with problems is not returned.
"""

import os
import re
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from fastgw.config.base.names_elsewhere import FILTERS, KEYS, MOST_USED, VALUES, is_advice
from fastgw.config.base.problems import VAULT, Path, Problem, format_value, nearest, shown_file, suggest
from fastgw.config.base.redacted_problems import UNKNOWN_KEYWORD
from fastgw.config.base.schema_keywords import misspelt_keywords
from fastgw.config.base.settings_base import AnyValue, Besides, Generated, OrEntry, Renamed, SettingsErrors, Shorthand
from fastgw.config.base.value_types import FileName, Notation
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.settings.gateway import FilterUse, Inner, OrFrom
from fastgw.config.settings.secrets import Checked, Elsewhere, Secret, SecretError, secret_in
from fastgw.config.sources.documents import Document
from fastgw.config.sources.environment_variables import KEY as VARIABLE
from fastgw.config.sources.environment_variables import VariableError, text_of, variable_in
from fastgw.config.sources.extension_packages import UnknownType, type_called
from fastgw.config.sources.files import Files
from fastgw.config.sources.followed_files import FollowedFile
from fastgw.config.sources.virtual_files import is_derived, networks_name
from fastgw.net.network_lists import InvalidList, pack_list


class Broken:
    """Marker for a value that could not be decoded. It has no elements, and its attributes could not be decoded either:
    rules that read on below it find nothing to report, and go on with the other values.
    """

    def __getattr__(self, name: str) -> "Broken":
        if name.startswith("__"):  # protocols of Python, such as `copy`, which it does not have
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> "Broken":
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


BROKEN: Final = Broken()
MERGE_KEY: Final = "<<"
"""Key of YAML 1.1 that adds the keys of another object, which YAML 1.2 does not have."""
_KEYS_NAMED: Final = 6
"""Maximum number of keys that an error names of an object."""
_HOMES_NAMED: Final = 6
"""Maximum number of objects that an error names as the right place of a key."""
CREDENTIALS_DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
"""Environment variable in which systemd names the directory of a unit's credentials."""
CREDENTIAL: Final = r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,254}"
"""Name of a credential of a systemd unit."""
VAULT_SUBJECT: Final = r"[A-Za-z0-9_.~@-]+(/[A-Za-z0-9_.~@-]+)*#[A-Za-z0-9_.~@/-]+"
"""Path and key of a secret of Vault."""


@dataclass
class Reading:
    """State of reading one file."""

    document: Document
    filter_types: Mapping[str, type]
    files: Files
    """Files that the document may name."""
    problems: list[Problem] = field(default_factory=list)
    misspelt: set[Path] = field(default_factory=set)
    """Known keys that unknown ones were probably meant as, so that they are not reported as missing too."""
    of_keys: bool = False
    """Whether keys are being read, so that problems point at keys."""
    notes: dict[Path, Problem] = field(default_factory=dict)
    """Notes on deprecated keys and probable mistakes, by path: each once, however often it is read."""
    secret_files_later: bool = False
    """Whether a file without a valid secret is left to the filter that uses it: an error of its service alone."""

    def trial(self) -> "Reading":
        """Return a reading of the same file whose problems do not count, to try one of several forms."""
        return replace(self, problems=[], misspelt=set(), of_keys=False)

    def report(self, path: Path, wrong: str, expected: str = "", *, at_key: bool = False) -> Broken:
        self.problems.append(self.document.problem(path, wrong, expected, at_key=at_key or self.of_keys))
        return BROKEN

    def note(self, path: Path, wrong: str, expected: str = "") -> None:
        """Note what is probably a mistake at a key, but not an error."""
        self.notes[path] = self.document.problem(path, wrong, expected, at_key=True)

    def note_exposure(self, file: str, path: Path) -> None:
        """Note a secret that other users can read or replace."""
        if why := self.files.exposure(file):
            self.notes[path] = self.document.problem(path, why)

    def note_keyword(self, path: Path, meant: str) -> None:
        """Note a misspelt keyword of a JSON Schema in this file."""
        self.note(path, UNKNOWN_KEYWORD, _did_you_mean(meant))


class Decoder(ABC):
    """Decoder of one form of a value."""

    expected: str
    """Correct form, which follows the word "expected"."""

    @abstractmethod
    def read(self, value: Any, path: Path, reading: Reading) -> Any: ...

    @property
    def is_secret(self) -> bool:
        """Whether a secret is expected here: a value in its place may be one, and is not shown."""
        return False

    @property
    def may_be_variable(self) -> bool:
        """Whether this is a plain value, so that `{env: NAME}` is allowed in its place."""
        return True

    def refuse(self, value: Any, path: Path, reading: Reading) -> Broken:
        if value is None and isinstance(self, Table | Structure | Sequence) and reading.document.says_nothing(path):
            kind, below = self.expected.partition(" (")[0], "" if isinstance(self, Sequence) else ", indented"
            return reading.report(path, "no value", f"expected {kind}{below} below this key", at_key=True)
        if self._lost_by_quotes(value, path, reading):
            return reading.report(path, f"{format_value(value)} in quotes", f"expected {self.expected} without quotes")
        said = "a string" if isinstance(value, str) and self.is_secret else format_value(value)
        return reading.report(path, said, f"expected {self.expected}")

    def _lost_by_quotes(self, value: Any, path: Path, reading: Reading) -> bool:
        """Whether this is a string whose unquoted form, a number or boolean, would be valid."""
        if not isinstance(value, str) or self.is_secret:
            return False
        if not isinstance(meant := self.plain(value), bool | int | float):
            return False
        trial = reading.trial()
        self.read(meant, path, trial)
        return not trial.problems

    def plain(self, text: str) -> Any:
        """Return the plain value of a text, such as the text of an environment variable."""
        return text

    def read_text(self, text: str, path: Path, reading: Reading) -> Any:
        """Read the value of an environment variable."""
        return self.read(self.plain(text), path, reading)

    def read_variable(self, value: Any, path: Path, reading: Reading) -> Any:
        """Read a value that is not plain: `{env: NAME}`, or an error."""
        name = variable_in(value) if self.may_be_variable else None
        if name is None:
            return self.refuse(value, path, reading)
        below = (*path, VARIABLE)
        if not reading.document.trusted:
            expected = f"expected a literal value: {self.expected}"
            return reading.report(
                below, "a configuration sent to the admin API may not read environment variables", expected
            )
        try:
            text = text_of(name)
        except VariableError as error:
            return reading.report(below, str(error), f"expected {self.expected}")
        trial = reading.trial()
        held = self.read_text(text, path, trial)
        if trial.problems:  # the cause would show the variable's value
            wrong = f"the environment variable {name} does not have a valid value for this setting"
            return reading.report(below, wrong, f"expected {self.expected}")
        return held


@dataclass(frozen=True)
class Text(Decoder):
    """Decoder of text."""

    shortest: int = 0
    pattern: str | None = None
    example: str = ""
    expected: str = "a string"

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        if not isinstance(value, str):
            return _read_unquoted(self, value, path, reading)
        if self.pattern and not re.search(self.pattern, value):
            if (with_unit := self._with_unit(value)) is not None:
                return reading.report(path, f"{value} has no unit", f"expected {self.expected} such as {with_unit}")
            form = f"such as {format_value(self.example)}" if self.example else f"that matches {self.pattern}"
            return reading.report(path, format_value(value), f"expected {self.expected} {form}")
        if len(value) < self.shortest:
            return reading.report(path, format_value(value), "expected a non-empty string")
        return value

    def _with_unit(self, number: str) -> str | None:
        """Return a number with the unit of the example, in quotes; None: it is no number, or not valid with it."""
        unit = self.example.lstrip("0123456789")
        is_valid = number.isdecimal() and unit != self.example and re.search(self.pattern or "", number + unit)
        return format_value(number + unit) if is_valid else None


@dataclass(frozen=True)
class Truth(Decoder):
    """Decoder of `true` and `false`."""

    expected: str = "true or false"

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        return value if isinstance(value, bool) else self.read_variable(value, path, reading)

    def plain(self, text: str) -> Any:
        return {"true": True, "false": False}.get(text, text)


_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1


@dataclass(frozen=True)
class Number(Decoder):
    """Decoder of a number with bounds."""

    whole: bool
    least: float | None = None
    most: float | None = None

    @property
    def expected(self) -> str:  # type: ignore[override]  # worked out rather than given
        bounds = (f" from {self.least}" if self.least is not None else "") + (
            f" to {self.most}" if self.most is not None else ""
        )
        return ("a whole number" if self.whole else "a number") + bounds

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        fits = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        if not fits or not self.allows(value):
            return self.read_variable(value, path, reading)
        if isinstance(value, int) and not _LEAST <= value <= _MOST:
            return reading.report(
                path, f"{format_value(value)} has more than 64 bits", f"expected {self.expected} of at most 64 bits"
            )
        return value if self.whole else float(value)

    def plain(self, text: str) -> Any:
        if re.fullmatch(r"-?[0-9]{1,20}", text) is not None:
            return int(text)
        return float(text) if re.fullmatch(r"-?[0-9]{1,20}\.[0-9]{1,20}", text) is not None else text

    def allows(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class ChoiceDecoder(Decoder):
    """Decoder of one of a fixed set of values."""

    values: tuple[Any, ...]

    @property
    def expected(self) -> str:  # type: ignore[override]  # worked out rather than given
        *others, last = [format_value(value) for value in self.values]
        return f"{', '.join(others)} or {last}" if others else last

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        if any(value == each and type(value) is type(each) for each in self.values):
            return value
        if format_value(value) in self.values:
            return _read_unquoted(self, value, path, reading)
        if isinstance(value, str) and (near := self._nearest(value)) is not None:
            return reading.report(
                path, format_value(value), f"did you mean {format_value(near)}? expected {self.expected}"
            )
        return self.read_variable(value, path, reading)

    def has_like(self, text: str) -> bool:
        """Whether the text is one of the values, or like one."""
        return text in self.values or self._nearest(text) is not None

    def _nearest(self, text: str) -> str | None:
        words = [each for each in self.values if isinstance(each, str)]
        return nearest(text, words) if words[1:] else None

    def plain(self, text: str) -> Any:
        return next((each for each in self.values if text in (each, format_value(each))), text)


@dataclass(frozen=True)
class InNotation(Decoder):
    """Decoder of text in a notation."""

    notation: Notation
    bounds: Number

    @property
    def expected(self) -> str:  # type: ignore[override]  # the notation's
        return self.notation.expected

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and value in self.notation.numbers:
            held: Any = value
        elif not isinstance(value, str):
            return self._read_other(value, path, reading)
        else:
            try:
                held = self.notation.parse(value)
            except ValueError as error:
                if self._is_right(value + self.notation.unit):
                    return self._refuse_unitless(value, path, reading)
                said = str(error)
                says_form = said.startswith("expected ") or "; expected " in said
                return reading.report(path, said, "" if says_form else f"expected {self.expected}")
        if (self.bounds.least, self.bounds.most) != (None, None) and not self.bounds.allows(held):
            return reading.report(path, format_value(value), f"expected {self._bounded}")
        return held

    @property
    def _bounded(self) -> str:
        """The correct form, with the bounds in the notation."""
        write, least, most = self.notation.write, self.bounds.least, self.bounds.most
        low = "" if least is None else f" from {write(least)}"
        high = "" if most is None else f" to {write(most)}"
        return f"{self.expected.partition(' such as ')[0]}{low}{high}"

    def plain(self, text: str) -> Any:
        is_number = re.fullmatch(r"[0-9]{1,20}", text) is not None and int(text) in self.notation.numbers
        return int(text) if is_number else text

    def _read_other(self, value: Any, path: Path, reading: Reading) -> Any:
        if isinstance(value, dict):
            return self.read_variable(value, path, reading)
        if (
            not isinstance(value, bool)
            and self.notation.unit
            and self._is_right(f"{format_value(value)}{self.notation.unit}")
        ):
            return self._refuse_unitless(value, path, reading)
        if self._is_right(format_value(value)):
            return _read_unquoted(self, value, path, reading)
        return self.refuse(value, path, reading)

    def _refuse_unitless(self, value: Any, path: Path, reading: Reading) -> Broken:
        what, unit = self.expected.partition(" such as ")[0], self.notation.unit
        examples = f'"{value}{unit}"'
        if unit == "%" and isinstance(value, float) and value < 1:  # usually a percentage
            examples = f'"{value * 100:g}%", or {examples}'
        return reading.report(path, f"{format_value(value)} has no unit", f"expected {what} such as {examples}")

    def _is_right(self, text: str) -> bool:
        try:
            self.notation.parse(text)
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class File(Decoder):
    """Decoder of a file name."""

    name: FileName

    @property
    def expected(self) -> str:  # type: ignore[override]  # worked out rather than given
        kind = "a directory" if self.name.is_directory else "a file"
        return " or ".join([*map(format_value, self.name.words), f"the name of {kind}"])

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        if not isinstance(value, str) or not value or "\0" in value:
            return self.read_variable(value, path, reading)
        if value in self.name.words:
            return value
        if reading.document.is_generated:
            return self._read_derived(value, path, reading)
        absolute = os.path.normpath(os.path.join(reading.document.folder, value))
        if self.name.readable:
            try:
                reading.files.read(absolute)
            except SyntaxProblem as flaw:
                return reading.report(path, f"{format_value(value)} {flaw.wrong}", "expected a readable file")
        if self.name.is_schema:
            self._note_keywords(absolute, path, reading)
        if self.name.is_network_list and not self._pack_networks(absolute, path, reading):
            return BROKEN
        if self.name.is_secret:
            reading.note_exposure(absolute, path)
        return absolute

    def refuse(self, value: Any, path: Path, reading: Reading) -> Broken:
        if self.name.is_schema and isinstance(value, dict | bool):
            return reading.report(path, format_value(value), f"expected {self.expected}; write a schema as `inline`")
        return super().refuse(value, path, reading)

    def _note_keywords(self, absolute: str, path: Path, reading: Reading) -> None:
        """Note misspelt keywords of a file with a JSON Schema, by their position alone: nothing of a file that a
        setting names is shown. A file without a schema is reported where it is compiled.
        """
        schema = Document(absolute, partial(reading.files.read, absolute), suffix=".json", quotes=False)
        for at, meant in misspelt_keywords(schema.value):
            problem = schema.problem(at, UNKNOWN_KEYWORD, _did_you_mean(meant), at_key=True)
            reading.notes[*path, *at] = msgspec.structs.replace(problem, path="")

    def _read_derived(self, value: str, path: Path, reading: Reading) -> Any:
        """Read the name of a derived file: generated configuration may name no other."""
        try:
            if not is_derived(value):
                raise SyntaxProblem("is a file of the gateway's machine")
            reading.files.read(value)
        except SyntaxProblem as flaw:
            return reading.report(path, f"{format_value(value)} {flaw.wrong}", "expected a value of a Secret")
        return BROKEN if self.name.is_network_list and not self._pack_networks(value, path, reading) else value

    def _pack_networks(self, file: str, path: Path, reading: Reading) -> bool:
        """Derive the packed form of a list of networks, once; return whether it is one."""
        name = networks_name(file)
        if name not in reading.files.contents_read:
            try:
                reading.files.derive(name, pack_list(reading.files.read(file)))
            except InvalidList as error:
                reading.report(path, f"{format_value(os.path.basename(file))}: {error}", "expected a network a line")
                return False
        return True


@dataclass(frozen=True)
class Hidden(Decoder):
    """Decoder of a secret. Errors show nothing of the value."""

    text: bool = True
    """Whether a secret in plaintext is allowed."""
    checked: Checked | None = field(default=None, compare=False)
    """Validation of the secret; None: any text."""
    is_secret = True
    may_be_variable = False  # the source reports its own position

    @property
    def expected(self) -> str:  # type: ignore[override]  # worked out rather than given
        text = "a quoted string, " if self.text else ""
        return f"{text}{{env: NAME}}, {{file: path}}, {{credential: NAME}} or {{vault: path#key}}"

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        match value:
            case str() if self.text:
                below, secret = path, Secret(text=value)
            case {"env": str(name)} if len(value) == 1 and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                below, secret = (*path, "env"), Secret(env=name)
            case {"file": name} if len(value) == 1:
                below = (*path, "file")
                file = File(FileName(readable=False)).read(name, below, reading)
                if file is BROKEN:
                    return BROKEN
                return self._in_file(Secret(file=file), below, reading)
            case {"credential": str(name)} if len(value) == 1:
                return self._credential(name, (*path, "credential"), reading)
            case {"vault": str(subject)} if len(value) == 1:
                return self._in_vault(subject, (*path, "vault"), reading)
            case _:
                return reading.report(path, "not a valid secret", f"expected {self.expected}")
        return self._with_value(secret, secret.value, below, reading)

    def _credential(self, name: str, path: Path, reading: Reading) -> Any:
        """Read a credential of the systemd unit, which is a file in a directory of its own."""
        if not re.fullmatch(CREDENTIAL, name):
            return reading.report(path, f"{format_value(name)} is not the name of a credential", "expected a file name")
        folder = os.environ.get(CREDENTIALS_DIRECTORY)
        if not folder:
            wrong = f"the environment variable {CREDENTIALS_DIRECTORY} is not set"
            return reading.report(path, wrong, f"expected a systemd unit with LoadCredential={name}:…")
        if reading.document.is_generated:
            return reading.report(path, "is a credential of the gateway's machine", "expected a value of a Secret")
        return self._in_file(Secret(file=os.path.normpath(os.path.join(folder, name))), path, reading)

    def _in_vault(self, subject: str, path: Path, reading: Reading) -> Any:
        if not re.fullmatch(VAULT_SUBJECT, subject) or {".", ".."} & {*subject.partition("#")[0].split("/")}:
            return reading.report(
                path, "not a secret of Vault", 'expected a path and a key such as "secret/app#password"'
            )
        if reading.document.is_generated:
            return reading.report(path, "is a secret of the gateway", "expected a value of a Secret")
        identity = reading.files.remotes.identities.get(VAULT)
        if identity is None:
            return reading.report(path, "Vault is not configured", "expected a valid `vault` at the top level")
        return self._in_file(Secret(file=FollowedFile(VAULT, identity, subject).name), path, reading)

    def _in_file(self, secret: Secret, path: Path, reading: Reading) -> Any:
        """Capture the file like other files, so that changes are noticed."""
        try:
            content = reading.files.read(secret.file)
        except SyntaxProblem as flaw:
            return reading.report(path, f"{shown_file(secret.file)} {flaw.wrong}", "expected a secret")
        reading.note_exposure(secret.file, path)
        return self._with_value(secret, lambda: secret_in(secret.file, content), path, reading)

    def _with_value(self, secret: Secret, value: Callable[[], str], path: Path, reading: Reading) -> Any:
        try:
            said = value()
            if self.checked is not None:
                self.checked.check(said)
        except SecretError as error:
            if secret.file and reading.secret_files_later:
                return secret
            return reading.report(path, str(error), "expected a secret")
        except ValueError as error:
            assert self.checked is not None
            where = f"{shown_file(secret.file)}: " if secret.file else ""
            return reading.report(path, f"{where}{error}", self.checked.expected)
        return secret


@dataclass(frozen=True)
class Sequence(Decoder):
    """Decoder of a list of one type, stored as a tuple. Invalid elements stay, so that indexes are kept."""

    each: Decoder
    shortest: int = 0
    longest: int | None = None

    @property
    def expected(self) -> str:  # type: ignore[override]  # worked out rather than given
        return f"a {'non-empty ' if self.shortest else ''}list (each element: {self.each.expected})"

    @property
    def is_secret(self) -> bool:
        return self.each.is_secret

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        if not isinstance(value, list):
            return self.read_variable(value, path, reading)
        if len(value) < self.shortest:
            found = "an empty list" if not value else f"a list of {len(value)}"
            least = "one" if self.shortest == 1 else self.shortest
            return reading.report(path, found, f"expected at least {least}")
        if self.longest is not None and len(value) > self.longest:
            return reading.report(path, f"a list of {len(value)}", f"expected at most {self.longest} elements")
        return tuple(self.each.read(inner, (*path, index), reading) for index, inner in enumerate(value))

    @property
    def may_be_variable(self) -> bool:
        """Secrets are read one by one."""
        return self.each.may_be_variable and not self.is_secret

    def plain(self, text: str) -> Any:
        """Return the elements of a comma-separated list."""
        return [self.each.plain(each.strip()) for each in text.split(",")]


@dataclass(frozen=True)
class Table(Decoder):
    """Decoder of a mapping, stored read-only. Invalid values stay, so that their names are known."""

    key: Decoder
    each: Decoder
    shortest: int = 0
    example: str = ""
    besides: Besides | None = None

    @property
    def expected(self) -> str:  # type: ignore[override]  # worked out rather than given
        if self.example:
            return f"at least one, such as {self.example}"
        kind = "a non-empty object" if self.shortest else "an object"
        return f"{kind} (each key: {self.key.expected}; each value: {self.each.expected})"

    @property
    def is_secret(self) -> bool:
        return self.each.is_secret

    may_be_variable = False

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        if not isinstance(value, dict):
            return self.refuse(value, path, reading)
        if len(value) < self.shortest:
            return reading.report(path, "an empty object", f"expected {self.expected}")
        held = {}
        keys = replace(reading, of_keys=True)
        for name, inner in value.items():
            below = (*path, name)
            if name == MERGE_KEY and not isinstance(self.key, Text):
                _refuse_merge_key(path, reading)
                continue
            if self.key.read(name, below, keys) is BROKEN:
                continue
            besides = self.besides
            if besides is not None and name == besides.name and not isinstance(inner, dict):
                held[name] = shape_of(besides.type).read(inner, below, reading)
            else:
                held[name] = self.each.read(inner, below, reading)
        return MappingProxyType(held)


@dataclass(frozen=True)
class Either(Decoder):
    """Decoder of one of several forms."""

    shapes: tuple[Decoder, ...]

    @property
    def expected(self) -> str:  # type: ignore[override]  # worked out rather than given
        shapes = self.shapes[:1] if isinstance(self.shapes[0], Instance) else self.shapes  # that names null itself
        return " or ".join(shape.expected for shape in shapes)

    @property
    def is_secret(self) -> bool:
        return any(shape.is_secret for shape in self.shapes)

    def read_text(self, text: str, path: Path, reading: Reading) -> Any:
        for shape in self.shapes:
            trial = reading.trial()
            held = shape.read_text(text, path, trial)
            if not trial.problems:
                return held
        return self.refuse(text, path, reading)

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        if variable_in(value) is not None and self.may_be_variable and not self._is_mapping(value, path, reading):
            return self.read_variable(value, path, reading)
        nullable = isinstance(self.shapes[-1], Null)
        if nullable and value is None and reading.document.says_nothing(path):
            return self.refuse_nothing(path, reading)
        if nullable and isinstance(self.shapes[0], Instance) and value == "off":  # TOML has no null
            return None
        if nullable and len(path) == 1 and isinstance(only := self.shapes[0], Structure) and _is_scalar(value):
            return only.refuse_part(value, path, reading)
        if nullable and len(self.shapes) == 2:  # then errors inside it are reported
            return None if value is None else self.shapes[0].read(value, path, reading)
        kinds = _KINDS.get(type(value), ())
        meant = [shape for shape in self.shapes if isinstance(shape, kinds)]
        if isinstance(value, str):
            meant = [shape for shape in meant if not isinstance(shape, Hidden) or shape.text]
        if len(meant) > 1 and isinstance(value, dict):  # each form is known by its first key
            known = [
                each for each in meant if isinstance(each, Structure) and next(iter(each.fields.values())).is_in(value)
            ]
            meant = [*known] if len(known) == 1 else meant
        if len(meant) == 1 and not self._lost_by_quotes(value, path, reading):  # and in this form
            only = meant[0]
            if isinstance(only, ChoiceDecoder) and isinstance(value, str) and not only.has_like(value):
                return self.refuse(value, path, reading)
            return only.read(value, path, reading)
        for shape in self.shapes:
            trial = reading.trial()
            held = shape.read(value, path, trial)
            if not trial.problems:
                return held
        texts = isinstance(self.shapes[0], Text) and not any(isinstance(each, Number | Truth) for each in self.shapes)
        if texts and isinstance(value, bool | int | float):
            return _read_unquoted(self, value, path, reading)
        return self.refuse(value, path, reading)

    @property
    def may_be_variable(self) -> bool:
        """Whether `{env: NAME}` is allowed in its place; not for a secret, which has its own sources."""
        others = [shape for shape in self.shapes if not isinstance(shape, Null)]
        return any(shape.may_be_variable for shape in others) and not self.is_secret

    def _lost_by_quotes(self, value: Any, path: Path, reading: Reading) -> bool:
        """Whether the unquoted form would be valid, if one of the forms is a fixed set of words."""
        words = any(isinstance(shape, ChoiceDecoder) for shape in self.shapes)
        others = [shape for shape in self.shapes if not isinstance(shape, Null)]
        return words and any(shape._lost_by_quotes(value, path, reading) for shape in others)

    def _is_mapping(self, value: Any, path: Path, reading: Reading) -> bool:
        """Whether the value is a mapping with the key of a variable."""
        for shape in self.shapes:
            trial = reading.trial()
            if isinstance(shape, Table | Structure) and shape.read(value, path, trial) and not trial.problems:
                return True
        return False

    def refuse_nothing(self, path: Path, reading: Reading) -> Broken:
        """Reject null: leaving out the settings must not disable a protection."""
        *others, _ = self.shapes
        if isinstance(others[0], Instance):
            return others[0].refuse_nothing(path, reading)
        null = f"`{path[-1]}: null`" if isinstance(path[-1], str) else "null"
        expected = f"expected {' or '.join(shape.expected for shape in others)}, or {null} for none"
        return reading.report(path, "no value", expected, at_key=True)


@dataclass(frozen=True)
class Null(Decoder):
    """Decoder of `null`; always the last of `Either`."""

    expected: str = "null"

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        return None if value is None else self.refuse(value, path, reading)

    def plain(self, text: str) -> Any:
        return None if text == "null" else text


@dataclass(frozen=True)
class Field:
    """One key of a structure."""

    name: str
    key: str
    shape: Decoder
    required: bool
    former: str = ""
    """Deprecated name of the same setting; "" = none."""

    def is_in(self, value: Mapping[str, Any]) -> bool:
        """Whether the setting is present, under either name."""
        return self.key in value or (self.former != "" and self.former in value)


_LONGEST_BUG: Final = 500
"""Maximum number of characters of an exception of a filter that is shown."""


@dataclass(frozen=True)
class Structure(Decoder):
    """Decoder of a struct, written as a mapping of its fields; with `shorthand` also as the value of that field
    alone.
    """

    type: type[Struct]
    expected: str = "an object"
    shorthand: str = ""

    @property
    def fields(self) -> Mapping[str, Field]:
        return fields_of(self.type)

    @property
    def first(self) -> Field:
        """Field that distinguishes the struct from others."""
        return next(iter(self.fields.values()))

    @property
    def is_secret(self) -> bool:
        """Whether one of its own fields is a secret. Nested structs do not count."""
        return any(Hidden() in (field.shape, *_options(field.shape)) for field in self.fields.values())

    @property
    def may_be_variable(self) -> bool:
        return bool(self.shorthand)

    def read(self, value: Any, path: Path, reading: Reading, also: tuple[str, ...] = ()) -> Any:
        """Read a struct. `also`: keys that belong to others."""
        if isinstance(value, str) and self.shorthand:
            only = self.fields[self.shorthand]
            held = only.shape.read(value, path, reading)
            return BROKEN if held is BROKEN else self.type(**{only.name: held})
        if self.shorthand and variable_in(value) is not None:
            return self.read_variable(value, path, reading)
        if not isinstance(value, dict):
            return self._refuse_value(value, path, reading)
        if MERGE_KEY in value:  # what it would add is not missing
            return _refuse_merge_key(path, reading)
        before = len(reading.problems)
        held = self.read_fields(value, path, reading, also)
        for known in self.fields.values():
            if known.required and not known.is_in(value):
                held[known.name] = BROKEN
                below = (*path, known.key)
                if below not in reading.misspelt:
                    reading.report(below, "missing", f"expected {known.shape.expected}", at_key=True)
        if not hasattr(self.type, "__post_init__") or hasattr(self.type, "completes_itself"):
            return self.type(**held)
        if len(reading.problems) > before:  # it validates complete settings only
            return BROKEN
        try:
            return self.type(**held)
        except SettingsErrors as error:
            for steps, text in error.errors:
                wrong, _, expected = text.partition("; ")
                reading.report((*path, *steps), wrong, expected)
            return BROKEN
        except ValueError as error:
            wrong, _, expected = str(error).partition("; ")
            return reading.report(path, wrong, expected)
        except Exception as error:  # the edge of third-party code: a filter that validates its settings
            if self.type.__module__.partition(".")[0] == "fastgw":
                raise
            return reading.report(path, f"a bug: {type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_BUG]}")

    def read_fields(
        self, value: dict[str, Any], path: Path, reading: Reading, also: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return the fields that are present and valid; required fields that are invalid are `BROKEN`."""
        held: dict[str, Any] = {}
        if hasattr(self.type, "secret_files_later"):
            reading = replace(reading, secret_files_later=True)
        known = self.fields
        other_forms = VALUES.get(self.type.__name__, {})
        for key, inner in value.items():
            advice = next((text for is_form, text in other_forms.get(key, ()) if is_form(inner)), None)
            if advice is not None:
                reading.report((*path, key), format_value(inner), advice)
            elif key in known:
                field = known[key]
                each = field.shape.read(inner, (*path, key), reading)
                if each is not BROKEN or field.required:
                    held[field.name] = each
            elif (renamed := former_names_of(self.type).get(key)) is not None:
                held |= self._read_former(renamed, value, path, reading)
            elif key == MERGE_KEY:  # at the top level
                _refuse_merge_key(path, reading)
            elif key not in also:
                meant, expected = self._meant_by(key, also, reading)
                if meant is not None:
                    reading.misspelt.add((*path, meant))
                reading.report((*path, key), "unknown key", expected, at_key=True)
        return held

    def _meant_by(self, key: str, also: tuple[str, ...], reading: Reading) -> tuple[str | None, str]:
        """Return the field that an unknown key was probably meant as, if any, and the advice."""
        known, class_name = self.fields, self.type.__name__
        here = KEYS.get(class_name, {}).get(key)
        if here is not None:
            return (None, here) if is_advice(here) else (here, _did_you_mean(here))
        filter_type = FILTERS.get(key, key)
        filters = known.get("filters")  # in `timeouts` it is a duration
        if filters is not None and isinstance(filters.shape, Table) and filter_type in reading.filter_types:
            return None, f'expected {"it" if filter_type == key else format_value(filter_type)} in "filters"'
        if (near := nearest(key, known)) is not None:
            return near, _did_you_mean(near)
        if homes := self._fields_with(key):
            return None, f"expected it in {_alternatives(homes)}"
        return None, suggest(key, [*known, *also], MOST_USED.get(class_name, ()))

    def _refuse_value(self, value: Any, path: Path, reading: Reading) -> Broken:
        """Refuse a value that is not an object. For a single value the keys of the object are named."""
        if value is None or isinstance(value, list) or not path or self.is_secret or self.shorthand:
            return self.refuse(value, path, reading)
        required = self._required()
        keys = " and ".join(required) if required else _alternatives([*self.fields])
        return reading.report(path, format_value(value), f"expected {self.expected} with {keys}" if keys else "")

    def refuse_part(self, value: Any, path: Path, reading: Reading) -> Broken:
        """Refuse a single value, such as `off` or an address, for a part of the gateway that null disables."""
        said = "a string" if isinstance(value, str) and self.is_secret else format_value(value)
        keys = " and ".join(self._required() or [format_value(self.first.key)])
        return reading.report(path, said, f"expected {self.expected} with {keys}, or null to disable it")

    def _required(self) -> list[str]:
        """Return the required keys for people."""
        return [format_value(field.key) for field in self.fields.values() if field.required]

    def _fields_with(self, key: str) -> list[str]:
        """Return the keys of the fields that are objects with this key; none if there are too many to be of help."""
        homes = [
            field.key
            for field in self.fields.values()
            if any(isinstance(each, Structure) and key in each.fields for each in (field.shape, *_options(field.shape)))
        ]
        return homes if len(homes) <= _HOMES_NAMED else []

    def _read_former(self, field: Field, value: dict[str, Any], path: Path, reading: Reading) -> dict[str, Any]:
        """Read a setting given by its deprecated name. Returns it by its new name if valid, else {}."""
        at = (*path, field.former)
        if field.key in value:
            reading.report(at, f"`{field.former}` and `{field.key}` are the same setting", "expected one", at_key=True)
            return {}
        wrong = f"`{field.former}` is deprecated; use `{field.key}`"
        reading.note(at, wrong)
        held = field.shape.read(value[field.former], at, reading)
        return {field.name: held} if held is not BROKEN or field.required else {}


@dataclass(frozen=True)
class EntryDecoder(Decoder):
    """Decoder of a struct, or of the one that is expanded to several of them: `OrEntry`."""

    usual: Structure
    expanded: Structure
    may_be_variable = False

    @property
    def expected(self) -> str:  # type: ignore[override]  # worked out rather than given
        return self.usual.expected

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        is_expanded = isinstance(value, dict) and self.expanded.first.key in value
        return (self.expanded if is_expanded else self.usual).read(value, path, reading)


@dataclass(frozen=True)
class AnyJson(Decoder):
    """Decoder of any value, which is held as its JSON text."""

    expected: str = "any value"
    is_schema: bool = False
    """Whether it is a JSON Schema, whose misspelt keywords are noted."""
    may_be_variable = False

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        try:
            text = msgspec.json.encode(value).decode()
        except (TypeError, ValueError, OverflowError):
            return reading.report(path, "a value that JSON has no form for", "expected a value such as in JSON")
        for at, meant in misspelt_keywords(value) if self.is_schema else ():
            reading.note_keyword((*path, *at), meant)
        return text


def _refuse_merge_key(path: Path, reading: Reading) -> Broken:
    wrong = f'merge keys ("{MERGE_KEY}") are not supported'
    return reading.report((*path, MERGE_KEY), wrong, "expected the keys themselves", at_key=True)


def _did_you_mean(meant: str) -> str:
    return f"did you mean {format_value(meant)}?"


def _alternatives(keys: list[str]) -> str:
    """Return the keys for people, at most `_KEYS_NAMED`."""
    named = [format_value(key) for key in keys[:_KEYS_NAMED]]
    more = [f"{len(keys) - _KEYS_NAMED} more"] if len(keys) > _KEYS_NAMED else []
    *others, last = [*named, *more] or [""]
    return f"{', '.join(others)} or {last}" if others else last


def _is_scalar(value: Any) -> bool:
    return value is not None and not isinstance(value, dict | list)


def _options(shape: Decoder) -> tuple[Decoder, ...]:
    return shape.shapes if isinstance(shape, Either) else ()


_KINDS: Final[Mapping[type, tuple[type[Decoder], ...]]] = {
    dict: (Table, Structure, Hidden),
    list: (Sequence,),
    str: (Text, InNotation, File, ChoiceDecoder, Hidden),
}
"""Decoders of plain values by Python type."""


@dataclass(frozen=True)
class Instance(Decoder):
    """Decoder of a filter instance: its type's settings, and the three common keys of instances."""

    expected: str = "an object, null or off"

    KEYS = ("type", "enforced", "shadow")
    may_be_variable = False  # an object

    def refuse_nothing(self, path: Path, reading: Reading) -> Broken:
        """Null removes a filter."""
        expected = f"expected `{path[-1]}: {{}}` to use it, or `{path[-1]}: null` to remove it"
        return reading.report(path, "no value", expected, at_key=True)

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        if not isinstance(value, dict):
            return self.refuse(value, path, reading)
        name = str(path[-1])
        type_name = Text().read(value.get("type", name), (*path, "type"), reading)
        enforced = Truth().read(value.get("enforced", False), (*path, "enforced"), reading)
        shadow = Truth().read(value.get("shadow", False), (*path, "shadow"), reading)
        if type_name is BROKEN:
            return BROKEN
        try:
            filter_type = type_called(type_name, reading.filter_types)
        except UnknownType as error:
            where = (*path, "type") if "type" in value else path
            return reading.report(where, error.wrong, error.expected, at_key="type" not in value)
        settings = Structure(filter_type).read(value, path, reading, self.KEYS)
        if BROKEN in (settings, enforced, shadow):
            return BROKEN
        return FilterUse(name=name, type=type_name, settings=settings, enforced=enforced, shadow=shadow)


@dataclass(frozen=True)
class InnerInstance(Decoder):
    """Decoder of a filter inside another one: its type, and its settings."""

    phase: str
    expected: str = "an object with one key, a filter type, such as {key_auth: {}}"
    may_be_variable = False  # an object

    def read(self, value: Any, path: Path, reading: Reading) -> Any:
        if isinstance(value, dict) and len(value) != 1:
            return reading.report(path, f"an object with {len(value)} keys", f"expected {self.expected}")
        if not isinstance(value, dict):
            return self.refuse(value, path, reading)
        ((type_name, inner),) = value.items()
        below = (*path, type_name)
        try:
            filter_type = type_called(type_name, reading.filter_types)
        except UnknownType as error:
            return reading.report(below, error.wrong, error.expected, at_key=True)
        if not self.accepts_filter(filter_type):
            fitting = ", ".join(name for name, each in reading.filter_types.items() if self.accepts_filter(each))
            wrong = f"{format_value(type_name)} is not allowed here"
            return reading.report(below, wrong, f"expected one of {fitting}", at_key=True)
        settings = Structure(filter_type).read(inner, below, reading)
        return BROKEN if settings is BROKEN else FilterUse(name=type_name, type=type_name, settings=settings)

    def accepts_filter(self, filter_type: Any) -> bool:
        return getattr(getattr(filter_type, "phase", None), "name", "") == self.phase


@cache
def fields_of(settings: type[Struct]) -> Mapping[str, Field]:
    """Return the fields of a settings struct by their keys in the file."""
    return {
        each.encode_name: Field(
            each.name,
            each.encode_name,
            shape_of(each.type),
            each.default is NODEFAULT and each.default_factory is NODEFAULT,
            _former_name(each.type),
        )
        for each in msgspec.structs.fields(settings)
        if Generated() not in typing.get_args(each.type)[1:]
    }


@cache
def former_names_of(settings: type[Struct]) -> Mapping[str, Field]:
    """Return the fields of a settings struct that have a deprecated name, by that name."""
    return {each.former: each for each in fields_of(settings).values() if each.former}


def _former_name(annotation: Any) -> str:
    """Return the name that an annotation marks as deprecated, or ""."""
    marks = typing.get_args(annotation)[1:] if typing.get_origin(annotation) is Annotated else ()
    return next((each.former for each in marks if isinstance(each, Renamed)), "")


@cache
def shape_of(annotation: Any) -> Decoder:
    """Return the decoder for an annotation. Raises `TypeError` for a type that no file can express."""
    notes: tuple[Any, ...] = ()
    while typing.get_origin(annotation) is Annotated:
        annotation, *more = typing.get_args(annotation)
        notes = (*more, *notes)
    least = _constraint(notes, "ge")
    most = _constraint(notes, "le")
    shortest = _constraint(notes, "min_length") or 0
    for note in notes:
        if isinstance(note, Notation):
            return InNotation(note, Number(True, least, most))
        if isinstance(note, FileName):
            return File(note)
        if isinstance(note, AnyValue):
            return AnyJson(is_schema=note.is_schema)
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        shapes = [shape_of(each) for each in inner if each is not types.NoneType]
        return Either((*shapes, Null()) if types.NoneType in inner else tuple(shapes))
    if origin is Literal:
        return ChoiceDecoder(inner)
    if origin is tuple and inner[1:] == (...,):
        sources = [_source(each) for note in notes if isinstance(note, OrFrom) for each in note.types]
        listed = Sequence(shape_of(inner[0]), 1 if sources else shortest, _constraint(notes, "max_length"))
        return Either((listed, *sources)) if sources else listed
    if isinstance(origin, type) and issubclass(origin, Mapping):
        example = (_constraint(notes, "examples") or [""])[0]
        besides = next((note for note in notes if isinstance(note, Besides)), None)
        return Table(shape_of(inner[0]), shape_of(inner[1]), shortest, example, besides)
    if annotation is str:
        form = _constraint(notes, "title") or "a string"
        return Text(shortest, _constraint(notes, "pattern"), (_constraint(notes, "examples") or [""])[0], form)
    if annotation is bool:
        return Truth()
    if annotation in (int, float):
        return Number(annotation is int, least, most)
    if annotation is FilterUse:
        return next((InnerInstance(note.phase) for note in notes if isinstance(note, Inner)), Instance())
    if annotation is Secret:
        checked = next((note for note in notes if isinstance(note, Checked)), None)
        return Hidden(text=not any(isinstance(note, Elsewhere) for note in notes), checked=checked)
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        entry = next((note for note in notes if isinstance(note, OrEntry)), None)
        if entry is not None:
            return EntryDecoder(Structure(annotation), Structure(entry.type))
        short = next((note for note in notes if isinstance(note, Shorthand)), None)
        return Structure(annotation) if short is None else Structure(annotation, short.expected, short.key)
    raise TypeError(f"{annotation} in settings has no written form")


def _source(type: type[Struct]) -> Structure:
    """Return the decoder of a source, selected by its key."""
    return Structure(type, f"{{{next(iter(fields_of(type)))}: …}}")


def _constraint(notes: tuple[Any, ...], name: str) -> Any:
    """Return a constraint from the `Meta` of an annotation; None = there is none."""
    return next(
        (value for note in notes if isinstance(note, Meta) and (value := getattr(note, name)) is not None), None
    )


def _read_unquoted(shape: Decoder, value: Any, path: Path, reading: Reading) -> Any:
    """Report a number or boolean in place of text: it lacks quotes if the quoted text is valid."""
    if not isinstance(value, bool | int | float):
        return shape.read_variable(value, path, reading)
    trial = reading.trial()
    shape.read(format_value(value), path, trial)
    if trial.problems:
        return shape.read(format_value(value), path, reading)
    return reading.report(path, f"{format_value(value)} without quotes", f"expected {shape.expected}")
