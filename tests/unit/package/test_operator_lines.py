"""Lines of the operator log name their event once: `EVENT: TEXT`, and the text says what the name does not."""

import ast
from pathlib import Path

import fastgw
from fastgw.operator_events import OperatorEvent

PACKAGE = Path(fastgw.__file__).parent


def texts():
    """Each text that is logged with an event that is named beside it, as far as it is written there."""
    for file in sorted(PACKAGE.rglob("*.py")):
        source = file.read_text()
        if "OperatorEvent" not in source:  # then no call there has it as an argument
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            event, text = node.args[:2]
            if not isinstance(event, ast.Attribute) or not ast.unparse(event.value).endswith("OperatorEvent"):
                continue
            first = text.values[0] if isinstance(text, ast.JoinedStr) else text
            if isinstance(first, ast.Constant):
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", OperatorEvent[event.attr], first.value


def test_no_text_begins_with_the_name_of_its_event():
    found = [*texts()]
    assert len(found) > 60
    assert [
        place
        for place, event, text in found
        if text == event.label or text.startswith((f"{event.label}:", f"{event.label} :"))
    ] == []
