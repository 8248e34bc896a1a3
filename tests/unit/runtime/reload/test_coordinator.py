"""What the supervisor decides about a proposal: what is taken, what is refused, and what follows for late workers."""

import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import pytest

from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import DEFAULT_STATUS
from fastgw.runtime.ipc.channel import (
    Abort,
    Commit,
    Prepare,
    Propose,
    ProposeTargets,
    Rejected,
    ReloadResult,
    Sockets,
    UseTargets,
)
from fastgw.runtime.node import node_state, startup
from fastgw.runtime.node.child_slots import Child
from fastgw.runtime.reload.coordinator import RECORDS, Reloading, changed_files, describe_outcome
from fastgw.runtime.reload.rollback_history import KEPT
from fastgw.runtime.sockets.listening_sockets import ListeningEndpoint, open_endpoint
from fastgw.runtime.sockets.systemd_activation import Inherited, Passed, bound_to
from fastgw.runtime.supervisor import hang_detection
from tests.support.gateway import messages
from tests.support.node import ANYWHERE, Crew, close_node, node_state_of, sealed_document

STATUS = f"status: {ANYWHERE}"


def sockets_of_this_process() -> set[str]:
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the directory itself
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in links if link.startswith("socket:")}


class Node(Crew):
    """A supervisor's reloading and two workers; `outcomes` is what control was told."""

    def __init__(self) -> None:
        super().__init__(2)
        self.node_state = node_state_of()
        self.serving = True
        self.outcomes: list[ReloadResult] = []
        self.changes: list[Mapping[str, ListeningEndpoint]] = []
        self.recorded: list[tuple[str, bool, str]] = []
        self.reloading = Reloading(
            self.node_state,
            lambda: self.serving,
            lambda: [child for child in self.children if child.ready and not child.leaving],
            self.outcomes.append,
            self.changes.append,
            lambda reload, changes: self.recorded.append((reload.source, reload.ok, changes)),
        )

    def propose(
        self,
        generation: int = 2,
        listeners: Sequence[str] = ("main",),
        more: str = "",
        address: str = "127.0.0.1:0",
    ) -> None:
        sealed = sealed_document(generation, listeners, more, address)
        self.reloading.propose(Propose(generation=generation, source="signal"), sealed.descriptor)

    def commits(self, child: Child) -> None:
        """It says so."""
        child.generation = self.node_state.sealed.generation
        self.reloading.was_committed(child)

    def change(
        self,
        generation: int = 2,
        listeners: Sequence[str] = ("main",),
        more: str = "",
        address: str = "127.0.0.1:0",
    ) -> None:
        """The whole of it."""
        self.propose(generation, listeners, more, address)
        for child in self.children:
            self.reloading.prepared(child, generation)
        for child in self.children:
            self.commits(child)

    def close(self) -> None:
        super().close()
        close_node(self.node_state)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def test_all_prepare_then_it_is_in_force_then_all_commit(node):
    one, two = node.children
    node.propose()
    node.reloading.prepared(one, 2)
    assert (node.node_state.sealed.generation, node.outcomes) == (1, [])
    node.reloading.prepared(two, 2)
    assert node.node_state.sealed.generation == 2
    for child in node.children:
        assert node.told(child) == [Prepare, Commit]
        node.commits(child)
    (outcome,) = node.outcomes
    assert describe_outcome(outcome) == "reloaded: generation 2 on 2/2 workers"
    assert not node.reloading.under_way


def test_other_targets_are_used_in_the_same_generation_and_a_late_worker_prepares_anew(node):
    """A worker that still prepares the generation has the previous document of it."""
    one, two = node.children
    node.change()
    late = node.born(1)
    node.reloading.catch_up(late)
    assert [node.told(child) for child in (one, two, late)] == [
        [Prepare, Commit],
        [Prepare, Commit],
        [Sockets, Prepare],
    ]
    before = node.node_state.sealed
    sealed = sealed_document(2, more="status: null")
    node.reloading.propose_targets(
        ProposeTargets(generation=2), sealed.descriptor, os.memfd_create("change"), [one, two, late]
    )
    assert [node.told(child) for child in (one, two, late)] == [[UseTargets], [UseTargets], [Prepare]]
    assert node.node_state.sealed is not before
    assert [(each.ok, each.generation) for each in node.outcomes] == [(True, 2), (True, 2)]
    assert not node.reloading.under_way


