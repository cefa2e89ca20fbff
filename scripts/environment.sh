# shellcheck shell=bash
# Sourced by the scripts: how an interpreter is found, an environment made from a lock file, the project installed.

# supported_python COMMAND: true when it is CPython 3.11 to 3.13 and can make environments.
supported_python() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

# find_python [VERSION]: print a usable interpreter, the newest one unless a version like 3.12 is given.
find_python() {
    local wanted=${1:-} version candidate
    for version in ${wanted:-3.13 3.12 3.11}; do
        if supported_python "python$version"; then
            command -v "python$version"
            return
        fi
        # pyenv's shims refuse versions that are installed but not selected.
        for candidate in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/"$version".*/bin/python; do
            if supported_python "$candidate"; then
                echo "$candidate"
                return
            fi
        done
    done
    if [ -z "$wanted" ] && supported_python python3; then
        command -v python3
        return
    fi
    return 1
}

# make_environment DIRECTORY LOCK: the environment holds exactly what the lock pins; quick when it does already.
# $PYTHON chooses the interpreter; an environment made with another version is made anew.
make_environment() {
    local directory=$1 lock=$2 python wanted stamp
    if [ -n "${PYTHON:-}" ]; then
        python=$PYTHON
        supported_python "$python" || { echo "$python is not a usable Python 3.11, 3.12 or 3.13" >&2; return 1; }
    else
        python=$(find_python) || {
            echo "no usable Python 3.11, 3.12 or 3.13 found; install one (with its venv module) or set PYTHON" >&2
            return 1
        }
    fi
    wanted=$("$python" -c 'import sys; print(sys.version)')
    if [ "$("$directory/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null)" != "$wanted" ]; then
        echo "making $directory with $("$python" --version)" >&2
        rm -rf "$directory"
        "$python" -m venv "$directory"
        # Python 3.11 puts setuptools there, with a .pth file that runs code at every start of the interpreter.
        "$directory/bin/python" -m pip uninstall --quiet --yes setuptools 2>/dev/null
    fi
    stamp=$(sha256sum <"$lock")
    if [ "$(cat "$directory/lock.stamp" 2>/dev/null)" != "$stamp" ]; then
        echo "installing $lock" >&2
        "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" >&2
        echo "$stamp" >"$directory/lock.stamp"
    fi
}

# install_project DIRECTORY: the environment holds the project as it is in the work tree; quick when it does already.
# Built in an environment of its own, so that the one that serves holds nothing that is not needed for serving. Not an
# editable install: that would leave a .pth file.
install_project() {
    local directory=$1 stamp wheels
    stamp=$(
        {
            echo "${SECURELLM_NO_EXTENSIONS:-} ${SECURELLM_REQUIRE_EXTENSIONS:-}"
            find src setup.py pyproject.toml -type f ! -name '*.pyc' ! -name '*.so' ! -path '*.egg-info/*' -print0 |
                LC_ALL=C sort -z | xargs -0 sha256sum
        } | sha256sum
    )
    if [ "$(cat "$directory/project.stamp" 2>/dev/null)" != "$stamp" ]; then
        make_environment "$directory-build" requirements/build.lock
        echo "building and installing the project" >&2
        rm -rf build  # modules deleted since the last build would come back from there
        wheels=$(mktemp -d)
        "$directory-build/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-index --no-deps \
            --no-build-isolation --wheel-dir "$wheels" . >&2
        "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
            --force-reinstall "$wheels"/*.whl >&2
        rm -rf "$wheels"
        echo "$stamp" >"$directory/project.stamp"
    fi
}
