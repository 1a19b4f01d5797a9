//! The small values that manifests are made of.

use std::path::{Path, PathBuf};

use hyper2kvm::model::manifest::values::{
    HostName, Id, InterfaceName, Ip, IpPrefix, LibvirtUri, Mac, PathText, Uuid, normalised,
};

#[test]
fn interfaces_may_be_called_what_the_kernel_lets_them_be_called() {
    for good in
        ["eth0", "br-lan", "eth0.100", "enp0s31f6", "wg0", "veth@x", "BR0", "0name", "fifteen-bytes-x"]
    {
        assert!(InterfaceName::new(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "br 0", "br/0", "alias:1", "sixteen-bytes-xx", "br\n"] {
        assert!(InterfaceName::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn addresses_are_of_either_family() {
    assert_eq!(Ip::new("2001:DB8::0:10").unwrap().as_str(), "2001:db8::10");
    assert!(Ip::new("192.0.2.10").is_ok() && Ip::new("192.0.2.256").is_err() && Ip::new("::g").is_err());
    assert_eq!(IpPrefix::new("2001:db8::10/64").unwrap().as_str(), "2001:db8::10/64");
    assert!(IpPrefix::new("192.0.2.10/33").is_err() && IpPrefix::new("192.0.2.10").is_err());
}

#[test]
fn macs_and_uuids_have_one_spelling() {
    assert_eq!(Mac::new("52-54-00-AB-CD-EF").unwrap().as_str(), "52:54:00:ab:cd:ef");
    assert!(Mac::new("52:54:00:ab:cd").is_err() && Mac::new("52:54:00:ab:cd:ef:01").is_err());
    assert!(Mac::new("ff:ff:ff:ff:ff:ff").is_err());
    let uuid = "6BA7B810-9DAD-11D1-80B4-00C04FD430C8";
    assert_eq!(Uuid::new(uuid).unwrap().as_str(), uuid.to_lowercase());
    assert!(Uuid::new("6ba7b8109dad11d180b400c04fd430c8").is_err());
}

#[test]
fn a_host_is_a_host_and_nothing_around_it() {
    for good in ["vc.example.com", "esx-01", "192.0.2.1", "2001:db8::1", "[2001:db8::1]", "localhost."] {
        assert!(HostName::new(good).is_ok(), "{good}");
    }
    for bad in ["", "https://vc", "admin@vc", "vc:443", "vc/sdk", "-vc", "vc..example", "vc example", "vc\0"]
    {
        assert!(HostName::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_libvirt_uri_cannot_make_anything_run() {
    assert!(LibvirtUri::new("qemu:///system").is_ok() && LibvirtUri::new("qemu+ssh://host/system").is_ok());
    assert!(LibvirtUri::new("qemu+ext:///system?command=/tmp/x").is_err());
    assert!(LibvirtUri::new("system").is_err());
}

#[test]
fn an_id_is_safe_as_a_file_name_and_as_an_argument() {
    for good in ["boot", "disk-0", "_x", "a.b", "0"] {
        assert!(Id::new(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "ä", "a\n", &"x".repeat(129)] {
        assert!(Id::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn paths_are_made_absolute_by_their_letters() {
    let base = Path::new("/drops");
    for (written, absolute) in [
        ("web.vmdk", "/drops/web.vmdk"),
        ("./a//b/../c", "/drops/a/c"),
        ("/x/../../../etc", "/etc"),
        ("a~b", "/drops/a~b"),
    ] {
        assert_eq!(PathText::new(written).unwrap().below(base), PathBuf::from(absolute), "{written}");
    }
    assert!(PathText::new("~root/x").is_err() && PathText::new("").is_err());
    assert_eq!(normalised(Path::new("/a/./b/..")), PathBuf::from("/a"));
}
