#!/usr/bin/env bash
# Makes .venv: the package and its libraries, ROS 2 where none is sourced, and the built messages.
# Run it through `make setup`. Each step leaves a stamp with a hash of its inputs and is skipped while they are unchanged.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
venv=$PWD/.venv
stamps=$venv/.setup
ros=${ROS_DISTRO:-wheels}

say() { echo "selavpr_ros: $*" >&2; }
stop() { say "$*"; exit 1; }
hash_of() { find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum; }
done_before() { [ "$(cat "$stamps/$1" 2>/dev/null)" = "$2" ]; }  # STEP INPUTS

libraries_inputs="$ros $(hash_of setup.py setup.cfg scripts/setup.sh scripts/ros_wheels.txt)"
messages_inputs="$ros $(hash_of selavpr_msgs scripts/setup.sh scripts/ros_wheels.txt)"
if done_before libraries "$libraries_inputs" && done_before messages "$messages_inputs"; then
    exit 0
fi

check_machine() {
    local missing=()
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    "$python" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null \
        || missing+=(python3-dev)
    command -v g++ >/dev/null || missing+=(g++)
    command -v cmake >/dev/null || missing+=(cmake)
    command -v make >/dev/null || missing+=(make)
    [ ${#missing[@]} = 0 ] || stop "not on this machine: ${missing[*]}. Run: sudo apt install ${missing[*]}"

    if [ "$ros" = wheels ]; then
        "$python" -c 'import platform as p, sys
sys.exit(not ((3, 10) <= sys.version_info[:2] <= (3, 13) and p.machine() == "x86_64"))' \
            || stop "no ROS 2 is sourced, and its wheels exist for x86-64 with Python 3.10 to 3.13 only." \
                    "Run: source /opt/ros/<distro>/setup.bash"
    fi
    local made_for
    made_for=$(cut -d ' ' -f 1 "$stamps/libraries" 2>/dev/null || true)
    [ "${made_for:-$ros}" = "$ros" ] \
        || stop ".venv was made for ROS '$made_for', and this shell has '$ros'. Run: make distclean"
}

make_venv() {
    [ -x "$venv/bin/python" ] && return
    # What a ROS installation or a Jetson image brings along is seen from inside the venv, and used.
    local options=()
    if [ "$ros" != wheels ] || "$python" -c 'import torch, torchvision' 2>/dev/null; then
        options=(--system-site-packages)
    fi
    say 'making .venv'
    "$python" -m venv "${options[@]}" "$venv"
}

# Pins what the machine itself brought: torch and torchvision are a pair that only its builder can match,
# and the messages of a ROS distribution are compiled against that distribution's numpy.
keep_what_is_there() {
    grep -q 'include-system-site-packages = true' "$venv/pyvenv.cfg" || return 0
    "$venv/bin/python" - <<'PYTHON'
from importlib.metadata import PackageNotFoundError, version
for name in ('numpy', 'torch', 'torchvision'):
    try:
        print(f'{name}=={version(name)}')
    except PackageNotFoundError:
        pass
PYTHON
}

install_libraries() {
    say 'installing Python packages: some minutes and up to 6 GB the first time'
    mkdir -p "$stamps"
    touch "$venv/COLCON_IGNORE"
    keep_what_is_there >"$stamps/constraints.txt"
    # Of pip's words only those that show that something goes on; its errors come on stderr.
    PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install --disable-pip-version-check \
        --constraint "$stamps/constraints.txt" --editable '.[backend,docs,evaluation,milvus,test,train]' "$@" \
        | { grep -E '^(Collecting|Installing|Successfully)' || true; }
}

# Two repairs of the ROS wheels.
repair_ros_wheels() {
    # Libraries that the wheels carry lie in folders of their own: gather them where LD_LIBRARY_PATH looks.
    ln -sf "$venv"/lib/python3*/site-packages/ros_*.libs/* "$venv/lib/"
    # The CMake files name the include folders of the machine that built the wheels.
    "$venv/bin/python" - <<'PYTHON'
import re
import sys
import sysconfig
from pathlib import Path

import numpy

for file in Path(sys.prefix, 'share').rglob('*.cmake'):
    text = file.read_text()
    repaired = re.sub(r'/opt/python/[^;"]*/numpy/_core/include', numpy.get_include(), text)
    repaired = re.sub(
        r'/opt/python/[^;"]*/include/python3\.\d+', sysconfig.get_path('include'), repaired
    )
    if repaired != text:
        file.write_text(repaired)
PYTHON
}

# The messages go into the venv itself, so that one prefix holds everything.
build_messages() {
    say 'building selavpr_msgs'
    # shellcheck source=scripts/env.sh
    source scripts/env.sh
    colcon --log-base "$venv/.build/log" --log-level error build --base-paths selavpr_msgs \
        --build-base "$venv/.build" --install-base "$venv" --merge-install \
        --event-handlers console_start_end- summary- --cmake-args -DBUILD_TESTING=OFF
}

check_machine
make_venv
if ! done_before libraries "$libraries_inputs"; then
    if [ "$ros" = wheels ]; then
        install_libraries --requirement scripts/ros_wheels.txt
        repair_ros_wheels
    else
        install_libraries colcon-common-extensions
    fi
    echo "$libraries_inputs" >"$stamps/libraries"
fi
if ! done_before messages "$messages_inputs"; then
    build_messages
    echo "$messages_inputs" >"$stamps/messages"
fi
say "ready: source scripts/env.sh, or 'make test', or 'make demo'"
