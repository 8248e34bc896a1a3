"""Control's part of a reload: what is asked for while a change is under way, and what the supervisor may answer."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from fastgw.admin.node_interface import Outcome
from fastgw.config import load
from fastgw.config.base.problems import DISCOVERIES
from fastgw.config.sources import virtual_files
from fastgw.config.sources.files import Disk
from fastgw.config.sources.followed_files import FollowedFile
from fastgw.exchange import Hooks
from fastgw.filters import TYPES
from fastgw.filters.api import Env
from fastgw.filters.policies.headers import Headers
from fastgw.runtime.ipc.channel import Channel, Propose, Rejected
from fastgw.runtime.ipc.channel import ReloadResult as Verdict
from fastgw.runtime.node.config_snapshot import seal, unseal
from fastgw.runtime.node.node_state import ReloadRecord, Sealed
from fastgw.runtime.process.transient_errors import FIRST_S
from fastgw.runtime.reload.proposer import Proposer
from tests.support.certificates import Certificates
from tests.support.gateway import messages
from tests.support.node import accepted_of, close_node, node_state_of
from tests.support.on_loop import on_loop
from tests.support.peer import DEADLINE

WRITTEN = "version: 1\nlisteners: {main: {address: 127.0.0.1:0}}\nworkers: 2\nstatus: null\nadmin: null\n"


class Control:
    """A control process's proposals about a file, and the supervisor's end of its channel."""

    def __init__(self, directory: Path, more: str = "") -> None:
        self.file = directory / "gateway.yaml"
        self.write("v1")
        self.file.write_text(f"{self.file.read_text()}{more}\n")
        accepted = accepted_of(load(str(self.file), TYPES))
        self.node_state = node_state_of(sealed=Sealed(accepted, seal(accepted)))
        self.node_state.words.set_ready(self.node_state.shared, True)
        self._supervisor, channel = Channel.pair()
        self.channel = channel
        self.proposer = Proposer(self.node_state, channel)
        self.read: list[str] = []
        """What the routes said that were proposed."""
        self.rejected: list[Rejected] = []
        self.read_at = 0.0
        """When reading the file began, according to the last proposal."""

    def write(self, text: str) -> None:
        self.file.write_text(f"{WRITTEN}routes: [{{name: all, respond: {{body: {text}}}}}]\n")

    def write_text(self, more: str) -> None:
        self.write("x")
        self.text = f"{self.file.read_text()}{more}\n"
        self.file.write_text(self.text)

    async def noted(self) -> list[str]:
        """What a reload notes, which takes place."""
        asking = asyncio.create_task(self.proposer.reload("signal"))
        self.answer(await self.proposal())
        return [f"{each.path}: {each.wrong}" for each in (await asking).notes]

    def write_badly(self) -> None:
        self.file.write_text(f"{WRITTEN}rutes: []\n")

    async def proposal(self) -> int:
        """The generation that is proposed next; what is rejected meanwhile is kept."""
        while not isinstance(message := self._supervisor.receive(), Propose):
            if isinstance(message, Rejected):
                self.rejected.append(message)
            await asyncio.sleep(0)
        self.read_at = message.read_at
        (descriptor,) = self._supervisor.take_descriptors()
        route, *_ = unseal(descriptor).config().routes
        os.close(descriptor)
        assert route.respond is not None
        self.read.append(str(route.respond.body))
        return message.generation

    async def consumers(self) -> list[str]:
        """The names of the consumers that are proposed next, which takes place."""
        while not isinstance(message := self._supervisor.receive(), Propose):
            await asyncio.sleep(0)
        (descriptor,) = self._supervisor.take_descriptors()
        self.answer(message.generation)
        return found(descriptor)

    def answer(self, generation: int, why: str = "") -> None:
        self.proposer.on_outcome(verdict(generation, why))

    async def changed(self, text: str) -> Outcome:
        """Reload a file that says this; it takes place."""
        self.write(text)
        asking = asyncio.create_task(self.proposer.reload("signal"))
        self.answer(await self.proposal())
        return await asking

    def close(self) -> None:
        self._supervisor.close()
        self.channel.close()
        close_node(self.node_state)


def verdict(generation: int, why: str = "") -> Verdict:
    return Verdict(
        generation=generation,
        ok=not why,
        why=why,
        committed=0 if why else 2,
        workers=2,
        listeners_added=0,
        listeners_removed=0,
        workers_restarted=0,
    )


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    control = Control(tmp_path)
    yield control
    control.close()


@pytest.fixture
def of_services(tmp_path: Path) -> Iterator[Control]:
    control = Control(tmp_path, 'egress: {apps: {one: {it: {url: "http://a"}}, two: {it: {url: "http://a"}}}}')
    yield control
    control.close()


@on_loop
async def test_what_is_in_force_is_known_before_the_first_change(of_services: Control) -> None:
    """A control process that is born knows nothing of what was read before it."""
    control = of_services
    before = control.proposer.config
    await control.proposer.warm_cache()
    known = control.proposer.config
    assert known == before
    control.file.write_text(control.file.read_text().replace("body: v1", "body: v2"))
    asking = asyncio.create_task(control.proposer.reload("signal"))
    control.answer(await control.proposal())
    await asking
    assert control.read == ["v2"]
    now = control.proposer.config
    assert all(now.upstreams[name] is known.upstreams[name] for name in known.upstreams)
    same = [route.name for route in now.routes if any(route is each for each in known.routes)]
    assert same == ["egress/one/it", "egress/two/it"]


@on_loop
async def test_who_asks_at_once_gets_one_reload(control):
    control.write("v2")
    asking = [asyncio.create_task(control.proposer.reload("api")) for _ in range(100)]
    generation = await control.proposal()
    control.answer(generation)
    outcomes = await asyncio.gather(*asking)
    assert {(each.ok, each.generation, each.summary) for each in outcomes} == {
        (True, 2, "reloaded: generation 2 on 2/2 workers")
    }
    assert control.read == ["v2"]


@on_loop
async def test_who_asks_while_one_is_under_way_gets_the_next_which_reads_what_the_file_says_then(control):
    control.write("v2")
    first = asyncio.create_task(control.proposer.reload("api"))
    generation = await control.proposal()
    control.write("v3")
    late = [asyncio.create_task(control.proposer.reload("api")) for _ in range(50)]
    await asyncio.sleep(0)
    control.write("v4")
    control.answer(generation)
    assert (await first).generation == 2
    control.answer(await control.proposal())
    assert {each.generation for each in await asyncio.gather(*late)} == {3}
    assert control.read == ["v2", "v4"]


@on_loop
async def test_an_attempt_says_since_when_it_knows_the_file(control):
    """A request from before is done, and a later one is not; one about another document does nothing for it."""
    before = time.monotonic()
    asking = asyncio.create_task(control.proposer.reload("signal"))
    control.answer(await control.proposal())
    await asking
    assert before <= control.read_at <= time.monotonic()
    asking = asyncio.create_task(control.proposer.apply(control.file.read_bytes(), ".yaml", dry_run=False))
    control.answer(await control.proposal())
    await asking
    assert control.read_at == 0.0
    control.write_badly()
    before = time.monotonic()
    await control.proposer.reload("signal")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await control.proposal()
    assert before <= control.rejected[-1].read_at <= time.monotonic()


@pytest.mark.parametrize(
    ("later", "is_retried"),
    [
        ([], True),
        ([ReloadRecord(2, 0.0, False, "file", "wrong", subject="contents")], True),
        ([ReloadRecord(1, 0.0, False, "api", "wrong", subject="document")], True),
        ([ReloadRecord(2, 0.0, True, "api", "reloaded", subject="document")], False),
        ([ReloadRecord(1, 0.0, False, "file", "wrong")], False),
    ],
)
@on_loop
async def test_a_transient_failure_is_retried_by_the_next_control_process(control, later, is_retried):
    failure = ReloadRecord(1, 0.0, False, "signal", "an upgrade is in progress", again=True)
    control.node_state.records[:] = [failure, *later]
    follower = Proposer(control.node_state, control.channel)
    follower._again["file"].due_at -= FIRST_S
    assert follower.is_to_be_tried_again is is_retried
    control.write("v2")
    retrying = asyncio.create_task(follower.try_again())
    if is_retried:
        follower.on_outcome(verdict(await control.proposal()))
        assert control.read == ["v2"]
    await retrying
    assert not follower.is_to_be_tried_again


@on_loop
async def test_of_targets_that_were_sent_and_could_not_be_taken_nobody_hears_that_they_are_tried_again(tmp_path):
    control = Control(tmp_path, 'upstreams: {u: {targets: ["http://a:1"]}}')
    sending = asyncio.create_task(control.proposer.put_targets("u", b'["http://b:1"]', ".json"))
    generation = await control.proposal()
    failed = msgspec.structs.replace(verdict(generation, "an upgrade is in progress"), passing=True)
    control.proposer.on_outcome(failed)
    assert (await sending).summary.endswith(" stays: an upgrade is in progress")
    control.close()


@on_loop
async def test_who_leaves_does_not_take_the_reload_of_others_along(control):
    control.write("v2")
    leaving, staying = (asyncio.create_task(control.proposer.reload("api")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    control.answer(await control.proposal())
    assert (await staying).generation == 2


@on_loop
async def test_a_wrong_file_is_not_proposed_and_told(control):
    control.write_badly()
    outcome = await control.proposer.reload("signal")
    assert (outcome.ok, outcome.generation, outcome.reason) == (False, 1, "rejected")
    assert [problem.path for problem in outcome.problems] == ["rutes"]
    assert (await control.changed("v2")).generation == 2
    assert [(each.source, each.generation) for each in control.rejected] == [("signal", 1)]
    assert [record.ok for record in control.proposer.records] == [False, True]


@on_loop
async def test_what_has_not_changed_is_not_built_again(control, monkeypatch):
    """Nor after something wrong, or something that the supervisor refused."""
    built: list[str] = []
    build = Headers.build

    def counted(self: Headers, env: Env) -> Hooks:
        built.append(str(env.route))
        return build(self, env)

    def write(*bodies: str) -> None:
        routes = [
            f"  - {{name: r{body[0]}, paths: [/{body[0]}], filters: {{headers: {{request: {{set: {{A: {body}}}}}}}}}, "
            f"respond: {{body: x}}}}"
            for body in bodies
        ]
        control.file.write_text("\n".join([WRITTEN + "routes:", *routes, ""]))

    async def reloaded(why: str = "") -> list[str]:
        built.clear()
        asking = asyncio.create_task(control.proposer.reload("signal"))
        control.answer(await control.proposal(), why)
        assert (await asking).ok is not bool(why)
        return built

    monkeypatch.setattr(Headers, "build", counted)
    write("a1", "b1", "c1")
    assert await reloaded() == ["ra", "rb", "rc"]
    write("a2", "b1", "c1")
    assert await reloaded() == ["ra"]
    write("a3", "b1", "c1")
    assert await reloaded("no") == ["ra"]
    control.write_badly()
    assert not (await control.proposer.reload("signal")).ok
    write("c1", "b2", "a2")
    assert await reloaded() == ["rb"]


@on_loop
async def test_what_the_supervisor_refuses_changes_nothing(control):
    control.write("v2")
    asking = asyncio.create_task(control.proposer.reload("api"))
    await control.proposal()
    control.answer(1, "worker 1: no memory")
    outcome = await asking
    assert (outcome.ok, outcome.generation, outcome.reason) == (False, 1, "failed")
    assert outcome.summary == "not reloaded, generation 1 stays: worker 1: no memory"
    assert control.proposer.current.generation == 1
    assert (await control.changed("v3")).generation == 2  # the number is free


@on_loop
async def test_what_is_worth_knowing_is_told_where_it_begins_to_be_so(control, capfd):
    """Not again at a reload that leaves it as it is, wherever it stands in the file."""
    told = ["filters.key_auth: no consumer has a `key_auth`: every request is refused"]
    control.write_text("filters: {key_auth: {}}")
    dry = await control.proposer.apply(control.text.encode(), ".yaml", dry_run=True)
    assert [f"{each.path}: {each.wrong}" for each in dry.notes] == told
    assert "config_note" not in capfd.readouterr().err
    assert await control.noted() == told
    assert messages(capfd.readouterr().err) == [f"{control.file}:7:11: {told[0]}"]
    control.write_text("# moved\n\nfilters: {key_auth: {}}")
    assert await control.noted() == []
    control.write_text("filters: {key_auth: {}, again: {type: key_auth}}")
    assert await control.noted() == ["filters.again: no consumer has a `key_auth`: every request is refused"]
    control.write_text("")
    assert await control.noted() == []
    (again,) = messages(capfd.readouterr().err)
    assert again.startswith(f"{control.file}:")
    control.write_text("filters: {key_auth: {}}")
    assert await control.noted() == told


@on_loop
async def test_of_many_notes_some_are_told_and_how_many_more_there_are(control, capfd):
    edit = '{type: headers, response: {set: {X: "$http_%s"}}}'
    names = [first + second for first in "abcdefghij" for second in "abcdefghij"]
    control.write_text("filters: {" + ", ".join(f"k{name}: {edit % name}" for name in names) + "}")
    notes = await control.noted()
    assert (len(notes), notes[-1]) == (21, ": and 80 more; `fastgw check` lists them")
    assert len(messages(capfd.readouterr().err)) == 21


@on_loop
async def test_what_the_supervisor_refuses_is_not_noted(control, capfd):
    control.write_text("filters: {key_auth: {}}")
    asking = asyncio.create_task(control.proposer.reload("api"))
    await control.proposal()
    control.answer(1, "worker 1: no memory")
    assert (await asking).notes == ()
    assert "config_note" not in capfd.readouterr().err
    assert len(await control.noted()) == 1


@on_loop
async def test_while_the_gateway_stops_nothing_is_proposed(control):
    control.node_state.words.set_ready(control.node_state.shared, False)
    outcome = await control.proposer.reload("api")
    assert (outcome.ok, outcome.reason) == (False, "busy")


@on_loop
async def test_an_answer_that_was_meant_for_the_one_before_us_says_that_we_missed_something(control):
    missed = []
    control.proposer.on_missed = lambda: missed.append(True)
    control.answer(1, "it was refused")
    assert missed == []
    control.answer(2)
    assert missed == [True]


@on_loop
async def test_one_goes_back_step_by_step(control):
    for number in (2, 3):
        await control.changed(f"v{number}")
    for expected in ("v2", "v1"):
        asking = asyncio.create_task(control.proposer.rollback(None))
        control.answer(await control.proposal())
        assert (await asking).ok
        assert control.read[-1] == expected
    refused = await control.proposer.rollback(None)
    assert (refused.ok, refused.reason) == (False, "rejected")


async def back(control: Control, generation: int | None = None) -> str:
    asking = asyncio.create_task(control.proposer.rollback(generation))
    control.answer(await control.proposal())
    assert (await asking).ok
    return control.read[-1]


@on_loop
async def test_the_copies_of_rollbacks_take_no_place_of_what_is_kept(control):
    for number in range(2, 8):
        await control.changed(f"v{number}")
    assert [await back(control) for _ in range(5)] == ["v6", "v5", "v4", "v3", "v2"]
    refused = await control.proposer.rollback(None)
    said = "cannot roll back further: kept are 3, 4, 5, 6, 7"
    assert (refused.reason, refused.summary, refused.kept) == ("rejected", said, [3, 4, 5, 6, 7])
    assert await back(control, 7) == "v7"
    refused = await control.proposer.rollback(1)
    assert refused.summary.startswith("cannot roll back to 1: kept are 2, ")


@on_loop
async def test_on_from_a_rollback_the_next_one_leads_to_it_and_not_to_what_it_left(control):
    for text in ("v2", "bad"):
        await control.changed(text)
    assert await back(control) == "v2"
    await control.changed("worse")
    assert [await back(control), await back(control, 3), await back(control)] == ["v2", "bad", "v1"]


@on_loop
async def test_while_the_gateway_stops_no_rollback_is_looked_at(control):
    control.node_state.words.set_ready(control.node_state.shared, False)
    outcome = await control.proposer.rollback(99)
    assert (outcome.reason, outcome.summary) == ("busy", "not possible now: the gateway is not serving")


@on_loop
async def test_a_posted_document_may_not_read_the_environment(control, monkeypatch):
    """Whoever may post one could read out every variable of the gateway's: `GET /config` shows what it holds."""
    monkeypatch.setenv("GW_HELD", "held-by-the-gateway")
    text = control.file.read_text().replace("body: v1", "body: {env: GW_HELD}")
    outcome = await control.proposer.apply(text.encode(), ".yaml", dry_run=True)
    assert not outcome.ok
    assert "a configuration sent to the admin API may not read environment variables" in str(outcome.problems[0])
    assert "held-by-the-gateway" not in f"{outcome}"


