"""Fuzz one decoder with atheris, guided by coverage.

    python tests/fuzz/fuzz_decoders.py DECODER [CORPUS_DIRECTORY] [-max_total_time=60 …]

Options after the directory are those of libFuzzer. Without arguments the names of the decoders are printed.
The corpus directory begins with the good examples.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["trinity_snap", "read_repository"]):
    from tests.fuzz.decoders import decoders, independent_reader
    from trinity_snap.errors import TrinitySnapError

    independent_reader()


def main(arguments: list[str]) -> None:
    """Run libFuzzer on the decoder that is named first."""
    known = decoders()
    if len(arguments) < 2 or arguments[1] not in known:
        sys.stdout.write("\n".join(known) + "\n")
        raise SystemExit(2)
    decoder = known[arguments[1]]
    rest = arguments[2:]
    if rest and not rest[0].startswith("-"):
        corpus = Path(rest[0])
        corpus.mkdir(parents=True, exist_ok=True)
        for number, good in enumerate(decoder.good):
            (corpus / f"good-{number}").write_bytes(good)

    def one_input(data: bytes) -> None:
        try:
            decoder.decode(data)
        except TrinitySnapError:
            pass

    atheris.Setup([arguments[0], *rest], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
