# The bases: a minimal Debian of a suite with its full kernel and one initramfs generator, as a tar file that several guests share.
#
# Kernel drivers that no server guest of any hypervisor uses (sound, radio, television, most graphics) are left out, as an
# administrator may do with dpkg: it halves what every test has to read. All storage, network, virtio and VMware drivers stay.
# shellcheck shell=bash

# What is left out of packages, as options of mmdebstrap. The same file stays in the base while a guest's own packages go in.
excluded() {
  local path
  for path in /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info /usr/share/lintian; do
    printf '%s\n' "--dpkgopt=path-exclude=$path/*"
  done
  for path in sound net/{wireless,bluetooth,mac80211,sctp,tipc,rxrpc,ceph,can,batman-adv,dccp} \
    fs/{ocfs2,gfs2,ceph,afs,f2fs,ubifs,jfs,reiserfs,nilfs2,coda,orangefs,dlm,smb} \
    drivers/{media,staging,iio,infiniband,bluetooth,isdn,comedi,mfd,hid,mmc,mtd,leds,hwmon,thunderbolt,edac,target,video,w1,power,rtc} \
    drivers/net/{wireless,usb,can,phy,wwan,ieee802154,fddi,hamradio,dsa} drivers/platform drivers/usb/{gadget,serial,misc,typec} \
    drivers/gpu/drm/{amd,i915,nouveau,radeon,xe,gma500,ast,mgag200} drivers/input/{touchscreen,tablet,joystick,misc} \
    drivers/net/ethernet/{mellanox,chelsio,qlogic,netronome,cavium,sfc,sun,huawei,marvell,microchip,emulex,brocade,cisco,pensando} \
    drivers/scsi/{lpfc,qla2xxx,qla4xxx,bfa,be2iscsi,aic7xxx,aic94xx,mpt3sas,megaraid,csiostor,bnx2fc,bnx2i,cxgbi,fnic,qedf,qedi,smartpqi} \
    lib/test_bpf.ko; do
    printf '%s\n' "--dpkgopt=path-exclude=/lib/modules/*/kernel/$path*" "--dpkgopt=path-exclude=/usr/lib/modules/*/kernel/$path*"
  done
}

# Prints the path of the base of a suite and an initramfs generator, making it first if need be. Runs as root.
base_of() {
  local suite=$1 generator=$2 digest path options
  digest=$(cat "$guests/lib/base.sh" | sha256sum | cut -c1-16)
  path=$cache/base-$suite-$generator-$digest.tar
  (
    flock 8
    if [ ! -f "$path" ]; then
      say "the base of $suite with $generator (once, about a minute)"
      mapfile -t options < <(excluded)
      # shellcheck disable=SC2046
      INITRD=No unseen mmdebstrap --quiet --mode=root --variant=minbase --format=tar "${options[@]}" \
        --skip=cleanup/apt/lists,cleanup/mmdebstrap \
        --include=systemd-sysv,udev,dbus,login,passwd,iproute2,kmod,linux-image-amd64,"$generator",openssh-server,open-vm-tools,zstd \
        "$suite" "$path.part" $(mirror) </dev/null >&2
      mv "$path.part" "$path"
    fi
    touch "$path"
  ) 8>"$cache/.base-$suite-$generator.lock"
  printf '%s\n' "$path"
}
