#!/bin/sh
# Nothing that a create, an exec or an rm waits for waits for an RCU grace period in turn (8 ms and more, and the whole of
# it when commands come one at a time). The kernel's function tracer says who asks for one, so this needs a kernel that
# has it and lets it be used:
#     scripts/vm -- tests/grace.sh
# Expedited ones (tens of microseconds; umount2 has one) are counted and told, and are no fault. Kernel threads, which
# clear away behind Quilt, may wait as long as they like.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
[ -e /run/vm ] || {
    echo 'grace.sh: only in a machine of scripts/vm' >&2
    exit 2
}
trace=/sys/kernel/tracing
[ -e $trace/trace ] || mount -t tracefs tracefs $trace
# These in their order: a process is seen in the first that it calls.
for function in synchronize_rcu synchronize_rcu_expedited rcu_barrier __wait_rcu_gp; do
    echo "$function" >>$trace/set_ftrace_filter
done
echo function >$trace/current_tracer

mkdir -p /tmp/grace/image/bin
cp /bin/busybox /tmp/grace/image/bin/
for name in sh true sleep; do
    ln -sf busybox /tmp/grace/image/bin/$name
done
export QUILT_ROOT=/tmp/grace/root QUILT_BIN="$here/../target/quilt"
quilt() {
    "$here/../scripts/quilt" "$@" >/dev/null
}
# waits NAME COMMAND…: runs it after a pause, and prints how often a process (not a kernel thread) asked for an ordinary
# grace period meanwhile, and how often for an expedited one.
waits() {
    name=$1
    shift
    sleep 0.5
    echo >$trace/trace
    echo 1 >$trace/tracing_on
    "$@"
    echo 0 >$trace/tracing_on
    ordinary=$(grep -v '^#' $trace/trace | grep -vE '^ *(kworker|ksoftirqd|rcu|migration)' | grep -cvE 'expedited' || :)
    expedited=$(grep -v '^#' $trace/trace | grep -vE '^ *kworker' | grep -cE ': synchronize_rcu_expedited' || :)
    echo "$name: $ordinary ordinary, $expedited expedited"
}

# That it can be seen at all: a pid written to cgroup.procs takes one.
cgroups=/sys/fs/cgroup
[ -e $cgroups/cgroup.procs ] || cgroups=/sys/fs/cgroup/pids
mkdir $cgroups/grace
sleep 60 &
sleeper=$!
move() {
    echo $sleeper >$cgroups/grace/cgroup.procs
}
seen=$(waits 'a pid written to cgroup.procs' move)
echo "$seen"
kill $sleeper
wait || :
rmdir $cgroups/grace
case $seen in *': 0 ordinary'*) echo 'FAILED: the tracer sees nothing' && exit 1 ;; esac

quilt create /tmp/grace/image --name warm --subnet 10.91.0.0/16
for command in "create /tmp/grace/image --name one --memory 64 --cpu 50" 'exec one true' 'exec one true' 'rm -f one'; do
    # shellcheck disable=SC2086 # words
    line=$(waits "quilt $command" quilt $command)
    echo "$line"
    case $line in *': 0 ordinary'*) ;; *)
        grep -v '^#' $trace/trace
        echo "FAILED: quilt $command asks for a grace period"
        exit 1
        ;;
    esac
done
quilt gc --purge --yes