@on_loop
async def test_what_is_wrong_with_a_posted_document_is_not_blamed_on_the_file(control):
    outcome = await control.proposer.apply(b"[]", ".yaml", dry_run=True)
    assert [str(each) for each in outcome.problems] == ["POST /config:1:1: a list; expected an object"]
    text = WRITTEN + "routes: [{name: a, respond: {}}, {name: a, respond: {}}]\n"
    outcome = await control.proposer.apply(text.encode(), ".yaml", dry_run=True)
    assert {each.file for each in outcome.problems} == {"POST /config"}
    assert "gateway.yaml" not in str(outcome.problems)


@on_loop
async def test_a_trial_says_that_new_addresses_are_not_tried(control):
    text = f"{WRITTEN}routes: [{{name: all, respond: {{body: v2}}}}]\n"
    for address, said in (("127.0.0.1:0", False), ("127.0.0.1:1", True)):
        posted = text.replace("127.0.0.1:0", address).encode()
        outcome = await control.proposer.apply(posted, ".yaml", dry_run=True)
        assert outcome.ok
        assert outcome.summary.endswith("\naddresses are not tried") is said


@on_loop
async def test_changes_since_a_kept_configuration_include_those_of_consumers(control):
    consumers = "consumers: [{name: alice}, {name: bob%s}]"
    for more in ("", ", groups: [gold]"):
        control.write_text(consumers % more)
        await control.noted()
    control.write_text("consumers: [{name: bob, groups: [gold]}, {name: carol}]")
    await control.noted()
    kept = [each.generation for each in control.proposer.kept_configurations()]
    changes = [(await control.proposer.changes_since(each))[0].splitlines() for each in kept]
    assert changes == [
        ["consumer alice: removed", "consumer carol: added"],
        ["consumer alice: removed", "consumer bob: groups [] -> [gold]", "consumer carol: added"],
        ["route all: respond.body v1 -> x", "consumer bob: added", "consumer carol: added"],
    ]


