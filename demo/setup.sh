#!/bin/bash
# Makes a machine ready for `make demo`, `test`, `bench`, `soak`, `lint` and `lab`: system packages, .venv, wheels of dependencies.
#
# Promises: quick and silent where all is there; says what it does before it does it, and what to do where it cannot.
# A Postfix or opendkim that runs already is not touched; one installed here is neither started nor started at boot.
# Never: removes a package (another mail server, say), changes a configuration, or leaves anything in the checkout but .venv,
# .lab-venv and .cache, which git ignores.
#
#   demo/setup.sh [venv|lint|demo|test|bench|soak|lab]
#       venv: the Python environment, with what builds pymilter; lint: and Ansible in .lab-venv; demo: and Postfix; test: that and the languages of docs/keys.md,
#       openssl, nftables; bench: Postfix, opendkim, rt-mailgate; soak: Postfix; lab: what makes guests, and Ansible
set -euo pipefail
umask 022
cd -- "$(dirname -- "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
mode=${1:-demo}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi; }
can_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

# command:package. The extra [milter] is built here: pymilter comes as source, and needs a compiler and two packages of headers.
case $mode in
    venv | lint) wanted="cc:gcc" ;;
    demo) wanted="cc:gcc postfix:postfix swaks:swaks" ;;
    test) wanted="cc:gcc postfix:postfix swaks:swaks ruby:ruby php:php-cli node:nodejs go:golang-go openssl:openssl"
          wanted+=" ip:iproute2 nft:nftables" ;;
    bench) wanted="cc:gcc postfix:postfix swaks:swaks opendkim:opendkim rt-mailgate:rt5-clients" ;;
    soak) wanted="cc:gcc postfix:postfix prlimit:util-linux mount:mount" ;;
    lab) wanted="cc:gcc ip:iproute2 nft:nftables mmdebstrap:mmdebstrap systemd-nspawn:systemd-container"
         wanted+=" dpkg-scanpackages:dpkg-dev ssh:openssh-client openssl:openssl nsenter:util-linux" ;;
    *) die "usage: demo/setup.sh [venv|lint|demo|test|bench|soak|lab]" ;;
esac

# --- Python: the system's own first; it must be one that every user can run, for the pipe script runs as gatepost ----------
everybody_can_run() {
    local path part=""
    path=$(readlink -f -- "$1") || return 1
    local IFS=/
    for name in ${path#/}; do
        part=$part/$name
        case $(stat -c %a -- "$part") in *[1357]) ;; *) return 1 ;; esac
    done
}
find_python() {
    local candidate
    for candidate in /usr/bin/python3 /usr/bin/python3.1{4,3,2,1} /usr/local/bin/python3.1{4,3,2,1}; do
        if [ -x "$candidate" ] && everybody_can_run "$candidate" &&
            "$candidate" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# --- system packages: only what is missing ---------------------------------------------------------------------------------
missing=()
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
[ -e /usr/include/libmilter/mfapi.h ] || missing+=(libmilter-dev)
python=$(find_python) || missing+=(python3)
has_headers='import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
"${python:-/usr/bin/python3}" -I -c "$has_headers" 2>/dev/null || missing+=(python3-dev)
if [ ! -x .venv/bin/python ] && ! "${python:-/usr/bin/python3}" -I -c 'import ensurepip' 2>/dev/null; then
    missing+=(python3-venv)
fi

policy=/usr/sbin/policy-rc.d
policy_is_ours=no
remove_policy() { if [ "$policy_is_ours" = yes ]; then as_root rm -f "$policy"; policy_is_ours=no; fi; }
trap remove_policy EXIT

if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || die "these are missing, and there is no apt-get to install them: ${missing[*]}"
    can_be_root || die "these are missing: ${missing[*]}. As root: apt-get install --no-install-recommends ${missing[*]}"
    say "installing ${missing[*]}"
    apt() { as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"; }
    log=$(mktemp)
    apt update >"$log" 2>&1 || say "apt-get update failed; trying with the lists there are: $(tail -n 1 "$log")"
    removed=$(apt --simulate install --no-install-recommends "${missing[@]}" | sed -n 's/^Remv \([^ ]*\).*/\1/p')
    [ -z "$removed" ] || die "installing ${missing[*]} would remove" $removed"; decide that yourself, or use another machine"
    services=()
    for package in "${missing[@]}"; do
        case $package in postfix | opendkim) services+=("$package") ;; esac
    done
    if [ ${#services[@]} -gt 0 ]; then
        case " ${services[*]} " in *" postfix "*)
            printf 'postfix postfix/main_mailer_type select Local only\n' | as_root debconf-set-selections ;;
        esac
        if [ ! -e "$policy" ]; then
            policy_is_ours=yes
            printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
            as_root chmod 755 "$policy"
        fi
    fi
    apt install --no-install-recommends "${missing[@]}" >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "apt-get install failed"; }
    rm -f "$log"
    remove_policy
    for service in "${services[@]}"; do
        # The package enables its service. It is ours to leave alone: nobody asked for a mail server on this machine.
        if [ -x "/etc/init.d/$service" ]; then as_root "/etc/init.d/$service" stop >/dev/null 2>&1 || true; fi
        if command -v systemctl >/dev/null; then
            as_root systemctl disable --now "$service.service" >/dev/null 2>&1 || true
        else
            as_root update-rc.d "$service" disable >/dev/null 2>&1 || true
        fi
    done
    python=$(find_python) || die "no Python 3.11 or newer that every user can run: install one below /usr"
fi

# --- .venv and the dependencies' wheels, made anew when setup.cfg or the interpreter has changed ---------------------------
stamp=.venv/.gatepost-stamp
state="$("$python" -I -c 'import sys; print(sys.version)' | tr '\n' ' ')$(cat setup.cfg pyproject.toml | cksum)"
if ! .venv/bin/python -c '' 2>/dev/null; then
    say "making .venv with $python"
    "$python" -m venv --clear .venv
fi
if [ ! -d .cache/wheels ] || [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
    say "installing gatepost and its tools into .venv"
    pip() { .venv/bin/python -m pip -qq --disable-pip-version-check --no-input "$@"; }
    export PIP_ROOT_USER_ACTION=ignore
    pip install 'setuptools>=68' wheel
    pip install --editable '.[dev,milter]'
    rm -rf .cache/wheels
    mkdir -p .cache/wheels
    # What `pip install gatepost[milter]` needs, kept so that the demo and the tests install it without the network.
    .venv/bin/python -c 'from configparser import ConfigParser as C; c = C(interpolation=None); c.read("setup.cfg")
print(c["options"]["install_requires"].strip(), c["options.extras_require"]["milter"].strip(), sep="\n")' >.cache/requirements.txt
    pip wheel --wheel-dir .cache/wheels --requirement .cache/requirements.txt
    printf '%s\n' "$state" >"$stamp"
fi

# --- .lab-venv: Ansible, as ansible/requirements.txt pins it ------------------------------------------------------------------
if [ "$mode" = lab ] || [ "$mode" = lint ] || [ "$mode" = test ]; then
    stamp=.lab-venv/.gatepost-stamp
    state="$("$python" -I -c 'import sys; print(sys.version)' | tr '\n' ' ')$(cksum <ansible/requirements.txt)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
        say "installing Ansible into .lab-venv"
        .lab-venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .lab-venv
        PIP_ROOT_USER_ACTION=ignore .lab-venv/bin/python -m pip -qq --disable-pip-version-check --no-input install \
            --requirement ansible/requirements.txt
        printf '%s\n' "$state" >"$stamp"
    fi
fi
