#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv: Python 3.12, ROS 2 Jazzy, the interfaces, this package. Run it as
# often as you like: it returns at once when nothing it depends on has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin # ldconfig, where a user's own path leaves it out

fail() {
  echo "setup: $*" >&2
  exit 1
}

# --- system packages, only those that are missing ---------------------------
# As root or by sudo without a password; otherwise one line says what to install.
apt_install() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || fail "please run: sudo apt-get install -y $*"
    as_root=(sudo -n)
  fi
  command -v apt-get >/dev/null || fail "please install these packages (Debian names): $*"
  echo "setup: installing system packages: $*"
  "${as_root[@]}" apt-get update -qq >/dev/null &&
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    fail "please run: sudo apt-get install -y $*"
}

missing=()
command -v c++ >/dev/null || missing+=(g++)
[ -n "$(ldconfig -p 2>/dev/null | grep 'libEGL\.so\.1')" ] || missing+=(libegl1)
[ -n "$(ldconfig -p 2>/dev/null | grep 'libEGL_mesa\.so')" ] || missing+=(libegl-mesa0)
[ -n "$(ls -d /usr/lib*/{,*/}{dri/*_dri,libgallium-*}.so 2>/dev/null)" ] || missing+=(libgl1-mesa-dri)
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

# --- Python 3.12 -------------------------------------------------------------
is_312() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }

find_python() {
  local candidate uv_python
  for candidate in python3.12 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python /opt/python*3.12*/bin/python; do
    if is_312 "$candidate"; then
      # The interpreter behind a virtual environment: that may be the one to be replaced.
      "$candidate" -c 'import sys; print(sys.base_prefix + "/bin/python3.12")'
      return
    fi
  done
  if command -v uv >/dev/null && uv_python=$(uv python find 3.12 2>/dev/null) && is_312 "$uv_python"; then
    echo "$uv_python"
  fi
}

ros_sourced() { [ -n "${ROS_DISTRO:-}" ] && [ -n "${AMENT_PREFIX_PATH:-}" ]; }

if ros_sourced; then
  [ "$ROS_DISTRO" = jazzy ] || fail "ROS 2 $ROS_DISTRO is sourced, but Jazzy is needed"
  ros=sourced
else
  [ "$(uname -sm)" = "Linux x86_64" ] ||
    fail "ROS 2 wheels exist for x86_64 Linux only; install ROS 2 Jazzy, source it and run this again"
  ros=wheels
fi

# --- nothing to do? ----------------------------------------------------------
stamp=.venv/setup-stamp
fingerprint=$(
  {
    echo "$ros"
    cat requirements/*.txt setup.py training/pyproject.toml tools/setup.sh tools/build_interfaces.py
    find ros2_ws/src/vla_interfaces -type f -print0 | sort -z | xargs -0 cat
  } | sha256sum | cut -d' ' -f1
)
if [ "$(cat $stamp 2>/dev/null)" = "$fingerprint" ] && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

# --- the environment -----------------------------------------------------------
python=$(find_python)
[ -n "$python" ] || fail "Python 3.12 not found: install it (apt: python3.12 python3.12-venv; pyenv: pyenv install 3.12; uv: uv python install 3.12)"
missing=()
"$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3.12-venv)
"$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
  missing+=(python3.12-dev)
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

# Beside a sourced ROS 2 the system's packages are visible, and its wheels must not be there.
site=false options=()
[ "$ros" = wheels ] || site=true options=(--system-site-packages)
if ! .venv/bin/python -c '' 2>/dev/null || ! grep -q "site-packages = $site" .venv/pyvenv.cfg; then
  echo "setup: creating .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv "${options[@]}" .venv
fi
rm -f $stamp

echo "setup: installing Python packages"
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1} # a company's own certificates lie in the system's store
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
# An installed ROS 2 brings its own Python packages; the wheels carry everything.
requirements=(-r requirements/build.txt -r requirements/runtime.txt -r requirements/training.txt -r requirements/dev.txt)
[ "$ros" = sourced ] || requirements+=(-r requirements/ros.txt)
.venv/bin/uv pip install --quiet --python .venv/bin/python "${requirements[@]}"

echo "setup: building the ROS 2 interfaces"
.venv/bin/python tools/build_interfaces.py

.venv/bin/uv pip install --quiet --python .venv/bin/python --no-build-isolation --no-deps --editable . --editable training
echo "$fingerprint" >$stamp
echo "setup: done"
