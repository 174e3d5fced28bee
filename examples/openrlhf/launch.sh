#!/usr/bin/env bash
# PPO in OpenRLHF 0.11 with an evolving reward. Only the lines about reward and data are ours.
#
#   mpo serve examples/openrlhf/config.yaml --name essay --port 8000 &
#   python examples/openrlhf/prepare.py prompts.jsonl train.jsonl
#   bash examples/openrlhf/launch.sh --actor.model_name_or_path Qwen/Qwen2-1.5B-Instruct …
#
# On other nodes the service needs a token (MPO_TOKEN=… mpo serve --host 0.0.0.0). The client sends
# no headers, so the token stands in the URL: http://mpo:$MPO_TOKEN@host:8000/openrlhf/get_reward
#
# The meta steps are held by the service's count (service.every_items in config.yaml). Its state is
# in runs/essay: after a crash start it again with the same command, and the client's retries find
# what was scored. To take the rubric back with an older checkpoint:
#   curl -d '{"tag": "genesis"}' -H 'Content-Type: application/json' $REWARD/v1/restore
#
# Evaluation rows (--eval.dataset eval.jsonl --eval.steps 20) must come from `prepare.py --mode eval`:
# the client does not say that it evaluates, and unmarked rows would count as training.
#
# From OpenRLHF's source (its parser knows these options); the bodies its client sends are tested (tests/service), not this script.
set -euo pipefail

REWARD=${REWARD:-http://127.0.0.1:8000}

python -m openrlhf.cli.train_ppo_ray \
  --reward.remote_url "$REWARD/openrlhf/get_reward" \
  --data.prompt_dataset train.jsonl \
  --data.input_key prompt \
  --data.label_key label \
  --data.apply_chat_template \
  --rollout.batch_size 64 \
  --rollout.n_samples_per_prompt 1 \
  "$@"
