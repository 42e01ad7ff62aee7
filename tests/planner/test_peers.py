"""What other estimators said of the measured ranks."""

from peer_errors import PEERS, answers, measured, peers_table

SAID = answers()


def test_every_tool_was_asked_for_every_measured_rank() -> None:
    asked = [(answer["peer"], answer["row"]) for answer in SAID]

    assert sorted(asked) == sorted((peer, row) for peer in PEERS for row in measured())


def test_an_answer_is_bytes_or_why_there_are_none() -> None:
    for answer in SAID:
        assert (answer["predicted"] is None) == (answer["refused"] is not None), answer
        assert answer["predicted"] is None or 2**30 < answer["predicted"] < 2**37, answer


def test_what_is_left_out_is_what_a_tool_lacks() -> None:
    for answer in SAID:
        assert set(answer["left_out"]) <= PEERS[answer["peer"]].lacks, answer


def test_the_table_has_a_line_for_every_tool_at_one_commit() -> None:
    lines = [line for line in peers_table() if line.startswith("| ")][2:]

    assert len(lines) == len(PEERS)
    for peer in PEERS:
        assert len({answer["commit"] for answer in SAID if answer["peer"] == peer}) == 1