@pytest.mark.parametrize(
    ("generation", "why"), [(1, "another change is in progress"), (2, "it is based on generation 2, but 1 is active")]
)
def test_other_targets_wait_for_a_change_and_need_the_active_generation(node, generation, why):
    if generation == 1:
        node.propose()
    node.reloading.propose_targets(
        ProposeTargets(generation=generation),
        sealed_document(generation).descriptor,
        os.memfd_create("change"),
        node.children,
    )
    (outcome,) = node.outcomes
    assert (outcome.ok, outcome.why, outcome.passing) == (False, why, True)
    assert [UseTargets in node.told(child) for child in node.children] == [False, False]


@pytest.mark.parametrize("generation", [1, 3])
def test_what_does_not_follow_on_what_is_in_force_is_refused(node, generation):
    node.propose(generation)
    (outcome,) = node.outcomes
    assert not outcome.ok
    assert outcome.why == f"it is based on generation {generation - 1}, but generation 1 is active"
    assert [node.told(child) for child in node.children] == [[], []]


def test_a_second_change_is_refused_while_one_is_under_way(node):
    node.propose()
    node.propose()
    (outcome,) = node.outcomes
    assert (outcome.ok, outcome.why) == (False, "another change is in progress")
    assert node.reloading.under_way


def test_a_child_forked_during_a_change_holds_none_of_its_sockets(node):
    """Otherwise it would keep their ports if the change fails, or a later one removes the listener."""
    before = sockets_of_this_process()
    node.propose(listeners=["main", "more"], more=STATUS)
    assert sockets_of_this_process() > before
    node.reloading.forget()
    assert sockets_of_this_process() == before


def test_the_end_of_the_gateway_comes_first(node):
    node.serving = False
    node.propose()
    assert [each.why for each in node.outcomes] == ["the gateway stops"]


def test_one_refusal_aborts_all_and_the_new_listener_is_closed(node):
    one, two = node.children
    node.propose(listeners=["main", "more"])
    assert node.told(one) == [Sockets, Prepare]
    node.reloading.refused(one, 2, "no memory")
    (outcome,) = node.outcomes
    assert (outcome.ok, outcome.generation, outcome.why) == (False, 1, "worker 1: no memory")
    assert node.told(two) == [Sockets, Prepare, Abort]
    assert list(node.node_state.endpoints) == [0]
    assert node.node_state.words.is_serving(node.node_state.shared) is False
    node.change(listeners=["main", "more"])
    assert node.told(one) == [Abort, Sockets, Prepare, Commit]  # other sockets, under a number of their own


def test_a_listener_that_comes_back_has_sockets_that_the_workers_are_told_of(node):
    one, _ = node.children
    node.change(2, ["main", "more"])
    node.change(3, ["main"])
    node.told(one)
    node.change(4, ["main", "more"])
    assert node.told(one) == [Sockets, Prepare, Commit]
    counts = [(each.listeners_added, each.listeners_removed) for each in node.outcomes]
    assert counts == [(1, 0), (0, 1), (1, 0)]


@pytest.fixture
def passed(node: Node) -> Iterator[Passed]:
    """A socket that systemd has passed and holds too, and no listener uses."""
    with socket.create_server(("127.0.0.1", 0)) as held, held.dup() as listening:
        passed = Passed(listening, "web")
        node.node_state.passed = Inherited([passed])
        yield passed


def test_a_socket_of_systemd_stays_open_without_its_listener_and_the_next_one_has_it(node, passed, capfd):
    """systemd passes it once, and the gateway could not bind its address."""
    address = str(bound_to(passed.socket))
    node.change(2, address=address)
    assert node.node_state.passed.left == ()
    assert "systemd listens" not in capfd.readouterr().err
    node.change(3)
    assert node.node_state.passed.left == (passed,)
    assert f"warning: systemd listens on {address} (web), and no listener has that address" in capfd.readouterr().err
    node.change(4, address=address)
    assert [each.why for each in node.outcomes] == ["", "", ""]
    assert [each.sockets for each in node.node_state.endpoints.values()] == [[passed.socket]]


