"""Rows for OpenRLHF whose label tells the reward service what the client itself cannot say.

    python examples/openrlhf/prepare.py prompts.jsonl train.jsonl
    python examples/openrlhf/prepare.py held_out.jsonl eval.jsonl --mode eval

OpenRLHF sends `prompt + response` as text, and `--data.label_key` of the row as it is. A label of
this form gives the row's id (its samples are a group), the prompt as the reward model should read
it, the columns that the task needs (a reference solution), and marks evaluation rows, which are
graded and never used as evidence.
"""

import argparse
import json
from pathlib import Path


def convert(row: dict, number: int, mode: str) -> dict:
    prompt = row.pop("prompt")
    label = {"id": f"{mode}-{number}", "prompt": prompt, "mode": mode, "columns": row}
    return {"prompt": prompt, "label": json.dumps(label)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="JSONL with `prompt` and other columns")
    parser.add_argument("target", type=Path)
    parser.add_argument("--mode", choices=["train", "eval"], default="train")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.source.read_text().splitlines() if line.strip()]
    lines = [json.dumps(convert(row, n, options.mode)) for n, row in enumerate(rows)]
    options.target.write_text("\n".join(lines) + "\n")
    print(f"{options.target}: {len(lines)} rows")


if __name__ == "__main__":
    main()
