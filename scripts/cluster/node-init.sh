#!/bin/sh
# Process 1 of the test node, in mount, network, process, IPC and host name namespaces of its own. All that the node changes (mounts,
# addresses, firewall rules, files in the usual places) is in them, and ends with this process.
#   $1: the node's folder   $2: its name
set -eu
dir=$1
mount --make-rshared /
mount -t proc proc /proc
hostname "$2"

# The places that container tools write to by default.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$dir/lib" "$dir/log" /run/lock
mount --bind "$dir/lib" /var/lib
mount --bind "$dir/log" /var/log

# A kubelet sets these for the whole machine. Here it reads that they are set.
mkdir "$dir/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=$dir/sysctl/$(basename "${setting%=*}")
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
: >"$dir/ready"

# Only wait: the kernel hands this process the orphans of the node.
while :; do
  sleep 86400 &
  wait $! || :
done
