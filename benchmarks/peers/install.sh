#!/usr/bin/env bash
# The environment of the PyTorch contenders: bash benchmarks/peers/install.sh FOLDER
# TORCH asks for a particular release or build, such as TORCH='torch==2.13.0+cpu'. Builds without CUDA
# are a fraction of the size: pip's PIP_INDEX_URL may point at an index that has them.
set -euo pipefail

if [ $# -ne 1 ]; then
  echo "usage: bash $0 FOLDER" >&2
  exit 2
fi
folder=$1
torch=${TORCH:-torch}
python3 -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check)

"${pip[@]}" install "$torch" numpy setuptools
"${pip[@]}" install higher || echo "higher is left out" >&2
"${pip[@]}" install torchopt || echo "TorchOpt is left out" >&2

# learn2learn does not build on Python 3.11 and later, and its package imports all that it has (gym,
# data sets, Lightning). The MAML module and the two that it imports are enough; they are taken as
# they are.
learn2learn() {
  local scratch=$1 site name
  "${pip[@]}" download --no-deps --no-build-isolation --no-binary learn2learn \
    --dest "$scratch" learn2learn==0.2.0 || return 1
  tar -xzf "$scratch"/learn2learn-*.tar.gz -C "$scratch" || return 1
  site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  mkdir -p "$site/learn2learn/algorithms" "$site/learn2learn/utils"
  touch "$site/learn2learn/__init__.py" "$site/learn2learn/algorithms/__init__.py"
  for name in algorithms/base_learner.py algorithms/maml.py utils/__init__.py; do
    cp "$scratch"/learn2learn-*/learn2learn/"$name" "$site/learn2learn/$name" || return 1
  done
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
learn2learn "$scratch" || echo "learn2learn is left out" >&2

echo "done; now: python benchmarks/against_libraries.py --peers $folder/bin/python"
