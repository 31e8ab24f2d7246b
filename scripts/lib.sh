# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Functions and variables that the scripts share: directories, messages, locks, stamps.
# Sourced, never run. Everything that is made at run time is in the cache:
#
#   root-KEY/       the Debian root; KEY is a hash of everything that decides its content
#   sid-KEY/        the same from the suite sid, for sid's kernel
#   arm64-KEY/      the same with tools to build and run kernels of arm64
#   tools-KEY/      the root of guests with programs made for mainline's KSM
#   kernels/NAME/   release, vmlinuz, build/ (KDIR), image/ (boot, modules)
#   build/PROJECT/  build output of one clone of this project
#   cargo/          CARGO_HOME
#   log/            logs of the steps and of each guest
#
# In the root, the clone is /src, build/PROJECT is /build, kernels is
# /usr/src/ksm_v, cargo is /build/cargo, log is /build/log and tools-KEY is /mnt.

set -euo pipefail
shopt -s inherit_errexit

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
SELF=${0##*/}
IN_ROOT_MARK=/etc/ksm_v-root
KERNELS_IN_ROOT=/usr/src/ksm_v
# shellcheck disable=SC2034
TOOLS_IN_ROOT=/mnt

# --- messages -----------------------------------------------------------

say() { printf '%s\n' "$*" >&2; }

warn() { say "$SELF: warning: $*"; }

# die MESSAGE [ADVICE]...: prints the error, then the advice, and exits.
die() {
	say "$SELF: error: $1"
	shift
	local advice
	for advice in "$@"; do
		say "  $advice"
	done
	exit 1
}

# usage_of FILE: prints the comment block at the top of a script, as its --help.
usage_of() {
	sed -n '/^#!/d; /^# SPDX/d; /^#/!q; s/^# \{0,1\}//p' "$1"
}

# --- places -------------------------------------------------------------

in_root() { [ -e "$IN_ROOT_MARK" ]; }

set_places() {
	if in_root; then
		CACHE=/build
		BUILD=/build
		KERNELS=$KERNELS_IN_ROOT
		LOG=/build/log
		return
	fi
	CACHE=${KSM_V_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/ksm_veridian}
	case $CACHE in
	/*) ;;
	*) die "the cache directory '$CACHE' is not an absolute path" \
		"set KSM_V_CACHE to an absolute path" ;;
	esac
	BUILD=$CACHE/build/$(project_key)
	KERNELS=$CACHE/kernels
	LOG=$CACHE/log
}

# Clones share the root and the kernels, but not their build output.
project_key() {
	local sum
	sum=$(printf '%s' "$PROJECT" | sha256sum)
	printf '%s-%s\n' "${PROJECT##*/}" "${sum:0:8}"
}

# Most space that the root, the kernels of make test and the build output take, with a reserve.
NEEDED_GB=16

make_places() {
	mkdir -p "$CACHE" "$BUILD" "$KERNELS" "$LOG" "$CACHE/cargo" ||
		die "cannot create the cache directory $CACHE" \
			"set KSM_V_CACHE to a directory that is yours and has $NEEDED_GB GB free"
}

processor_name() { sed -n 's/^model name[[:blank:]]*: //p' /proc/cpuinfo | head -n 1; }

# --- the root -----------------------------------------------------------

SUITE=trixie

# Packages of the root. A change here makes a new root.
ROOT_PACKAGES=(
	ca-certificates apt-utils
	# kernel and module build
	make gcc libc6-dev bc bison flex libelf-dev libssl-dev libdw-dev dwarves
	cpio rsync xz-utils zstd kmod patch
	rustc rust-src rustfmt rust-clippy cargo bindgen
	# debug kernel (Rust with KASAN needs clang), fuzzing and coverage
	clang lld llvm g++
	# guests
	qemu-system-x86 busybox-static virtme-ng virtiofsd udev iproute2
	# applications of the demo
	redis-server redis-tools python3
	# plots as PNG
	librsvg2-bin
	# packages
	dkms debhelper dh-dkms build-essential lintian
	# development
	shellcheck procps git
)