@on_loop
async def test_what_is_masked_because_of_filters_is_no_difference(control):
    """Also for a control process that has not read the configuration itself."""
    control.write_text(
        "filters: {request_parameters: {query: {tenant: x}}}\naccess_logs: [{redact: [mine]}]\n"
        "telemetry: {traces: {otlp: {url: 'http://127.0.0.1:9'}}, slo: {availability: 99%}}"
    )
    control.text = control.text.replace("name: all,", "name: all, slo: {availability: 99.9%},")
    control.file.write_text(control.text)
    await control.noted()
    accepted = control.proposer.current
    assert accepted.settings.access_logs[0].redact == ("mine", "tenant")
    assert accepted.settings.telemetry.traces.redact == ("mine", "tenant")
    assert [*accepted.settings.telemetry.route_slos] == ["all"]
    control.node_state.sealed = Sealed(accepted, seal(accepted))
    for proposer in (control.proposer, Proposer(control.node_state, control.proposer._channel)):
        dry = await proposer.apply(control.text.encode(), ".yaml", dry_run=True)
        assert dry.summary == "nothing changes"


@on_loop
async def test_a_trial_changes_nothing(control):
    text = f"{WRITTEN}routes: [{{name: other, respond: {{body: v2}}}}]\n".encode()
    outcome = await control.proposer.apply(text, ".yaml", dry_run=True)
    assert (outcome.ok, outcome.generation) == (True, 1)
    assert "other" in outcome.summary
    assert (control.read, control.proposer.records) == ([], [])