@pytest.mark.parametrize("more", ["", STATUS])
def test_a_change_that_is_refused_gives_back_the_sockets_of_systemd(node, passed, capfd, more):
    """The listener's, or that of control. No log line repeats what the start has logged."""
    address = str(bound_to(passed.socket))
    main, more = ("127.0.0.1:0", more.replace("127.0.0.1:0", address)) if more else (address, "")
    node.propose(address=main, more=more)
    assert node.node_state.passed.left == ()
    node.reloading.refused(node.children[0], 2, "no memory")
    assert node.node_state.passed.left == (passed,)
    assert "systemd listens" not in capfd.readouterr().err
    node.change(address=main, more=more)
    assert [each.why for each in node.outcomes] == ["worker 1: no memory", ""]


def test_a_listener_that_cannot_listen_leaves_the_sockets_of_systemd_to_the_next_change(node, passed):
    address = str(bound_to(passed.socket))
    with socket.create_server(("127.0.0.1", 0)) as other:
        node.propose(address=address, more=f"status: {{address: {bound_to(other)}}}")
    assert not node.outcomes[0].ok
    node.change(address=address)
    assert node.outcomes[1].ok


def test_a_change_that_takes_too_long_is_given_up(node):
    one, _ = node.children
    node.propose()
    node.reloading.check_deadline(node.reloading.due_at - 0.1)
    assert node.reloading.under_way
    node.reloading.check_deadline(node.reloading.due_at)
    assert [each.why for each in node.outcomes] == ["not all workers were prepared in time"]
    assert node.told(one) == [Prepare, Abort]


def test_a_late_worker_is_told_to_commit_as_soon_as_it_is_prepared(node):
    late, other = node.children
    node.propose()
    node.reloading.child_gone(late)
    node.reloading.prepared(other, 2)
    node.commits(other)
    assert node.outcomes[0].ok
    assert node.told(late) == [Prepare]
    node.reloading.catch_up(late)
    assert node.told(late) == []  # it knows
    node.reloading.prepared(late, 2)
    assert node.told(late) == [Commit]


def test_a_worker_that_hangs_is_killed_before_anybody_serves_the_next_generation(node, monkeypatch):
    """It must answer nothing by what was in force before, whenever it wakes."""
    late, other = node.children
    late.silent = True
    before: list[list[type]] = []

    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (late.pid, signal.SIGKILL)
        before.append(node.told(other))

    monkeypatch.setattr(hang_detection.os, "kill", kill)
    node.propose(listeners=["more"])
    assert before == []
    node.reloading.prepared(other, 2)
    assert len(before) == 1
    assert Commit not in before[0]
    node.commits(other)
    assert node.told(other)[-1] is Commit
    assert node.told(late) == []
    assert tells(node).startswith("reloaded: generation 2 on 1/2 workers, 1 does not answer")


def test_where_all_workers_hang_none_is_killed_and_the_change_waits(node, monkeypatch):
    """They may all have been stopped for a moment, together with the machine."""
    one, two = node.children
    one.silent = two.silent = True
    monkeypatch.setattr(hang_detection.os, "kill", lambda pid, number: pytest.fail("it is killed"))
    node.propose()
    assert (node.node_state.sealed.generation, node.outcomes) == (1, [])
    for child in (one, two):
        child.silent = False
        node.reloading.is_ready(child)
        assert Prepare in node.told(child)
    for child in (one, two):
        node.reloading.prepared(child, 2)
    for child in (one, two):
        node.commits(child)
    assert [(each.ok, each.committed, each.workers) for each in node.outcomes] == [(True, 2, 2)]


def test_a_late_worker_that_cannot_follow_is_to_be_replaced(node):
    late, other = node.children
    node.propose()
    node.reloading.child_gone(late)
    node.reloading.prepared(other, 2)
    node.reloading.refused(late, 2, "no memory")
    assert (late.outdated, other.outdated) == (True, False)
    node.commits(other)
    assert node.outcomes[0].ok


