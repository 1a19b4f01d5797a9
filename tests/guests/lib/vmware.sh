# What makes a tree a guest of VMware's, and what lets a test look at it from outside. Runs as root with $tree set.
#
# Nothing here is invented for a test's convenience: sd names in fstab, an installer's initramfs policy, ens192 with a static address
# and the tools of the old hypervisor are what such machines have. Only the report on the serial port is ours.
# shellcheck shell=bash

in_tree() { chroot "$tree" "$@"; }
write() { mkdir -p "$tree$(dirname "$1")"; cat >"$tree$1"; }

# The newest kernel's version.
kernel_version() { ls "$tree/lib/modules" | sort -V | tail -n 1; }

# Name, identity, login, console: everything every guest has. `report` says at boot what a test asks for.
common_tree() {
  printf '%s\n' "$name" | write /etc/hostname
  printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" | write /etc/hosts
  digest_of machine-id | write /etc/machine-id
  mkdir -p "$tree/var/lib/dbus"
  ln -sf /etc/machine-id "$tree/var/lib/dbus/machine-id"
  in_tree passwd -q -d root
  in_tree systemctl -q enable serial-getty@ttyS0.service
  # A resolver of the builder's is no part of the guest.
  rm -f "$tree/etc/resolv.conf"
  printf 'nameserver 192.0.2.53\n' | write /etc/resolv.conf
  write /etc/default/grub <<GRUB
# If you change this file, run 'update-grub' afterwards to update
# /boot/grub/grub.cfg.
# For full documentation of the options in this file, see:
#   info -f grub -n 'Simple configuration'

GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=\`lsb_release -i -s 2> /dev/null || echo Debian\`
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="$cmdline"
GRUB
  report
}

# Lines on ttyS0 before the login prompt: `H2K-NET name address`, `H2K-FSTAB line` and so on, until `H2K-END`.
report() {
  write /usr/local/sbin/console-report <<'REPORT'
#!/bin/sh
# Says on the first serial port what this machine has come up with.
line() { printf '\r\nH2K-%s\r\n' "$*" >/dev/ttyS0; }
tries=0
while [ -z "$(ip -o addr show scope global)" ] && [ $tries -lt 20 ]; do
  sleep 1
  tries=$((tries + 1))
done
line "KERNEL $(uname -r)"
line "MACHINE-ID $(cat /etc/machine-id)"
for link in /sys/class/net/*; do
  [ -e "$link/device" ] && line "LINK ${link##*/} $(cat "$link/address") $(basename "$(readlink "$link/device/driver")")"
done
ip -o addr show scope global | while read -r _ name _ address _; do line "NET $name $address"; done
ip route show default | while read -r route; do line "ROUTE $route"; done
while read -r entry; do line "FSTAB $entry"; done </etc/fstab
findmnt -rn --real -o TARGET,SOURCE,FSTYPE | while read -r mount; do line "MOUNT $mount"; done
tail -n +2 /proc/swaps | while read -r device _; do line "SWAP $device"; done
for key in /etc/ssh/ssh_host_*_key.pub; do
  [ -e "$key" ] && line "HOSTKEY $(cut -d' ' -f1,2 "$key" | sha256sum | cut -c1-16)"
done
systemctl list-units --failed --plain --no-legend | while read -r unit _; do line "FAILED $unit"; done
line "END"
REPORT
  chmod 755 "$tree/usr/local/sbin/console-report"
  write /etc/systemd/system/console-report.service <<'UNIT'
[Unit]
Description=Say on the first serial port what came up
After=network.target networking.service systemd-networkd.service NetworkManager.service local-fs.target swap.target
Before=serial-getty@ttyS0.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/console-report
TimeoutStartSec=120

[Install]
WantedBy=multi-user.target
UNIT
  in_tree systemctl -q enable console-report.service
}

# What Debian's installer writes around an fstab; the entries come on standard input.
fstab() {
  {
    cat <<'HEAD'
# /etc/fstab: static file system information.
#
# Use 'blkid' to print the universally unique identifier for a
# device; this may be used with UUID= as a more robust way to name devices
# that works even if disks are added and removed. See fstab(5).
#
# systemd generates mount units based on this file, see systemd.mount(5).
# Please run 'systemctl daemon-reload' after making changes here.
#
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
HEAD
    cat
    printf '/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0\n'
  } | write /etc/fstab
  mkdir -p "$tree/media/cdrom0"
}

# The static address, in the words of each of Debian's ways.
ifupdown() {
  write /etc/network/interfaces <<INTERFACES
# This file describes the network interfaces available on your system
# and how to activate them. For more information, see interfaces(5).

source /etc/network/interfaces.d/*

# The loopback network interface
auto lo
iface lo inet loopback

# The primary network interface
allow-hotplug $nic
iface $nic inet static
	address $address
	gateway $gateway
	# dns-* options are implemented by the resolvconf package, if installed
	dns-nameservers 192.0.2.53
INTERFACES
}

networkd() {
  write "/etc/systemd/network/10-$nic.network" <<NETWORK
[Match]
Name=$nic

[Network]
Address=$address
Gateway=$gateway
DNS=192.0.2.53
NETWORK
  in_tree systemctl -q enable systemd-networkd.service
}

network_manager() {
  write "/etc/NetworkManager/system-connections/$nic.nmconnection" <<KEYFILE
[connection]
id=$nic
uuid=$(uuid_of connection)
type=ethernet
interface-name=$nic
autoconnect=true

[ipv4]
method=manual
address1=$address,$gateway
dns=192.0.2.53;

[ipv6]
method=ignore
KEYFILE
  chmod 600 "$tree/etc/NetworkManager/system-connections/$nic.nmconnection"
}

netplan() {
  write /etc/netplan/01-netcfg.yaml <<NETPLAN
# This file describes the network interfaces available on your system
# For more information, see netplan(5).
network:
  version: 2
  renderer: networkd
  ethernets:
    $nic:
      addresses: [$address]
      gateway4: $gateway
      nameservers:
        addresses: [192.0.2.53]
NETPLAN
  chmod 600 "$tree/etc/netplan/01-netcfg.yaml"
  in_tree systemctl -q enable systemd-networkd.service
}

# The image as an installer on VMware makes it ("targeted: only the drivers this system needs"): MODULES=dep reads the machine it runs
# on, which is not this one, so the list is given while it is made and the installer's policy is what stays.
initramfs_tools_image() {
  local version=$1 driver
  mkdir -p "$tree/etc/initramfs-tools/conf.d"
  printf 'MODULES=list\n' | write /etc/initramfs-tools/conf.d/driver-policy
  cp "$tree/etc/initramfs-tools/modules" "$tree/etc/initramfs-tools/modules.kept"
  for driver in $vmware_drivers ${root_drivers:-ext4}; do printf '%s\n' "$driver"; done >>"$tree/etc/initramfs-tools/modules"
  in_tree update-initramfs -c -k "$version" </dev/null >&2
  mv "$tree/etc/initramfs-tools/modules.kept" "$tree/etc/initramfs-tools/modules"
  write /etc/initramfs-tools/conf.d/driver-policy <<'POLICY'
# Driver inclusion policy selected during installation
# Note: this setting overrides the value set in the file
# /etc/initramfs-tools/initramfs.conf
MODULES=dep
POLICY
  drivers_are_vmware_s "$version" lsinitramfs
}

# dracut's host-only image of a VMware machine, said in its own configuration, which stays.
dracut_image() {
  local version=$1
  write /etc/dracut.conf.d/10-vmware.conf <<DRACUT
hostonly="no"
add_drivers+=" $vmware_drivers ${root_drivers:-ext4} "
omit_drivers+=" virtio.* "
DRACUT
  in_tree dracut --quiet --force "/boot/initrd.img-$version" "$version" </dev/null >&2
  drivers_are_vmware_s "$version" lsinitrd
}

# What this whole guest is for: its image boots on VMware, and does not on virtio.
drivers_are_vmware_s() {
  local version=$1 lister=$2 listing driver
  listing=$(in_tree "$lister" "/boot/initrd.img-$version")
  ! grep -E '/virtio[^/]*\.ko' <<<"$listing" >&2 || die "the initramfs has virtio drivers"
  for driver in $vmware_drivers; do
    grep -qE "/$driver\.ko" <<<"$listing" || die "the initramfs lacks $driver"
  done
}

# Last of all: nothing of the building stays.
swept() {
  rm -f "$tree"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$tree"/etc/apt/apt.conf.d/99mmdebstrap "$tree"/boot/*.old
  rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/cache/apt/archives/*.deb
}