def found(descriptor: int) -> list[str]:
    """The names of the consumers in a proposal."""
    try:
        return [each.name for each in unseal(descriptor).index.known()]
    finally:
        os.close(descriptor)


@on_loop
async def test_files_of_consumers_are_taken_without_the_rest_and_survive_a_rollback(tmp_path):
    """A key that was withdrawn does not come back with the routes of yesterday."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.yaml").write_text("consumers: [{name: alice}]")
    control = Control(tmp_path)
    try:
        (tmp_path / "gateway.yaml").write_text(f"{WRITTEN}consumer_files: ['d/*.yaml']\n")
        reloading = asyncio.create_task(control.proposer.reload("signal"))
        assert await control.consumers() == ["alice"]
        assert (await reloading).ok
        before = control.proposer.current
        (tmp_path / "d" / "b.yaml").write_text("consumers: [{name: bob, key_auth: [{key: planted}]}]")
        (tmp_path / "d" / "a.yaml").unlink()
        (tmp_path / "gateway.yaml").write_text("nobody asked for this to be read")
        refreshing = asyncio.create_task(control.proposer.refresh())
        assert await control.consumers() == ["bob"]
        await refreshing
        assert control.proposer.current.sources == before.sources
        assert control.proposer.current.index.digest != before.index.digest
        rolling_back = asyncio.create_task(control.proposer.rollback(1))
        assert await control.consumers() == []
        assert (await rolling_back).ok
        rolling_back = asyncio.create_task(control.proposer.rollback(3))
        assert await control.consumers() == ["bob"]
        await rolling_back
    finally:
        control.close()


@on_loop
async def test_a_file_of_consumers_that_cannot_be_read_changes_nothing(tmp_path):
    (tmp_path / "a.yaml").write_text("consumers: [{name: alice}]")
    control = Control(tmp_path)
    try:
        (tmp_path / "gateway.yaml").write_text(f"{WRITTEN}consumer_files: [a.yaml]\n")
        reloading = asyncio.create_task(control.proposer.reload("signal"))
        assert await control.consumers() == ["alice"]
        await reloading
        (tmp_path / "a.yaml").write_text("consumers: [{name: alice, key_auth: [{key: planted with blanks}]}]")
        await control.proposer.refresh()
        assert control.proposer.current.index.count == 1
        (why,) = control.proposer.records[-1].problems
        assert (why.wrong, why.line) == ("not printable ASCII", 1)
        assert "planted" not in str(why)
    finally:
        control.close()


@on_loop
async def test_filters_that_cannot_be_built_are_told_at_their_places(control):
    """All of them, by a reload as by a posted document."""
    wrong = "{type: jwt, algorithms: [HS256], secret: short}"
    text = f"{WRITTEN}filters:\n  a: {wrong}\n  b: {wrong}\nroutes: [{{name: all, respond: {{}}}}]\n"
    with open(control.proposer.current.file, "w") as file:
        file.write(text)
    outcome = await control.proposer.reload("signal")
    assert [(each.line, each.path) for each in outcome.problems] == [(7, "filters.a"), (8, "filters.b")]
    assert {each.file for each in outcome.problems} == {control.proposer.current.file}
    posted = await control.proposer.apply(text.encode(), ".yaml", dry_run=True)
    assert [(each.file, each.line) for each in posted.problems] == [("POST /config", 7), ("POST /config", 8)]


@on_loop
async def test_an_access_log_that_cannot_be_written_is_reported_at_its_position(control, tmp_path):
    text = f"{WRITTEN}access_logs:\n  - sink: {tmp_path}\nroutes: [{{name: all, respond: {{}}}}]\n"
    control.file.write_text(text)
    outcome = await control.proposer.reload("signal")
    (problem,) = outcome.problems
    line = text.splitlines().index(f"  - sink: {tmp_path}") + 1
    place = f"{control.proposer.current.file}:{line}:11: access_logs[0].sink"
    assert str(problem).startswith(f"{place}: {tmp_path} is a directory; expected `stdout`, or a file ")
    posted = await control.proposer.apply(text.encode(), ".yaml", dry_run=True)
    assert [(each.file, each.line) for each in posted.problems] == [("POST /config", line)]


class Certified(Control):
    """Its configuration names a certificate and a list of what is revoked."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.folder = directory
        authority = Certificates(directory)
        self.certificate, self.key = map(Path, authority.issue("a.test"))
        self.crl = Path(authority.revoke())
        self.client_auth = f"client_auth: {{ca: {authority.ca}, crl: {self.crl}}}"
        (directory / "a.yaml").write_text("consumers: [{name: alice}]")

    def text(self, port: int, certificate: str = "") -> str:
        pair = f"{{certificate: {certificate or self.certificate}, key: {self.key}}}"
        listener = f"{{address: '127.0.0.1:{port}', tls: {{certificates: [{pair}], {self.client_auth}}}}}"
        written = WRITTEN.replace("{address: 127.0.0.1:0}", listener)
        return f"{written}consumer_files: ['*a.yaml']\n"

    async def reloaded(self) -> Outcome:
        reloading = asyncio.create_task(self.proposer.reload("signal"))
        assert await self.consumers() == ["alice"]
        return await reloading


