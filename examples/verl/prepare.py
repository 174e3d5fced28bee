"""Rows for veRL: a task's prompts, and what the reward service needs to know of each row.

    python examples/verl/prepare.py essay prompts.jsonl data/essays/train.parquet
    python examples/verl/prepare.py essay held_out.jsonl data/essays/test.parquet --split test

`extra_info.split` tells training rows from others, which are graded and never used as evidence:
veRL itself does not say to a reward whether it validates.
"""

import argparse
import json
from pathlib import Path

from datasets import Dataset

from mpo.task import Task, load_task


def convert(row: dict, number: int, task: Task, split: str) -> dict:
    prompt = [{"role": "user", "content": task.policy_prompt(row)}]
    columns = {name: value for name, value in row.items() if name != "prompt"}
    return {
        "data_source": task.name,
        "prompt": prompt,
        "reward_model": {"style": "rubric", "ground_truth": ""},
        "extra_info": {"split": split, "index": number, **columns},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", help="a built-in task, or a task folder")
    parser.add_argument("source", type=Path, help="JSONL with the columns of the task")
    parser.add_argument("target", type=Path)
    parser.add_argument("--split", choices=["train", "test"], default="train")
    options = parser.parse_args()
    task = load_task(options.task)
    rows = [json.loads(line) for line in options.source.read_text().splitlines() if line.strip()]
    made = [convert(row, n, task, options.split) for n, row in enumerate(rows)]
    options.target.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(made).to_parquet(options.target)
    print(f"{options.target}: {len(made)} rows")


if __name__ == "__main__":
    main()