# Change ROOT_FORMAT when scripts/setup makes the root in another way.
ROOT_FORMAT=1

# Packages for the guest of the suite tools: programs made for mainline's KSM.
TOOLS_PACKAGES=(
	atop ksmtuned pcp prometheus prometheus-node-exporter smem stress-ng
	libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu
	# from the suite before: Debian 13 does not have it
	netdata-core
	# programs that record events
	bpftrace linux-perf trace-cmd
	# needed by a guest of virtme-ng
	busybox-static iproute2 kmod procps udev
	# for the kernel's own tests of KSM and of memory management
	libnuma-dev libcap-dev liburing-dev
	# random system calls
	trinity
	# workloads
	apache2-bin gunicorn nginx nodejs openjdk-21-jre-headless php-fpm postgresql
	qemu-system-x86 redis-server util-linux
	# makes the site of the documentation from Markdown as it is
	mdbook
)

# Packages of the root for kernels of arm64, which are cross-built and emulated there. Its
# busybox is for the guests.
ARM64_PACKAGES=(
	ca-certificates apt-utils
	make gcc libc6-dev bc bison flex libelf-dev libssl-dev libdw-dev dwarves
	cpio rsync xz-utils zstd kmod patch python3
	rustc rust-src rustfmt rust-clippy cargo bindgen
	# the vDSO of arm64 has a 32-bit part
	gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf
	libc6-dev-arm64-cross libstd-rust-dev:arm64
	qemu-system-arm busybox-static:arm64
	git
)

# suite_of KERNEL: prints the Debian suite whose compilers build it.
suite_of() {
	if [ "$1" = sid ]; then echo sid; else echo "$SUITE"; fi
}

# architecture_of KERNEL: prints Debian's name of its architecture.
architecture_of() {
	if [ "$1" = arm64 ]; then echo arm64; else echo amd64; fi
}

# root_packages KERNEL
root_packages() {
	case $(architecture_of "$1") in
	arm64) printf '%s\n' "${ARM64_PACKAGES[@]}" ;;
	*) printf '%s\n' "${ROOT_PACKAGES[@]}" ;;
	esac
}

# root_name KERNEL: prints the name of the root for that kernel.
root_name() {
	case $1 in
	sid | arm64) echo "$1" ;;
	*) echo root ;;
	esac
}

# root_dir KERNEL
root_dir() {
	local packages
	mapfile -t packages < <(root_packages "$1")
	keyed_dir "$(root_name "$1")" "$(suite_of "$1")" "${packages[@]}"
}

tools_dir() { keyed_dir tools "$SUITE" "${TOOLS_PACKAGES[@]}"; }

# keyed_dir NAME SUITE PACKAGE...
keyed_dir() {
	local name=$1 sum
	shift
	sum=$(printf '%s\n' "$ROOT_FORMAT" "$@" | sha256sum)
	printf '%s/%s-%s\n' "$CACHE" "$name" "${sum:0:12}"
}

am_superuser() { [ "$(id -u)" = 0 ]; }

# A user other than root has a range of ids in a user namespace: the user is id 0
# there, and the range of /etc/subuid starts at 1.
namespace_flags() {
	am_superuser || printf '%s\n' --user --map-root-user --map-auto
}

# in_namespace CMD...: runs CMD with its own mounts, as the owner of the root's files.
in_namespace() {
	local flags
	mapfile -t flags < <(namespace_flags)
	unshare "${flags[@]}" --mount --propagation private -- "$@"
}

# --- kernels ------------------------------------------------------------

kernel_dir() { printf '%s/%s\n' "$KERNELS" "$1"; }

# Debian's kernels, as Debian built them: the newest of a flavour, or of a series. sid is the
# newest of the suite sid, built with sid's compilers; sid and arm64 have roots of their own.
DEBIAN_KERNELS=(stock stock-7.2 cloud cloud-7.2 rt sid arm64)

is_debian_kernel() { [[ " ${DEBIAN_KERNELS[*]} " == *" $1 "* ]]; }