@pytest.mark.parametrize("which", ["certificate", "key", "crl", "crl away"])
@on_loop
async def test_a_certificate_that_is_broken_holds_up_no_other_change(tmp_path, which):
    """Good contents are in force: they stay, and it is told. Where there are none, nothing is taken."""
    control = Certified(tmp_path)
    try:
        file = tmp_path / "gateway.yaml"
        file.write_text(control.text(0))
        assert (await control.reloaded()).ok
        good = control.proposer.current.captured
        broken = {"certificate": control.certificate, "key": control.key}.get(which, control.crl)
        if which == "crl away":
            broken.unlink()
        else:
            broken.write_bytes(b"nothing")
        (tmp_path / "a.yaml").write_text("consumers: [{name: alice, groups: [admin]}]")

        tried = await control.proposer.apply(control.text(1).encode(), ".yaml", dry_run=True)
        assert tried.ok
        assert tried.summary.endswith("the previous contents stay active")
        file.write_text(control.text(1))
        outcome = await control.reloaded()
        assert outcome.ok
        assert f"; {broken}: " in outcome.summary
        assert control.proposer.current.captured[str(broken)] == good[str(broken)]
        assert [[*each.groups] for each in control.proposer.current.index.known()] == [["admin"]]
        assert str(broken) in control.proposer.withheld

        (tmp_path / "a.yaml").write_text("consumers: [{name: bob}]")
        refreshing = asyncio.create_task(control.proposer.refresh())
        assert await control.consumers() == ["bob"]
        await refreshing
        assert str(broken) in control.proposer.withheld

        other = tmp_path / "other.pem"
        other.write_bytes(b"nothing")
        file.write_text(control.text(2, str(other)))
        outcome = await control.proposer.reload("signal")
        assert not outcome.ok
        assert str(other) not in control.proposer.withheld
    finally:
        control.close()


