# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by the scripts of the kernels. Sourced by them, never run. For a kernel
# NAME, which KSM_V_KERNEL names:
#
#   kernels/NAME/release     the output of uname -r in the guest
#   kernels/NAME/build/      KDIR
#   kernels/NAME/image/      the boot image and the modules
#   kernels/NAME/vmlinuz, kernels/NAME/modules   links into image/

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

DIR=$KERNELS_IN_ROOT/${KSM_V_KERNEL:-$SELF}
BUILD_TREE=$DIR/build

# Content of Debian's packages, as scripts/kernel/stock unpacked them. For Debian's
# kernels: the packages of that kernel.
PACKAGES_DIR=$KERNELS_IN_ROOT/stock/headers

# Unpacks the kernel's source into an empty BUILD_TREE.
unpack_source() {
	rm -rf "$BUILD_TREE"
	mkdir -p "$BUILD_TREE"
	tar -xf "$PACKAGES_DIR"/usr/src/linux-source-*.tar.xz -C "$BUILD_TREE" --strip-components=1
}

# Prints Debian's version of that source.
source_version() {
	zcat "$PACKAGES_DIR"/usr/share/doc/linux-source-*/changelog.Debian.gz | sed -n '1s/.*(\(.*\)).*/\1/p'
}

# place_image RELEASE: gives the image and the modules fixed names, wherever they are
# in DIR/image.
place_image() {
	local release=$1 image modules
	image=$(find "$DIR/image" -type f -name 'vmlinuz*' -print -quit)
	[ -n "$image" ] || die "there is no image of $release in $DIR/image"
	modules=$(find "$DIR/image" -type d -path "*/lib/modules/$release")
	[ -n "$modules" ] || die "there are no modules of $release in $DIR/image"
	ln -sfn "${image#"$DIR/"}" "$DIR/vmlinuz"
	ln -sfn "${modules#"$DIR/"}" "$DIR/modules"
	ln -sfn "$BUILD_TREE" "$modules/build"
	[ -e "$modules/vmlinuz" ] || cp "$image" "$modules/vmlinuz"
	depmod -b "${modules%/lib/modules/*}" "$release"
}

# kernel_main PARTS [ARG]: runs part_PART or key, or prints the parts or the usage.
kernel_main() {
	local part
	case ${2:---help} in
	--help) usage_of "$0"; return ;;
	--parts) echo "$1"; return ;;
	--key) key; return ;;
	esac
	for part in $1; do
		[ "$part" != "$2" ] || { "part_$part"; return; }
	done
	die "unknown part '$2'" "see scripts/kernel/$SELF --help"
}