def test_who_is_told_to_commit_what_it_has_not_prepared_is_to_be_replaced(node):
    """Its answer to a change that was given up was taken for one to the next, which has the same number."""
    one, two = node.children
    node.propose()
    node.reloading.refused(two, 2, "no memory")
    node.propose()
    node.reloading.prepared(one, 2)  # on its way since before
    node.reloading.prepared(two, 2)
    node.commits(two)
    node.reloading.refused(one, 2, "it is not prepared")
    assert one.outdated
    assert [each.ok for each in node.outcomes] == [False, True]


def test_an_old_answer_changes_nothing(node):
    """Of a worker that had not heard yet that it was given up."""
    one, two = node.children
    node.propose()
    node.reloading.refused(one, 2, "no")
    node.reloading.prepared(two, 2)
    node.reloading.refused(two, 2, "no")
    node.commits(two)
    assert (len(node.outcomes), node.node_state.sealed.generation, two.outdated) == (1, 1, False)


def test_control_listens_where_the_new_configuration_says(node):
    node.propose(more=STATUS.replace("status", "status"))
    assert node.changes == []
    for child in node.children:
        node.reloading.prepared(child, 2)
    for child in node.children:
        node.commits(child)
    ((name, endpoint),) = node.changes[0].items()
    assert name == "status"
    endpoint.close()


def test_what_control_found_wrong_is_counted_and_remembered(node):
    node.reloading.rejected(Rejected(generation=1, source="file", why="nonsense"))
    (record,) = node.node_state.records
    assert (record.ok, record.generation, record.source, record.summary) == (False, 1, "file", "nonsense")
    words, own = node.node_state.words, node.node_state.shared.supervisor.words
    assert (own[words.reloads_failed], own[words.last_reload_failed]) == (1, 1)


def test_a_document_that_did_not_come_is_told_as_passing(node):
    """The supervisor could not take its descriptor: it may have no more files open."""
    node.reloading.postpone_proposal(
        Propose(generation=2, source="signal"), "the supervisor may have no more files open (ulimit -n)"
    )
    (outcome,) = node.outcomes
    assert (outcome.ok, outcome.passing, outcome.generation) == (False, True, 1)
    assert node.node_state.records[0].subject == "file"


@pytest.mark.parametrize("passing", [True, False])
def test_why_a_worker_refuses_is_passing_or_not(node, passing):
    one, _ = node.children
    node.propose()
    node.reloading.refused(one, 2, "no descriptors", passing)
    assert [(each.ok, each.passing) for each in node.outcomes] == [(False, passing)]


def test_as_much_is_kept_as_is_promised(node):
    for generation in range(2, RECORDS + 5):
        node.change(generation, more=f"status: null  # {generation}")
    node.change(generation + 1, more=f"status: null  # {generation}")  # the same takes no place
    assert [each.generation for each in node.node_state.kept] == list(range(generation - KEPT, generation))
    node.change(generation + 2)
    generation = node.node_state.sealed.generation
    assert [each.generation for each in node.node_state.kept] == [
        *range(generation - KEPT - 1, generation - 2),
        generation - 1,
    ]
    assert len(node.node_state.records) == RECORDS
    for each in node.node_state.kept:
        os.fstat(each.descriptor)  # open


# --- what is told of it ---


def tells(node: Node) -> str:
    return describe_outcome(node.outcomes[-1])


def test_the_line_of_a_reload_names_files_with_other_contents():
    before = {"/a": b"1", "/b": b"1", "/same": b"1", "/gone": b"1", "kyma://ns/one%20/password": b"1"}
    assert changed_files(before, before) == ""
    assert changed_files(before, {"/a": b"2", "/b": b"1", "/same": b"1", "/new": b"1"}) == "/a"
    secret = {"kyma://ns/one%20/password": b"2", "kyma://ns/one%20/username": b"2"}
    assert changed_files(before, {**before, **secret, "/b": b"2"}) == "the Secret ns/one , /b"
    watched = {"kubernetes://kyma": b"1", "kyma://ns/s/key": b"1"}
    assert changed_files(watched, dict.fromkeys(watched, b"2")) == "the Secret ns/s"
    assert changed_files(watched, {**watched, "kubernetes://kyma": b"2"}) == "kubernetes://kyma"
    many = {f"/{number}": b"1" for number in range(5)}
    assert changed_files(many, dict.fromkeys(many, b"2")) == "/0, /1, /2 and 2 more"
    outcome = ReloadResult(generation=2, ok=True, why="", workers=2, committed=2, changed="/a")
    assert describe_outcome(outcome) == "reloaded: generation 2 on 2/2 workers, changed: /a"


