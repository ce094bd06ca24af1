"""Conversations with servers that answer wrongly: programs that stand in for ssh."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trinity_snap.targets import sftp_client
from trinity_snap.targets.sftp_client import SftpClient
from trinity_snap.targets.sftp_session import ConnectionLost, Refused
from trinity_snap.targets.sftp_wire import STATUS

_SERVER = """
import os, struct, sys
from struct import pack

def take(length):
    data = b""
    while len(data) < length:
        more = os.read(0, length - len(data))
        if not more:
            sys.exit()
        data += more
    return data

def request():
    length, kind, number = struct.unpack(">IBI", take(9))
    return kind, number, take(length - 5)

def send(kind, number, content=b""):
    packet = pack(">IBI", len(content) + 5, kind, number) + content
    while packet:
        packet = packet[os.write(1, packet):]

def text(value):
    return pack(">I", len(value)) + value

def status(number, code):
    send(101, number, pack(">I", code) + text(b"words") + text(b""))

request()
send(2, 3)
"""


@pytest.fixture
def serve(tmp_path: Path):
    made: list[SftpClient] = []

    def begin(program: str, *, greeting: bool = True) -> SftpClient:
        script = tmp_path / f"server-{len(made)}.py"
        script.write_text((_SERVER if greeting else "") + program)
        made.append(SftpClient([sys.executable, str(script)]))
        return made[-1]

    yield begin
    for client in made:
        client.close()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.read(0, 9); os.write(1, b'Welcome to this server!\\n' * 9)", "no packet of SFTP"),
        ("import os; os.read(0, 9); os.write(1, b'\\0\\0\\0\\x05\\x02\\0\\0\\0\\x06')", "does not know version 3"),
        ("import os; os.read(0, 9); os.write(1, b'\\0\\0\\0\\x05\\x65\\0\\0\\0\\x06')", "not answer as an SFTP server"),
        ("import sys; sys.exit('no way in')", "the connection (ended|broke)"),
        (
            "import os; os.read(0, 9); os.write(1, b'\\0\\0\\0\\x0a\\x02\\0\\0\\0\\x03\\xff\\xff\\xff\\xff\\0')",
            "longer than its packet",
        ),
    ],
)
def test_a_greeting_that_is_none_ends_the_conversation(serve, program: str, words: str) -> None:
    with pytest.raises(ConnectionLost, match=words) as caught:
        serve(program, greeting=False)
    if "no way in" in program:
        assert "no way in" in caught.value.said


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("send(101, number + 1, pack('>I', 0))", "answers what was not asked"),
        ("send(102, number, text(b'handle'))", "something else than it was asked"),
        ("send(105, number, b'')", "ends too early"),
        ("os.write(1, pack('>IBI', 1 << 30, 105, number))", "no packet of SFTP"),
        ("sys.exit('broken pipe')", "the connection ended"),
    ],
)
def test_nonsense_ends_the_conversation(serve, answer: str, words: str) -> None:
    client = serve(f"kind, number, _ = request()\n{answer}\nrequest()\n")
    with pytest.raises(ConnectionLost, match=words):
        client.attributes(client.lstat("x"))
    assert client.closed and not client.alive()


def test_a_status_says_why(serve) -> None:
    client = serve("kind, number, _ = request()\nstatus(number, 3)\nrequest()")
    with pytest.raises(Refused, match="words") as caught:
        client.attributes(client.lstat("x"))
    assert caught.value.code == 3
    assert client.alive()


def test_answers_may_come_in_another_order(serve) -> None:
    client = serve("a = request()[1]; b = request()[1]\nstatus(b, 4); status(a, 0)\nrequest()")
    first, second = client.remove("a"), client.remove("b")
    assert client.answer(first, STATUS)
    with pytest.raises(Refused):
        client.answer(second)


def test_what_comes_in_small_pieces_is_put_together(serve) -> None:
    client = serve(
        "data = bytes(range(256)) * 300\n"
        "while True:\n"
        "    kind, number, content = request()\n"
        "    offset, length = struct.unpack('>QI', content[-12:])\n"
        "    part = data[offset : offset + min(length, 1000)]\n"
        "    send(103, number, text(part)) if part else status(number, 1)\n"
    )
    assert client.read(b"handle", 5, 70_000) == (bytes(range(256)) * 300)[5:70_005]
    with pytest.raises(EOFError):
        client.read(b"handle", 70_000, 10_000)


def test_more_than_was_asked_for_is_not_taken(serve) -> None:
    client = serve("number = request()[1]\nsend(103, number, text(bytes(11)))\nrequest()")
    with pytest.raises(ConnectionLost, match="another amount"):
        client.read(b"handle", 0, 10)


def test_a_directory_without_end_is_given_up(serve, monkeypatch) -> None:
    monkeypatch.setattr(sftp_client, "_MOST_ENTRIES", 50_000)
    client = serve(
        "send(102, request()[1], text(b'handle'))\n"
        "count = 0\n"
        "while True:\n"
        "    number, names = request()[1], []\n"
        "    for _ in range(20000):\n"
        "        count += 1\n"
        "        names.append(text(b'%d' % count) + text(b'') + pack('>I', 0))\n"
        "    send(104, number, pack('>I', 20000) + b''.join(names))\n"
    )
    with pytest.raises(ConnectionLost, match="does not end"):
        client.directories(["x"])


def test_what_was_given_up_does_not_disturb_what_comes_after(serve) -> None:
    client = serve(
        "one = request()[1]; two = request()[1]\n"
        "closing = None\n"
        "send(102, two, text(b'left open'))\n"
        "kind, three, content = request()\n"
        "assert kind == 17 or kind == 7, kind\n"
        "status(one, 0)\n"
        "closed = request()\n"
        "assert closed[0] == 4 and b'left open' in closed[2], closed\n"
        "status(closed[1], 0)\n"
        "send(105, three, pack('>I', 0))\n"
        "request()\n"
    )
    client.remove("x")
    client.open("y")
    client.settle()
    assert client.attributes(client.lstat("z")).size is None
    assert client.alive()
