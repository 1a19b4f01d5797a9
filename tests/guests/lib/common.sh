# Shared by build and check: speech, the cache, how a recipe is read.
#
# A recipe (recipes/NAME) is a piece of bash that sets the variables below and defines the functions that differ from guest to guest.
# What it may set, and what it gets to work with, is listed in docs/guests.md.
# shellcheck shell=bash disable=SC2034  # the variables are read by whoever sources this

guests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${HYPER2KVM_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hyper2kvm/guests}
PATH="$PATH:/sbin:/usr/sbin"

say() { printf 'guest %s: %s\n' "${name:-?}" "$*" >&2; }
die() { say "$*"; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# What mmdebstrap mounts in a tree (/proc, /sys, devices) is seen by itself alone, and gone when it is killed. Where that is not
# allowed, neither is mounting, and mmdebstrap does without.
unseen() { if unshare --mount true 2>/dev/null; then unshare --mount -- "$@"; else "$@"; fi; }

recipes() { find "$guests/recipes" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort; }

# Reads a recipe: its variables and functions, over what most guests have in common.
read_recipe() {
  name=$1
  case "$name" in '' | */* | .*) die "that is not the name of a guest" ;; esac
  [ -f "$guests/recipes/$name" ] || die "there is no recipe of that name; known: $(recipes | tr '\n' ' ')"
  stands_for=""
  suite=bookworm
  generator=initramfs-tools
  packages=""
  firmware=bios
  nvram_loader=""
  disk_mib=(2048)
  format=vmdk
  nic=ens192
  mac=00:50:56:aa:bb:01
  address=192.0.2.11/24
  gateway=192.0.2.1
  cmdline="console=tty0 console=ttyS0,115200n8"
  luks_passphrase=""
  becomes="{}"
  # The modules that let an initramfs see a disk and a network card of VMware's.
  vmware_drivers="mptspi vmw_pvscsi ahci sd_mod e1000 vmxnet3"
  # shellcheck source=/dev/null
  . "$guests/recipes/$name"
}

# The same for every build of a guest, different between guests and between the parts of one: a disk is told by what is in it.
digest_of() { printf '%s/%s' "$name" "$1" | sha256sum | cut -c1-32; }
uuid_of() { digest_of "$1" | sed -E 's/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*/\1-\2-4\3-8\4-\5/'; }
# FAT volumes have eight digits.
fat_id_of() { digest_of "$1" | cut -c1-8 | tr a-f A-F; }

# Where a guest lies: under a hash of everything that goes into it. Change the recipe or the builder, and it is built anew.
guest_directory() {
  local digest
  digest=$(cat "$guests/build" "$guests"/lib/* "$guests/recipes/$1" | sha256sum | cut -c1-16)
  printf '%s/%s-%s' "$cache" "$1" "$digest"
}

disk_file() { if [ "$1" = 1 ]; then printf '%s.%s' "$name" "$format"; else printf '%s-%s.%s' "$name" "$1" "$format"; fi; }

guest_disks() {
  local number
  for number in $(seq ${#disk_mib[@]}); do
    printf '%s/%s\n' "$1" "$(disk_file "$number")"
  done
}

# The sidecar: what a test has to know of a guest without looking into it.
describe() {
  local number separator=""
  printf '{\n  "name": "%s",\n  "stands_for": "%s",\n  "suite": "%s",\n  "firmware": "%s",\n' "$name" "$stands_for" "$suite" "$firmware"
  printf '  "disks": ['
  for number in $(seq ${#disk_mib[@]}); do
    printf '%s{"file": "%s", "format": "%s", "mib": %s}' "$separator" "$(disk_file "$number")" "$format" "${disk_mib[number - 1]}"
    separator=", "
  done
  printf '],\n  "nics": [{"name": "%s", "mac": "%s", "address": "%s", "gateway": "%s"}],\n' "$nic" "$mac" "$address" "$gateway"
  if [ -n "$luks_passphrase" ]; then printf '  "luks": {"passphrase": "%s"},\n' "$luks_passphrase"; else printf '  "luks": null,\n'; fi
  printf '  "machine_id": "%s",\n  "user": "root",\n  "password": "",\n' "$(digest_of machine-id)"
  printf '  "becomes": %s\n}\n' "$becomes"
}

# The machine's own mirror, in whichever of the two forms it names it; where it names none, mmdebstrap knows a default.
mirror() {
  local release
  release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-none}")
  {
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null | grep -v '^#' |
      awk -v RS= -v want="$release" '$0 ~ "(^|\n)Suites:([^\n]* )?" want "([ \n]|$)"' | sed -nE 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
      sed -nE "s/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+)[[:space:]]+$release[[:space:]].*/\2/p"
  } | head -n 1 || true
}