@on_loop
async def test_a_key_that_is_missing_for_a_new_certificate_is_called_missing(tmp_path):
    """The active one would not match, but that is not what has to be mended."""
    control = Certified(tmp_path)
    try:
        (tmp_path / "gateway.yaml").write_text(control.text(0))
        assert (await control.reloaded()).ok
        (tmp_path / "other").mkdir()
        other, _ = map(Path, Certificates(tmp_path / "other").issue("a.test"))
        control.certificate.write_bytes(other.read_bytes())
        control.key.unlink()
        await control.proposer.refresh()
        why = f"{control.key}: cannot be read: No such file or directory"
        withheld = control.proposer.withheld
        assert (withheld[str(control.key)], withheld[str(control.certificate)]) == (why, why)
    finally:
        control.close()


@on_loop
async def test_a_certificate_that_has_expired_is_not_taken_by_a_reload_either(tmp_path):
    control = Certified(tmp_path)
    try:
        file = tmp_path / "gateway.yaml"
        file.write_text(control.text(0))
        assert (await control.reloaded()).ok
        good = control.proposer.current.captured
        late = Certificates(tmp_path).issue("a.test", stem="late", days=-1)
        control.certificate.write_bytes(Path(late[0]).read_bytes())
        control.key.write_bytes(Path(late[1]).read_bytes())
        file.write_text(control.text(1))
        outcome = await control.reloaded()
        assert outcome.ok
        assert "the certificate has expired" in outcome.summary
        assert control.proposer.current.captured[str(control.certificate)] == good[str(control.certificate)]
        assert "has expired" in control.proposer.withheld[str(control.certificate)]
    finally:
        control.close()


