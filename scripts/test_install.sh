#!/usr/bin/env bash
# Whether pip finds a set of versions for this package beside each engine: `make test-install`.
# Dry runs with the newest pip, which reads metadata only; nothing is installed. Some engines (OpenRLHF: flash-attn) have to build something to tell
# what they need, and a GPU toolchain for that; then their own requirements are read instead.
set -uo pipefail

PYTHON=${1:-python3}
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT
"$PYTHON" -m venv "$OUT/venv"
PYTHON=$OUT/venv/bin/python
"$PYTHON" -m pip install --quiet --upgrade pip || exit 1  # 23 and older download every wheel
failed=0

resolve() {  # name, requirements...
  local name=$1
  shift
  if timeout 600 "$PYTHON" -m pip install --dry-run --ignore-installed --quiet \
    --report "$OUT/$name.json" "$@" . >"$OUT/$name.log" 2>&1; then
    "$PYTHON" - "$OUT/$name.json" "$name" <<'PY'
import json, sys
found = {p["metadata"]["name"].lower(): p["metadata"]["version"]
         for p in json.load(open(sys.argv[1]))["install"]}
names = [n for n in (sys.argv[2], "mpo-rl", "torch", "transformers", "pydantic") if n in found]
print(f"{sys.argv[2]}: resolved, {len(found)} packages:", ", ".join(f"{n} {found[n]}" for n in names))
PY
  else
    echo "$name: FAILED: $(grep -E 'ERROR|error:' "$OUT/$name.log" | head -3 | tr '\n' ' ')"
    failed=1
  fi
}

# Of a package that cannot tell without building: what it requires, without the parts that are built.
requirements() {
  "$PYTHON" -m pip download --quiet --no-deps --no-binary :none: -d "$OUT/$1" "$1" >/dev/null 2>&1
  "$PYTHON" - "$OUT/$1" <<'PY'
import email, pathlib, sys, zipfile
built = ("flash-attn", "deepspeed", "bitsandbytes")
(wheel,) = pathlib.Path(sys.argv[1]).glob("*.whl")
archive = zipfile.ZipFile(wheel)
name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
for line in email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", []):
    if "extra ==" not in line and not line.lower().startswith(built):
        print(line)
PY
}

resolve verl verl
resolve verifiers verifiers
resolve vllm vllm
mapfile -t needed < <(requirements openrlhf)
if ((${#needed[@]})); then
  resolve openrlhf "${needed[@]}"
else
  resolve openrlhf openrlhf
fi
exit $failed
