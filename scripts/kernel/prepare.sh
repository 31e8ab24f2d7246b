# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# How a kernel's source and Debian's header package become a tree against which
# Rust modules can be built: the header packages lack the Rust metadata. Sourced.

# prepare_tree HEADERS RELEASE TREE: with Debian's configuration, the symbols its
# image exports, and the spelling of its compiler and release, which kbuild reads
# from .kernelvariables, builds in TREE, the unpacked source, what modules need.
prepare_tree() {
	local headers=$1 release=$2 tree=$3 compiler make
	cp "$headers/.config" "$headers/Module.symvers" "$headers/.kernelvariables" "$tree/"
	compiler=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ ]*\) .*/\1/p' "$headers/.config")
	make=(make -C "$tree" CC="$compiler" KERNELRELEASE="$release")
	"${make[@]}" olddefconfig
	diff "$headers/.config" "$tree/.config" || echo "note: the configuration changed as shown"
	"${make[@]}" -j"$(nproc)" modules_prepare
	"$PROJECT/scripts/preflight" "$tree"
}