class Filed(Control):
    """Its configuration names secrets, and consumers in files."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.folder = directory
        for name in ("one", "two"):
            (directory / name).write_text("0123456789abcdef0123456789abcdef")
        self.consumer("a", "alice")
        with open(self.proposer.current.file, "w") as file:
            secrets = "".join(
                f"  {name}: {{type: jwt, algorithms: [HS256], audiences: [x], issuer: y, secret: {{file: {name}}}}}\n"
                for name in ("one", "two")
            )
            rest = "consumer_files: ['*.consumers.yaml']\nroutes: [{name: all, respond: {}}]\n"
            file.write(f"{WRITTEN}{rest}filters:\n{secrets}")

    def consumer(self, stem: str, name: str, key: str = "") -> None:
        keys = f", key_auth: [{{key: {key}}}]" if key else ""
        (self.folder / f"{stem}.consumers.yaml").write_text(f"consumers: [{{name: {name}{keys}}}]")

    async def taken(self) -> list[str]:
        refreshing = asyncio.create_task(self.proposer.refresh())
        names = await self.consumers()
        await refreshing
        return names

    @property
    def held(self) -> set[str]:
        return {Path(file).name for file in self.proposer.withheld}


@pytest.fixture
def filed(tmp_path: Path) -> Iterator[Filed]:
    filed = Filed(tmp_path)
    yield filed
    filed.close()


async def begun(filed: Filed) -> None:
    reloading = asyncio.create_task(filed.proposer.reload("signal"))
    assert await filed.consumers() == ["alice"]
    assert (await reloading).ok


@on_loop
async def test_a_secret_that_is_too_short_holds_up_nobody(filed):
    """It keeps what was in force, and a consumer that is removed meanwhile is gone; so it is until it is mended."""
    await begun(filed)
    good = filed.proposer.current.captured
    (filed.folder / "one").write_text("short")
    filed.consumer("a", "bob")
    assert await filed.taken() == ["bob"]
    assert filed.held == {"one"}
    (why,) = filed.proposer.withheld.values()
    assert "less than 32 bytes" in why
    assert "short" not in why.replace("shorter", "")
    assert filed.proposer.current.captured[str(filed.folder / "one")] == good[str(filed.folder / "one")]
    filed.consumer("a", "carol")
    assert await filed.taken() == ["carol"]
    assert filed.held == {"one"}
    (filed.folder / "one").write_text("fedcba9876543210fedcba9876543210")
    assert await filed.taken() == ["carol"]
    assert filed.held == set()


@on_loop
async def test_several_files_that_are_wrong_hold_up_nobody(filed):
    await begun(filed)
    (filed.folder / "one").write_text("short")
    (filed.folder / "two").unlink()
    filed.consumer("b", "bad name")
    filed.consumer("c", "carol")
    assert await filed.taken() == ["alice", "carol"]
    assert filed.held == {"one", "two", "b.consumers.yaml"}


@on_loop
async def test_a_reload_goes_on_without_a_secret_that_is_wrong(filed):
    await begun(filed)
    (filed.folder / "one").write_text("")
    filed.consumer("a", "bob")
    reloading = asyncio.create_task(filed.proposer.reload("api"))
    assert await filed.consumers() == ["bob"]
    outcome = await reloading
    assert outcome.ok
    assert "one is empty" in outcome.summary
    assert filed.held == {"one"}


@on_loop
async def test_what_is_wrong_and_alone_is_told_once_and_nothing_is_proposed(filed):
    await begun(filed)
    (filed.folder / "one").write_text("short")
    await filed.proposer.refresh()
    assert filed.held == {"one"}
    assert (filed.proposer.current.generation, filed.proposer.records[-1].ok) == (2, False)
    told = len(filed.proposer.records)
    await filed.proposer.refresh()
    assert len(filed.proposer.records) == told
    assert filed.held == {"one"}


@on_loop
async def test_what_was_wrong_and_is_as_it_was_is_told_and_no_failure_any_more(filed, capfd):
    await begun(filed)
    good = (filed.folder / "one").read_text()
    (filed.folder / "one").write_text("short")
    (filed.folder / "two").unlink()
    await filed.proposer.refresh()
    assert not filed.proposer.records[-1].ok
    (filed.folder / "one").write_text(good)
    capfd.readouterr()
    await filed.proposer.refresh()
    assert filed.held == {"two"}
    assert messages(capfd.readouterr().err) == [f"{filed.folder}/one: valid again, the current contents are active"]
    assert not filed.proposer.records[-1].ok, "something is withheld"
    (filed.folder / "two").write_text(good)
    assert await filed.taken() == ["alice"]
    assert filed.held == set()
    assert filed.proposer.records[-1].ok
    generation = filed.proposer.current.generation
    await filed.proposer.refresh()
    assert filed.proposer.current.generation == generation


@on_loop
async def test_a_reload_that_failed_for_something_else_stays_one(filed):
    await begun(filed)
    (filed.folder / "two").unlink()
    await filed.proposer.refresh()
    assert filed.held == {"two"}
    filed.write_badly()
    assert not (await filed.proposer.reload("signal")).ok
    (filed.folder / "two").write_text((filed.folder / "one").read_text())
    await filed.proposer.refresh()
    assert filed.held == set()
    assert not filed.proposer.records[-1].ok


APPLICATION = """
apiVersion: applicationconnector.kyma-project.io/v1alpha1
kind: Application
metadata: {name: shop}
spec: {services: [{name: stock, entries: [{type: API, targetUrl: "https://a.test"}]}]}
"""


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read what it likes."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@on_loop
async def test_a_directory_that_must_not_be_read_takes_nothing_along(capfd):
    """Nothing is found in it, as in an empty one."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        apps = Path(folder) / "apps"
        apps.mkdir()
        (apps / "shop.yaml").write_text(APPLICATION)
        control = Control(Path(folder))
        try:
            control.file.write_text(f"{control.file.read_text()}providers: {{kyma: {{directory: apps}}}}\n")
            reloading = asyncio.create_task(control.proposer.reload("signal"))
            control.answer(await control.proposal())
            assert (await reloading).ok
            apps.chmod(0)
            capfd.readouterr()
            with nobody():
                await asyncio.wait_for(control.proposer.refresh(), DEADLINE)
            stays = f"{apps}: cannot be read: Permission denied: the previous contents stay active"
            assert {*control.proposer.withheld.values()} == {stays.partition(": the previous")[0]}
            assert messages(capfd.readouterr().err) == [stays]
            apps.chmod(0o755)
            await asyncio.wait_for(control.proposer.refresh(), DEADLINE)
            assert control.proposer.withheld == {}
            assert messages(capfd.readouterr().err) == [
                f"{apps}/shop.yaml: valid again, the current contents are active"
            ]
            assert control.proposer.current.generation == 2
        finally:
            control.close()


