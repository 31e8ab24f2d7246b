# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by the kernels that are built here, from the source of the stock kernel.
# Sourced by scripts/kernel/NAME. The options in NAME.config are on, or those in other
# files that NAME names; all other options are off. It sets:
#
#   MAKE_OPTIONS   options of each call of make
#   TARGETS        targets of make
#   IMAGE          the image to boot, in the tree
#   PATCHES        files of patches/ that the source needs
#   FRAGMENTS      files of scripts/kernel/ with the options that are on

# shellcheck source=scripts/kernel/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

MAKE_OPTIONS=() TARGETS=() IMAGE='' PATCHES=() FRAGMENTS=("$SELF.config")

kernel_make() { nice -n 5 make -C "$BUILD_TREE" "${MAKE_OPTIONS[@]}" "$@"; }

options() { (cd "$PROJECT/scripts/kernel" && grep -hv '^#' "${FRAGMENTS[@]}"); }

# Prints everything that decides the kernel's content, except the root.
key() {
	echo "source $(source_key)"
	clang --version | head -n 1
	ld.lld --version
	options
}

source_key() {
	local patch
	source_version
	for patch in "${PATCHES[@]}"; do
		sha256sum <"$PROJECT/patches/$patch"
	done
}

# Keeps the source, with its build output, until another source is needed.
part_source() {
	local patch
	[ "$(cat "$DIR/source" 2>/dev/null)" != "$(source_key)" ] || return 0
	mkdir -p "$DIR"
	unpack_source
	for patch in "${PATCHES[@]}"; do
		patch -p1 -d "$BUILD_TREE" <"$PROJECT/patches/$patch"
	done
	source_key >"$DIR/source"
}

part_configure() {
	options >"$DIR/options"
	kernel_make KCONFIG_ALLCONFIG="$DIR/options" allnoconfig
	check_configuration
}

# Kconfig silently drops options whose dependencies are off.
check_configuration() {
	local line lost=()
	while read -r line; do
		grep -qxF -- "$line" "$BUILD_TREE/.config" || lost+=("$line")
	done < <(options | grep '^CONFIG_')
	[ ${#lost[@]} = 0 ] || die "not set in the kernel's configuration: ${lost[*]}" \
		"what they depend on is off: add it to ${FRAGMENTS[*]}"
}

part_build() { kernel_make -j"$(nproc)" "${TARGETS[@]}"; }

part_place() {
	local release
	release=$(kernel_make -s kernelrelease)
	rm -rf "$DIR/image"
	kernel_make INSTALL_MOD_PATH="$DIR/image/usr" modules_install
	cp "$BUILD_TREE/$IMAGE" "$DIR/image/usr/lib/modules/$release/vmlinuz"
	place_image "$release"
	"$PROJECT/scripts/preflight" "$BUILD_TREE"
	echo "$release" >"$DIR/release"
}
