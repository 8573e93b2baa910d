#!/bin/sh
# Builds the wheel, installs it into an empty environment and uses it from outside of the checkout.
# PYTHON has build and hatchling (default: python3). What pip needs to be told is in its own variables, as
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu for PyTorch's CPU build.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
unset PYTHONPATH

"$python" -m build --no-isolation --outdir "$place/dist" "$root" >"$place/build.log" || { cat "$place/build.log"; exit 1; }
"$python" -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$root/constraints.txt" "$place"/dist/*.whl
PATH=$place/env/bin:$PATH
export PATH XDG_CACHE_HOME="$place/cache"  # where the decoder's kernel is compiled from the wheel's kernel.c

mkdir "$place/elsewhere"
cd "$place/elsewhere"
python - "$place/env" <<'CHECK'
import importlib.metadata
import sys
from pathlib import Path

import charlm

package = Path(charlm.__file__).parent
assert package.is_relative_to(sys.argv[1]), package
assert importlib.metadata.version("charlm-cli") == charlm.__version__
for name in ("py.typed", "generation/kernel.c", *(f"report/page/{name}" for name in ("page.css", "model.html", "model.js"))):
    assert (package / name).stat().st_size or name == "py.typed", name
Path("sums.txt").write_text("".join(f"{a} and {b} make {a + b}.\n" for a in range(30) for b in range(30)))
CHECK
charlm --version
charlm train sums.txt --steps 3 --hidden 16 --threads 1 --quiet
charlm sample sums --length 40 --seed 1 && echo
charlm score sums --text sums.txt --html page.html --quiet >score.txt
test -s page.html
charlm page sums -o model.html --quiet
test -s model.html
test "$(charlm sample sums --length 40 --seed 1 --engine numpy)" = "$(charlm sample sums --length 40 --seed 1)"
echo "$(basename "$place"/dist/*.whl) works in an empty environment"