# --- what watches say ---

WATCHED = "kubernetes://kyma"


class Following(Control):
    """A file with an application gateway, and with a file of consumers."""

    def write(self, text: str) -> None:
        self.consumer_file = self.file.with_name("consumers.yaml")
        self.consumer_file.write_text("consumers: [{name: alice}]\n")
        self.file.write_text(
            f"{WRITTEN}consumer_files: [consumers.yaml]\nproviders: {{kyma: {{kubernetes: {{}}}}}}\n"
            f"routes: [{{name: all, paths: [/all], respond: {{body: {text}}}}}]\n"
        )

    async def captured(self) -> tuple[int, dict[str, bytes]]:
        """The generation that is proposed next, and its files."""
        while not isinstance(message := self._supervisor.receive(), Propose):
            await asyncio.sleep(0)
        (descriptor,) = self._supervisor.take_descriptors()
        captured = unseal(descriptor).captured
        os.close(descriptor)
        return message.generation, captured


@pytest.fixture
def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Following]:
    monkeypatch.setattr(virtual_files, "_contents", {})
    following = Following(tmp_path)
    yield following
    following.close()


@on_loop
async def test_what_a_watch_says_is_taken_and_of_other_files_nothing(following):
    """Half a list of consumers may well make sense: who watches the files waits until they stand still."""
    following.consumer_file.write_text("consumers: [{name: bob}]\n")
    virtual_files.set_content(WATCHED, b"[]\n")
    taking = asyncio.create_task(following.proposer.apply_watched_objects(WATCHED))
    generation, captured = await following.captured()
    assert captured[WATCHED] == b"[]\n"
    assert b"alice" in captured[str(following.consumer_file)]
    following.answer(generation)
    assert (await taking).is_tried
    assert (await following.proposer.apply_watched_objects(WATCHED)).is_tried, "it is in force"
    assert following.proposer.current.captured[WATCHED] == b"[]\n"


@on_loop
async def test_what_a_watch_says_is_to_be_tried_again_where_it_could_not_be(following):
    virtual_files.set_content(WATCHED, b"[]\n")
    following.node_state.words.set_ready(following.node_state.shared, False)
    assert not (await following.proposer.apply_watched_objects(WATCHED)).is_tried, (
        "before the start is over, or once the end has begun"
    )
    following.node_state.words.set_ready(following.node_state.shared, True)
    taking = asyncio.create_task(following.proposer.apply_watched_objects(WATCHED))
    generation, _ = await following.captured()
    following.answer(generation, why="a worker has refused")
    assert not (await taking).is_tried


@pytest.mark.parametrize(
    "name",
    [
        WATCHED,
        FollowedFile("vault", "1a2b", "secret/app#key").name,
        *(FollowedFile(kind, "1a2b", "users").name for kind in DISCOVERIES),
        virtual_files.issued_name("/none", ["a.test"], "ecdsa"),
    ],
)
def test_control_begins_with_the_contents_in_force_and_not_with_those_that_the_supervisor_has_read(
    following: Following, name: str
) -> None:
    """A fork copies what the supervisor has read at its start; what is not in force any more is read again."""
    current = following.node_state.sealed.whole()
    now = msgspec.structs.replace(current, captured={**current.captured, name: b"in force"})
    node_state = node_state_of(sealed=Sealed(now, seal(now)))
    virtual_files.remember(name, b"of the start")
    virtual_files.remember(FollowedFile("vault", "1a2b", "secret/app#former").name, b"of the start")
    Proposer(node_state, following.channel)
    assert Disk().read(name) == b"in force"
    assert virtual_files.known_content(FollowedFile("vault", "1a2b", "secret/app#former").name) is None
    close_node(node_state)


@on_loop
async def test_what_a_watch_says_concerns_nobody_who_does_not_name_it(control):
    assert (await control.proposer.apply_watched_objects(WATCHED)).is_tried
