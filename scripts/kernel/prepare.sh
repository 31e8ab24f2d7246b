# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Makes a tree to build Rust modules against, from a kernel's source and Debian's
# header package, which lacks the Rust metadata. Sourced.

# prepare_tree HEADERS RELEASE TREE: builds in TREE, the unpacked source, what modules
# need. Takes from HEADERS the configuration, the symbols that the image exports, and the
# names of its compiler and release, which kbuild reads from .kernelvariables.
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
