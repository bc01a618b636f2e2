# Makes a shell ready for selavpr_ros:  source scripts/env.sh   (bash or zsh, as often as you like)
# The program `vpr`, `vpr_node` and `python -c "import selavpr_msgs.msg"` work afterwards.
# It only sets variables; `make setup` makes the .venv that they point to.

if [ -n "${ZSH_VERSION:-}" ]; then
    eval '_selavpr_venv="${${(%):-%x}:A:h:h}/.venv"'
else
    _selavpr_venv="$(CDPATH= cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)/.venv"
fi

_selavpr_prepend() {  # VARIABLE FOLDER: put it in front, once
    eval "_selavpr_old=\"\${$1:-}\""
    case ":$_selavpr_old:" in
        *":$2:"*) ;;
        *) eval "export $1=\"\$2\${_selavpr_old:+:\$_selavpr_old}\"" ;;
    esac
}

if [ -x "$_selavpr_venv/bin/python" ]; then
    export VIRTUAL_ENV="$_selavpr_venv"
    # The messages are installed into the venv, so it is a ROS prefix, with or without ROS's own wheels in it.
    _selavpr_prepend PATH "$_selavpr_venv/bin"
    _selavpr_prepend LD_LIBRARY_PATH "$_selavpr_venv/lib"
    _selavpr_prepend AMENT_PREFIX_PATH "$_selavpr_venv"
    _selavpr_prepend CMAKE_PREFIX_PATH "$_selavpr_venv"
    if [ -z "${ROS_DISTRO:-}" ]; then
        # The ROS wheels restart every Python process once to set LD_LIBRARY_PATH. It is set already.
        export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
        # A sourced ROS keeps the network settings of its robot. The wheels stay on this machine.
        export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
    fi
    unset -f _selavpr_prepend
    unset _selavpr_venv _selavpr_old
else
    echo "selavpr_ros: $_selavpr_venv is not there yet: run 'make setup' first" >&2
    unset -f _selavpr_prepend
    unset _selavpr_venv
    false
fi
