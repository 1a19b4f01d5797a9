# From a recipe to raw disks: the tree by mmdebstrap, partition tables by sfdisk, ext4 filled by mke2fs as it is made, and the rest in
# libguestfs' appliance.
#
# The appliance runs under emulation, so only what needs block devices or a mounted root is done there: volumes, other file systems,
# grub-install and update-grub. Initramfs images are made in the tree, natively (lib/tree).
# shellcheck shell=bash

# guestfish with a script on its standard input. Emulated unless the caller's environment says otherwise: a /dev/kvm that opens
# may still not run a guest.
in_appliance() {
  env LIBGUESTFS_BACKEND="${LIBGUESTFS_BACKEND:-direct}" LIBGUESTFS_BACKEND_SETTINGS="${LIBGUESTFS_BACKEND_SETTINGS-force_tcg}" \
    guestfish
}

# A disk for the appliance. Inside, the kernel's order of names is a matter of luck: /dev/disk/guestfs/LABEL is what holds, and a label
# has letters only. The guest's own disks are diska, diskb …, their partitions diska1 and so on.
attach() { printf 'add-drive %s format:raw cachemode:unsafe label:%s\n' "$1" "$2"; }
in_shell() { printf 'debug sh "%s"\n' "$1"; }

# fill_ext4 IMAGE START_MIB SIZE_MIB UUID DIRECTORY: an ext4 in (a part of) an image, with the directory's files in it.
fill_ext4() {
  as_root env PATH="$PATH" mke2fs -q -F -t ext4 -U "$4" -E "offset=$(($2 * 1048576)),lazy_itable_init=1,nodiscard" -d "$5" "$1" "$3M" >&2
}

# Leaves disk1.raw, disk2.raw … in the work directory. A recipe that is made otherwise defines its own.
build_disks() {
  local number
  work=$1
  tree=$work/tree
  say "its tree"
  as_root env HYPER2KVM_GUEST_CACHE="$cache" bash "$guests/lib/tree" "$name" "$tree" </dev/null >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; die "the tree failed"; }
  say "its disks ($SECONDS s so far)"
  for number in $(seq ${#disk_mib[@]}); do
    truncate -s "${disk_mib[number - 1]}M" "$work/disk$number.raw"
    partitions "$number" | sfdisk --quiet "$work/disk$number.raw" >&2
  done
  fill_natively
  run_appliance
}

run_appliance() {
  local number
  {
    for number in $(seq ${#disk_mib[@]}); do attach "$work/disk$number.raw" "disk$(tr 1-9 a-i <<<"$number")"; done
    more_disks
    printf 'run\n'
    # mounts everything the boot loader needs
    filesystems
    bootloader
    printf 'umount-all\n'
  } >"$work/script"
  in_appliance <"$work/script" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "the appliance failed"; }
}

# What most recipes need nothing of.
fill_natively() { :; }
more_disks() { :; }

# The whole tree unpacked below the appliance's mounts, read from a disk: the appliance's own channel is slow under emulation.
tree_as_a_disk() {
  as_root tar -C "$tree" --numeric-owner --xattrs '--xattrs-include=*' -cf "$work/tree.tar" .
}
unpack_tree() { in_shell "tar -C /sysroot --numeric-owner --xattrs --xattrs-include=* -xf /dev/disk/guestfs/tree"; }

# Debian's boot loader as its installer leaves it: run in the guest's own root, inside the appliance.
bootloader() {
  case "$firmware" in
    bios) printf 'sh "grub-install --target=i386-pc /dev/disk/guestfs/diska"\n' ;;
    uefi) printf 'sh "grub-install --target=x86_64-efi --efi-directory=/boot/efi --no-nvram %s"\n' "${grub_install_options:-}" ;;
  esac
  printf 'sh "update-grub"\n'
}
