#!/bin/sh
# Quilt below a real systemd that has delegated a cgroup: boots this machine's systemd as the init of a container of its
# own and runs itself in a service with Delegate=yes. Only for a machine to be thrown away, as this systemd takes the
# whole cgroup tree for its own:
#     scripts/vm -- tests/systemd.sh
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
work=/run/quilt-systemd

check() {
    what=$1
    shift
    if "$@"; then
        echo "ok: $what"
    else
        echo "FAILED: $what: $*"
        exit 1
    fi
}
# has FILE WORD: a line of the file has it.
has() { grep -qF -- "$2" "$1"; }

# In the service: its processes are in its cgroup at first, and then in one below, as with DelegateSubgroup=.
if [ "${1-}" = unit ]; then
    export PATH="$work/bin:$PATH" QUILT_ROOT="$work/root"
    own=$(sed -n 's/^0:://p' /proc/self/cgroup)
    check 'systemd has delegated it' [ "$own" = /system.slice/delegated.service ]
    create() {
        quilt create "$work/image" --network none --memory 64M "$@" >"$work/record"
    }
    create --name beside
    check 'with processes in it, it is not taken' has "$work/record" '"path":"/sys/fs/cgroup/quilt-'
    check 'and the record says why' has "$work/record" 'has processes in it'
    mkdir "/sys/fs/cgroup$own/agent"
    echo $$ >"/sys/fs/cgroup$own/agent/cgroup.procs"
    create --name below --cpuset 0
    cgroup=$(echo /sys/fs/cgroup"$own"/quilt-*/below)
    check 'the container is below it' has "$work/record" "\"path\":\"$cgroup\""
    check 'with its limit' [ "$(cat "$cgroup/memory.max")" = 67108864 ]
    check 'commands run in it' [ "$(quilt exec below echo hi)" = hi ]
    quilt update below --memory 32M
    check 'limits change in it' [ "$(cat "$cgroup/memory.max")" = 33554432 ]
    check 'a unit that is not delegated is refused' sh -c "
        ! quilt create $work/image --network none --name no --cgroup-parent /system.slice >/dev/null 2>$work/no &&
        grep -q 'belongs to systemd' $work/no"
    quilt rm -f below beside
    check 'nothing is left in it' [ "$(find "/sys/fs/cgroup$own" -mindepth 1 -type d)" = "/sys/fs/cgroup$own/agent" ]
    # What runs when the unit is stopped goes with it.
    create --name orphan -- sleep 1000
    echo 'all of it'
    exit 0
fi

[ -e /run/vm ] || {
    echo 'systemd.sh: only in a machine of scripts/vm' >&2
    exit 2
}
mkdir -p "$work/bin" "$work/image/bin" /run/systemd/system
cp -a "$here/../target/quilt/." "$here/../scripts/quilt" "$work/bin/"
cp /bin/busybox "$work/image/bin/"
for name in sh echo sleep; do
    ln -s busybox "$work/image/bin/$name"
done
cat >/run/systemd/system/delegated.service <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
Delegate=yes
ExecStart=/bin/sh $here/systemd.sh unit
ExecStopPost=/bin/sh -c 'echo >$work/ended'
StandardOutput=file:$work/out
StandardError=file:$work/out
END
cat >/run/systemd/system/only.target <<END
[Unit]
DefaultDependencies=no
Wants=delegated.service
END
mkfifo "$work/ended"
unshare --pid --fork --mount --mount-proc env -i PATH="$PATH" container=vm /lib/systemd/systemd \
    --unit=only.target --log-target=console --show-status=no </dev/null >"$work/log" 2>&1 &
timeout 120 cat "$work/ended" || cat "$work/log"
cat "$work/out"
check 'the service came to its end' has "$work/out" 'all of it'
# shellcheck disable=SC2016 # for the inner shell
check 'its containers have ended with it' timeout 20 sh -c '
    empty() {
        for procs in $(find /sys/fs/cgroup/system.slice/delegated.service -name cgroup.procs 2>/dev/null); do
            [ -z "$(cat "$procs")" ] || return
        done
    }
    until empty; do sleep 0.1; done'