kernel_names() {
	printf '%s\n' "${DEBIAN_KERNELS[@]}"
	find "$PROJECT/scripts/kernel" -type f -perm -100 ! -name stock -printf '%f\n' | sort
}

# kernel_script NAME: prints the script that makes it; `stock` makes all of Debian's kernels.
# The script gets the name in KSM_V_KERNEL.
kernel_script() {
	local script=$1
	! is_debian_kernel "$1" || script=stock
	printf 'scripts/kernel/%s\n' "$script"
}

is_kernel() { kernel_names | grep -xF -- "$1" >/dev/null; }

# kernel_key NAME: prints the key that decides whether a prepared kernel tree is still
# usable: the root's compilers, and the key of the kernel's script. Runs on the host.
kernel_key() {
	cat "$(root_dir "$1")$IN_ROOT_MARK"
	"$PROJECT/scripts/root" --kernel "$1" "$(kernel_script "$1")" --key
}

# kernel_ready NAME KEY
kernel_ready() { [ "$(cat "$(kernel_dir "$1")/done" 2>/dev/null)" = "$2" ]; }

# kernel_has NAME OPTION: returns whether it was built with CONFIG_OPTION=y.
kernel_has() { grep -qx "CONFIG_$2=y" "$(kernel_dir "$1")/build/.config"; }

kernel_release() {
	local file
	file=$(kernel_dir "$1")/release
	[ -r "$file" ] && cat "$file"
}

# guest_triple KERNEL: prints the target triple of programs for its guests.
guest_triple() {
	case $(architecture_of "$1") in
	arm64) echo aarch64-unknown-linux-gnu ;;
	*) echo x86_64-unknown-linux-gnu ;;
	esac
}

# programs_for KERNEL: prints the kernel in whose root its programs are built, one for each
# architecture.
programs_for() {
	if [ "$(architecture_of "$1")" = amd64 ]; then echo stock; else echo "$1"; fi
}

# guest_programs KERNEL: prints the directory of these programs in the root.
guest_programs() { echo "/build/target/$(guest_triple "$1")/release"; }

# modules_of KERNEL NAME...: prints options of scripts/vm that copy these modules into the
# guest. Leaves out modules that the kernel does not have: they may be built in.
modules_of() {
	local kernel=$1 name file
	shift
	for name in "$@"; do
		file=$(find "$(kernel_dir "$kernel")/modules/kernel/" -name "$name.ko*" -print -quit)
		[ -z "$file" ] || printf '%s\n' --copy "root:$KERNELS_IN_ROOT${file#"$KERNELS"}"
	done
}

# Modules for the swap space of a guest.
ZRAM_MODULES=(zsmalloc lz4_decompress lz4_compress lz4hc_compress zram)

# zram_options KERNEL: prints options of scripts/vm for a guest with swap space.
zram_options() { modules_of "$1" "${ZRAM_MODULES[@]}"; }

# kvm_options KERNEL: prints options of scripts/vm for a guest that runs guests: a CPU with
# virtualisation, and KVM's modules.
kvm_options() {
	printf '%s\n' --cpu max,la57=off,vendor=AuthenticAMD
	modules_of "$1" irqbypass ccp kvm kvm-amd
}

# soak_options KERNEL: prints options of scripts/vm for the guest of the soak suites. Its
# memory module is offline until a suite chooses how to bring it online; on arm64 only
# firmware can add a memory module.
soak_options() {
	! kernel_has "$1" MEMORY_HOTPLUG || [ "$(architecture_of "$1")" != amd64 ] ||
		printf '%s\n' --dimm 256M --append numa=fake=2 --append memhp_default_state=offline
	modules_of "$1" "${ZRAM_MODULES[@]}" loop
}

# disk_options KERNEL: prints options of scripts/vm for a guest with an empty disk, on which it can
# hibernate.
disk_options() {
	! kernel_has "$1" HIBERNATION || [ "$(architecture_of "$1")" != amd64 ] ||
		printf '%s\n' --disk 1G
	modules_of "$1" virtio_blk
}