def test_who_is_being_born_or_has_left_was_not_asked(node):
    young, old = node.children
    young.ready = False
    node.node_state.workers = 1
    node.propose()
    node.reloading.prepared(old, 2)
    node.commits(old)
    assert tells(node) == "reloaded: generation 2 on 1/1 workers, workers 1 -> 2"
    young.ready, node.node_state.workers = True, 2
    node.propose(3)
    old.leaving = True
    for child in node.children:
        node.reloading.prepared(child, 3)
    for child in node.children:
        node.commits(child)
    assert tells(node) == "reloaded: generation 3 on 1/1 workers"


def test_a_listener_with_another_address_has_moved(node, tmp_path):
    sealed = sealed_document(2, address=f"unix:{tmp_path}/moved")
    node.reloading.propose(Propose(generation=2, source="signal"), sealed.descriptor)
    for child in node.children:
        node.reloading.prepared(child, 2)
    for child in node.children:
        node.commits(child)
    assert tells(node) == "reloaded: generation 2 on 2/2 workers, 1 listener moved, 0 workers restarted"


def test_a_problem_that_control_has_told_is_not_told_again(node, capfd):
    node.reloading.rejected(Rejected(generation=1, source="file", why="nonsense"))
    assert messages(capfd.readouterr().err) == ["not reloaded, generation 1 stays: see the errors above"]


def test_a_written_address_that_is_taken_refuses_the_change_until_it_is_free(node):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        more = f"status: {{address: 127.0.0.1:{taken.getsockname()[1]}}}"
        node.propose(more=more)
        (outcome,) = node.outcomes
        assert (outcome.ok, outcome.generation) == (False, 1)
        assert outcome.why.startswith("cannot listen on 127.0.0.1:")
        assert [node.told(child) for child in node.children] == [[], []]
    node.change(more=more)
    assert tells(node) == "reloaded: generation 2 on 2/2 workers"
    (again,) = node.changes
    assert list(again) == ["status"]
    again["status"].close()


def test_a_default_address_that_is_taken_is_left_for_the_next_port_or_tried_again(node, monkeypatch, capfd):
    """Nobody insists on it."""
    default, more = DEFAULT_STATUS.address, "# status as it is by default"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {default.port: taken.getsockname()[1], default.port + 1: 0}

        def opened(address: Address, **options: bool) -> ListeningEndpoint:
            return open_endpoint(Address(host=address.host, port=ports[address.port]), **options)

        monkeypatch.setattr(node_state, "open_endpoint", opened)
        os.close(node.node_state.sealed.descriptor)
        node.node_state.sealed = sealed_document(1, more=more)
        monkeypatch.setattr(startup, "PORTS_TRIED", 0)
        node.change(more=more)
        (left_out,) = [each for each in messages(capfd.readouterr().err) if "status" in each]
        assert left_out.startswith("no status listener: cannot listen on")
        monkeypatch.setattr(startup, "PORTS_TRIED", 1)
        node.change(3, more=more)
        assert "no status listener" not in capfd.readouterr().err
    assert [describe_outcome(each) for each in node.outcomes] == [
        f"reloaded: generation {each} on 2/2 workers" for each in (2, 3)
    ]
    (nothing, moved) = node.changes
    assert (list(nothing), list(moved)) == ([], ["status"])
    assert moved["status"].address.port not in (0, ports[default.port])
    moved["status"].close()


@pytest.mark.parametrize("again", [False, True])
def test_too_few_files_are_told_of_at_the_first_start_alone(node, monkeypatch, capfd, again):
    monkeypatch.setattr(startup, "raise_file_limit", lambda: 128)
    startup.warn(node.node_state, again=again)
    assert ("128 open files" in capfd.readouterr().err) is not again