# Prints the directory of the root's Python library, which has the same path in a guest.
python_library() {
	"$PROJECT/scripts/root" -- python3 -c 'import os; print(os.path.dirname(os.__file__))'
}

# python_options: prints options of scripts/vm that copy python3 and its library.
python_options() {
	local library
	library=$(python_library) || die "the root has no python3" "make it anew with: make setup"
	printf '%s\n' --copy root:/usr/bin/python3:/usr/bin/python3 --copy "root:$library:$library"
}

# demo_options: prints options of scripts/vm that copy the demo and its applications.
demo_options() {
	printf '%s\n' --copy "$PROJECT/demo" --copy "$PROJECT/tools/ksmv" \
		--copy root:/usr/bin/redis-server:/usr/bin/redis-server
	python_options
}

# ksmv_options: prints options of scripts/vm that copy ksmv, its tests and their programs.
ksmv_options() {
	printf '%s\n' --copy "$PROJECT/tools/ksmv" --copy "$PROJECT/demo" \
		--copy "$PROJECT/tests/tool" --copy "$PROJECT/scripts/settings" \
		--copy root:/usr/bin/setpriv:/usr/sbin/setpriv
	python_options
}

# workloads_options: prints options of scripts/vm --tools that copy the workloads and ksmv, and the
# kernel of the workload's virtual machines.
workloads_options() {
	printf '%s\n' --copy "$PROJECT/tools/ksmv" --copy "$PROJECT/tests/workloads" \
		--copy "$(kernel_dir stock)/vmlinuz"
}

# Prints the shared libraries of stress-ng, in the root of --tools.
stress_libraries() {
	"$PROJECT/scripts/root" -- chroot "$TOOLS_IN_ROOT" ldd /usr/bin/stress-ng |
		sed -n 's/^.* => \(\/[^ ]*\) (0x[0-9a-f]*)$/\1/p'
}

# stress_options: prints options of scripts/vm that copy stress-ng and trinity out of that root,
# and the script that runs them.
stress_options() {
	local file
	for file in /usr/bin/stress-ng /usr/bin/trinity /usr/bin/setpriv $(stress_libraries); do
		printf '%s\n' --copy "root:$TOOLS_IN_ROOT$file:$file"
	done
	printf '%s\n' --copy root:/usr/bin/bash:/usr/bin/bash --copy "$PROJECT/tests/judges/stress"
}

# --- crates -------------------------------------------------------------

# Prints one Cargo.lock for each cargo workspace.
lock_files() { find "$PROJECT" -maxdepth 3 -name Cargo.lock | sort; }

# --- steps --------------------------------------------------------------

# step NAME TEXT CMD...: runs CMD once with its output in a log file, prints how
# long it took, and shows the end of the log if it failed. Bash ignores "set -e" in
# all commands that an "if" calls, hence the status variable.
step() {
	local log=$LOG/setup-$1.log text=$2 start=$SECONDS status
	shift 2
	printf '%s: %s ...' "$SELF" "$text" >&2
	set +e
	(set -e && "$@") >"$log" 2>&1
	status=$?
	set -e
	if [ "$status" = 0 ]; then
		say " $((SECONDS - start)) s"
		return
	fi
	say " failed after $((SECONDS - start)) s"
	tail -n 20 "$log" | sed 's/^/  | /' >&2
	die "$text: failed" "the whole log is $log"
}

# lock NAME: waits for other runs that make the same part in the same cache.
lock() {
	local file=$CACHE/$1.lock
	exec {LOCK_FD}>"$file"
	flock -n "$LOCK_FD" && return
	say "$SELF: waiting for another run that holds $file"
	flock "$LOCK_FD"
}

# once NAME IS_DONE MAKE [ARG]...: runs MAKE unless IS_DONE, in one run at a time; if it is done,
# does not wait for other runs. Both get the arguments. Bash ignores "set -e" in all commands that
# a condition calls: IS_DONE must not rely on it.
once() {
	local name=$1 is_done=$2 make=$3
	shift 3
	! "$is_done" "$@" || return 0
	(
		lock "setup-$name"
		"$is_done" "$@" && exit
		"$make" "$@"
	)
}

set_places
